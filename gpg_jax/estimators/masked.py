"""Reductions under a mask: what is masked is replaced before it is read, and nothing is divided by 0."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gpg_jax.types import Array


def at_least_float32(values: Array) -> jax.Array:
    """The values in float32, or in float64 where they are."""
    return jnp.asarray(values, jnp.promote_types(jnp.result_type(values), jnp.float32))


def masked_values(values: Array, mask: Array) -> jax.Array:
    """The values where `mask` is true and 0 elsewhere, as `masked_sum` reads them."""
    return at_least_float32(jnp.where(mask, values, 0))


def masked_sum(values: Array, mask: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    """Σ over the entries where `mask` is true; 0 where there are none.

    Args:
      values: float array; may hold NaN or ±∞ under the mask.
      mask: bool, same shape.
      axis: axes to reduce, all of them for None.

    Returns:
      At least float32, float64 for float64.
    """
    return jnp.sum(masked_values(values, mask), axis=axis)


def masked_max(values: Array, mask: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    """Largest entry where `mask` is true; 0 where there are none."""
    largest = jnp.max(jnp.where(mask, values, -jnp.inf), axis=axis)
    return jnp.where(jnp.any(mask, axis=axis), largest, 0)
