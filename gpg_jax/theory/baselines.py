"""The baseline of least variance, exactly, and the variance that a baseline leaves."""

from __future__ import annotations

import jax.numpy as jnp

from gpg_jax.estimators.baselines import score_square
from gpg_jax.theory.gradients import occupancy_gradient
from gpg_jax.theory.mdp import MDP, check
from gpg_jax.theory.occupancies import occupancy
from gpg_jax.theory.values import evaluate
from gpg_jax.types import Array


def score_squares(policy: Array) -> Array:
    """‖∇_θ log π(a | s)‖² of every state and action for softmax logits θ, `[S, A]`."""
    return score_square(policy[:, None], jnp.arange(policy.shape[1])[None])


def optimal_baseline(mdp: MDP, policy: Array) -> Array:
    """b*(s) = E[Q^π ‖∇log π‖²] / E[‖∇log π‖²] = V^π(s) + Cov(Q^π, ‖∇log π‖²) / E[‖∇log π‖²].

    Weaver and Tao 2001; Greensmith et al. 2004. A state with one action to take has no score: b* is V^π.

    Args:
      mdp: the MDP, γ < 1.
      policy: `[S, A]`, π_θ of softmax logits θ.

    Returns:
      `[S]`.
    """
    weight = policy * score_squares(policy)
    total = jnp.sum(weight, axis=1)
    values = evaluate(mdp, policy)
    above = jnp.sum(weight * values.advantage, axis=1) / jnp.where(total > 0, total, 1)
    return values.state + above


def gradient_variance(mdp: MDP, policy: Array, baseline: Array) -> Array:
    """E‖g‖² − ‖∇J‖² of g = (Q^π(s, a) − b(s)) ∇log π(a | s) / (1 − γ), one pair (s, a) drawn from d_π.

    E[g] = ∇J whatever b; the variance is least at `optimal_baseline`, state by state.

    Args:
      mdp: the MDP, γ < 1.
      policy: `[S, A]`, π_θ of softmax logits θ.
      baseline: `[S]`, b.

    Returns:
      A scalar, the sum of the variances of the components.
    """
    check(mdp, policy)
    error = (evaluate(mdp, policy).action - baseline[:, None]) / (1 - mdp.discount)
    square = jnp.square(error) * score_squares(policy)
    mean_square = jnp.sum(occupancy(mdp, policy, normalise=True) * square)
    return mean_square - jnp.sum(jnp.square(occupancy_gradient(mdp, policy)))
