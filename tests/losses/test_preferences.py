"""Bradley–Terry against loops in float64, finite differences, and what must not matter."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_jax.losses.metrics import reduce
from gpg_jax.losses.preferences import bradley_terry, pair_weights, preference_loss

DRAW = np.random.default_rng(0)
REWARDS = DRAW.normal(0, 2, (6, 2)).astype(np.float32)
MASK = np.array([True, False, True, True, False, True])
MARGIN = np.array([0, 9, 0.5, 1, 9, 0], np.float32)


def slow(rewards, mask, margin, centring):
    """The mean of −log P(the chosen wins), P = e^{r_w} / (e^{r_w} + e^{r_l}), the margin taken off r_w."""
    total, count = 0.0, 0
    for (won, lost), there, least in zip(np.float64(rewards), mask, np.float64(margin), strict=True):
        if there:
            odds = math.exp(won - least)
            total += -math.log(odds / (odds + math.exp(lost))) + centring * (won + lost) ** 2
            count += 1
    return total / count


def loss(rewards, mask=MASK, margin=MARGIN, centring=0.3):
    return preference_loss(rewards, mask, pair_weights(mask), margin, centring)[0]


@pytest.mark.parametrize("centring", [0.0, 0.3])
def test_the_loss_is_that_of_a_loop(centring):
    np.testing.assert_allclose(
        loss(REWARDS, centring=centring), slow(REWARDS, MASK, MARGIN, centring), rtol=1e-6
    )


def test_the_gradient_is_that_of_finite_differences_and_nothing_under_the_mask():
    found = jax.grad(loss)(jnp.asarray(REWARDS))
    step = 1e-5
    for place in np.ndindex(REWARDS.shape):
        shift = np.zeros_like(REWARDS, np.float64)
        shift[place] = step
        up, down = (slow(np.float64(REWARDS) + sign * shift, MASK, MARGIN, 0.3) for sign in (1, -1))
        np.testing.assert_allclose(found[place], (up - down) / (2 * step), atol=1e-5)
    np.testing.assert_array_equal(found[~MASK], 0)


def test_what_is_masked_is_never_read():
    broken = np.where(MASK[:, None], REWARDS, np.float32(np.nan))
    value, slope = jax.value_and_grad(loss)(jnp.asarray(broken))
    assert value == loss(REWARDS)
    np.testing.assert_array_equal(slope, jax.grad(loss)(jnp.asarray(REWARDS)))
    nothing = np.zeros(6, bool)
    value, slope = jax.value_and_grad(loss)(jnp.asarray(REWARDS), nothing)
    assert value == 0 and not np.any(slope)


def test_even_rewards_cost_log_2_and_far_ones_stay_finite():
    # −log σ(0) = log 2; −log σ(x) → 0 and −log σ(−x) → x for large x, with slopes 0 and −1.
    np.testing.assert_allclose(bradley_terry(0.0), math.log(2), rtol=1e-6)
    np.testing.assert_allclose(bradley_terry(jnp.array([1e4, -1e4])), [0, 1e4])
    np.testing.assert_allclose(jax.vmap(jax.grad(bradley_terry))(jnp.array([1e4, -1e4])), [0, -1])


@given(st.floats(-20, 20), st.floats(-50, 50))
def test_the_two_orders_are_a_distribution_and_a_constant_is_free(difference, constant):
    likelihoods = jnp.exp(-bradley_terry(jnp.array([difference, -difference], jnp.float32)))
    np.testing.assert_allclose(jnp.sum(likelihoods), 1, rtol=1e-5)
    moved = loss(REWARDS + np.float32(constant), centring=0.0)
    np.testing.assert_allclose(moved, loss(REWARDS, centring=0.0), atol=2e-5)


def test_metrics_are_of_the_pairs_that_there_are():
    rewards = jnp.array([[2.0, 1.0], [0.0, 3.0], [1.0, 1.0], [np.nan, 0.0]])
    mask = np.array([True, True, True, False])
    _, metrics = preference_loss(rewards, mask, pair_weights(mask))
    found = reduce(metrics)
    # differences 1, −3, 0: one of three in order, and half of a tie; pair means 1.5, 1.5, 1.
    expected = {"accuracy": 1 / 2, "margin": -2 / 3, "reward": 4 / 3}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)


def test_parts_with_the_weights_of_the_whole_are_a_plain_sum():
    weights = pair_weights(MASK)
    parts = [
        preference_loss(REWARDS[part], MASK[part], weights[part], MARGIN[part], 0.3)[0]
        for part in (slice(0, 2), slice(2, 6))
    ]
    np.testing.assert_allclose(sum(parts), loss(REWARDS), rtol=1e-6)
