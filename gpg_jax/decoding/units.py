"""Units of action: which tokens are one choice.

Ids count from 0 in each row; a token that the policy did not choose is in no unit, -1.
"""

from __future__ import annotations

import jax.numpy as jnp

from gpg_jax.types import Array


def token_units(action_mask: Array) -> Array:
    """Every token its own unit: K = |o|.

    Args:
      action_mask: `bool[B, L]`.

    Returns:
      `int32[B, L]`.
    """
    return _inside(_order(action_mask), action_mask)


def sequence_unit(action_mask: Array) -> Array:
    """The whole output one unit: K = 1. See `token_units`."""
    return _inside(jnp.zeros(action_mask.shape, jnp.int32), action_mask)


def fixed_length_units(action_mask: Array, length: int) -> Array:
    """Units of `length` actions each, the last one maybe shorter.

    Args:
      action_mask: `bool[B, L]`.
      length: actions of a unit, ≥ 1.

    Returns:
      `int32[B, L]`.

    Raises:
      ValueError: a length below 1.
    """
    if length < 1:
        raise ValueError(f"a unit holds at least 1 action, got length={length}")
    return _inside(_order(action_mask) // length, action_mask)


def fixed_count_units(action_mask: Array, count: int) -> Array:
    """K units of nearly equal length: action n of |o| belongs to unit ⌊n·K/|o|⌋.

    The cut depends on the final length, so a baseline that differs between a row's units is not free of its
    actions; one a row is.

    Args:
      action_mask: `bool[B, L]`.
      count: K ≥ 1; a row with fewer actions has a unit an action.

    Returns:
      `int32[B, L]`.

    Raises:
      ValueError: a count below 1.
    """
    if count < 1:
        raise ValueError(f"a row has at least 1 unit, got count={count}")
    actions = jnp.sum(action_mask, axis=1, dtype=jnp.int32)[:, None]
    units = jnp.minimum(count, jnp.maximum(actions, 1))
    return _inside(_order(action_mask) * units // jnp.maximum(actions, 1), action_mask)


def _order(action_mask: Array) -> Array:
    """How many actions of the row come before the token."""
    mask = jnp.asarray(action_mask).astype(jnp.int32)
    return jnp.cumsum(mask, axis=1) - mask


def _inside(ids: Array, action_mask: Array) -> Array:
    return jnp.where(action_mask, ids, -1).astype(jnp.int32)
