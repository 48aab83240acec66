"""O-10 and O-25: GAE by hand and by eq. 16, targets of a decoupled critic, λ that grows with the row."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transitions
from hypothesis import given
from hypothesis import strategies as st
from transitions import FULL, MASKS, RLAX, ROWS, SEEDS, WIDTH, on_actions, packed, placed, same

from gpg_jax.estimators.generalized_advantage import (
    generalized_advantage,
    length_adaptive_lambda,
    value_targets,
)
from gpg_jax.estimators.returns import reward_to_go

DISCOUNT = 0.9


@jax.jit
def advantage(rewards, values, bootstrap, mask, lambda_):
    return generalized_advantage(rewards, values, bootstrap, mask, lambda_, DISCOUNT)


@jax.jit
def targets(rewards, values, bootstrap, mask):
    return value_targets(rewards, values, bootstrap, mask, discount=DISCOUNT)


@pytest.mark.parametrize("place", [[0, 1, 2], [1, 2, 3], [1, 3, 7]])
def test_three_actions_by_hand(place):
    """r = (0, 0, 1), V = (.5, .6, .7), γ = .9: δ = (.04, .03, .3), each weighted .9λ times the one before.

    λ = .5: .3, .03 + .45·.3 = .165, .04 + .45·.165 = .11425. λ = 1: .9²− .5, .9 − .6, 1 − .7.
    """
    rewards, values, mask = np.zeros((3, ROWS, WIDTH))
    values, mask = values + np.nan, mask > 0
    rewards[:, place], values[:, place], mask[:, place] = [0, 0, 1], [0.5, 0.6, 0.7], True
    found = advantage(rewards, values, np.zeros(ROWS), mask, jnp.array([0, 0.5, 0.95, 1]))[:, np.array(place)]
    expected = [[0.04, 0.03, 0.3], [0.11425, 0.165, 0.3], [0.2849575, 0.2865, 0.3], [0.31, 0.3, 0.3]]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_the_numbers_of_rlax():
    rows = transitions.golden_rows()
    recorded = transitions.golden_cases("truncated_generalized_advantage_estimation")
    call = jax.jit(generalized_advantage, static_argnames="discount")
    assert len(recorded) == 4
    for settings, expected in recorded:
        result = np.asarray(call(*rows, discount=RLAX["discount"], **settings))
        np.testing.assert_allclose(result[rows.action_mask], expected, rtol=3e-6)


@given(SEEDS, MASKS, st.lists(st.floats(0, 1, width=32), min_size=ROWS, max_size=ROWS))
def test_the_sum_of_td_errors(seed, mask, lambda_):
    """Eq. 16 as a loop, with a λ for each row; and no bit depends on where the actions stand."""
    rows, tight, lambda_ = placed(seed, mask), placed(seed, packed(mask)), np.float32(lambda_)
    found = np.asarray(advantage(*rows, lambda_))
    expected = on_actions(rows, transitions.gae, lambda_, DISCOUNT)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    dense = np.asarray(advantage(*tight, lambda_))
    np.testing.assert_array_equal(found[rows.action_mask], dense[tight.action_mask])
    np.testing.assert_array_equal(found[~rows.action_mask], 0)


@given(SEEDS, MASKS)
def test_the_limits(seed, mask):
    """λ = 0 is the TD error, λ = 1 the return, with the bootstrap at its end, less V."""
    rows = placed(seed, mask)
    np.testing.assert_allclose(
        advantage(*rows, same(0.0)), on_actions(rows, transitions.td, DISCOUNT), rtol=1e-5, atol=1e-6
    )
    whole = on_actions(rows, transitions.n_step, WIDTH, DISCOUNT) - np.where(rows.action_mask, rows.values, 0)
    np.testing.assert_allclose(advantage(*rows, same(1.0)), whole, rtol=2e-5, atol=2e-5)


@given(SEEDS, MASKS, st.floats(-4, 4, width=32), st.floats(0, 1, width=32))
def test_affine_in_the_rewards(seed, mask, scale, lambda_):
    """Â(r + c·r′; V) = Â(r; V) + c·Â(r′; 0)."""
    rows, added = placed(seed, mask), placed(seed + 7, mask).rewards
    nothing = (np.zeros_like(rows.values), np.zeros_like(rows.bootstrap))
    both = np.where(rows.action_mask, rows.rewards, 0) + scale * np.where(rows.action_mask, added, 0)
    first = advantage(*rows, same(lambda_))
    second = advantage(added, *nothing, rows.action_mask, same(lambda_))
    moved = advantage(*rows._replace(rewards=both), same(lambda_))
    np.testing.assert_allclose(moved, first + scale * second, rtol=1e-4, atol=1e-4)


@given(SEEDS)
def test_the_exact_critic_makes_every_lambda_equal(seed):
    """Where V is the return itself, every δ is 0."""
    rows = placed(seed, FULL)
    exact = on_actions(rows, transitions.n_step, WIDTH, DISCOUNT).astype(np.float32)
    for lambda_ in (0.0, 0.7, 1.0):
        np.testing.assert_allclose(advantage(*rows._replace(values=exact), same(lambda_)), 0, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1.0, -1e6, 1e30, np.inf])
def test_a_decoupled_critic_is_fitted_to_what_was_earned(scale):
    """λ = 1 for the critic: the Monte-Carlo return bit for bit, whatever V; the policy's Â reads V."""
    rows = placed(4, FULL)._replace(bootstrap=np.zeros(ROWS, np.float32))
    rows = rows._replace(values=np.resize(np.float32(scale) * np.float32([1, 3, 2]), (ROWS, WIDTH)))
    returns = jax.jit(reward_to_go, static_argnums=2)(rows.rewards, FULL, DISCOUNT)
    np.testing.assert_array_equal(targets(*rows), returns)
    if np.isfinite(scale) and scale:
        assert np.abs(advantage(*rows, same(0.95)) - returns)[0].max() > 0.1


def test_a_truncated_row_may_count_what_is_behind_it():
    rows = placed(4, FULL)
    ended = targets(*rows._replace(bootstrap=np.zeros(ROWS, np.float32)))
    behind = np.where(FULL, DISCOUNT ** (FULL.sum(1)[:, None] - np.arange(WIDTH)[None]), 0)
    np.testing.assert_allclose(targets(*rows) - ended, behind * rows.bootstrap[:, None], atol=1e-6)


def test_no_gradient_flows():
    rows = placed(1, FULL)

    def total(*given):
        return jnp.sum(jnp.square(advantage(*given, FULL, same(0.5))) + jnp.square(targets(*given, FULL)))

    for slope in jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*rows[:3]):
        np.testing.assert_array_equal(slope, 0)


LENGTHS = np.array([10, 20, 25, 100, 1000, 20480, 0])


@jax.jit
def adaptive(lengths):
    """A tool's token after every action: only the actions count."""
    index = jnp.arange(2 * 20480)[None]
    return length_adaptive_lambda((index % 2 == 0) & (index // 2 < lengths[:, None]))


def test_lambda_grows_with_the_response():
    # α = .05: 1 − 20/l; l = 10 gives −1 and is held at 0
    lambda_, held = adaptive(LENGTHS)
    np.testing.assert_allclose(lambda_, [0, 0, 0.2, 0.8, 0.98, 0.99902344, 0], atol=1e-6)
    np.testing.assert_array_equal(held, [True, *[False] * 6])
    # Σ_k λ^k = 1/(1 − λ) = α·l, where a fixed λ of .95 leaves .95^100 = .00592 of what lies 100 tokens on
    np.testing.assert_allclose(1 / (1 - lambda_[2:6]), 0.05 * LENGTHS[2:6], rtol=1e-3)
    np.testing.assert_allclose([0.95**100, lambda_[4] ** 100], [0.00592, 0.98**100], rtol=1e-3)


def test_lambda_of_other_settings():
    mask = np.ones((1, 4), bool)
    lambda_, held = length_adaptive_lambda(mask, alpha=1.0, bounds=(0.0, 0.5))
    assert lambda_ == 0.5 and held  # 1 − 1/4, above the bound
    lambda_, held = length_adaptive_lambda(mask, alpha=0.5)
    assert lambda_ == 0.5 and not held
    for wrong in ({"alpha": 0.0}, {"alpha": np.nan}, {"bounds": (0.5, 0.2)}, {"bounds": (-1.0, 1.0)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            length_adaptive_lambda(mask, **wrong)
