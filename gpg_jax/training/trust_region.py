"""A natural gradient step within a bound on a divergence: its direction, its length, its line search.

    x ≈ (F + λI)⁻¹ g,   β = √(2δ / xᵀFx),   θ ← θ + ξʲβ·x for the first j with a gain and a divergence ≤ δ

Schulman et al. 2015, "Trust region policy optimization", arXiv 1502.05477, app. C. Nothing here knows of
policies: parameters are any pytree, and what is sampled is behind functions of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gpg_jax.types import Array, Params


class Solution(NamedTuple):
    """Of H x = b.

    Attributes:
      x: the solution.
      residual: ‖b − H x‖ / ‖b‖ by the recurrence, which no product checks, 0 for b = 0. Where H is badly
        conditioned, rounding leaves it far below what `relative_residual` finds.
      iterations: products that were taken.
    """

    x: Params
    residual: Array
    iterations: Array


class Trial(NamedTuple):
    """What is measured of parameters that are tried.

    Attributes:
      gain: of the objective, over that of the parameters before.
      divergence: from the policy before.
      seen: whatever else is of interest where they are accepted.
    """

    gain: Array
    divergence: Array
    seen: Any = ()


class Search(NamedTuple):
    """What a line search came to.

    Attributes:
      params: the first that were accepted, or those before, bit for bit.
      accepted: whether any were.
      refused: how many lengths were tried before, or at all.
      scale: of the direction, 0 where nothing was accepted.
      trial: the last one.
    """

    params: Params
    accepted: Array
    refused: Array
    scale: Array
    trial: Trial


def conjugate_gradient(
    product: Callable[[Params], Params], target: Params, iterations: int, tolerance: float
) -> Solution:
    """Solves H x = b from x = 0 (Hestenes and Stiefel 1952), with one product an iteration.

    It ends at a direction of no positive curvature, where H is not what it should be, with the solution so
    far. OpenAI's baselines compare the squared residual with their tolerance as it is; relative to the
    square of b it does not depend on the scale of rewards.

    Args:
      product: v -> H v, H symmetric and positive definite.
      target: b.
      iterations: most products.
      tolerance: squared residual, relative to the squared b, at which it ends.

    Returns:
      The solution.
    """

    def unsolved(carry: tuple) -> Array:
        *_, square, count = carry
        return (count < iterations) & (square > tolerance * whole)

    def improve(carry: tuple) -> tuple:
        x, residual, direction, square, count = carry
        image = product(direction)
        curvature = dot(direction, image)
        curved = curvature > 0
        length = square / jnp.where(curved, curvature, 1)
        rest = add_scaled(residual, -length, image)
        rest_square = dot(rest, rest)
        new = (add_scaled(x, length, direction), rest, add_scaled(rest, rest_square / square, direction))
        kept = jax.tree.map(lambda one, other: jnp.where(curved, one, other), new, carry[:3])
        return *kept, jnp.where(curved, rest_square, square), jnp.where(curved, count + 1, iterations)

    whole = dot(target, target)
    zero = jax.tree.map(jnp.zeros_like, target)
    x, _, _, square, count = jax.lax.while_loop(
        unsolved, improve, (zero, target, target, whole, jnp.zeros((), jnp.int32))
    )
    return Solution(x, jnp.sqrt(square / jnp.where(whole > 0, whole, 1)), count)


def relative_residual(target: Params, image: Params) -> Array:
    """‖b − H x‖ / ‖b‖, 0 for b = 0, of a product that was taken.

    Args:
      target: b.
      image: H x.
    """
    rest, whole = add_scaled(target, -1.0, image), dot(target, target)
    return jnp.sqrt(dot(rest, rest) / jnp.where(whole > 0, whole, 1))


def fisher_vector_product(divergence: Callable[[Params], Array], params: Params, vector: Params) -> Params:
    """F v, F = ∇²D(θ) at the θ where D is smallest: the Fisher information for D = KL(π_old‖π_θ), θ = θ_old.

    ∂∇D(θ + tv)/∂t at t = 0: forward over reverse (jvp∘vjp), at the memory of one gradient. A network's
    products must be in float32: in a lower type they have no forward derivative (`policies.precision`).

    Args:
      divergence: θ -> D(θ), a scalar, π_old under a stop-gradient; of some samples, for their part.
      params: θ.
      vector: v, of the parameters' shapes.

    Returns:
      F v, without damping.
    """
    return jax.jvp(jax.grad(divergence), (params,), (vector,))[1]


def step_length(radius: Array | float, curvature: Array) -> Array:
    """β = √(2δ / xᵀFx), where the quadratic model of the divergence, ½β²xᵀFx, is δ.

    F is not damped here: damping bends the direction, and δ stays the divergence that it says. (Baselines
    damp both; where F is small beside λ they never come near δ.)

    Args:
      radius: δ > 0.
      curvature: xᵀFx.

    Returns:
      β; 0 where the curvature is not positive and finite.
    """
    usable = (curvature > 0) & jnp.isfinite(curvature)
    return jnp.where(usable, jnp.sqrt(2 * radius / jnp.where(usable, curvature, 1)), 0)


def line_search(
    measure: Callable[[Params], Trial],
    params: Params,
    direction: Params,
    length: Array,
    *,
    radius: float,
    shrink: float,
    attempts: int,
) -> Search:
    """θ + ξʲβ·x for the first j = 0, 1, … at which the objective gains and the divergence is at most δ.

    Args:
      measure: parameters -> what they are worth; a NaN is a refusal.
      params: θ.
      direction: x.
      length: β; 0 tries nothing.
      radius: δ.
      shrink: ξ in (0, 1).
      attempts: how many j.

    Returns:
      What was found.
    """

    def at(scale: Array) -> Params:
        return add_scaled(params, scale, direction)

    def searching(carry: tuple) -> Array:
        count, accepted, _ = carry
        return ~accepted & (count < attempts) & (length > 0)

    def attempt(carry: tuple) -> tuple:
        count, _, _ = carry
        trial = measure(at(length * shrink**count))
        accepted = (trial.gain > 0) & (trial.divergence <= radius)
        return jnp.where(accepted, count, count + 1), accepted, trial

    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(measure, params))
    start = (jnp.zeros((), jnp.int32), jnp.bool_(False), nothing)
    count, accepted, trial = jax.lax.while_loop(searching, attempt, start)
    scale = jnp.where(accepted, length * shrink**count, 0)
    found = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), at(scale), params)
    return Search(found, accepted, count, scale, trial)


def dot(left: Params, right: Params) -> Array:
    """⟨x, y⟩ over all leaves; leaf by leaf as they lie, since to ravel a sharded array would gather it."""
    products = jax.tree.map(lambda one, other: jnp.sum(one * other), left, right)
    return sum(jax.tree.leaves(products), start=jnp.zeros(()))


def add_scaled(left: Params, scale: Array | float, right: Params) -> Params:
    """x + c·y."""
    return jax.tree.map(lambda one, other: one + scale * other, left, right)
