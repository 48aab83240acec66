"""Exact updates: what collapses without a bound, and what each bound holds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_mdps import distributions, problems

from gpg_jax.losses.gates import clip_gate, no_gate
from gpg_jax.theory import examples, improvement, updates, values
from gpg_jax.theory.mdp import softmax_policy
from gpg_jax.theory.occupancies import state_occupancy

START = np.zeros(1)


@pytest.fixture(scope="module")
def pathology(float64):
    return examples.distribution_shift()


def worth(pathology, weights):
    return float(values.performance(pathology.mdp, at(pathology, weights)))


def at(pathology, weights):
    return updates.log_linear_policy(pathology.mdp, pathology.family, jnp.asarray(weights))


def test_the_family_leads_from_the_policy_to_the_candidate(pathology):
    np.testing.assert_allclose(at(pathology, [0.0]), pathology.policy, atol=1e-15)
    np.testing.assert_allclose(at(pathology, [60.0]), pathology.candidate, atol=1e-15)


def test_the_unbounded_surrogate_collapses(pathology):
    """Every step raises L, and the last policy is worth −90 instead of J(π) + .8."""
    path = updates.climb(pathology.mdp, pathology.family, START, no_gate, optax.adam(0.1), 300)
    surrogate = jax.jit(
        jax.vmap(lambda w: improvement.surrogate(pathology.mdp, pathology.policy, at(pathology, w)))
    )(path)
    assert path.shape == (301, 1) and (np.diff(surrogate) > 0).all()
    np.testing.assert_allclose(surrogate[-1], 0.8, atol=0.003)
    np.testing.assert_allclose(worth(pathology, path[-1]), -90, atol=0.3)


def test_the_clipped_surrogate_does_not(pathology):
    """It stops where π(enter) has grown by 1 + ε: w = log 1.2, and J has risen."""
    rate = optax.linear_schedule(0.05, 0, 200)
    path = updates.climb(pathology.mdp, pathology.family, START, clip_gate(0.2, 0.2), optax.adam(rate), 200)
    entered = at(pathology, path[-1])[0, 1] / pathology.policy[0, 1]
    np.testing.assert_allclose(entered, 1.2, atol=1e-3)
    assert worth(pathology, [0.0]) < worth(pathology, path[-1]) < 1e-4


def step(mdp, family, weights, radius, divergence=updates.mean_divergence):
    return _step(mdp, family, weights, radius, divergence)


_step = jax.jit(updates.trust_region_step, static_argnums=4)


@pytest.mark.parametrize("divergence", [updates.mean_divergence, updates.worst_divergence])
def test_a_trust_region_is_filled_and_kept(pathology, divergence):
    moved = step(pathology.mdp, pathology.family, START, 1e-5, divergence)
    new = at(pathology, moved)
    np.testing.assert_allclose(divergence(pathology.mdp, pathology.policy, new), 1e-5, rtol=1e-9)
    assert worth(pathology, moved) > worth(pathology, START)


def test_the_mean_divergence_is_blind_where_the_surrogate_is(pathology):
    """δ = .01 of mean KL under d_π lets J fall to −4.4; of the largest KL, by 6e-4."""
    mean, worst = (
        worth(pathology, step(pathology.mdp, pathology.family, START, 0.01, divergence))
        for divergence in (updates.mean_divergence, updates.worst_divergence)
    )
    np.testing.assert_allclose(mean, -4.3974, atol=1e-3)
    assert -6e-4 < worst < 0


@jax.jit
def hessian(mdp, family, weights):
    """Of the mean divergence from π_w."""
    policy = updates.log_linear_policy(mdp, family, weights)
    return jax.hessian(
        lambda x: updates.mean_divergence(mdp, policy, updates.log_linear_policy(mdp, family, x))
    )(weights)


def test_small_trust_regions_take_the_natural_gradient_step():
    """√(2δ / gᵀF⁻¹g)·F⁻¹g with F = Σ_s d(s) Σ_a π(a|s) (φ − E φ)(φ − E φ)ᵀ, loops in NumPy."""
    mdp = examples.random_mdp(6, 3, 2, 0.9)
    draw = np.random.default_rng(7)
    family = updates.LogLinear(draw.normal(size=(3, 2, 2)), draw.normal(size=(3, 2)))
    policy = np.asarray(updates.log_linear_policy(mdp, family, np.zeros(2)))
    visits = np.asarray(state_occupancy(mdp, policy, normalise=True))
    action = np.asarray(values.evaluate(mdp, policy).action)
    fisher, gradient = np.zeros((2, 2)), np.zeros(2)
    for s in range(3):
        for a in range(2):
            score = family.features[s, a] - policy[s] @ family.features[s]
            fisher += visits[s] * policy[s, a] * np.outer(score, score)
            gradient += 10 * visits[s] * policy[s, a] * action[s, a] * score
    np.testing.assert_allclose(updates.fisher_information(mdp, family, np.zeros(2)), fisher, rtol=1e-12)
    np.testing.assert_allclose(hessian(mdp, family, np.zeros(2)), fisher, rtol=1e-11)
    direction = np.linalg.solve(fisher, gradient)
    expected = np.sqrt(2e-10 / (gradient @ direction)) * direction
    np.testing.assert_allclose(step(mdp, family, np.zeros(2), 1e-10), expected, rtol=1e-3)
    with pytest.raises(ValueError, match="positive radius, got 0"):
        updates.trust_region_step(mdp, family, np.zeros(2), 0.0)

    indifferent, weights = mdp.replace(reward=np.zeros((3, 2))), np.array([0.3, -0.2])
    np.testing.assert_array_equal(step(indifferent, family, weights, 0.1), weights)


@pytest.mark.parametrize(("seed", "halved"), [(3, 0), (12, 2), (54, 5)])
def test_a_step_is_halved_where_the_surrogate_would_fall(seed, halved):
    """The step is 2^−k of the one to the edge; L falls at each of the longer ones and rises at this one."""
    draw, weights = np.random.default_rng(seed), np.zeros(1)
    mdp = examples.random_mdp(seed, 3, 2, 0.9)
    family = updates.LogLinear(draw.normal(size=(3, 2, 1)), draw.normal(size=(3, 2)))
    moved = step(mdp, family, weights, 1.0)
    old = updates.log_linear_policy(mdp, family, weights)
    news = [updates.log_linear_policy(mdp, family, moved * 2**k) for k in range(halved + 1)]
    gains = [float(_gain(mdp, old, new)) for new in news]
    assert gains[0] > 0 and all(gain < 0 for gain in gains[1:])
    edge = float(updates.mean_divergence(mdp, old, news[-1]))
    fisher = float(updates.fisher_information(mdp, family, weights)[0, 0])
    quadratic = fisher / 2 * float(moved[0] * 2**halved) ** 2
    np.testing.assert_allclose(max(edge, quadratic), 1, rtol=1e-9)


def test_conservative_iteration_never_falls(pathology):
    """From the policy by mixtures with the family's two ends: J rises at every step."""
    candidates = jnp.stack([pathology.candidate, at(pathology, [-60.0])])

    @jax.jit
    def mix(policy, candidates):
        path = updates.repeat(
            lambda now: updates.conservative_step(pathology.mdp, now, candidates), policy, 40
        )
        return path, jax.vmap(lambda policy: values.performance(pathology.mdp, policy))(path)

    path, earned = mix(pathology.policy, candidates)
    assert path.shape == (41, 3, 2) and (np.diff(earned) >= 0).all() and earned[-1] > 1.5 * earned[0]
    np.testing.assert_allclose(earned[1] - earned[0], 1.757262e-5, rtol=1e-6)
    stay, _ = mix(pathology.candidate, jnp.stack([pathology.candidate] * 2))
    np.testing.assert_array_equal(stay[-1], pathology.candidate)


@settings(max_examples=15)
@given(problems(policies=1, discount=st.sampled_from([0.3, 0.9])))
def test_a_free_table_is_in_no_danger(problem):
    """The surrogate is highest at the greedy policy, and every state's value is at least the old one."""
    mdp, policy = problem
    greedy = _greedy(mdp, policy)
    assert (np.asarray(greedy)[~np.asarray(mdp.legal)] == 0).all()
    assert (_state(mdp, greedy) >= _state(mdp, policy) - 1e-10).all()
    others = [np.where(mdp.legal, _deterministic(code), [[1.0, 0.0]]) for code in range(8)]
    gains = [float(_gain(mdp, policy, other)) for other in others]
    np.testing.assert_allclose(_gain(mdp, policy, greedy), max(gains), atol=1e-10)


def _deterministic(code):
    taken = np.array([code & 1, code >> 1 & 1, code >> 2 & 1])
    return np.eye(2)[taken]


_greedy = jax.jit(updates.greedy_policy)
_state = jax.jit(lambda mdp, policy: values.evaluate(mdp, policy).state)
_gain = jax.jit(lambda mdp, policy, new: improvement.conservative_terms(mdp, policy, new).gain)


def test_greedy_in_the_pathology_is_optimal(pathology):
    """The maximiser of L among all policies enters and is good: γ·1 = .9. The candidate is no maximiser."""
    greedy = updates.greedy_policy(pathology.mdp, pathology.policy)
    np.testing.assert_array_equal(greedy, [[0, 1], [1, 0], [1, 0]])
    np.testing.assert_allclose(values.performance(pathology.mdp, greedy), 0.9, rtol=1e-15)


@given(distributions((3, 2), positive=True), distributions((3, 2), positive=True))
def test_divergences(policy, new):
    mdp = examples.random_mdp(0, 3, 2, 0.9)
    each = np.sum(policy * np.log(policy / new), axis=1)
    visits = state_occupancy(mdp, policy, normalise=True)
    np.testing.assert_allclose(updates.mean_divergence(mdp, policy, new), visits @ each, atol=1e-14)
    np.testing.assert_allclose(updates.worst_divergence(mdp, policy, new), each.max(), atol=1e-14)


def test_divergences_where_actions_are_missing(pathology):
    """π(a) = 0 counts for nothing, π′(a) = 0 < π(a) for ∞; the gradient of a masked entry is no NaN."""
    mdp = pathology.mdp
    apart = updates.worst_divergence(mdp, pathology.policy, pathology.candidate)
    assert apart == np.inf
    there = updates.worst_divergence(mdp, pathology.candidate, pathology.policy)
    np.testing.assert_allclose(there, -np.log(1e-4), rtol=1e-12)
    gradient = jax.jit(
        jax.grad(lambda x: updates.mean_divergence(mdp, pathology.policy, softmax_policy(mdp, x)))
    )(jnp.ones((3, 2)))
    assert np.isfinite(gradient).all()
