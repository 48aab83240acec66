"""Weights: how much each token counts in the loss, free of the parameters.

Every aggregation that has a name is linear: Σ_{b,t} w_{b,t} x_{b,t}. The weights are normalised once over
the global minibatch, so micro-batches, devices and packing are plain sums. `w_b` is the row's leaf weight
(1 without forks), `n_b` its tokens inside units, N = Σ w_b over the rows that have any. Rows without
actions enter neither numerator nor denominator.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from gpg_jax.estimators.segments import unit_size
from gpg_jax.types import Array, Rollout

Weights = Callable[[Rollout, Array], Array]


def _divide(numerator: Array, denominator: Array) -> Array:
    return jnp.where(denominator > 0, numerator / jnp.where(denominator > 0, denominator, 1), 0)


def _row_weights(rollout: Rollout, unit_ids: Array) -> tuple[Array, Array]:
    """Leaf weights of the rows that have actions `[B]`, and their tokens inside units `[B]`."""
    count = jnp.sum(unit_ids >= 0, axis=1, dtype=jnp.float32)
    return jnp.where(count > 0, rollout.leaf_weight, 0), count


def _spread(row: Array, unit_ids: Array) -> Array:
    return jnp.where(unit_ids >= 0, row[:, None], 0)


def token_sum(rollout: Rollout, unit_ids: Array) -> Array:
    """w_b: a plain sum over tokens and rows.

    Args:
      rollout: the global minibatch.
      unit_ids: `int32[B, L]`, -1 where a token is not trained on.

    Returns:
      `[B, L]`.
    """
    return _spread(_row_weights(rollout, unit_ids)[0], unit_ids)


def token_mean(rollout: Rollout, unit_ids: Array) -> Array:
    """w_b / Σ_b w_b·n_b: the mean over all tokens of the global minibatch (DAPO, arXiv 2503.14476, eq. 8).

    See `token_sum` for the arguments.
    """
    weight, count = _row_weights(rollout, unit_ids)
    return _spread(_divide(weight, jnp.sum(weight * count)), unit_ids)


def sequence_mean(rollout: Rollout, unit_ids: Array) -> Array:
    """w_b / (N·n_b): the mean over rows of each row's mean over tokens (GRPO, arXiv 2402.03300, eq. 3).

    With unit ratios this is (1/N) Σ_b (1/n_b) Σ_T |MA_T|·(surrogate of T): GSPO for one unit a row, GRPO
    for one unit a token. See `token_sum` for the arguments.
    """
    weight, count = _row_weights(rollout, unit_ids)
    return _spread(_divide(_divide(weight, jnp.sum(weight)), count), unit_ids)


def sequence_mean_token_sum(rollout: Rollout, unit_ids: Array) -> Array:
    """w_b / N: the mean over rows of each row's sum over tokens, REINFORCE's own (Williams 1992).

    See `token_sum` for the arguments.
    """
    weight, _ = _row_weights(rollout, unit_ids)
    return _spread(_divide(weight, jnp.sum(weight)), unit_ids)


def constant_length(length: float) -> Weights:
    """w_b / (N·T): the mean over rows of each row's sum over tokens, over a constant T.

    Dr. GRPO, arXiv 2503.20783, section 3.2: a long row's tokens count as much as a short row's.

    Args:
      length: T > 0, the longest response allowed, not the padded width.

    Raises:
      ValueError: T is not positive.
    """
    if length <= 0:
        raise ValueError(f"the constant length must be positive, as the longest response is; got {length}")
    return lambda rollout, unit_ids: sequence_mean_token_sum(rollout, unit_ids) / length


def unit_sum_weights(rollout: Rollout, unit_ids: Array) -> Array:
    """w_b / (N·|MA|): the mean over rows of each row's sum over units, a unit being its tokens' mean.

    See `token_sum` for the arguments.
    """
    return sequence_mean_token_sum(rollout, unit_ids) / unit_size(unit_ids)


def unit_mean_weights(rollout: Rollout, unit_ids: Array) -> Array:
    """w_b / (|MA|·Σ_b w_b·K_b): the mean over all units of the global minibatch; K_b units in row b.

    See `token_sum` for the arguments.
    """
    weight = token_sum(rollout, unit_ids) / unit_size(unit_ids)
    return _divide(weight, jnp.sum(weight))
