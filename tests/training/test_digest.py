"""The checksum of arrays: exact, sensitive, and the same on every mesh."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as Spec

from gpg_jax.training.digest import digest, digests
from gpg_jax.training.sharding import make_mesh

TYPES = (jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8, jnp.bool_)


def plain(array: np.ndarray) -> int:
    """The sum in a Python loop, of 32-bit words."""
    mask = 0xFFFFFFFF
    total = 0
    for index, word in enumerate(np.asarray(array, np.float32).reshape(-1).view(np.uint32).tolist()):
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            index = (index ^ (index >> shift)) * factor & mask
        total += word * ((index ^ (index >> 16)) | 1)
    return total & mask


def test_is_the_plain_sum():
    array = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
    assert int(digest(array)) == plain(array)


@hypothesis.given(st.integers(0, 59), st.integers(0, 31))
def test_every_flipped_bit_is_seen(index: int, bit: int):
    array = np.random.default_rng(0).normal(size=60).astype(np.float32)
    broken = array.copy()
    broken.view(np.uint32)[index] ^= np.uint32(1 << bit)
    assert int(digest(array)) != int(digest(broken))


def test_exchanged_elements_are_seen():
    array = np.arange(1, 25, dtype=np.float32).reshape(4, 6)
    assert int(digest(array)) != int(digest(array[::-1]))


@pytest.mark.parametrize("dtype", TYPES)
def test_takes_every_type_and_shape(dtype):
    first, second = jnp.zeros((2, 3), dtype), jnp.ones((2, 3), dtype)
    seen = np.asarray(digests([first, second, second[0, 0], jax.random.key(3)]))
    assert len(set(seen.tolist())) == 4
    assert digests([]).shape == (0,)


def test_is_the_same_on_every_mesh():
    array = np.random.default_rng(1).normal(size=(16, 8)).astype(np.float32)
    expected = int(digest(array))
    for shape, spec in (((2, 2, 2), Spec("fsdp", "tensor")), ((8, 1, 1), Spec("data"))):
        placed = jax.device_put(array, NamedSharding(make_mesh(shape), spec))
        assert int(jax.jit(digest)(placed)) == expected
