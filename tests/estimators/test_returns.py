"""Returns count time in actions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.estimators.returns import reward_to_go, state_discount, total_reward


def test_rewards_to_go_by_hand():
    # S2, example 1.4's discount .9: r = (1, 2, 3) -> (1 + .9·2 + .81·3, 2 + .9·3, 3)
    rewards, mask = jnp.array([[0.0, 1, 2, 3, 0]]), jnp.array([[False, True, True, True, False]])
    expected = [[0, 5.23, 4.7, 3, 0]]
    np.testing.assert_allclose(reward_to_go(rewards, mask, 0.9), expected, rtol=1e-6)
    np.testing.assert_allclose(total_reward(rewards, mask), [6.0])


@pytest.mark.parametrize("discount", [0.0, 0.5, 1.0])
def test_tool_tokens_do_not_discount_and_do_not_earn(discount):
    rewards = jnp.array([[1.0, 2, 3]])
    plain = reward_to_go(rewards, jnp.ones((1, 3), bool), discount)
    mask = jnp.array([[False, True, False, True, False, True, False]])
    holes = reward_to_go(jnp.array([[9.0, 1, 9, 2, jnp.nan, 3, jnp.inf]]), mask, discount)
    np.testing.assert_allclose(holes[:, 1::2], plain, rtol=1e-6)
    np.testing.assert_array_equal(holes[:, ::2], 0)


def test_state_discount_counts_actions():
    mask = jnp.array([[False, True, False, True, True]])
    np.testing.assert_allclose(state_discount(mask, 0.5)[mask], [1, 0.5, 0.25])
    np.testing.assert_array_equal(state_discount(mask, 0.0)[mask], [1, 0, 0])


@pytest.mark.parametrize("given", ["float32", "float64"])
def test_state_discount_takes_the_type_of_what_it_multiplies(given):
    """γ = .9, which float32 does not hold: float64 keeps its digits, and float32 its type where both are."""
    with jax.enable_x64(True):
        weighed = jnp.ones((1, 5), given) * state_discount(jnp.ones((1, 5), bool), 0.9)
        assert weighed.dtype == given
        np.testing.assert_allclose(
            weighed[0], 0.9 ** np.arange(5), rtol=1e-15 if given == "float64" else 1e-6
        )


@pytest.mark.parametrize("discount", [-0.1, 1.1])
def test_a_discount_outside_its_range_is_refused(discount):
    with pytest.raises(ValueError, match=r"discount must lie in \[0, 1\]"):
        reward_to_go(jnp.zeros((1, 1)), jnp.ones((1, 1), bool), discount)


@pytest.mark.parametrize(
    ("given", "kept"), [("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_sums_are_of_at_least_float32(given, kept):
    with jax.enable_x64(given == "float64"):
        rewards = jnp.full((1, 300), 1 / 3, given)
        mask = jnp.ones((1, 300), bool)
        assert total_reward(rewards, mask).dtype == kept
        assert reward_to_go(rewards, mask, 0.9).dtype == kept
        exact = 300 * np.float64(rewards[0, 0])
        np.testing.assert_allclose(
            total_reward(rewards, mask), [exact], rtol=1e-12 if given == "float64" else 1e-5
        )
