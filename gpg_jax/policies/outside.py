"""Any NNX decoder as a policy: its logits are recomputed from whole rows, correct and slow.

The cache of such a policy is the tokens themselves.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from gpg_jax.policies.policy import Cache, Context, Policy
from gpg_jax.types import Array, Params


def _call(module: nnx.Module, tokens: Array) -> Array:
    return module(tokens)


def _rows(tokens: Array, positions: Array, contexts: tuple[Context, ...]) -> Array:
    """Gap-free rows `int32[N, L]` that hold every token at its position."""
    count = tokens.shape[0]
    pieces = [(tokens, positions)]
    for context in contexts:
        shared = count // context.position.shape[0]
        pieces.append(
            (jnp.repeat(context.cache[..., 0], shared, axis=0), jnp.repeat(context.position, shared, axis=0))
        )
    length = sum(piece.shape[1] for piece, _ in pieces)
    rows = jnp.zeros((count, length), jnp.int32)
    index = jnp.arange(count)[:, None]
    for piece, position in pieces:
        # An empty slot has position -1, which is sent past the end and dropped.
        rows = rows.at[index, jnp.where(position < 0, length, position)].set(piece, mode="drop")
    return rows


def from_logits(
    module: nnx.Module,
    vocab_size: int,
    *,
    call: Callable[[nnx.Module, Array], Array] = _call,
) -> tuple[Policy, Params]:
    """A policy of a causal NNX module, and the module's parameters.

    Args:
      module: a decoder; what is not an `nnx.Param` (dropout keys, say) is frozen as it is.
      vocab_size: V.
      call: module, tokens `int32[N, L]` right-padded -> logits `[N, L, V]`, where the logits at a token
        depend on it and those before it alone.

    Returns:
      The policy, and its parameters as a nested dict.
    """
    graph, *states = nnx.split(module, nnx.Param, ...)
    state, rest = states

    def hidden(
        params: Params, tokens: Array, positions: Array, contexts: tuple[Context, ...]
    ) -> tuple[Array, Cache]:
        logits = call(nnx.merge(graph, params, rest), _rows(tokens, positions, contexts))
        index = jnp.maximum(positions, 0)[..., None]
        return jnp.take_along_axis(logits, index, axis=1).astype(jnp.float32), tokens[..., None]

    def init(key: Array) -> Params:
        del key  # the module was initialised outside
        return jax.tree.map(jnp.copy, nnx.to_pure_dict(state))

    policy = Policy(
        init=init,
        hidden=hidden,
        unembed=lambda params, logits: logits,
        init_cache=lambda rows, slots: jnp.zeros((rows, slots, 1), jnp.int32),
        for_decoding=lambda params: params,
        vocab_size=vocab_size,
    )
    return policy, nnx.to_pure_dict(state)
