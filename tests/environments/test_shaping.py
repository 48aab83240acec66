"""O-20: overlong shaping, and where the reward is paid."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.environments import shaping


def test_soft_overlong_at_the_papers_lengths():
    # L_max 20480, L_cache 4096: one token into the cache costs 1/4096
    length = jnp.array([0, 16384, 16385, 18432, 20480, 20481, 40000])
    expected = [0, 0, -2.44140625e-4, -0.5, -1, -1, -1]
    np.testing.assert_allclose(shaping.soft_overlong(length, 20480, 4096), expected, rtol=1e-6)
    np.testing.assert_allclose(shaping.soft_overlong(jnp.array([90]), 100, 20), [-0.5])
    unbounded = shaping.soft_overlong(jnp.array([130]), 100, 20, floor=None)
    np.testing.assert_allclose(unbounded, [-2.5])


@pytest.mark.parametrize("cache", [0, 101])
def test_a_cache_outside_the_length_is_refused(cache):
    with pytest.raises(ValueError, match="0 < cache_length <= max_length"):
        shaping.soft_overlong(jnp.array([1]), 100, cache)


def test_the_reward_is_paid_once_at_the_last_action():
    mask = jnp.array([[0, 1, 1, 0, 1, 0], [0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]], bool)
    rewards = shaping.reward_at_last_action(jnp.array([2.0, -3.0, 5.0]), mask)
    np.testing.assert_array_equal(rewards, [[0, 0, 0, 0, 2, 0], [0, -3, 0, 0, 0, 0], [0] * 6])


def test_truncated_rows_get_their_own_reward():
    reward = shaping.truncated_reward(jnp.array([1.0, 1.0]), jnp.array([True, False]), -0.5)
    np.testing.assert_array_equal(reward, [-0.5, 1])


def test_kl_is_charged_at_actions_alone():
    rewards = shaping.kl_in_reward(
        jnp.array([[0.0, 0.0, 1.0]]), jnp.array([[jnp.nan, 2.0, -1.0]]), jnp.array([[False, True, True]]), 0.1
    )
    np.testing.assert_allclose(rewards, [[0, -0.2, 1.1]], rtol=1e-6)
