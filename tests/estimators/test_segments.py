"""Sums over groups and units, written back to their members."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from gpg_jax.estimators import segments

IDS = jnp.array([[-1, 0, 0, -1, 1, 0], [-1, -1, -1, -1, -1, -1]])
VALUES = jnp.array([[jnp.nan, 1.0, 2.0, jnp.inf, 3.0, 4.0], [jnp.nan] * 6])


def test_groups():
    values, group = jnp.array([1.0, 2.0, 4.0, 8.0]), jnp.array([3, 0, 3, 0])
    np.testing.assert_array_equal(segments.group_sum(values, group), [5, 10, 5, 10])
    np.testing.assert_array_equal(segments.group_min(values, group), [1, 2, 1, 2])
    np.testing.assert_array_equal(segments.group_max(values, group), [4, 8, 4, 8])


def test_units():
    np.testing.assert_array_equal(segments.unit_sum(VALUES, IDS), [[0, 7, 7, 0, 3, 7], [0] * 6])
    np.testing.assert_array_equal(segments.unit_size(IDS), [[1, 3, 3, 1, 1, 3], [1] * 6])
    np.testing.assert_allclose(segments.unit_mean(VALUES, IDS)[0], [0, 7 / 3, 7 / 3, 0, 3, 7 / 3], rtol=1e-6)
