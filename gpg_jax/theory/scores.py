"""The score ∇_θ log p_θ, and the identity ∇E[f] = E[f ∇log p] that every policy gradient rests on."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gpg_jax.types import Array

Family = Callable[[Array], Array]
"""θ `[D]` -> log p_θ(x) for every outcome, `[X]`."""


def bernoulli(theta: Array) -> Array:
    """log p_θ(x) = x log θ + (1 − x) log(1 − θ) for x = 0 and 1, `[2]`; θ is the probability of 1, `[1]`."""
    return jnp.concatenate([jnp.log1p(-theta), jnp.log(theta)])


def log_linear(features: Array) -> Family:
    """The family p_θ(x) ∝ exp θᵀφ(x), whose score is φ(x) − E[φ].

    Args:
      features: `[X, D]`, φ(x); the identity matrix makes θ a table of logits.
    """
    return lambda theta: jax.nn.log_softmax(features @ theta)


def score(family: Family, theta: Array) -> Array:
    """∇_θ log p_θ(x) for every outcome, `[X, D]`."""
    return jax.jit(jax.jacobian(family))(theta)


def score_gradient(family: Family, theta: Array, values: Array) -> Array:
    """∇_θ E[f(x)] = E[f(x) ∇_θ log p_θ(x)] (Williams 1992): the gradient without differentiating f.

    Args:
      family: of distributions over X outcomes.
      theta: `[D]`.
      values: `[X]`, f(x).

    Returns:
      `[D]`; 0 where f is a constant, whence baselines change nothing.
    """
    return (jnp.exp(family(theta)) * values) @ score(family, theta)


def table_scores(policy: Array, coefficients: Array) -> Array:
    """Σ_a c(s, a) ∇_θ log π_θ(a | s) for softmax logits θ(s, b): c(s, b) − π(b | s) Σ_a c(s, a).

    Every policy gradient of a table is this sum; the forms differ in how they find c.

    Args:
      policy: `[S, A]`, π_θ.
      coefficients: `[S, A]`, c.

    Returns:
      `[S, A]`.
    """
    return coefficients - policy * jnp.sum(coefficients, axis=1, keepdims=True)
