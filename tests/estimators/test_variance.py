"""Whitening and explained variance: by hand, by NumPy, and where there is nothing to divide by."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_jax.estimators.variance import explained_variance, whiten

SHAPE = (3, 5)
MASKS = st.lists(st.booleans(), min_size=15, max_size=15).map(lambda bits: np.reshape(bits, SHAPE))
NOISE = np.resize(np.float32([np.nan, np.inf, -1e30]), SHAPE)
SETTINGS = ("ddof", "eps", "eps_placement", "shift_mean")
compiled = jax.jit(whiten, static_argnames=SETTINGS)
compiled_explained = jax.jit(explained_variance)


def drawn(seed, mask, scale=1.0, offset=0.0):
    values = offset + scale * np.random.default_rng(seed).normal(size=SHAPE)
    return np.where(mask, values, NOISE).astype(np.float32)


def test_three_tokens_by_hand():
    """(1, 2, 6): mean 3, squares 4 + 1 + 9; population variance 14/3, sample variance 7."""
    values = np.array([[1.0, 2.0, np.nan, 6.0]], np.float32)
    mask = np.array([[True, True, False, True]])
    away = np.array([-2.0, -1.0, 3.0])
    for ddof, placement, std in ((0, "inside", np.sqrt(14 / 3 + 2)), (1, "outside", np.sqrt(7) + 2)):
        found = compiled(values, mask, ddof=ddof, eps=2.0, eps_placement=placement)
        np.testing.assert_allclose(found[mask], away / std, rtol=1e-6)
        kept = compiled(values, mask, ddof=ddof, eps=2.0, eps_placement=placement, shift_mean=False)
        np.testing.assert_allclose(kept[mask], 3 + away / std, rtol=1e-6)
        np.testing.assert_array_equal([found[0, 2], kept[0, 2]], 0)


@given(st.integers(0, 2**16), MASKS, st.sampled_from([0, 1]), st.booleans())
def test_numpy_under_the_mask(seed, mask, ddof, shift_mean):
    values = drawn(seed, mask, scale=3, offset=2)
    found = np.asarray(
        compiled(values, mask, ddof=ddof, eps=1e-8, eps_placement="inside", shift_mean=shift_mean)
    )
    np.testing.assert_array_equal(found[~mask], 0)
    chosen = values[mask].astype(np.float64)
    mean = chosen.mean() if chosen.size else 0
    expected = np.zeros(chosen.size)
    if chosen.size > 1:
        expected = (chosen - mean) / np.sqrt(chosen.var(ddof=ddof) + 1e-8)
    np.testing.assert_allclose(found[mask], expected + (0 if shift_mean else mean), rtol=1e-4, atol=1e-4)


def test_a_weight_of_a_half_is_half_a_token():
    """Two rows that count half each, and are equal, are one row."""
    once = drawn(3, np.ones(SHAPE, bool))
    twice, mask = np.concatenate([once, once[:1]]), np.ones((4, 5), bool)
    weight = np.float32([[0.5], [1], [1], [0.5]])
    settings = {"ddof": 1, "eps": 1e-8, "eps_placement": "inside"}
    found = compiled(twice, mask, **settings, weight=weight)
    np.testing.assert_allclose(found[:3], compiled(once, mask[:3], **settings), rtol=1e-5)
    np.testing.assert_array_equal(found[3], found[0])
    assert np.abs(compiled(twice, mask, **settings)[:3] - found[:3]).max() > 0.01


@pytest.mark.parametrize("tokens", [0, 1, 7])
@pytest.mark.parametrize(("ddof", "eps"), [(0, 1e-8), (1, 0.0)])
def test_without_spread_there_is_no_scale(tokens, ddof, eps):
    """No token, one, or equal ones whose float32 mean is not one of them: exactly 0, or the value itself."""
    mask = np.arange(15).reshape(SHAPE) < tokens
    values = np.where(mask, np.float32(0.1), NOISE)
    given_settings = {"ddof": ddof, "eps": eps, "eps_placement": "outside"}
    np.testing.assert_array_equal(compiled(values, mask, **given_settings), 0)
    kept = compiled(values, mask, shift_mean=False, **given_settings)
    np.testing.assert_array_equal(kept, np.where(mask, np.float32(0.1), 0))


def test_a_large_offset_costs_no_digits():
    mask = np.ones(SHAPE, bool)
    steps = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.float32)
    settings = {"ddof": 1, "eps": 0.0, "eps_placement": "outside"}
    plain, moved = (compiled(steps + np.float32(offset), mask, **settings) for offset in (0, 2**20))
    np.testing.assert_allclose(moved, plain, rtol=1e-5)


@pytest.mark.parametrize("tokens", [0, 1, 7, 15])
def test_gradients_are_finite(tokens):
    mask = np.arange(15).reshape(SHAPE) < tokens
    equal, varied = np.where(mask, np.float32(0.5), NOISE), drawn(0, mask)
    for values in (equal, varied):
        assert np.all(np.isfinite(whitened_slope(values, mask)))
        assert np.all(np.isfinite(explained_slope(values, varied, mask)))
        assert np.all(np.isfinite(explained_slope(varied, values, mask)))


@jax.jit
def whitened_slope(values, mask):
    settings = {"ddof": 1, "eps": 0.0, "eps_placement": "outside", "shift_mean": False}
    return jax.grad(lambda values: jnp.sum(jnp.sin(whiten(values, mask, **settings))))(values)


@jax.jit
def explained_slope(values, returns, mask):
    return jnp.stack(jax.grad(explained_variance, argnums=(0, 1))(values, returns, mask))


@pytest.mark.parametrize("wrong", [{"ddof": 2}, {"eps": -1.0}, {"eps": np.nan}, {"eps_placement": "under"}])
def test_wrong_choices_are_refused(wrong):
    settings = {"ddof": 0, "eps": 0.0, "eps_placement": "inside"}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        whiten(np.zeros(SHAPE), np.ones(SHAPE, bool), **(settings | wrong))


def test_what_a_critic_explains():
    # G = (1, 2, 6) of variance 14/3; V = (1, 2, 3) leaves (0, 0, 3) of variance 2: 1 − 3/7
    returns, mask = np.array([1.0, 2.0, 6.0, np.nan]), np.array([True, True, True, False])
    explained = functools.partial(compiled_explained, returns=np.float32(returns), mask=mask)
    np.testing.assert_allclose(explained(jnp.array([1.0, 2, 3, jnp.inf])), 4 / 7, rtol=1e-6)
    assert explained(jnp.array([6.0, 7, 11, 0])) == 1  # right up to a constant
    np.testing.assert_allclose(explained(jnp.full(4, 3.0)), 0, atol=1e-6)
    np.testing.assert_allclose(explained(jnp.array([-1.0, -2, -6, 0])), -3, rtol=1e-6)


@pytest.mark.parametrize("tokens", [0, 1, 4])
def test_returns_that_do_not_vary_leave_nothing_to_explain(tokens):
    mask, returns = np.arange(4) < tokens, np.full(4, 0.1, np.float32)
    for values in (returns, np.arange(4, dtype=np.float32)):
        assert compiled_explained(values, returns, mask) == 0


@given(st.integers(0, 2**16), MASKS)
def test_explained_variance_of_numpy(seed, mask):
    values, returns = drawn(seed, mask), drawn(seed + 1, mask, scale=2)
    found = compiled_explained(values, returns, mask)
    chosen, whole = values[mask].astype(float), returns[mask].astype(float)
    expected = 1 - np.var(whole - chosen) / np.var(whole) if mask.sum() > 1 else 0
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@given(st.integers(0, 2**16), MASKS)
def test_a_weight_is_how_often_a_token_is_there(seed, mask):
    values, returns = drawn(seed, mask), drawn(seed + 1, mask, scale=2)
    times = np.random.default_rng(seed).integers(0, 4, SHAPE)
    often = [np.repeat(x.ravel(), times.ravel()) for x in (values, returns, mask)]
    found = compiled_explained(values, returns, mask, weight=np.float32(times))
    np.testing.assert_allclose(found, explained_variance(*often), rtol=1e-3, atol=1e-4)
