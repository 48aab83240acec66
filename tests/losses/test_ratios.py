"""O-22: ratios of tokens, units and sequences, and the two forms of a unit's ratio."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.losses import ratios

# r = (1.1, .95, 1.3, .9): geometric mean 1.0515393714, product 1.22265 (mean 1.0625)
LOG_RATIO = jnp.log(jnp.array([[1.0, 1.1, 0.95, 1.0, 1.3, 0.9, 1.0]]))
SEQUENCE = jnp.array([[-1, 0, 0, -1, 0, 0, -1]])
PAIRS = jnp.array([[-1, 0, 0, -1, 1, 1, -1]])
INSIDE = np.asarray(SEQUENCE[0]) >= 0


def slopes(ratio, ids, weights):
    return jax.grad(lambda x: jnp.sum(weights * ratio(x, ids)))(LOG_RATIO)


@pytest.mark.parametrize("make", [ratios.unit_geometric_ratio, ratios.unit_geometric_token_ratio])
def test_geometric_mean_by_hand(make):
    value = make()(LOG_RATIO, SEQUENCE)
    np.testing.assert_allclose(value[0], np.where(INSIDE, 1.0515393714, 1), rtol=1e-6)
    pairs = np.sqrt([1, 1.1 * 0.95, 1.1 * 0.95, 1, 1.3 * 0.9, 1.3 * 0.9, 1])
    np.testing.assert_allclose(make()(LOG_RATIO, PAIRS)[0], pairs, rtol=1e-6)
    equal = jnp.where(SEQUENCE >= 0, jnp.log(1.7), 0)
    np.testing.assert_allclose(make()(equal, SEQUENCE)[0, 1], 1.7, rtol=1e-6)


@pytest.mark.parametrize("make", [ratios.unit_product_ratio, ratios.unit_product_token_ratio])
def test_product_by_hand(make):
    np.testing.assert_allclose(make()(LOG_RATIO, SEQUENCE)[0, 1], 1.22265, rtol=1e-6)


def test_sequence_ratio_reads_no_units():
    expected = ratios.unit_geometric_ratio()(LOG_RATIO, SEQUENCE)
    np.testing.assert_allclose(ratios.sequence_ratio()(LOG_RATIO, PAIRS), expected, rtol=1e-6)


def test_token_and_no_ratio():
    np.testing.assert_allclose(ratios.token_ratio()(LOG_RATIO, PAIRS), jnp.exp(LOG_RATIO))
    np.testing.assert_array_equal(ratios.no_ratio(LOG_RATIO, PAIRS), 1)
    gradient = jax.grad(lambda x: jnp.sum(ratios.no_ratio(x, PAIRS)))(LOG_RATIO)
    np.testing.assert_array_equal(gradient, 1)


def test_geometric_forms_agree_for_one_advantage_a_unit_and_differ_otherwise():
    plain, token = ratios.unit_geometric_ratio(), ratios.unit_geometric_token_ratio()
    constant = jnp.where(SEQUENCE >= 0, 0.7, 0)
    np.testing.assert_allclose(
        slopes(plain, SEQUENCE, constant), slopes(token, SEQUENCE, constant), rtol=1e-6
    )
    # A = (1, −1, .5, .5): the plain form gives every token the mean 1/4, the token form its own
    varying = jnp.array([[0, 1.0, -1.0, 0, 0.5, 0.5, 0]])
    s = 1.0515393714
    np.testing.assert_allclose(slopes(plain, SEQUENCE, varying)[0], np.where(INSIDE, s / 4, 0), rtol=1e-5)
    np.testing.assert_allclose(slopes(token, SEQUENCE, varying), s * varying, rtol=1e-5)


def test_a_plain_product_counts_as_often_as_its_unit_is_long():
    ones = jnp.where(SEQUENCE >= 0, 1.0, 0)
    plain = slopes(ratios.unit_product_ratio(), SEQUENCE, ones)
    token = slopes(ratios.unit_product_token_ratio(), SEQUENCE, ones)
    np.testing.assert_allclose(token[0], np.where(INSIDE, 1.22265, 0), rtol=1e-5)
    np.testing.assert_allclose(plain, 4 * token, rtol=1e-5)
    once = slopes(ratios.unit_product_ratio(), SEQUENCE, ones / 4)
    np.testing.assert_allclose(once, token, rtol=1e-5)


def test_repeating_the_tokens_leaves_the_geometric_mean():
    log_ratio, ids = jnp.tile(LOG_RATIO[:, INSIDE], 3), jnp.zeros((1, 12), jnp.int32)
    np.testing.assert_allclose(ratios.unit_geometric_ratio()(log_ratio, ids)[0, 0], 1.0515393714, rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        ratios.token_ratio,
        ratios.unit_geometric_ratio,
        ratios.unit_geometric_token_ratio,
        ratios.unit_product_ratio,
        ratios.unit_product_token_ratio,
        ratios.sequence_ratio,
    ],
)
def test_a_range_keeps_ratio_and_gradient_finite(make):
    ratio, ids = make((-20.0, 20.0)), jnp.array([[-1, 0, 1, 2]])
    log_ratio = jnp.array([[0.0, 1e4, -1e4, 0.5]])
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(ratio(x, ids)))(log_ratio)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))
    with pytest.raises(ValueError, match="must hold 0"):
        make((1.0, 2.0))


def test_the_exponential_is_plain_but_for_a_derivative_that_is_finite():
    log_ratio = jnp.array([-200.0, -1.0, 0.0, 5.0, 88.0, 100.0])
    value, pull = jax.vjp(ratios.safe_exp, log_ratio)
    np.testing.assert_array_equal(value, jnp.exp(log_ratio))
    np.testing.assert_array_equal(pull(jnp.ones(6))[0][:5], value[:5])
    assert np.isinf(value[5]) and pull(jnp.ones(6))[0][5] == np.finfo(np.float32).max
    np.testing.assert_array_equal(pull(jnp.zeros(6))[0], 0)
    forward = jax.jvp(ratios.safe_exp, (log_ratio,), (jnp.ones(6),))[1]
    np.testing.assert_array_equal(forward, pull(jnp.ones(6))[0])


def test_a_token_range_holds_before_the_mean():
    ratio = ratios.unit_geometric_token_ratio(token_bounds=(-1.0, 1.0))
    log_ratio, ids = jnp.array([[3.0, 0.5]]), jnp.zeros((1, 2), jnp.int32)
    np.testing.assert_allclose(ratio(log_ratio, ids), np.exp([[0.75, 0.75]]), rtol=1e-6)
