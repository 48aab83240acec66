"""O-12: both rules for the KL coefficient, at their limits and towards their targets."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.algorithms.controllers import doubling, proportional

TARGET = 0.01


@pytest.mark.parametrize(
    ("kl", "scale"),
    [
        (TARGET / 1.5 * 0.999, 0.5),
        (TARGET / 1.5 * 1.001, 1.0),
        (TARGET, 1.0),
        (TARGET * 1.5 * 0.999, 1.0),
        (TARGET * 1.5 * 1.001, 2.0),
        (0.0, 0.5),
        (-0.1, 0.5),  # an estimate of a KL may be negative
        (np.inf, 2.0),
        (np.nan, 1.0),
    ],
)
def test_doubling(kl, scale):
    assert doubling(jnp.float32(0.3), jnp.float32(kl), TARGET) == jnp.float32(0.3) * scale


@pytest.mark.parametrize(
    ("ratio", "samples", "scale"),
    [
        (2.0, 100, 1.002),  # an error of 1 counts as .2; .2·100/10 000
        (1.2001, 100, 1.002),
        (1.1, 100, 1.001),
        (1.0, 100, 1.0),
        (0.9, 100, 0.999),
        (0.0, 100, 0.998),
        (-3.0, 100, 0.998),
        (2.0, 1000, 1.02),  # K = .1, the paper's
        (2.0, 0, 1.0),
        (np.inf, 100, 1.002),
        (np.nan, 100, 1.0),
    ],
)
def test_proportional(ratio, samples, scale):
    after = proportional(jnp.float32(0.5), jnp.float32(ratio * 6), 6.0, samples)
    np.testing.assert_allclose(after, 0.5 * scale, rtol=1e-6)


@pytest.mark.parametrize(
    "update",
    [
        functools.partial(doubling, target=TARGET, bounds=(0.25, 64.0)),
        functools.partial(proportional, target=TARGET, samples=2000, horizon=1000.0, bounds=(0.25, 64.0)),
    ],
)
def test_a_compiled_loop_finds_the_coefficient_and_keeps_to_the_bounds(update):
    """Where the KL is 1/(10 β), β = 10 meets the target of .01: from either side, or held on the way."""

    @jax.jit
    def run(start, level):
        return jax.lax.fori_loop(0, 60, lambda _, beta: update(beta, level / beta), start)

    for start in (0.3, 60.0):
        assert 10 / 1.51 < run(jnp.float32(start), 0.1) < 10 * 1.51
    assert run(jnp.float32(1.0), 100.0) == 64 and run(jnp.float32(1.0), 1e-6) == 0.25


def test_without_bounds_nothing_is_held():
    assert doubling(jnp.float32(2.0**60), jnp.float32(1.0), TARGET) == 2.0**61
    np.testing.assert_allclose(proportional(jnp.float32(1e-20), jnp.float32(0.0), TARGET, 5000), 0.9e-20)


def test_counts_may_be_traced():
    update = jax.jit(lambda samples: proportional(jnp.float32(1.0), jnp.float32(1.0), TARGET, samples))
    np.testing.assert_allclose(update(1000), 1.02, rtol=1e-6)


@pytest.mark.parametrize("target", [0.0, -1.0, np.nan])
def test_a_target_must_be_positive(target):
    beta = kl = jnp.float32(1.0)
    with pytest.raises(ValueError, match="target must be positive"):
        doubling(beta, kl, target)
    with pytest.raises(ValueError, match="target must be positive"):
        proportional(beta, kl, target, 100)


def test_a_coefficient_cannot_change_its_sign():
    beta = kl = jnp.float32(1.0)
    with pytest.raises(ValueError, match="horizon must be positive, got 0"):
        proportional(beta, kl, TARGET, 100, horizon=0)
    with pytest.raises(ValueError, match=r"a fifth of the samples between two calls.* 100 and 500"):
        proportional(beta, kl, TARGET, 500, horizon=100)
