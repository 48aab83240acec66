"""Sampler to trainer: equal policies weigh 1; a cap binds from above only."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.losses import corrections

UNITS = jnp.array([[-1, 0, 1, 2], [-1, 0, 1, -1]])
GAP = jnp.log(jnp.array([[1.0, 0.5, 2.0, 4.0], [1.0, 0.25, 1.0, 1.0]]))
EVERY = [
    corrections.no_correction,
    corrections.truncated_token(3.0),
    corrections.truncated_sequence(3.0),
    corrections.masked_token(0.4, 3.0),
    corrections.masked_sequence(0.3, 3.0),
]


def test_by_hand():
    token = [[1, 0.5, 2, 3], [1, 0.25, 1, 1]]
    np.testing.assert_allclose(EVERY[1](GAP, UNITS), token, rtol=1e-6)
    sequence = [[1, 3, 3, 3], [1, 0.25, 0.25, 1]]  # products 4 and 1/4
    np.testing.assert_allclose(EVERY[2](GAP, UNITS), sequence, rtol=1e-6)
    np.testing.assert_allclose(EVERY[3](GAP, UNITS), [[1, 0.5, 2, 0], [1, 0, 1, 1]], rtol=1e-6)
    np.testing.assert_allclose(EVERY[4](GAP, UNITS), [[1, 0, 0, 0], [1, 0, 0, 1]], rtol=1e-6)
    np.testing.assert_array_equal(EVERY[0](GAP, UNITS), 1)


@pytest.mark.parametrize("correction", EVERY)
def test_equal_policies_and_extremes(correction):
    np.testing.assert_array_equal(correction(jnp.zeros((2, 4)), UNITS), 1)
    assert np.all(np.isfinite(correction(jnp.full((2, 4), 1e4), UNITS)))
    assert np.all(np.isfinite(correction(jnp.full((2, 4), -1e4), UNITS)))


def test_wrong_caps_are_refused():
    for make in (corrections.truncated_token, corrections.truncated_sequence):
        with pytest.raises(ValueError, match="must be positive"):
            make(0.0)
    for make in (corrections.masked_token, corrections.masked_sequence):
        with pytest.raises(ValueError, match="0 <= low < high"):
            make(2.0, 1.0)
