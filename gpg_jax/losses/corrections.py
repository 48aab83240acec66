"""Weights from the sampler to the trainer: π_old/π_behaviour, free of the parameters.

The sampler may round, truncate by top-p or lag behind. The policy's ratio is always to the trainer's own
π_old; the sampler enters through these weights alone. A correction is `(log(π_old/π_behaviour) [B, L],
unit ids) -> [B, L]`. A masked token keeps its place in the denominators of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp

from gpg_jax.estimators.masked import masked_sum
from gpg_jax.types import Array

Correction = Callable[[Array, Array], Array]


def no_correction(log_gap: Array, unit_ids: Array) -> Array:
    """1: the sampler is the trainer.

    Args:
      log_gap: `[B, L]`, log(π_old/π_behaviour), 0 outside the units.
      unit_ids: `int32[B, L]`.

    Returns:
      `[B, L]`.
    """
    del unit_ids
    return jnp.ones_like(log_gap)


def truncated_token(cap: float) -> Correction:
    """min(exp(x_t), C), token by token (truncated importance sampling; Ionides 2008).

    Args:
      cap: C > 0; it binds from above only.
    """
    limit = _log_cap(cap)
    return lambda log_gap, unit_ids: jnp.exp(jnp.minimum(log_gap, limit))


def truncated_sequence(cap: float) -> Correction:
    """min(exp(Σ_t x_t), C) on every action of the row: exact below the cap, of a variance that grows with
    the length.

    Args:
      cap: C > 0; it binds from above only.
    """
    limit = _log_cap(cap)
    return lambda log_gap, unit_ids: jnp.exp(jnp.minimum(_row_gap(log_gap, unit_ids), limit))


def masked_token(low: float, high: float) -> Correction:
    """exp(x_t) where low ≤ exp(x_t) ≤ high, else 0: a token that the sampler saw too differently is dropped.

    Args:
      low: smallest weight that is kept, ≥ 0.
      high: largest weight that is kept.
    """
    inside = _inside(low, high)
    return lambda log_gap, unit_ids: inside(log_gap)


def masked_sequence(low: float, high: float) -> Correction:
    """exp(Σ_t x_t) on every action of the row where it lies in [low, high], else 0 on the whole row.

    Args:
      low: smallest weight that is kept, ≥ 0.
      high: largest weight that is kept.
    """
    inside = _inside(low, high)
    return lambda log_gap, unit_ids: inside(_row_gap(log_gap, unit_ids))


def _log_cap(cap: float) -> float:
    if cap <= 0:
        raise ValueError(f"the cap of a correction weight must be positive, such as 2.0; got {cap}")
    return math.log(cap)


def _row_gap(log_gap: Array, unit_ids: Array) -> Array:
    inside = unit_ids >= 0
    return jnp.where(inside, masked_sum(log_gap, inside, axis=1)[:, None], 0)


def _inside(low: float, high: float) -> Callable[[Array], Array]:
    if not 0 <= low < high:
        raise ValueError(f"correction weights are kept in a range 0 <= low < high, got {low} and {high}")

    def weight(log_gap: Array) -> Array:
        value = jnp.exp(jnp.minimum(log_gap, math.log(high) + 1))  # the bound keeps exp finite
        return jnp.where((value >= low) & (value <= high), value, 0)

    return weight
