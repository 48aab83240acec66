"""Finite horizons: against loops, against the unrolled MDP, and against every trajectory."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from small_mdps import problems

from gpg_jax.theory import episodes, values
from gpg_jax.theory.examples import bernoulli_chain, bernoulli_policy, random_mdp
from gpg_jax.theory.occupancies import state_occupancy
from gpg_jax.theory.trajectories import enumerate_trajectories, trajectory_probability, trajectory_weight

HORIZON = 3


@settings(max_examples=10)
@given(problems(policies=1))
def test_an_episode_is_the_unrolled_mdp(problem):
    """Values, advantages and discounted states of (time, state) by linear solve are those by recursion."""
    mdp, policy = problem
    unrolled = episodes.unroll(mdp, HORIZON)
    table = np.concatenate([np.tile(policy, (HORIZON, 1)), [[1.0, 0.0]]])
    by_solve, by_recursion = _evaluate(unrolled, table), _episode_values(mdp, policy)
    for solved, recursed in zip(by_solve, by_recursion, strict=True):
        wanted = np.reshape(recursed, (HORIZON * len(mdp.initial), *recursed.shape[2:]))
        np.testing.assert_allclose(solved[:-1], wanted, atol=1e-11)
    visits = state_occupancy(unrolled, table, normalise=False)[:-1].reshape(HORIZON, -1)
    discounted = episodes.discounts(mdp, HORIZON)[:, None] * episodes.episode_states(mdp, policy, HORIZON)
    np.testing.assert_allclose(visits, discounted, atol=1e-12)


_evaluate = jax.jit(values.evaluate)
_episode_values = jax.jit(lambda mdp, policy: episodes.episode_values(mdp, policy, HORIZON))


@pytest.mark.parametrize("discount", [1.0, 0.9, 0.0])
def test_every_trajectory(discount):
    """Probabilities add up to 1, E[G_0] = J_H, E[G_t | s_t] = V_t(s_t), and E[w] = 1, E[w G_0] = J_H(π′)."""
    mdp = random_mdp(1, 3, 2, discount)
    draw = np.random.default_rng(2)
    policy, target = draw.dirichlet(np.ones(2), size=(2, 3))
    every = enumerate_trajectories(mdp, HORIZON)
    assert every.state.shape == (6**HORIZON, HORIZON)
    probability = trajectory_probability(every, policy)
    np.testing.assert_allclose(probability.sum(), 1, rtol=1e-14)
    worth = episodes.episode_performance(mdp, policy, HORIZON)
    np.testing.assert_allclose(probability @ every.to_go[:, 0], worth, rtol=1e-13)
    value = np.asarray(episodes.episode_values(mdp, policy, HORIZON).state)
    states, to_go, probability = (np.asarray(x) for x in (every.state, every.to_go, probability))
    for time in range(HORIZON):
        for state in range(3):
            here = np.where(states[:, time] == state, probability, 0)
            mean = here @ to_go[:, time] / here.sum()
            np.testing.assert_allclose(mean, value[time, state], atol=1e-13)
    weight = trajectory_weight(every, policy, target)
    np.testing.assert_allclose(probability @ weight, 1, rtol=1e-13)
    other = episodes.episode_performance(mdp, target, HORIZON)
    np.testing.assert_allclose(probability @ (weight * every.to_go[:, 0]), other, rtol=1e-12)


def test_only_what_can_happen_is_listed():
    chain = bernoulli_chain(3, 0.9)
    every = enumerate_trajectories(chain, 5)
    assert every.state.shape == (2**3, 5)
    np.testing.assert_array_equal(every.state, [[0, 1, 2, 3, 4]] * 8)
    np.testing.assert_allclose(every.to_go[:, 0], 0.9**3, rtol=1e-15)
    never = trajectory_weight(every, bernoulli_policy(chain, 0.0), bernoulli_policy(chain, 0.5))
    assert np.count_nonzero(never) == 1  # of 000 alone has the behaviour anything to say


def test_bad_horizons():
    mdp = random_mdp(0, 3, 2, 0.9)
    policy = np.full((3, 2), 0.5)
    for call in (
        lambda: episodes.episode_values(mdp, policy, 0),
        lambda: episodes.episode_states(mdp, policy, 0),
        lambda: episodes.unroll(mdp, 0),
        lambda: enumerate_trajectories(mdp, 0),
    ):
        with pytest.raises(ValueError, match="at least one step, got a horizon of 0"):
            call()
    with pytest.raises(ValueError, match="more than 1000000 trajectories of 8 steps"):
        enumerate_trajectories(mdp, 8)
