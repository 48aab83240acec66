"""Scores, the optimal baseline, truncated samplers and forked trees, by exact enumeration."""

from __future__ import annotations

import itertools

import examples
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumeration import (
    LENGTH,
    MASK,
    REWARD,
    STATE,
    THETA,
    TOKEN,
    batch_of,
    expected,
    log_probs,
    probabilities,
)

from gpg_jax.algorithms import rloo
from gpg_jax.algorithms.reinforce import reinforce
from gpg_jax.decoding.sampling import Sampling, sample
from gpg_jax.estimators import baselines
from gpg_jax.losses import objective
from gpg_jax.policies.head import score_hidden
from gpg_jax.policies.policy import Policy
from gpg_jax.types import Batch, Scores

# --------------------------------------------------------------------------------- scores and b* (O-8, O-9)


TABLE = Policy(
    init=lambda key: THETA,
    hidden=lambda *arguments: (arguments[1], ()),
    unembed=lambda theta, features: features @ theta,
    init_cache=lambda rows, slots: (),
    for_decoding=lambda theta: theta,
    vocab_size=3,
)
"""A policy whose hidden states are features φ of the state, `[N, S, 7]`, and whose logits are φ·θ."""


def state_scores(theta, state, needs=frozenset(), temperature=1.0):
    """What the head says of each of the tokens 0 .. V−1 in one state `[V]`."""
    tokens = jnp.arange(theta.shape[1])[None]
    features = jnp.broadcast_to(
        jax.nn.one_hot(state, theta.shape[0])[None, None], (*tokens.shape, len(theta))
    )
    return score_hidden(TABLE, theta, features, tokens, temperature=temperature, needs=needs)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_scores(temperature):
    """E[∇log π] = 0; with one-hot features ∇log π(a) = (φ(a) − E φ)/T; its square is the head's and exact."""
    state = 3
    p = jax.nn.softmax(THETA[state] / temperature)
    score = jax.jacobian(lambda theta: state_scores(theta, state, temperature=temperature).log_prob[0])(THETA)
    np.testing.assert_allclose(jnp.einsum("a,asv->sv", p, score), 0, atol=1e-6)
    np.testing.assert_allclose(score[:, state] * temperature, np.eye(3) - np.asarray(p), atol=1e-6)
    np.testing.assert_array_equal(np.delete(score, state, axis=1), 0)
    square = state_scores(THETA, state, frozenset({"score_square"}), temperature).score_square[0]
    np.testing.assert_allclose(square, jnp.sum((score * temperature) ** 2, axis=(1, 2)), rtol=1e-5)

    def log_prob(theta, token):
        return state_scores(theta, state, temperature=temperature).log_prob[0, token]

    norms = baselines.score_norms(log_prob, THETA, jnp.arange(3))
    np.testing.assert_allclose(norms * temperature**2, square, rtol=1e-5)


def test_the_score_of_a_coin():
    """Bernoulli in its own parameter q: x/q − (1 − x)/(1 − q), and mean 0."""

    def log_prob(q):
        return state_scores(jnp.log(jnp.stack([1 - q, q]))[None], 0).log_prob[0]

    score = jax.jacobian(log_prob)(0.3)
    np.testing.assert_allclose(score, [-1 / 0.7, 1 / 0.3], rtol=1e-6)
    np.testing.assert_allclose(0.7 * score[0] + 0.3 * score[1], 0, atol=1e-6)


def test_the_optimal_baseline_of_a_bandit():
    """θ = (.2, −.1, .4), R = (1, 2, 6): b* = E[R‖s‖²]/E[‖s‖²] = V + Cov(R, ‖s‖²)/E‖s‖²."""
    theta, reward = jnp.array([0.2, -0.1, 0.4]), jnp.array([1.0, 2.0, 6.0])
    p = jax.nn.softmax(theta)
    np.testing.assert_allclose(p, [0.33758454, 0.25008878, 0.41232669], rtol=1e-6)
    norms = baselines.score_norms(lambda theta, row: jax.nn.log_softmax(theta)[row], theta, jnp.arange(3))
    value, best = jnp.sum(p * reward), jnp.sum(p * reward * norms) / jnp.sum(p * norms)
    np.testing.assert_allclose([value, best], [3.311722204519597, 2.970317021841297], rtol=1e-6)
    covariance = jnp.sum(p * reward * norms) - value * jnp.sum(p * norms)
    np.testing.assert_allclose(best, value + covariance / jnp.sum(p * norms), rtol=1e-6)
    score = jnp.eye(3) - p[None]

    def moments(baseline):
        samples = (reward - baseline)[:, None] * score
        mean = p @ samples
        return mean, jnp.sum(p @ samples**2 - mean**2)

    variances = [moments(b)[1] for b in (0.0, value, best)]
    np.testing.assert_allclose(variances, [6.874460, 1.185125, 1.108957], rtol=1e-5)
    np.testing.assert_allclose(moments(best)[0], moments(0.0)[0], atol=1e-6)
    # leave-one-out on many copies in the exact proportions tends to b*
    copies = np.repeat(np.arange(3), np.round(np.asarray(p) * 225).astype(int))
    ids = jnp.zeros(225, jnp.int32)
    estimate = baselines.optimal(reward[copies], norms[copies], ids, jnp.arange(225), jnp.ones(225))
    np.testing.assert_allclose(estimate, np.full(225, best), atol=0.04)


# ------------------------------------------------------------------------- a truncated sampler (O-34)

SAMPLING = Sampling(top_k=2)


def truncated_table():
    """What the sampler keeps and how probable it makes it: log π_behaviour `[7, 3]`, −∞ where dropped."""
    grid = jnp.tile((jnp.arange(64) + 0.5) / 64, 7)
    drawn = sample(jnp.repeat(THETA, 64, axis=0), grid, SAMPLING)
    table = np.full((7, 3), -np.inf)
    table[np.repeat(np.arange(7), 64), np.asarray(drawn.token)] = drawn.log_prob
    return table


BEHAVIOUR = truncated_table()
KEPT = np.isfinite(BEHAVIOUR)
ROW_BEHAVIOUR = np.where(MASK, np.where(KEPT, BEHAVIOUR, -9.0)[STATE, TOKEN], 0).astype(np.float32)
ROW_KEPT = np.all(~MASK | KEPT[STATE, TOKEN], axis=1)
SAMPLED = jnp.asarray(np.where(ROW_KEPT, np.exp(ROW_BEHAVIOUR.sum(1)), 0), jnp.float32)


def truncated_batch(reward, mask):
    """`batch_of` with the truncated sampler's log-probabilities; actions under `mask`."""

    def make(rows):
        batch = batch_of(rows)
        rollout = batch.rollout.replace(
            behaviour_log_prob=jnp.asarray(ROW_BEHAVIOUR * mask)[rows],
            action_mask=jnp.asarray(mask)[rows],
            reward=reward[rows],
            outcome=reward[rows],
        )
        return batch._replace(rollout=rollout)

    return make


def test_the_sampler_keeps_two_tokens_and_its_probabilities_are_those_over_the_mass():
    p = np.asarray(jax.nn.softmax(THETA))
    mass = np.sort(p, axis=1)[:, 1:].sum(1)
    assert np.all(KEPT.sum(1) == 2) and mass.max() < 0.97
    np.testing.assert_allclose(np.exp(BEHAVIOUR)[KEPT], (p / mass[:, None])[KEPT], rtol=1e-5)
    np.testing.assert_allclose(SAMPLED.sum(), 1, rtol=1e-5)


def test_a_token_correction_of_one_choice_is_the_kept_part_of_the_gradient():
    """One action a row: E_behaviour[c·A·∇log π] = Σ_kept π·A·∇log π, since c = π/π_behaviour = S."""
    first = MASK & (np.arange(LENGTH) == 1)
    reward = jnp.array([0.4, -1.0, 2.0])[TOKEN[:, 1]]
    climbed = expected(
        reinforce(correction="token"), make=truncated_batch(reward, first), probability=SAMPLED
    )

    def kept(theta):
        log_p = jax.nn.log_softmax(theta[0])
        return jnp.sum(jnp.where(KEPT[0], jax.lax.stop_gradient(jnp.exp(log_p)), 0) * log_p * reward_of_token)

    reward_of_token = jnp.array([0.4, -1.0, 2.0])
    np.testing.assert_allclose(climbed, jax.grad(kept)(THETA), atol=2e-6)
    plain = expected(reinforce(), make=truncated_batch(reward, first), probability=SAMPLED)
    assert jnp.abs(plain - climbed).max() > 1e-2


def test_corrections_of_whole_outputs():
    """By sequence: Σ_kept π(o)·R·∇log π(o). By token: each token's score times its own S alone."""
    make = truncated_batch(REWARD, MASK)

    def total(weight):  # Σ_o R·Σ_t weight[o, t]·log π_t
        return jax.grad(lambda theta: jnp.sum(REWARD[:, None] * weight * log_probs(theta)))(THETA)

    whole = jnp.where(ROW_KEPT, probabilities(THETA), 0)[:, None] * jnp.ones((1, LENGTH))
    by_sequence = expected(reinforce(correction="sequence"), make=make, probability=SAMPLED)
    np.testing.assert_allclose(by_sequence, total(whole), atol=2e-6)
    mass = jnp.exp(log_probs(THETA) - ROW_BEHAVIOUR)
    by_token = expected(reinforce(correction="token"), make=make, probability=SAMPLED)
    np.testing.assert_allclose(by_token, total(SAMPLED[:, None] * mass), atol=2e-6)
    assert jnp.abs(by_token - by_sequence).max() > 1e-3


# ----------------------------------------------------------------------------------------- forked trees


def forked_groups():
    """Every group of two rollouts of two binary tokens, forked in two after a first 1.

    Yields probability, and (first, second, tree, weight) of up to four leaves.
    """
    theta = jnp.array([[0.3, -0.2], [0.1, 0.6], [-0.5, 0.4]])
    p = np.asarray(jax.nn.softmax(theta))
    trees = [(p[0, 0] * p[1, b], [(0, b, 1.0)]) for b in (0, 1)]
    trees += [
        (p[0, 1] * p[2, b] * p[2, c], [(1, b, 0.5), (1, c, 0.5)])
        for b, c in itertools.product((0, 1), repeat=2)
    ]
    groups = []
    for (p_left, left), (p_right, right) in itertools.product(trees, repeat=2):
        leaves = [(*leaf, 0) for leaf in left] + [(*leaf, 1) for leaf in right]
        groups.append((p_left * p_right, leaves))
    return theta, groups


def test_forks_are_unbiased_under_tree_weights_and_a_baseline_that_leaves_out_the_tree():
    theta, groups = forked_groups()
    reward = jnp.array([[0.3, 1.7], [-1.0, 2.2]])
    probability = jnp.asarray([p for p, _ in groups], jnp.float32)
    shape = (len(groups), 4)
    first, second, weight = np.zeros(shape, int), np.zeros(shape, int), np.zeros(shape, np.float32)
    root, own = np.tile(np.arange(4), (len(groups), 1)), np.tile(np.arange(4), (len(groups), 1))
    for g, (_, leaves) in enumerate(groups):
        trees: dict[int, int] = {}
        for row, (a, b, leaf, tree) in enumerate(leaves):
            first[g, row], second[g, row], weight[g, row] = a, b, leaf
            root[g, row] = trees.setdefault(tree, row)
    mask = np.stack([np.zeros(shape, bool), weight > 0, weight > 0], axis=-1)

    def log_prob(theta, a, b):
        log_p = jax.nn.log_softmax(theta)
        return jnp.stack([jnp.zeros(a.shape), log_p[0, a], log_p[1 + a, b]], axis=-1)

    method, plain = rloo(), examples.make_rollout(mask[0], np.zeros(4), np.zeros(4))

    @jax.vmap
    def coefficients(mask, weight, parent, a, b):
        rollout = plain.replace(
            action_mask=mask, leaf_weight=weight, parent=parent, reward=reward[a, b], outcome=reward[a, b]
        )
        return objective.coefficients(method, Batch(rollout, Scores(log_prob(theta, a, b))))

    @jax.jit
    def climbed(parent):
        push = coefficients(*map(jnp.asarray, (mask, weight, parent, first, second)))

        def inner(theta):
            return -jnp.sum(probability[:, None, None] * push * log_prob(theta, first, second))

        return jax.grad(inner)(theta)

    def objective_value(theta):
        p = jax.nn.softmax(theta)
        return sum(p[0, a] * p[1 + a, b] * reward[a, b] for a in (0, 1) for b in (0, 1))

    exact = jax.grad(objective_value)(theta)
    np.testing.assert_allclose(climbed(root), exact, atol=2e-6)
    assert jnp.abs(climbed(own) - exact).max() > 4e-3
