"""Sums over the rows of a group and over the tokens of a unit, written back to every member.

Groups, trees and units are named by ids, so nothing here depends on the order of the rows or on how many
members a group has. Ids of rows lie in 0 .. B-1, ids of units in 0 .. L-1; a unit id of -1 means no unit.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gpg_jax.types import Array


def group_sum(values: Array, group: Array) -> Array:
    """Σ_{j: group_j = group_i} values_j for every row i.

    Args:
      values: `[B]`.
      group: `int32[B]`, ids in 0 .. B-1.

    Returns:
      `[B]`.
    """
    return jax.ops.segment_sum(values, group, num_segments=values.shape[0])[group]


def group_min(values: Array, group: Array) -> Array:
    """min_{j: group_j = group_i} values_j for every row i. See `group_sum`."""
    return jax.ops.segment_min(values, group, num_segments=values.shape[0])[group]


def group_max(values: Array, group: Array) -> Array:
    """max_{j: group_j = group_i} values_j for every row i. See `group_sum`."""
    return jax.ops.segment_max(values, group, num_segments=values.shape[0])[group]


def tree_roots(parent: Array) -> Array:
    """The row at the root of every row's tree of forks.

    Args:
      parent: `int32[B]`, the row that each row was forked from, itself for a root.

    Returns:
      `int32[B]`.
    """
    root = jnp.asarray(parent)
    for _ in range(max(root.shape[0] - 1, 1).bit_length()):  # doubling reaches the root of any depth
        root = root[root]
    return root


def unit_sum(values: Array, unit_ids: Array) -> Array:
    """Σ of the values of the token's unit, for every token; 0 outside any unit.

    Args:
      values: `[B, L]`, finite where `unit_ids` is not -1.
      unit_ids: `int32[B, L]`, in -1 .. L-1.

    Returns:
      `[B, L]`.
    """
    inside = unit_ids >= 0
    ids = jnp.where(inside, unit_ids, 0)
    length = unit_ids.shape[1]

    def one_row(row: Array, row_ids: Array) -> Array:
        return jax.ops.segment_sum(row, row_ids, num_segments=length)[row_ids]

    return jnp.where(inside, jax.vmap(one_row)(jnp.where(inside, values, 0), ids), 0)


def unit_size(unit_ids: Array) -> Array:
    """Tokens of the token's unit |MA|, for every token `[B, L]`; 1 outside any unit. See `unit_sum`."""
    return jnp.maximum(unit_sum(jnp.ones(unit_ids.shape, jnp.float32), unit_ids), 1)


def unit_mean(values: Array, unit_ids: Array) -> Array:
    """Mean of the values of the token's unit, for every token; 0 outside any unit. See `unit_sum`."""
    return unit_sum(values, unit_ids) / unit_size(unit_ids)
