"""Rows of a cache, wherever a policy has put their axis."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gpg_jax.policies.policy import Cache, Policy


def row_axes(policy: Policy) -> Any:
    """The axis of each cache array along which rows lie: the one that grows with their number."""
    one, two = (jax.eval_shape(lambda rows=rows: policy.init_cache(rows, 3)) for rows in (1, 2))

    def axis(small: jax.ShapeDtypeStruct, large: jax.ShapeDtypeStruct) -> int:
        return next(
            i for i, sizes in enumerate(zip(small.shape, large.shape, strict=True)) if len(set(sizes)) > 1
        )

    return jax.tree.map(axis, one, two)


def take(cache: Cache, rows: Array, row_axes: Any) -> Cache:
    """Rows of a cache."""
    return jax.tree.map(lambda leaf, axis: jnp.take(leaf, rows, axis=axis), cache, row_axes)


def copy_rows(cache: Cache, to: Array, source: Array, row_axes: Any) -> Cache:
    """Rows over other rows; past the end they are dropped."""

    def copy(leaf: Array, axis: int) -> Array:
        place = (*(slice(None),) * axis, to)
        return leaf.at[place].set(jnp.take(leaf, source, axis=axis), mode="drop")

    return jax.tree.map(copy, cache, row_axes)


def put_entries(cache: Cache, entry: Cache, rows: Array, slots: Array, row_axes: Any) -> Cache:
    """Writes the entries of tokens `[A, R]` to slots `[A, R]` of the rows; past the end they are dropped."""

    def put(whole: Array, new: Array, axis: int) -> Array:
        index: list[Any] = [slice(None)] * whole.ndim
        index[axis], index[whole.ndim - 2] = rows, slots
        # Indices that are not neighbours come first in the result, as in NumPy.
        front = (0, 1) if whole.ndim - 2 != axis + 1 else (axis, axis + 1)
        return whole.at[tuple(index)].set(jnp.moveaxis(new, (axis, whole.ndim - 2), front), mode="drop")

    return jax.tree.map(put, cache, entry, row_axes)
