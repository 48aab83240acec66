"""Attention of new tokens over contexts and over themselves, merged by log-sum-exp.

Each source of keys is attended to on its own, in its own layout; the partial results are merged by
their maxima and sums, which is exact. A prompt shared by a group is thus read once for the group.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from gpg_jax.policies.precision import einsum
from gpg_jax.types import Array

_MASKED = -1e30


class Source(NamedTuple):
    """Keys and values `[N', KV, T, hd]` with the positions `int32[N', T]` of their tokens, -1 for none."""

    key: Array
    value: Array
    position: Array


class _Partial(NamedTuple):
    top: Array  # [N, S, H], largest score
    total: Array  # [N, S, H], sum of exp(score - top)
    mixed: Array  # [N, S, H, hd], sum of exp(score - top) * value


def _attend_to(source: Source, query: Array, position: Array, dtype: jnp.dtype) -> _Partial:
    rows, length, heads, head_dim = query.shape
    kept, kv_heads, _, _ = source.key.shape
    shared, repeats = rows // kept, heads // kv_heads
    # All queries that read the same keys become the rows of one product: [N', KV, G*S*R, hd].
    grouped = query.reshape(kept, shared, length, kv_heads, repeats, head_dim)
    grouped = grouped.transpose(0, 3, 1, 2, 4, 5).reshape(kept, kv_heads, -1, head_dim)
    scores = einsum("nkqh,nkth->nkqt", dtype, grouped * head_dim**-0.5, source.key)
    seen = (source.position[:, None, :] >= 0) & (
        source.position[:, None, :] <= position.reshape(kept, shared * length)[:, :, None]
    )
    seen = jnp.repeat(seen, repeats, axis=1)[:, None]
    scores = jnp.where(seen, scores, _MASKED)
    top = lax.stop_gradient(jnp.max(scores, axis=-1))
    weights = jnp.exp(scores - top[..., None])
    mixed = einsum("nkqt,nkth->nkqh", dtype, weights, source.value)

    def ungroup(values: Array) -> Array:
        values = values.reshape(kept, kv_heads, shared, length, repeats, *values.shape[3:])
        values = jnp.moveaxis(values, 1, 3)
        return values.reshape(rows, length, heads, *values.shape[5:])

    return _Partial(ungroup(top), ungroup(jnp.sum(weights, axis=-1)), ungroup(mixed))


def attend(query: Array, position: Array, sources: tuple[Source, ...], dtype: jnp.dtype) -> Array:
    """Causal softmax attention over the union of the sources.

    ``out_i = Σ_j exp(q_i·k_j / √hd) v_j / Σ_j exp(q_i·k_j / √hd)`` over the tokens j of every source
    with ``0 ≤ position_j ≤ position_i`` (Vaswani et al. 2017, eq. 1); heads share keys in groups.

    Args:
      query: `float32[N, S, H, hd]`.
      position: `int32[N, S]`; a query of position -1 (padding) sees nothing and its result is
        finite and meaningless.
      sources: keys and values; their N' divides N and their KV divides H.
      dtype: compute type of the products.

    Returns:
      `float32[N, S, H, hd]`.
    """
    parts = [_attend_to(source, query, position, dtype) for source in sources]
    top = parts[0].top
    for part in parts[1:]:
        top = jnp.maximum(top, part.top)
    scales = [jnp.exp(part.top - top) for part in parts]
    total, mixed = scales[0] * parts[0].total, scales[0][..., None] * parts[0].mixed
    for scale, part in zip(scales[1:], parts[1:], strict=True):
        total, mixed = total + scale * part.total, mixed + scale[..., None] * part.mixed
    return mixed / total[..., None]
