"""Exact updates of a policy: the surrogate unbounded, by conservative mixtures, in a trust region, clipped.

Nothing is sampled, so what goes wrong here is the surrogate's own fault. Policies are log-linear: features
tie states together, as a network's do. (A free table is in no danger: its surrogate is highest at a greedy
policy, which by the performance difference lemma is no worse.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gpg_jax.estimators import conservative
from gpg_jax.estimators.divergences import full_kl
from gpg_jax.losses.gates import Gate
from gpg_jax.theory.gradients import occupancy_gradient
from gpg_jax.theory.improvement import conservative_terms, gated_surrogate, mixture
from gpg_jax.theory.mdp import MDP, softmax_policy
from gpg_jax.theory.occupancies import occupancy, state_occupancy
from gpg_jax.theory.values import evaluate
from gpg_jax.training.trust_region import Trial, add_scaled, line_search, step_length
from gpg_jax.types import Array, Params

HALVINGS = 60
"""How often a step length, or the interval around it, is halved: a little more than a float64 has digits."""


class LogLinear(NamedTuple):
    """The policies π_w(a | s) ∝ exp(offset(s, a) + wᵀφ(s, a)).

    Attributes:
      features: `[S, A, D]`, φ.
      offset: `[S, A]`, the logits of w = 0.
    """

    features: Array
    offset: Array


def log_linear_policy(mdp: MDP, family: LogLinear, weights: Array) -> Array:
    """π_w of the weights `[D]`, `[S, A]`; differentiable."""
    return softmax_policy(mdp, family.offset + family.features @ weights)


def greedy_policy(mdp: MDP, policy: Array) -> Array:
    """The action of largest A^π in every state, `[S, A]`: where a free table's surrogate is highest."""
    advantage = jnp.where(mdp.legal, evaluate(mdp, policy).advantage, -jnp.inf)
    return jax.nn.one_hot(jnp.argmax(advantage, axis=1), advantage.shape[1], dtype=advantage.dtype)


def mean_divergence(mdp: MDP, policy: Array, new: Array) -> Array:
    """E_{s~d_π} KL(π(·|s) ‖ π′(·|s)), d_π of mass 1 (TRPO, arXiv 1502.05477, eq. 12), a scalar in nats."""
    return state_occupancy(mdp, policy, normalise=True) @ full_kl(_log(policy), _log(new))


def worst_divergence(mdp: MDP, policy: Array, new: Array) -> Array:
    """max_s KL(π(·|s) ‖ π′(·|s)) (TRPO, arXiv 1502.05477, section 3), a scalar in nats."""
    return jnp.max(full_kl(_log(policy), _log(new)))


def fisher_information(mdp: MDP, family: LogLinear, weights: Array) -> Array:
    """F = E_{s,a~d_π}[(φ − E_π φ)(φ − E_π φ)ᵀ], `[D, D]`: the Hessian of `mean_divergence` at π_w."""
    policy = log_linear_policy(mdp, family, weights)
    score = family.features - jnp.sum(policy[:, :, None] * family.features, axis=1, keepdims=True)
    return jnp.einsum("sa,sai,saj->ij", occupancy(mdp, policy, normalise=True), score, score)


def climb(
    mdp: MDP,
    family: LogLinear,
    weights: Array,
    gate: Gate,
    optimizer: optax.GradientTransformation,
    steps: int,
) -> Array:
    """Gradient steps up `gated_surrogate` around π_w: unbounded with `no_gate`, PPO with `clip_gate`.

    Args:
      mdp: the MDP, γ < 1.
      family: the policies.
      weights: `[D]`, w of the old policy, which stays where it is.
      gate: of `gpg_jax.losses.gates`.
      optimizer: what makes a step of a gradient.
      steps: how many.

    Returns:
      `[steps + 1, D]`, the weights on the way, the old ones first.
    """
    policy = log_linear_policy(mdp, family, weights)

    def loss(weights: Array) -> Array:
        return -gated_surrogate(mdp, policy, log_linear_policy(mdp, family, weights), gate)

    def step(carry: tuple[Array, optax.OptState]) -> tuple[Array, optax.OptState]:
        weights, state = carry
        change, state = optimizer.update(jax.grad(loss)(weights), state, weights)
        return optax.apply_updates(weights, change), state

    return repeat(step, (weights, optimizer.init(weights)), steps)[0]


def trust_region_step(
    mdp: MDP,
    family: LogLinear,
    weights: Array,
    radius: Array | float,
    divergence: Callable[[MDP, Array, Array], Array] = mean_divergence,
) -> Array:
    """The longest step along the natural gradient that the trust region has room for.

    x = F⁻¹∇L, to the length √(2δ / xᵀFx) or, if the divergence is δ before, to there; then halved until the
    surrogate gains: the `step_length` and `line_search` of `training.trust_region` (TRPO, arXiv 1502.05477,
    app. C, whose line search halves for the divergence too).

    Args:
      mdp: the MDP, γ < 1.
      family: the policies.
      weights: `[D]`, w.
      radius: δ > 0, in nats.
      divergence: MDP, π, π′ -> scalar, what δ bounds: `mean_divergence` or `worst_divergence`.

    Returns:
      `[D]`; w itself where no length gains, as where the gradient is 0.

    Raises:
      ValueError: a radius that is not positive.
    """
    if not isinstance(radius, jax.core.Tracer) and radius <= 0:
        raise ValueError(f"a trust region needs a positive radius, got {radius}")
    policy = log_linear_policy(mdp, family, weights)
    gradient = jnp.tensordot(occupancy_gradient(mdp, policy), family.features, axes=2)
    fisher = fisher_information(mdp, family, weights)
    direction = jnp.linalg.pinv(fisher, hermitian=True) @ gradient

    def measure(weights: Array) -> Trial:
        new = log_linear_policy(mdp, family, weights)
        return Trial(conservative_terms(mdp, policy, new).gain, divergence(mdp, policy, new))

    def inside(length: Array) -> Array:
        return measure(add_scaled(weights, length, direction)).divergence <= radius

    room = _bisect(inside, step_length(radius, direction @ fisher @ direction))
    # no bound for the search: at the edge that was found a last digit would decide, and shorter is nearer
    return line_search(
        measure, weights, direction, room, radius=jnp.inf, shrink=0.5, attempts=HALVINGS
    ).params


def conservative_step(mdp: MDP, policy: Array, candidates: Array) -> Array:
    """π_α with the candidate of highest surrogate and the α* that the bound allows.

    One iteration of conservative policy iteration (Kakade and Langford 2002): J never falls.

    Args:
      mdp: the MDP, γ < 1, not traced.
      policy: `[S, A]`, π.
      candidates: `[C, S, A]`, the policies that may be mixed in.

    Returns:
      `[S, A]`; π itself where no candidate has a gain.
    """
    terms = jax.vmap(lambda new: conservative_terms(mdp, policy, new))(candidates)
    best = jnp.argmax(terms.gain)
    cost = conservative.discounted_shift_cost(terms.worst[best], float(mdp.discount))
    return mixture(policy, candidates[best], conservative.step_size(terms.gain[best], cost))


def repeat(step: Callable[[Params], Params], start: Params, count: int) -> Params:
    """start, step(start), step(step(start)), …, `count` + 1 of them along a new leading axis."""
    last, path = jax.lax.scan(lambda now, _: (step(now), now), start, None, count)
    return jax.tree.map(lambda many, one: jnp.concatenate([many, one[None]]), path, last)


def _bisect(inside: Callable[[Array], Array], longest: Array) -> Array:
    """A length up to `longest` that is inside and has an outside next to it, or `longest`; 0 is inside."""

    def halve(count: Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = jnp.where(count == 0, high, (low + high) / 2)
        holds = inside(middle)
        return jnp.where(holds, middle, low), jnp.where(holds, high, middle)

    return jax.lax.fori_loop(0, HALVINGS, halve, (jnp.zeros_like(longest), longest))[0]


def _log(policy: Array) -> Array:
    """log π, −∞ with no gradient where π is 0."""
    return jnp.where(policy > 0, jnp.log(jnp.where(policy > 0, policy, 1)), -jnp.inf)
