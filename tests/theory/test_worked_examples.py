"""Worked examples, number by number; those with a number are in "Reinforcement Learning for LLM Alignment".

The notebooks show them in the same order.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.estimators import conservative
from gpg_jax.estimators.importance import importance_estimate, self_normalised_estimate
from gpg_jax.estimators.returns import reward_to_go
from gpg_jax.losses.gates import clip_gate
from gpg_jax.theory import baselines, examples, gradients, importance, improvement, scores, values
from gpg_jax.theory.mdp import policy_table, softmax_policy
from gpg_jax.theory.occupancies import state_occupancy
from gpg_jax.theory.trajectories import enumerate_trajectories, trajectory_probability, trajectory_weight

# ------------------------------------------------------------------------------- expectations and samples


def test_example_1_1_an_expectation_is_a_performance():
    """O-1: p = (.2, .5, .3), f = x²: .2 + 2 + 2.7 = 4.9."""
    mdp = examples.bandit([1.0, 4.0, 9.0])
    np.testing.assert_allclose(values.performance(mdp, np.array([[0.2, 0.5, 0.3]])), 4.9, rtol=1e-15)


def test_example_1_2_a_continuous_expectation():
    """E[x²] = 1 for a normal x: two Gauss–Hermite nodes, ±1, are exact for cubics."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(2)
    np.testing.assert_allclose(weights @ nodes**2 / weights.sum(), 1, rtol=1e-14)


def test_examples_1_3_and_1_4_monte_carlo():
    """A Bernoulli mean is unbiased with variance p(1 − p)/N; G_0 = 1 + .9·2 + .81·3 = 5.23."""
    outcomes = jnp.array([0.0, 1.0])
    moments = importance.estimator_moments(lambda x: jnp.mean(outcomes[x]), jnp.array([0.8, 0.2]), 5)
    np.testing.assert_allclose(moments, [0.2, 0.16 / 5], rtol=1e-13)
    returns = reward_to_go(jnp.array([[1.0, 2.0, 3.0]]), np.ones((1, 3), bool), 0.9)
    np.testing.assert_allclose(returns[0], [5.23, 4.7, 3], rtol=1e-14)


def test_example_1_5_importance_weights():
    """O-1: weights 1.6 and .4, mean 1.4 for every N. Self-normalised it is 2 for one sample and, by hand,

    ¼·1 + ½·(1.6 + 1.2)/2 + ¼·3 = 1.7 for two: 1.4 only in the limit.
    """
    target, proposal, f = np.array([0.8, 0.2]), np.array([0.5, 0.5]), jnp.array([1.0, 3.0])
    weight = jnp.asarray(target / proposal)
    np.testing.assert_allclose(weight, [1.6, 0.4], rtol=1e-15)
    np.testing.assert_allclose(weight * f, [1.6, 1.2], rtol=1e-15)

    def mean(estimate, samples):
        return importance.estimator_moments(
            lambda x: estimate(f[x], jnp.log(weight[x]), jnp.ones(len(x), bool)), proposal, samples
        ).mean

    np.testing.assert_allclose(mean(importance_estimate, 2), 1.4, rtol=1e-14)
    np.testing.assert_allclose(mean(self_normalised_estimate, 1), 2, rtol=1e-14)
    np.testing.assert_allclose(mean(self_normalised_estimate, 2), 1.7, rtol=1e-14)
    shares = [(math.comb(12, k) / 2**12, 1.6 * k, 0.4 * (12 - k)) for k in range(13)]
    by_hand = sum(share * (a + 3 * b) / (a + b) for share, a, b in shares)  # k of 12 samples are the first
    np.testing.assert_allclose(mean(self_normalised_estimate, 12), by_hand, rtol=1e-13)


def test_example_1_6_off_policy_evaluation():
    """J(π′) = E_π[π′/π · r], over the four pairs (s, a)."""
    contexts, rewards = np.array([0.25, 0.75]), np.array([[1.0, -2.0], [0.5, 3.0]])
    mdp = examples.contextual_bandit(contexts, rewards)
    behaviour, target = np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([[0.2, 0.8], [0.3, 0.7]])
    by_hand = 0.25 * (0.2 * 1 - 0.8 * 2) + 0.75 * (0.3 * 0.5 + 0.7 * 3)
    np.testing.assert_allclose(values.performance(mdp, target), by_hand, rtol=1e-14)
    every = enumerate_trajectories(mdp, 1)
    weighted = trajectory_weight(every, behaviour, target) * every.to_go[:, 0]
    np.testing.assert_allclose(trajectory_probability(every, behaviour) @ weighted, by_hand, rtol=1e-14)


def test_examples_1_7_and_1_8_scores():
    """O-8: x/θ − (1 − x)/(1 − θ); φ − E[φ]."""
    theta = jnp.array([0.25])
    np.testing.assert_allclose(scores.score(scores.bernoulli, theta)[:, 0], [-1 / 0.75, 4], rtol=1e-14)
    features = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, -1.0]])
    family = scores.log_linear(features)
    weights = jnp.array([0.5, -0.25])
    expected = features - np.exp(family(weights)) @ features
    np.testing.assert_allclose(scores.score(family, weights), expected, atol=1e-15)


def test_example_1_9_temporal_differences():
    """O-2: A → B with r = 1, γ = .9, V = (.2, .7): y = 1.63, δ = 1.43, V(A) → .343 at η = .1."""
    mdp, policy = examples.walk([1.0], 0.9), np.ones((2, 1))
    estimate = jnp.array([0.2, 0.7])
    np.testing.assert_allclose(values.backup(mdp, estimate)[0], 1.63, rtol=1e-15)
    np.testing.assert_allclose(values.td_error(mdp, policy, estimate)[0], 1.43, rtol=1e-15)
    updated = values.td_update(mdp, policy, estimate, 0.1, np.array([1.0, 0.0]))
    np.testing.assert_allclose(updated, [0.343, 0.7], rtol=1e-15)


# ----------------------------------------------------------------------------------------------- baselines


def test_the_baseline_of_least_variance():
    """O-9: logits (.2, −.1, .4), R = (1, 2, 6). At γ = 0 the estimator is (R − b)∇log π."""
    mdp = examples.bandit([1.0, 2.0, 6.0])
    policy = softmax_policy(mdp, jnp.array([[0.2, -0.1, 0.4]]))
    np.testing.assert_allclose(policy[0], [0.33758454, 0.25008878, 0.41232669], atol=1e-8)
    value = values.evaluate(mdp, policy).state
    best = jax.jit(baselines.optimal_baseline)(mdp, policy)
    np.testing.assert_allclose(value, [3.311722204519597], rtol=1e-13)
    np.testing.assert_allclose(best, [2.970317021841297], rtol=1e-13)
    variance = jax.jit(baselines.gradient_variance)
    left = [variance(mdp, policy, b) for b in (np.zeros(1), value, best)]
    np.testing.assert_allclose(left, [6.874460, 1.185125, 1.108957], atol=5e-7)
    every = enumerate_trajectories(mdp, 1)
    exact = gradients.occupancy_gradient(mdp, policy)
    for baseline, remaining in zip((0.0, value[0], best[0]), left, strict=True):
        moments = gradients.credited_moments(policy, every, every.to_go - baseline)
        np.testing.assert_allclose(moments.variance, remaining, rtol=1e-12)
        np.testing.assert_allclose(moments.mean, exact, atol=1e-14)


def test_a_value_of_100_and_an_action_worth_105():
    """A = 105 − 100 = 5 is the signal that is left; the other of two equally likely actions has −5."""
    value = values.evaluate(examples.bandit([105.0, 95.0]), np.array([[0.5, 0.5]]))
    np.testing.assert_allclose(value.state, [100], rtol=1e-15)
    np.testing.assert_allclose(value.advantage, [[5, -5]], rtol=1e-13)


# ----------------------------------------------------------------------------------------- distribution shift


@pytest.fixture(scope="module")
def shift(float64):
    return examples.distribution_shift(discount=0.9, penalty=100.0, enter=1e-4, slip=1e-3)


def test_the_surrogate_promises_and_performance_collapses(shift):
    """O-3, each number from its formula: V(room) = 1 − η₂(1 + M), J = ηγV(room), J′ = −γM, …"""
    mdp, policy, candidate, _ = shift
    value = values.evaluate(mdp, policy)
    np.testing.assert_allclose(value.state[1], 0.899, rtol=1e-14)
    np.testing.assert_allclose(values.performance(mdp, policy), 8.091e-5, rtol=1e-13)
    np.testing.assert_allclose(values.performance(mdp, candidate), -90, rtol=1e-15)
    np.testing.assert_allclose(value.advantage[1, 1], -101 * 0.999, rtol=1e-14)
    np.testing.assert_allclose(value.advantage[0, 1], 0.80901909, rtol=1e-14)
    gain = improvement.surrogate(mdp, policy, candidate) - values.performance(mdp, policy)
    np.testing.assert_allclose(gain, 0.79993818, rtol=1e-13)
    np.testing.assert_allclose(gain, 0.9 * (0.9999 * 0.899 - 1e-4 * 101 * 0.999), rtol=1e-13)
    seen = state_occupancy(mdp, policy, normalise=False)
    parts = seen * improvement.expected_advantage(mdp, policy, candidate) / 0.9
    np.testing.assert_allclose(parts, [0.8989101, -0.0100899, 0], rtol=1e-13, atol=1e-15)
    for table, room in ((policy, 1e-4), (candidate, 1)):
        visits = state_occupancy(mdp, table, normalise=True)
        np.testing.assert_allclose(visits, [0.1, 0.09 * room, 0.9 - 0.09 * room], rtol=1e-13)


def test_the_lemma_and_the_penalty(shift):
    """O-4: A(start, enter) + γA(room, bad) = J′ − J; DSP = (γ − γη)·A(room, bad); L + DSP = J′."""
    mdp, policy, candidate, _ = shift
    difference = improvement.performance_difference(mdp, policy, candidate)
    np.testing.assert_allclose(difference, 0.80901909 - 0.9 * 100.899, rtol=1e-14)
    np.testing.assert_allclose(difference, -90.00008091, rtol=1e-14)
    penalty = improvement.shift_penalty(mdp, policy, candidate)
    np.testing.assert_allclose(penalty, -90.80001909, rtol=1e-13)
    np.testing.assert_allclose(improvement.surrogate(mdp, policy, candidate) + penalty, -90, rtol=1e-14)
    # ‖d′ − d‖₁/(1 − γ) = 2·γ(1 − η): what leaves the end for the room
    bound = improvement.shift_bound(mdp, policy, candidate)
    np.testing.assert_allclose(bound, 2 * 0.9 * 0.9999 * 100.899, rtol=1e-13)


def test_the_conservative_step(shift):
    """O-5: ε = 100.899, α* = g(1 − γ)²/4γε, what the bound promises and what is gained."""
    mdp, policy, candidate, _ = shift
    gain, worst = improvement.conservative_terms(mdp, policy, candidate)
    np.testing.assert_allclose(worst, 100.899, rtol=1e-14)
    cost = conservative.discounted_shift_cost(worst, 0.9)
    alpha = conservative.step_size(gain, cost)
    np.testing.assert_allclose(alpha, 2.2022522522523e-5, rtol=1e-12)
    promised = conservative.improvement_bound(alpha, gain, cost)
    np.testing.assert_allclose(promised, 8.808328e-6, rtol=1e-6)
    mixed = improvement.mixture(policy, candidate, alpha)
    actual = values.performance(mdp, mixed) - values.performance(mdp, policy)
    np.testing.assert_allclose(actual, 1.757262e-5, rtol=1e-6)
    worse = policy_table(mdp, np.array([[1.0, 0], [0, 1], [1, 0]]))  # stays outside, and is bad
    loss, _ = improvement.conservative_terms(mdp, policy, worse)
    for no_gain in (loss, -gain, 0.0):
        assert no_gain <= 0 and conservative.step_size(no_gain, cost) == 0


# ------------------------------------------------------------------------------- importance over trajectories


def test_the_variance_of_weights_grows_exponentially():
    """O-6: p = .5, q = .9: .81/.5 + .01/.5 = 1.64 a step; closed form, recursion and every sequence."""
    behaviour, target = np.array([0.5, 0.5]), np.array([0.1, 0.9])
    base = importance.second_moment(behaviour, target)
    np.testing.assert_allclose(base, 1.64, rtol=1e-15)
    listed = {1: 0.64, 2: 1.6896, 5: 10.863675, 10: 139.746784, 20: 19808.657}
    for horizon, variance in listed.items():
        np.testing.assert_allclose(base**horizon - 1, variance, rtol=1e-7)
        chain = examples.bernoulli_chain(horizon, 0.9)
        half, most = (examples.bernoulli_policy(chain, p) for p in (0.5, 0.9))
        np.testing.assert_allclose(
            importance.weight_variance(chain, half, most, horizon), variance, rtol=1e-7
        )
    chain = examples.bernoulli_chain(10, 0.9)
    half, most = (examples.bernoulli_policy(chain, p) for p in (0.5, 0.9))
    np.testing.assert_allclose(importance.weight_variance(chain, half, most, 10), 1.64**10 - 1, rtol=1e-13)
    every = enumerate_trajectories(chain, 11)
    assert len(every.state) == 2**10
    probability, weight = trajectory_probability(every, half), trajectory_weight(every, half, most)
    np.testing.assert_allclose(probability @ weight, 1, rtol=1e-13)
    np.testing.assert_allclose(probability @ (weight - 1) ** 2, 1.64**10 - 1, rtol=1e-12)
    # the estimate of J: unbiased, with γ^2H of the weights' variance
    estimates = weight * every.to_go[:, 0]
    np.testing.assert_allclose(probability @ estimates, 0.9**10, rtol=1e-13)
    spread = probability @ (estimates - 0.9**10) ** 2
    np.testing.assert_allclose(spread, 0.9**20 * (1.64**10 - 1), rtol=1e-12)


@pytest.mark.parametrize("samples", [1, 2, 4])
def test_the_variance_of_the_estimate_of_a_performance(samples):
    """Section 4.1.2: Var(Ĵ) = γ^2H/N · Var(w), H = 3, over all N-tuples of the 8 trajectories."""
    chain = examples.bernoulli_chain(3, 0.9)
    half, most = (examples.bernoulli_policy(chain, p) for p in (0.5, 0.9))
    every = enumerate_trajectories(chain, 4)
    log_weight = jnp.log(trajectory_weight(every, half, most))

    def estimate(x):
        return importance_estimate(every.to_go[x, 0], log_weight[x], jnp.ones(len(x), bool))

    moments = importance.estimator_moments(estimate, trajectory_probability(every, half), samples)
    of_weights = importance.weight_variance(chain, half, most, 3)
    np.testing.assert_allclose(of_weights, 1.64**3 - 1, rtol=1e-13)
    np.testing.assert_allclose(moments, [0.9**3, 0.9**6 / samples * of_weights], rtol=1e-12)


def test_a_reward_is_paid_once():
    """G_0 = γ^H. Paid at an absorbing state for ever it would be γ^H/(1 − γ)."""
    chain = examples.bernoulli_chain(3, 0.9)
    policy = examples.bernoulli_policy(chain, 0.3)
    np.testing.assert_allclose(values.performance(chain, policy), 0.9**3, rtol=1e-14)
    absorbing = chain.replace(transition=chain.transition.at[3, 0].set(jnp.eye(5)[3]))
    np.testing.assert_allclose(values.performance(absorbing, policy), 0.9**3 / 0.1, rtol=1e-13)


# ------------------------------------------------------------------------------------------------ clipping


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [
        (1.3, 2.0, 2.4, 0.0),  # better than expected, already likelier: held at 1.2·A
        (0.7, 2.0, 1.4, 2.0),  # better, but become less likely: pushed back up
        (0.5, -10.0, -8.0, 0.0),  # min(−5, −8): worse, already less likely
        (1.5, -10.0, -15.0, -10.0),  # worse and likelier: the penalty goes on
        (1.0, -10.0, -10.0, -10.0),  # on policy the slope is the advantage
    ],
)
def test_the_cases_of_clipping(ratio, advantage, value, slope):
    found = jax.value_and_grad(clip_gate(0.2, 0.2))(ratio, advantage)
    np.testing.assert_allclose(found, [value, slope], rtol=1e-15)
