"""A decoder-only transformer in Flax NNX, split once at the seam into pure functions.

Llama (Touvron et al. 2023, arXiv 2302.13971), Qwen2 (2407.10671) and Qwen3 (2505.09388) by
configuration. The blocks are stacked and scanned; the scan reads caches and never writes them.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from gpg_jax.policies.architecture import Architecture
from gpg_jax.policies.attention import Source, attend
from gpg_jax.policies.policy import Cache, Context, Policy
from gpg_jax.policies.precision import einsum
from gpg_jax.policies.rotary import angles, rotate
from gpg_jax.types import Array, Params

_INIT_SCALE = 0.02


def _normal(rngs: nnx.Rngs, *shape: int) -> nnx.Param:
    return nnx.Param(_INIT_SCALE * jax.random.normal(rngs.params(), shape, jnp.float32))


def _ones(*shape: int) -> nnx.Param:
    return nnx.Param(jnp.ones(shape, jnp.float32))


def rms_norm(values: Array, scale: Array, eps: float) -> Array:
    """values / √(mean(values²) + ε) · scale, over the last axis, in float32 (arXiv 1910.07467)."""
    values = values.astype(jnp.float32)
    root = jax.lax.rsqrt(jnp.mean(jnp.square(values), axis=-1, keepdims=True) + eps)
    return values * root * scale.reshape((1,) * (values.ndim - 1) + (-1,))


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, architecture: Architecture, dtype: jnp.dtype, rngs: nnx.Rngs):
        shape = architecture
        inner, outer = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.architecture, self.dtype = architecture, dtype
        self.query = _normal(rngs, shape.width, inner)
        self.key = _normal(rngs, shape.width, outer)
        self.value = _normal(rngs, shape.width, outer)
        self.output = _normal(rngs, inner, shape.width)
        if shape.attention_bias:
            self.query_bias, self.key_bias, self.value_bias = (
                nnx.Param(jnp.zeros((size,), jnp.float32)) for size in (inner, outer, outer)
            )
        if shape.query_key_norm:
            self.query_norm, self.key_norm = _ones(shape.head_dim), _ones(shape.head_dim)

    def _project(self, hidden: Array, name: str, heads: int) -> Array:
        projected = einsum("nsd,dh->nsh", self.dtype, hidden, getattr(self, name)[...])
        if self.architecture.attention_bias:
            projected = projected + getattr(self, f"{name}_bias")[...][None, None]
        projected = projected.reshape(*hidden.shape[:2], heads, self.architecture.head_dim)
        if self.architecture.query_key_norm and name != "value":
            scale = getattr(self, f"{name}_norm")[...]
            projected = rms_norm(projected, scale, self.architecture.norm_eps)
        return projected

    def __call__(
        self, hidden: Array, position: Array, turn: tuple[Array, Array], sources: tuple[Source, ...]
    ) -> tuple[Array, tuple[Array, Array]]:
        shape = self.architecture
        query = rotate(self._project(hidden, "query", shape.heads), *turn)
        key = rotate(self._project(hidden, "key", shape.kv_heads), *turn)
        value = self._project(hidden, "value", shape.kv_heads)
        key, value = (x.swapaxes(1, 2).astype(self.dtype) for x in (key, value))
        mixed = attend(query, position, (*sources, Source(key, value, position)), self.dtype)
        mixed = mixed.reshape(*hidden.shape[:2], -1)
        return einsum("nsh,hd->nsd", self.dtype, mixed, self.output[...]), (key, value)


class Mlp(nnx.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202, eq. 6): down(silu(gate(x)) · up(x))."""

    def __init__(self, architecture: Architecture, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.dtype = dtype
        self.gate = _normal(rngs, architecture.width, architecture.mlp_width)
        self.up = _normal(rngs, architecture.width, architecture.mlp_width)
        self.down = _normal(rngs, architecture.mlp_width, architecture.width)

    def __call__(self, hidden: Array) -> Array:
        gate = einsum("nsd,df->nsf", self.dtype, hidden, self.gate[...])
        up = einsum("nsd,df->nsf", self.dtype, hidden, self.up[...])
        return einsum("nsf,fd->nsd", self.dtype, jax.nn.silu(gate) * up, self.down[...])


class Block(nnx.Module):
    """Pre-norm attention and MLP on a float32 residual stream."""

    def __init__(self, architecture: Architecture, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.eps = architecture.norm_eps
        self.attention_norm = _ones(architecture.width)
        self.attention = Attention(architecture, dtype, rngs)
        self.mlp_norm = _ones(architecture.width)
        self.mlp = Mlp(architecture, dtype, rngs)

    def __call__(self, hidden, position, turn, sources):
        normed = rms_norm(hidden, self.attention_norm[...], self.eps)
        mixed, entry = self.attention(normed, position, turn, sources)
        hidden = hidden + mixed
        return hidden + self.mlp(rms_norm(hidden, self.mlp_norm[...], self.eps)), entry


class Decoder(nnx.Module):
    """Embedding, stacked blocks, final norm and head."""

    def __init__(self, architecture: Architecture, dtype: jnp.dtype, rngs: nnx.Rngs):
        @nnx.split_rngs(splits=architecture.layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stack(layer_rngs: nnx.Rngs) -> Block:
            return Block(architecture, dtype, layer_rngs)

        self.embedding = _normal(rngs, architecture.vocab_size, architecture.width)
        self.layers = stack(rngs)
        self.norm = _ones(architecture.width)
        if not architecture.tied:
            self.head = _normal(rngs, architecture.width, architecture.vocab_size)


def _init(architecture: Architecture, dtype: jnp.dtype, key: jax.Array) -> Params:
    return nnx.to_pure_dict(nnx.state(Decoder(architecture, dtype, nnx.Rngs(params=key))))


def transformer(architecture: Architecture, *, dtype: jnp.dtype = jnp.float32, remat: bool = False) -> Policy:
    """The policy of an architecture.

    Parameters are `{"embedding", "layers": {...stacked on axis 0...}, "norm"[, "head"]}`, matrices
    as [in, out].

    Args:
      architecture: sizes and variants.
      dtype: type of the products' operands and of the cache; sums, norms, softmax, residual stream
        and logits are float32 whatever it is.
      remat: recompute each block in the backward pass instead of keeping its activations.
    """
    dtype = jnp.dtype(dtype)
    block, _ = nnx.split(
        nnx.eval_shape(lambda: Block(architecture, dtype, nnx.Rngs(params=jax.random.key(0))))
    )

    def hidden(
        params: Params, tokens: Array, positions: Array, contexts: tuple[Context, ...]
    ) -> tuple[Array, Cache]:
        turn = angles(architecture, positions)

        def apply(stream: Array, layer):
            weights, caches = layer
            sources = tuple(
                Source(cache[0], cache[1], context.position)
                for cache, context in zip(caches, contexts, strict=True)
            )
            return nnx.merge(block, weights)(stream, positions, turn, sources)

        if remat:
            apply = jax.checkpoint(apply, prevent_cse=False)
        stream = params["embedding"][tokens].astype(dtype).astype(jnp.float32)
        caches = tuple(context.cache for context in contexts)
        stream, entries = jax.lax.scan(apply, stream, (params["layers"], caches))
        return rms_norm(stream, params["norm"], architecture.norm_eps), entries

    def unembed(params: Params, states: Array) -> Array:
        lead = states.shape[:-1]
        states = states.reshape(-1, states.shape[-1])
        if architecture.tied:
            logits = einsum("nd,vd->nv", dtype, states, params["embedding"])
        else:
            logits = einsum("nd,dv->nv", dtype, states, params["head"])
        return logits.reshape(*lead, -1)

    def init_cache(rows: int, slots: int) -> Cache:
        shape = (architecture.layers, rows, architecture.kv_heads, slots, architecture.head_dim)
        return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)

    def for_decoding(params: Params) -> Params:
        def round_matrix(path, leaf: Array) -> Array:
            return leaf if path[-1].key.endswith(("norm", "bias")) else leaf.astype(dtype)

        return jax.tree_util.tree_map_with_path(round_matrix, params)

    init = functools.partial(_init, architecture, dtype)
    return Policy(init, hidden, unembed, init_cache, for_decoding, architecture.vocab_size)
