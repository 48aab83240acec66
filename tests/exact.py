"""Trees of arrays compared bit for bit."""

from typing import Any

import jax
import numpy as np


def bits(tree: Any) -> list[np.ndarray]:
    """Every leaf in NumPy, keys as their data."""
    leaves = jax.tree.leaves(tree)
    keys = [
        jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in leaves
    ]
    return [np.asarray(leaf) for leaf in keys]


def same(one: Any, two: Any) -> None:
    """Asserts that two trees of the same form are equal in every bit."""
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(left, right)
