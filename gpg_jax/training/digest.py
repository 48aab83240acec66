"""A checksum of arrays that is the same on every mesh, computed where they lie."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gpg_jax.types import Array


@jax.jit
def digests(leaves: list[Array]) -> Array:
    """The digest of each array, `uint32[len(leaves)]`."""
    return jnp.stack([digest(leaf) for leaf in leaves]) if leaves else jnp.zeros((0,), jnp.uint32)


def digest(array: Array) -> Array:
    """Σ_i word_i · odd_i mod 2³², over the 32-bit words of an array; `uint32[]`.

    An integer sum, so that every mesh and layout gives the same, computed where the array lies. A change
    of one word is always seen, of several with probability 1 − 2⁻³².

    Args:
      array: of any shape and type, typed PRNG keys included.
    """
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    array = array.astype(jnp.uint8) if array.dtype == bool else array
    bits = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[array.dtype.itemsize]
    words = jax.lax.bitcast_convert_type(array, bits).astype(jnp.uint32)
    return jnp.sum(words * _odd_numbers(words.shape), dtype=jnp.uint32)


def _odd_numbers(shape: tuple[int, ...]) -> Array:
    """An odd number for every element, scattered by the finaliser of MurmurHash3."""
    index = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        index = (index ^ (index >> shift)) * jnp.uint32(factor)
    return (index ^ (index >> 16)) | jnp.uint32(1)
