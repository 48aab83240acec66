"""Baselines: what a return is measured against, free of the action that earned it.

A baseline that does not depend on a row's own actions leaves the expected gradient as it is and changes its
variance alone (Williams 1992). The batch's and the group's mean contain the row itself and shrink the
gradient by 1 − 1/n; leave-one-out does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpg_jax.estimators.groups import group_centre, leave_one_out_ratio
from gpg_jax.estimators.masked import at_least_float32, masked_sum
from gpg_jax.types import Array, Params


class Running(NamedTuple):
    """State of the running baseline: a decayed sum of mean returns, and of ones."""

    total: Array
    weight: Array


def constant(returns: Array, value: float) -> Array:
    """b = value, for every row `[B]`."""
    return jnp.full_like(at_least_float32(returns), value)


def running_start() -> Running:
    """The state before the first rollout, whose baseline is 0."""
    return Running(total=jnp.zeros((), jnp.float32), weight=jnp.zeros((), jnp.float32))


def running(returns: Array, weight: Array, state: Running, decay: float) -> tuple[Array, Running]:
    """b = Σ_k d^k R̄_{n−k} / Σ_k d^k over the rollouts *before* this one, and the state after it.

    Reinforcement comparison, Williams 1992; the sum of weights takes the first value's bias out.

    Args:
      returns: `[B]`.
      weight: `[B]`, weight of each row as a sample.
      state: of the rollouts before.
      decay: d in [0, 1), a rollout; 0 is the last rollout's mean.

    Returns:
      Baselines `[B]`, and the next state.

    Raises:
      ValueError: a decay outside [0, 1).
    """
    if not 0 <= decay < 1:
        raise ValueError(f"the running baseline's decay must lie in [0, 1), got {decay}")
    value = state.total / jnp.where(state.weight > 0, state.weight, 1)
    weights = jnp.sum(weight)
    seen = (weights > 0).astype(jnp.float32)
    mean = jnp.sum(jnp.where(weight > 0, weight * returns, 0)) / jnp.where(weights > 0, weights, 1)
    after = Running(total=decay * state.total + seen * mean, weight=decay * state.weight + seen)
    return jnp.broadcast_to(value, returns.shape), after


def batch_mean(returns: Array, weight: Array) -> Array:
    """b = Σ_j w_j R_j / Σ_j w_j over all rows, itself included.

    Args:
      returns: `[B]`.
      weight: `[B]`, weight of each row as a sample.

    Returns:
      `[B]`.
    """
    return returns - group_centre(returns, jnp.zeros(returns.shape, jnp.int32), weight)


def optimal(returns: Array, norms: Array, group: Array, parent: Array, weight: Array) -> Array:
    """b*_i = Σ_j w_j R_j ‖s_j‖² / Σ_j w_j ‖s_j‖² over the other rollouts of i's group.

    E[R‖∇log π‖²] / E[‖∇log π‖²] is the constant of least variance (Weaver and Tao 2001; Greensmith et al.
    2004). Estimated from the same samples it is biased, so a row's own tree is left out.

    Args:
      returns: `[B]`.
      norms: `[B]`, ‖∇_θ log π(row)‖²: exact from `score_norms`, or `head_score_norms`.
      group: `int32[B]`, ids in 0 .. B-1.
      parent: `int32[B]`.
      weight: `[B]`, weight of each row as a sample.

    Returns:
      `[B]`.
    """
    return leave_one_out_ratio(returns, norms, group, parent, weight)


def score_norms(log_prob: Callable[[Params, Params], Array], params: Params, rows: Params) -> Array:
    """‖∇_θ log π_θ(row)‖² for every row, exactly: a gradient a row, for models that are small.

    Args:
      log_prob: parameters, one row -> scalar log-probability of its actions.
      params: of the policy.
      rows: a pytree whose leaves begin with the axis B.

    Returns:
      `[B]`.
    """

    def norm(row: Params) -> Array:
        leaves = jax.tree.leaves(jax.grad(log_prob)(params, row))
        return jnp.sum(jnp.stack([jnp.sum(jnp.square(leaf)) for leaf in leaves]))

    return jax.vmap(norm)(rows)


def score_square(probabilities: Array, choice: Array) -> Array:
    """‖∇_z log π(y)‖² = ‖onehot(y) − π‖² = (1 − π_y)² + Σ_{v≠y} π_v² of a softmax's logits z.

    1 − π_y is summed as the others' mass: no digit is lost where π_y is near 1.

    Args:
      probabilities: `[..., V]`, π.
      choice: int `[...]`, y; leading axes broadcast.

    Returns:
      `[...]`.
    """
    entry = jax.lax.broadcasted_iota(choice.dtype, probabilities.shape, probabilities.ndim - 1)
    others = jnp.where(entry == choice[..., None], 0, probabilities)
    return jnp.square(jnp.sum(others, axis=-1)) + jnp.sum(jnp.square(others), axis=-1)


def head_score_norms(score_square: Array, action_mask: Array) -> Array:
    """Σ_t ‖onehot(y_t) − π(·|y_<t)‖² over the actions: the score's norm at the logits, a cheap proxy.

    It takes the scores of different tokens to be orthogonal. Any norms leave the leave-one-out baseline
    unbiased; only the variance is at stake.

    Args:
      score_square: `[B, L]`, as in `Scores.score_square`.
      action_mask: `bool[B, L]`.

    Returns:
      `[B]`.
    """
    return masked_sum(score_square, action_mask, axis=1)
