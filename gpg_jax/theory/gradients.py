"""The policy gradient of a table of softmax logits in three forms, each exact.

All three are Σ_{s,a} c(s, a) ∇log π(a | s). A trajectory credits each of its actions with its whole return,
or with the return from the action on times γ^t; the third form reads the same numbers off the occupancy and
Q^π. Without γ^t (common practice) the sum is no gradient of J.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpg_jax.theory.episodes import discounts
from gpg_jax.theory.mdp import MDP
from gpg_jax.theory.occupancies import occupancy
from gpg_jax.theory.scores import table_scores
from gpg_jax.theory.trajectories import Trajectories, trajectory_probability
from gpg_jax.theory.values import evaluate
from gpg_jax.types import Array


class GradientMoments(NamedTuple):
    """Mean `[S, A]` of a gradient estimate from one trajectory, and its total variance, a scalar."""

    mean: Array
    variance: Array


@jax.jit
def credited_moments(policy: Array, trajectories: Trajectories, credit: Array) -> GradientMoments:
    """Moments of g(τ) = Σ_t credit_t(τ) ∇log π(a_t | s_t), over the listed trajectories.

    Args:
      policy: `[S, A]`, π_θ of softmax logits θ, which the trajectories are drawn from.
      trajectories: of the MDP.
      credit: `[N, H]`, what each action is credited with: a return, an advantage, an estimate of one.

    Returns:
      E[g], and E‖g‖² − ‖E[g]‖².
    """
    rows = jnp.arange(len(credit))[:, None]
    coefficients = jnp.zeros((len(credit), *policy.shape))
    coefficients = coefficients.at[rows, trajectories.state, trajectories.action].add(credit)
    estimates = jax.vmap(table_scores, in_axes=(None, 0))(policy, coefficients)
    probability = trajectory_probability(trajectories, policy)
    mean = jnp.tensordot(probability, estimates, axes=1)
    square = jnp.sum(jnp.square(estimates - mean[None]), axis=(1, 2))
    return GradientMoments(mean, probability @ square)


def trajectory_gradient(policy: Array, trajectories: Trajectories) -> Array:
    """∇J = E_τ[G_0 Σ_t ∇log π(a_t | s_t)] (Williams 1992), over the listed trajectories.

    Args:
      policy: `[S, A]`, π_θ of softmax logits θ.
      trajectories: of the MDP.

    Returns:
      `[S, A]`, ∂J/∂θ.
    """
    credit = jnp.broadcast_to(trajectories.to_go[:, :1], trajectories.to_go.shape)
    return credited_moments(policy, trajectories, credit).mean


def reward_to_go_gradient(
    mdp: MDP, policy: Array, trajectories: Trajectories, *, discount_state: bool
) -> Array:
    """∇J = E_τ[Σ_t γ^t G_t ∇log π(a_t | s_t)] (Sutton et al. 1999), over the listed trajectories.

    Args:
      mdp: the MDP.
      policy: `[S, A]`, π_θ of softmax logits θ.
      trajectories: of the MDP.
      discount_state: whether γ^t is there. Without it, for γ < 1, this is what most implementations climb,
        and not the gradient of J.

    Returns:
      `[S, A]`.
    """
    credit = trajectories.to_go
    if discount_state:
        credit = credit * discounts(mdp, credit.shape[1])[None, :]
    return credited_moments(policy, trajectories, credit).mean


def occupancy_gradient(mdp: MDP, policy: Array) -> Array:
    """∇J = 1/(1 − γ) Σ_{s,a} d_π(s, a) Q^π(s, a) ∇log π(a | s), d_π of mass 1 (Sutton et al. 1999).

    Args:
      mdp: the MDP, γ < 1.
      policy: `[S, A]`, π_θ of softmax logits θ.

    Returns:
      `[S, A]`, ∂J/∂θ.

    Raises:
      ValueError: γ = 1.
    """
    visits = occupancy(mdp, policy, normalise=True) / (1 - mdp.discount)
    return table_scores(policy, visits * evaluate(mdp, policy).action)
