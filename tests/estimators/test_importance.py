"""O-1 and O-6: importance sampling on examples that can be enumerated."""

from __future__ import annotations

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.estimators.importance import effective_sample_size, importance_estimate, self_normalised_estimate

ALL = jnp.ones(2, bool)
LOG_WEIGHT = jnp.log(jnp.array([1.6, 0.4]))  # p = (.8, .2) over q = (.5, .5)
VALUES = jnp.array([1.0, 3.0])


def test_an_expectation_is_a_weighted_mean():
    """S2, example 1.1: p = (.2, .5, .3) on x = 1, 2, 3, f = x²: E f = 4.9, drawn from the uniform."""
    values, p = jnp.array([1.0, 4.0, 9.0]), jnp.array([0.2, 0.5, 0.3])
    every = jnp.ones(3, bool)
    np.testing.assert_allclose(importance_estimate(values, jnp.log(3 * p), every), 4.9, rtol=1e-6)
    np.testing.assert_allclose(self_normalised_estimate(values, jnp.log(p), every), 4.9, rtol=1e-6)


def test_a_small_discrete_example():
    # S2, example 1.5: w·f = (1.6, 1.2), whose mean under q is 1.4 = E_p f
    np.testing.assert_allclose(importance_estimate(VALUES, LOG_WEIGHT, ALL), 1.4, rtol=1e-6)


def test_self_normalised_is_biased_and_consistent():
    # one draw from q: (1 + 3)/2 = 2; two: aa 1, bb 3, ab (1.6 + 1.2)/2 = 1.4, so (1 + 3 + 2·1.4)/4 = 1.7
    def expected(draws):
        estimates = [
            self_normalised_estimate(
                VALUES[jnp.array(pick)], LOG_WEIGHT[jnp.array(pick)], jnp.ones(draws, bool)
            )
            for pick in itertools.product(range(2), repeat=draws)
        ]
        return np.mean(estimates)

    np.testing.assert_allclose([expected(1), expected(2)], [2, 1.7], rtol=1e-6)
    assert 1.4 < expected(4) < 1.7
    shifted = self_normalised_estimate(VALUES, LOG_WEIGHT + 300, ALL)  # weights known up to a factor
    np.testing.assert_allclose(shifted, 1.4, rtol=1e-5)


def test_masked_samples_do_not_count():
    values, weight = jnp.append(VALUES, jnp.nan), jnp.append(LOG_WEIGHT, jnp.inf)
    mask = jnp.array([True, True, False])
    np.testing.assert_allclose(importance_estimate(values, weight, mask), 1.4, rtol=1e-6)
    np.testing.assert_allclose(self_normalised_estimate(values, weight, mask), 1.4, rtol=1e-6)
    for estimate in (importance_estimate, self_normalised_estimate):
        assert estimate(values, weight, jnp.zeros(3, bool)) == 0


def test_effective_sample_size():
    # (1.6 + .4)²/(2.56 + .16) = 4/2.72
    np.testing.assert_allclose(effective_sample_size(LOG_WEIGHT, ALL), 4 / 2.72, rtol=1e-6)
    np.testing.assert_allclose(effective_sample_size(jnp.full(5, -200.0), jnp.ones(5, bool)), 5)
    assert effective_sample_size(LOG_WEIGHT, jnp.zeros(2, bool)) == 0


@pytest.mark.parametrize(
    ("horizon", "variance"), [(1, 0.64), (2, 1.6896), (5, 10.863675), (10, 139.746784), (20, 19808.657)]
)
def test_the_variance_of_a_product_grows_with_the_horizon(horizon, variance):
    """Behaviour .5, target .9: E w = 1, Var w = (.9²/.5 + .1²/.5)^H − 1 = 1.64^H − 1, enumerated."""
    # a sequence's weight is known by how often it took the action; the counts k, each drawn once, stand for
    # the sequences with the weights (H + 1)·C(H, k)/2^H
    taken = np.arange(horizon + 1)
    log_weight = jnp.float32(taken * np.log(1.8) + (horizon - taken) * np.log(0.2))
    ways = np.array([math.comb(horizon, k) for k in taken])
    log_often = jnp.float32(np.log((horizon + 1) * ways) - horizon * np.log(2))
    every = jnp.ones(horizon + 1, bool)
    weight = jnp.exp(log_weight)
    np.testing.assert_allclose(importance_estimate(weight, log_often, every), 1, rtol=2e-5)
    np.testing.assert_allclose(importance_estimate(weight**2, log_often, every) - 1, variance, rtol=3e-5)
    if horizon <= 10:  # and every sequence by itself: 2^H of them are worth 2^H/1.64^H
        draws = jnp.asarray(np.repeat(np.asarray(log_weight), ways))
        mask = jnp.ones(draws.shape, bool)
        np.testing.assert_allclose(importance_estimate(jnp.exp(draws), draws, mask) - 1, variance, rtol=1e-4)
        np.testing.assert_allclose(effective_sample_size(draws, mask), (2 / 1.64) ** horizon, rtol=1e-4)
