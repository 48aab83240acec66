"""O-2, the limits of n-step and λ-returns, their equality with rlax, and what is masked."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transitions
from hypothesis import given
from hypothesis import strategies as st
from transitions import (
    FULL,
    MASKS,
    RLAX,
    ROWS,
    SEEDS,
    WIDTH,
    golden_cases,
    golden_rows,
    on_actions,
    packed,
    placed,
    same,
)

from gpg_jax.estimators.returns import reward_to_go
from gpg_jax.estimators.temporal_difference import lambda_returns, n_step_returns, td_errors

DISCOUNT = 0.9
HOLES = FULL & (np.arange(WIDTH)[None] % 3 != 1)


@jax.jit
def estimates(rewards, values, bootstrap, mask, lambda_):
    arguments = (rewards, values, bootstrap, mask)
    return {
        "td": td_errors(*arguments, DISCOUNT),
        "one": n_step_returns(*arguments, 1, DISCOUNT),
        "three": n_step_returns(*arguments, 3, DISCOUNT),
        "all": n_step_returns(*arguments, WIDTH, DISCOUNT),
        "lambda": lambda_returns(*arguments, lambda_, DISCOUNT),
    }


@jax.jit
def td_slopes(rewards, values, bootstrap, mask):
    """∂ Σ ½δ² with respect to values and bootstrap."""

    def loss(values, bootstrap):
        return jnp.sum(0.5 * jnp.square(td_errors(rewards, values, bootstrap, mask, DISCOUNT)))

    return jax.grad(loss, argnums=(0, 1))(values, bootstrap)


def test_two_states_by_hand():
    """S2, example 1.9: y = 1 + .9·.7 = 1.63, δ = 1.43, and a step of .1 moves V(A) to .343."""
    mask = np.zeros((ROWS, WIDTH), bool)
    mask[0, 2] = True
    rewards, values = (np.full((ROWS, WIDTH), x, np.float32) for x in (1.0, 0.2))
    bootstrap = np.full(ROWS, 0.7, np.float32)
    found = estimates(rewards, values, bootstrap, mask, same(0.0))
    np.testing.assert_allclose([found["one"][0, 2], found["td"][0, 2]], [1.63, 1.43], rtol=1e-6)
    slope, of_target = td_slopes(rewards, values, bootstrap, mask)
    np.testing.assert_allclose(values[0, 2] - 0.1 * slope[0, 2], 0.343, rtol=1e-6)
    np.testing.assert_array_equal(of_target, 0)  # semi-gradient: the target is held


@pytest.mark.parametrize(
    ("function", "peer", "cases"),
    [
        (td_errors, "td_learning", 1),
        (n_step_returns, "n_step_bootstrapped_returns", 4),
        (lambda_returns, "lambda_returns", 4),
    ],
)
def test_the_numbers_of_rlax(function, peer, cases):
    rows, recorded = golden_rows(), golden_cases(peer)
    assert len(recorded) == cases
    call = jax.jit(function, static_argnames=["discount"] + ["steps"] * (function is n_step_returns))
    for settings, expected in recorded:
        settings = {"steps" if name == "n" else name: value for name, value in settings.items()}
        result = np.asarray(call(*rows, discount=RLAX["discount"], **settings))
        np.testing.assert_allclose(result[rows.action_mask], expected, rtol=2e-6)
        np.testing.assert_array_equal(result[~rows.action_mask], 0)


@given(SEEDS, MASKS, st.lists(st.floats(0, 1, width=32), min_size=ROWS, max_size=ROWS))
def test_the_definitions_as_loops(seed, mask, lambda_):
    rows, lambda_ = placed(seed, mask), np.float32(lambda_)
    found = estimates(*rows, lambda_)
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)
    close(found["td"], on_actions(rows, transitions.td, DISCOUNT))
    close(found["three"], on_actions(rows, transitions.n_step, 3, DISCOUNT))
    close(found["lambda"], on_actions(rows, transitions.lambda_return, lambda_, DISCOUNT))


@given(SEEDS, MASKS, st.floats(0, 1, width=32))
def test_masked_tokens_anywhere_change_no_bit(seed, mask, lambda_):
    """A tool's tokens between actions, a prompt before them and padding behind are all skipped."""
    rows, tight = placed(seed, mask), placed(seed, packed(mask))
    spread, dense = estimates(*rows, same(lambda_)), estimates(*tight, same(lambda_))
    for name in spread:
        left, right = np.asarray(spread[name]), np.asarray(dense[name])
        np.testing.assert_array_equal(left[rows.action_mask], right[tight.action_mask])
        np.testing.assert_array_equal(left[~rows.action_mask], 0)


@given(SEEDS, MASKS)
def test_the_limits(seed, mask):
    """λ = 0 and n = 1 are the TD target; λ = 1 and n without end the return, the bootstrap at its end."""
    rows = placed(seed, mask)
    low, high = estimates(*rows, same(0.0)), estimates(*rows, same(1.0))
    np.testing.assert_allclose(low["lambda"], low["one"], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(
        np.asarray(low["td"])[rows.action_mask], (np.asarray(low["one"]) - rows.values)[rows.action_mask]
    )
    np.testing.assert_allclose(high["lambda"], high["all"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        high["all"], on_actions(rows, transitions.n_step, WIDTH, DISCOUNT), rtol=2e-5, atol=2e-5
    )


@given(SEEDS, st.floats(-4, 4, width=32), st.floats(0, 1, width=32))
def test_linear_in_rewards_and_values_together(seed, scale, lambda_):
    left, right = placed(seed, FULL), placed(seed + 7, FULL)
    left, right = ([np.nan_to_num(x, posinf=0) for x in rows[:3]] for rows in (left, right))
    both = [scale * a + b for a, b in zip(left, right, strict=True)]
    combined, one, other = (estimates(*rows, FULL, same(lambda_)) for rows in (both, left, right))
    for name in combined:
        np.testing.assert_allclose(combined[name], scale * one[name] + other[name], rtol=1e-4, atol=1e-4)


@given(SEEDS, st.lists(st.floats(0, 1, width=32), min_size=ROWS, max_size=ROWS))
def test_a_lambda_for_each_row(seed, lambda_):
    rows = placed(seed, FULL)
    together = estimates(*rows, np.float32(lambda_))["lambda"]
    for row, value in enumerate(lambda_):
        np.testing.assert_array_equal(together[row], estimates(*rows, same(value))["lambda"][row])


def test_lambda_may_be_a_number():
    rows = placed(3, FULL)
    alone = jax.jit(lambda_returns, static_argnums=(4, 5))(*rows, 0.75, DISCOUNT)
    np.testing.assert_allclose(alone, estimates(*rows, same(0.75))["lambda"], rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e30, np.inf, np.nan])
def test_at_lambda_one_no_value_enters(value):
    rows = placed(5, FULL)
    values, ended = np.full((ROWS, WIDTH), value, np.float32), np.zeros(ROWS, np.float32)
    rows = rows._replace(values=values, bootstrap=ended)
    returns = jax.jit(reward_to_go, static_argnums=2)(rows.rewards, FULL, DISCOUNT)
    np.testing.assert_array_equal(estimates(*rows, same(1.0))["lambda"], returns)


def test_gradients_are_finite_and_stop():
    rows = placed(2, HOLES)
    slope, of_target = td_slopes(*rows)
    np.testing.assert_allclose(slope, -estimates(*rows, same(0.5))["td"], rtol=1e-6)
    np.testing.assert_array_equal(of_target, 0)

    def total(*given):
        found = (n_step_returns(*given, HOLES, 3), lambda_returns(*given, HOLES, 0.5))
        return sum(jnp.sum(jnp.square(returns)) for returns in found)

    for slope in jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*rows[:3]):
        np.testing.assert_array_equal(slope, 0)


@pytest.mark.parametrize(("dtype", "kept"), [("bfloat16", "float32"), ("float64", "float64")])
def test_sums_are_of_at_least_float32(dtype, kept):
    with jax.enable_x64(dtype == "float64"):
        rows = [np.full(shape, 1 / 3).astype(dtype) for shape in ((1, 9), (1, 9), (1,))]
        both = jax.jit(lambda *rows: (lambda_returns(*rows, 0.5), n_step_returns(*rows, 2)))
        found = both(*rows, np.ones((1, 9), bool))
        assert [returns.dtype for returns in found] == [kept, kept]
        third = float(rows[0][0, 0])
        exact = transitions.lambda_return([third] * 9, [third] * 10, 0.5, 1)
        np.testing.assert_allclose(found[0][0], exact, rtol=1e-12 if kept == "float64" else 1e-6)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"discount": 1.5}, r"discount must lie in \[0, 1\]"),
        ({"lambda_": -0.5}, r"lambda must lie in \[0, 1\], got -0.5"),
        ({"lambda_": np.ones((ROWS, WIDTH))}, r"one for each row \[B\], got \(4, 8\)"),
    ],
)
def test_what_cannot_be_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        lambda_returns(*placed(0, FULL), **({"lambda_": 0.5} | setting))


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="at least one step, got 0"):
        n_step_returns(*placed(0, FULL), 0)
