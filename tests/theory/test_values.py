"""The Bellman equations, occupancies of both masses, and TD(0) in expectation."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given
from small_mdps import distributions, problems

from gpg_jax.theory import values
from gpg_jax.theory.examples import random_mdp, walk
from gpg_jax.theory.occupancies import occupancy, state_occupancy

evaluate, performance = jax.jit(values.evaluate), jax.jit(values.performance)
td_error = jax.jit(values.td_error)
normalised = jax.jit(lambda mdp, policy: occupancy(mdp, policy, normalise=True))
unnormalised = jax.jit(lambda mdp, policy: occupancy(mdp, policy, normalise=False))


@given(problems(policies=1))
def test_the_bellman_equations(problem):
    """V = E_π Q, Q = r + γ E V (hence both expectation equations), E_π A = 0, A = r + γ E V − V."""
    mdp, policy = problem
    value = evaluate(mdp, policy)
    scale = 1e-12 * 5 / (1 - mdp.discount)  # |r| ≤ 5
    np.testing.assert_allclose(value.state, (policy * value.action).sum(1), atol=scale)
    following = np.einsum("sat,t->sa", mdp.transition, value.state)
    backup = np.where(mdp.legal, mdp.reward + mdp.discount * following, 0)
    np.testing.assert_allclose(value.action, backup, atol=scale)
    np.testing.assert_allclose((policy * value.advantage).sum(1), 0, atol=scale)
    one_step = np.where(mdp.legal, backup - np.asarray(value.state)[:, None], 0)
    np.testing.assert_allclose(value.advantage, one_step, atol=scale)


@given(problems(policies=1))
def test_occupancies_of_both_masses(problem):
    """The masses are 1 and 1/(1 − γ), d(s, a) = d(s)π(a|s), J = Σ d r, and E_d A = 0."""
    mdp, policy = problem
    shares, measure = normalised(mdp, policy), unnormalised(mdp, policy)
    rest = 1 - float(mdp.discount)
    np.testing.assert_allclose(shares.sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(measure.sum(), 1 / rest, rtol=1e-12)
    np.testing.assert_allclose(shares, rest * measure, atol=1e-14)
    np.testing.assert_allclose(shares, shares.sum(1, keepdims=True) * policy, atol=1e-14)
    value = evaluate(mdp, policy)
    np.testing.assert_allclose(np.sum(measure * mdp.reward), performance(mdp, policy), atol=1e-10)
    np.testing.assert_allclose(np.sum(shares * value.advantage), 0, atol=1e-10)


def test_values_and_occupancies_against_sums_over_time():
    """800 steps of the chain in NumPy: γ^800 = 2e-37 at γ = .9."""
    mdp = random_mdp(3, 4, 3, 0.9)
    policy = np.random.default_rng(0).dirichlet(np.ones(3), size=4)
    here, measure, worth = np.asarray(mdp.initial), np.zeros(4), 0.0
    transition, reward = np.asarray(mdp.transition), np.asarray(mdp.reward)
    for time in range(800):
        measure += 0.9**time * here
        worth += 0.9**time * sum(here[s] * policy[s] @ reward[s] for s in range(4))
        here = sum(here[s] * policy[s, a] * transition[s, a] for s in range(4) for a in range(3))
    np.testing.assert_allclose(values.performance(mdp, policy), worth, rtol=1e-12)
    np.testing.assert_allclose(state_occupancy(mdp, policy, normalise=False), measure, rtol=1e-12)
    np.testing.assert_allclose(state_occupancy(mdp, policy, normalise=True), measure / 10, rtol=1e-12)


def test_a_walk_by_hand():
    """Rewards 1, 2, 3 at γ = .5: V = 1 + .5·(2 + .5·3) = 2.75, 3.5, 3 and 0 at the end."""
    mdp = walk([1, 2, 3], 0.5)
    policy = np.ones((4, 1))
    np.testing.assert_allclose(values.evaluate(mdp, policy).state, [2.75, 3.5, 3, 0], atol=1e-15)
    np.testing.assert_allclose(
        state_occupancy(mdp, policy, normalise=False), [1, 0.5, 0.25, 0.25], atol=1e-15
    )


@given(problems(policies=1), distributions((3,)))
def test_td_stands_still_at_the_values_alone(problem, start):
    """The error vanishes at V^π; elsewhere, (γP − I)e for the distance e from it."""
    mdp, policy = problem
    value = evaluate(mdp, policy).state
    np.testing.assert_allclose(td_error(mdp, policy, value), 0, atol=1e-10)
    distance = start - np.asarray(value)
    chain = float(mdp.discount) * np.einsum("sa,sat->st", policy, mdp.transition)
    error = td_error(mdp, policy, start)
    np.testing.assert_allclose(error, chain @ distance - distance, atol=1e-10)


@pytest.mark.parametrize("of", [values.td_error, jax.jit(values.td_error)], ids=["called", "compiled"])
def test_td_errors_by_sums_over_transitions(of):
    mdp = random_mdp(1, 3, 2, 0.9)
    policy, value = np.random.default_rng(2).dirichlet(np.ones(2), size=3), np.array([1.0, -2, 0.5])
    move, reward = np.asarray(mdp.transition), np.asarray(mdp.reward)
    error = reward[:, :, None] + 0.9 * value - value[:, None, None]
    wanted = [np.sum(policy[s][:, None] * move[s] * error[s]) for s in range(3)]
    np.testing.assert_allclose(of(mdp, policy, value), wanted, rtol=1e-13)


def test_td_converges_to_the_values():
    """With η d(s) = ½ the distance shrinks by ½ + ½γ = .95 a step at least: .95^700 = 3e-16."""
    mdp = random_mdp(0, 4, 2, 0.9)
    policy, estimate = np.full((4, 2), 0.5), np.zeros(4)
    update = jax.jit(values.td_update)
    for _ in range(700):
        estimate = update(mdp, policy, estimate, 0.5, np.ones(4))
    np.testing.assert_allclose(estimate, values.evaluate(mdp, policy).state, atol=1e-12)
