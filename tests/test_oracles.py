"""Expected gradients by exact enumeration: what each method climbs, against ∇J itself."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumeration import (
    GRADIENT,
    MASK,
    OUTPUTS,
    PREFIXES,
    REWARD,
    SUM,
    THETA,
    N,
    cosine,
    expected,
    expected_reward,
    log_probs,
    probabilities,
    sequence_kl,
)

from gpg_jax.algorithms import ALGORITHMS, gpg, grpo, rloo
from gpg_jax.algorithms.compose import compose, each_token, whole_output
from gpg_jax.algorithms.reinforce import reinforce, reinforce_constant, reinforce_group, reinforce_optimal
from gpg_jax.algorithms.reinforce import reinforce_running as running
from gpg_jax.algorithms.settings import resolve
from gpg_jax.algorithms.vanilla import vanilla
from gpg_jax.decoding.units import fixed_count_units, fixed_length_units
from gpg_jax.estimators import advantages, baselines
from gpg_jax.estimators.baselines import Running
from gpg_jax.losses.gates import no_gate
from gpg_jax.losses.ratios import unit_product_ratio, unit_product_token_ratio

# ------------------------------------------------------------ which methods climb J, and at which scale


def prefixes(tokens):
    """The prefix before every token: (), (a), (a, b) by their places in PREFIXES."""
    first, second = tokens[:, 1], tokens[:, 2]
    return jnp.stack([0 * first, 0 * first, first, 2 * first + second], axis=1)


def exact_norms(batch):
    """‖∇_θ log π(row)‖² with respect to the table."""

    def log_prob(theta, row):
        states, tokens, mask = row
        return jnp.sum(jnp.where(mask, jax.nn.log_softmax(theta)[states, tokens], 0))

    tokens, mask = batch.rollout.tokens, batch.rollout.action_mask
    return baselines.score_norms(log_prob, THETA, (prefixes(tokens), tokens, mask))


@pytest.mark.parametrize(
    ("method", "state"),
    [
        (reinforce(), None),
        (reinforce_constant(baseline=0.7), None),
        (running(), Running(jnp.float32(1.3), jnp.float32(1))),
        (vanilla(), Running(jnp.float32(1.3), jnp.float32(1))),
    ],
)
def test_baselines_free_of_the_row_are_exact(method, state):
    np.testing.assert_allclose(expected(method, state), GRADIENT, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "method", "scale"),
    [
        ("leave-one-out", rloo(), 1),
        ("b*, norms at the logits", reinforce_optimal(), 1),
        ("b*, exact norms", reinforce_optimal(norms=exact_norms), 1),
        ("group mean, itself included", reinforce_group(), 0.5),
        ("leave-one-out over a constant length", rloo(aggregation="constant_length", max_length=2), 0.5),
        ("Dr. GRPO", ALGORITHMS["dr_grpo"](max_length=1), 0.5),
    ],
)
def test_group_baselines_are_exact_up_to_a_scale(name, method, scale):
    del name
    np.testing.assert_allclose(expected(method), scale * GRADIENT, atol=2e-6)


@pytest.mark.parametrize(
    ("method", "weight", "scaled", "angle"),
    [
        # row i of the pair (i, j): its weight from the lengths, and whether R_i − R_j becomes ±1, which is
        # what (R − mean)/std is for two rows
        (grpo(kl_coefficient=0.0, **SUM), lambda own, other: 1 / 2, True, 0.98121),
        (rloo(aggregation="token_mean"), lambda own, other: 1 / (own + other), False, 0.98921),
        (rloo(aggregation="sequence_mean"), lambda own, other: 1 / (2 * own), False, 0.94876),
    ],
    ids=["mean and std", "leave-one-out, token mean", "leave-one-out, sequence mean"],
)
def test_what_bends_the_gradient_and_by_how_much(method, weight, scaled, angle):
    """Against sums over all pairs in NumPy and float64; the cosine to ∇J is this toy's."""
    logits = np.asarray(THETA, np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    score, probability, reward = np.zeros((N, 7, 3)), np.ones(N), np.asarray(REWARD, np.float64)
    for i, output in enumerate(OUTPUTS):
        for t, token in enumerate(output):
            state = PREFIXES.index(output[:t])
            score[i, state] += np.eye(3)[token] - p[state]
            probability[i] *= p[state, token]
    target = np.zeros((7, 3))
    for i, j in itertools.product(range(N), repeat=2):
        for own, other in ((i, j), (j, i)):
            advantage = reward[own] - reward[other]
            advantage = np.sign(advantage) if scaled else advantage
            share = weight(len(OUTPUTS[own]), len(OUTPUTS[other]))
            target += probability[i] * probability[j] * share * advantage * score[own]
    climbed = expected(method)
    np.testing.assert_allclose(climbed, target, atol=2e-6)
    np.testing.assert_allclose(cosine(climbed, GRADIENT), angle, atol=2e-5)


def test_kl_in_the_reward_is_exact_and_in_the_loss_is_not():
    """In the loss a token's KL is differentiated at its own state alone: it misses where the state leads."""
    target = jax.jit(jax.grad(lambda theta: expected_reward(theta) - 0.7 * sequence_kl(theta)))(THETA)

    def with_kl(**options):
        return expected(rloo(kl_coefficient=0.7, **options))

    in_reward = with_kl(kl_placement="reward", kl_estimator="k1")
    np.testing.assert_allclose(in_reward, target, atol=5e-6)
    k2, full = with_kl(kl_estimator="k2"), with_kl(kl_estimator="full")
    np.testing.assert_allclose(k2, full, atol=5e-6)
    np.testing.assert_allclose(with_kl(kl_estimator="k1", kl_importance_weighted=True), full, atol=5e-6)
    assert cosine(full, target) < 0.999 and cosine(with_kl(kl_estimator="k3"), target) < 0.999
    np.testing.assert_allclose(with_kl(kl_estimator="k1"), GRADIENT, atol=5e-6)  # regularises nothing


# ------------------------------------------------------------------- the GPG theorem: R1 to R4 (O-26)


def theorem(units, advantage=None):
    """Σ_T ∇log π(MA_T|MS_T)·Φ_T, Φ = R unless an advantage is given."""
    advantage = advantages.outcome_advantage(advantages.without_baseline) if advantage is None else advantage
    return compose(
        resolve({}, **SUM), units=units, advantage=advantage, ratio=unit_product_token_ratio(), gate=no_gate
    )


CUTS = {
    "K = 1": whole_output,
    "K = |o|": each_token,
    "two tokens each": lambda batch: fixed_length_units(batch.rollout.action_mask, 2),
    "two units": lambda batch: fixed_count_units(batch.rollout.action_mask, 2),
}


@pytest.mark.parametrize("cut", CUTS)
def test_any_segmentation_has_the_exact_gradient(cut):
    np.testing.assert_allclose(expected(theorem(CUTS[cut])), GRADIENT, atol=2e-6)


NEW = THETA + 0.4 * jnp.asarray(np.random.default_rng(1).normal(size=(7, 3)), jnp.float32)
UNITS = {  # the same cuts by hand: output length -> its units
    "K = 1": {1: [[0]], 2: [[0, 1]], 3: [[0, 1, 2]]},
    "K = |o|": {1: [[0]], 2: [[0], [1]], 3: [[0], [1], [2]]},
    "two tokens each": {1: [[0]], 2: [[0, 1]], 3: [[0, 1], [2]]},
    "two units": {1: [[0]], 2: [[0], [1]], 3: [[0, 1], [2]]},
}


@functools.cache
def units_surrogate(cut):
    """∇ of Σ_o π_old(o)·R(o)·Σ_T Π_{t∈T} π_θ/π_old at `NEW`, unit by unit as they were cut by hand."""

    def surrogate(theta):
        ratio = jnp.exp(log_probs(theta) - log_probs(THETA))[:, 1:]
        units = [
            sum(jnp.prod(ratio[i, jnp.array(unit)]) for unit in UNITS[cut][len(output)])
            for i, output in enumerate(OUTPUTS)
        ]
        return jnp.sum(probabilities(THETA) * REWARD * jnp.stack(units))

    return jax.jit(jax.grad(surrogate))(NEW)


def product_method(units):
    """The plain product on every token of a unit, and weights that count the unit once."""
    return compose(
        resolve({}, aggregation="unit_sum"),
        units=units,
        advantage=advantages.outcome_advantage(advantages.without_baseline),
        ratio=unit_product_ratio(),
        gate=no_gate,
    )


@pytest.mark.parametrize("cut", CUTS)
def test_any_segmentation_off_policy_is_the_sum_over_its_units(cut):
    """Off-policy the ratio of a unit is seen: which tokens it holds, and that it is counted once."""
    climbed = expected(product_method(CUTS[cut]), at=NEW)
    np.testing.assert_allclose(climbed, units_surrogate(cut), atol=5e-6)
    if cut == "K = 1":  # the whole output's ratio is all of importance sampling
        np.testing.assert_allclose(climbed, jax.grad(expected_reward)(NEW), atol=5e-6)


@pytest.mark.parametrize("cut", ["K = |o|", "two tokens each", "two units"])
def test_other_units_off_policy_have_another_gradient(cut):
    def one_moved(batch):
        ids = CUTS[cut](batch)  # the second action joins another unit
        second = jnp.cumsum(batch.rollout.action_mask, axis=1) == 2
        return jnp.where(second & (ids >= 0), 1 - jnp.minimum(ids, 1), ids)

    moved = expected(product_method(one_moved), at=NEW)
    assert jnp.abs(moved - units_surrogate(cut)).max() > 1e-3


def values():
    """V of every prefix `[7]`: the mean reward of the outputs that begin with it."""
    p = np.asarray(probabilities(THETA))
    begins = np.array([[output[: len(prefix)] == prefix for output in OUTPUTS] for prefix in PREFIXES])
    return jnp.asarray((begins * p * np.asarray(REWARD)).sum(1) / (begins * p).sum(1), jnp.float32)


VALUES = values()


def value_advantage(later: int):
    """R − V(MS_T), of the unit's first state; `later` reads the state that many actions on."""

    def advantage(batch, unit_ids, rewards, state):
        first = jnp.argmax(unit_ids[:, :, None] == unit_ids[:, None, :], axis=2)  # the unit's first token
        index = jnp.minimum(first + later, jnp.sum(batch.rollout.action_mask, axis=1, keepdims=True))
        value = VALUES[jnp.take_along_axis(prefixes(batch.rollout.tokens), index, axis=1)]
        return jnp.where(unit_ids >= 0, jnp.sum(rewards, 1, keepdims=True) - value, 0), None, state

    return advantage


@pytest.mark.parametrize("cut", ["K = 1", "K = |o|", "two tokens each"])
def test_a_baseline_of_the_macro_state_is_free(cut):
    exact = expected(theorem(CUTS[cut], value_advantage(0)))
    np.testing.assert_allclose(exact, GRADIENT, atol=2e-6)
    biased = expected(theorem(CUTS[cut], value_advantage(1)))
    assert jnp.abs(biased - GRADIENT).max() > 1e-2


def test_a_cut_that_looks_ahead_has_no_free_baseline():
    """Where a unit begins depends on the final length under a fixed count, and so would its baseline."""
    biased = expected(theorem(CUTS["two units"], value_advantage(0)))
    assert jnp.abs(biased - GRADIENT).max() > 1e-3


def test_one_unit_is_grpo_only_under_the_token_sum():
    """R4: on-policy, β = 0; GRPO's 1/|o| is GPG's K = 1 with A/|o|."""
    one_unit = expected(gpg(unit_count=1, ratio="unit_product", **SUM))
    np.testing.assert_allclose(one_unit, expected(grpo(kl_coefficient=0.0, **SUM)), atol=1e-6)
    assert jnp.abs(one_unit - expected(grpo(kl_coefficient=0.0))).max() > 1e-2


def test_the_discounted_objective_needs_the_discount_of_the_state():
    lengths = jnp.asarray(MASK.sum(1), jnp.float32)
    target = jax.grad(lambda theta: expected_reward(theta, REWARD * 0.5 ** (lengths - 1)))(THETA)
    state = Running(jnp.float32(0), jnp.float32(0))
    exact = expected(vanilla(discount=0.5, discount_state=True), state)
    np.testing.assert_allclose(exact, target, atol=2e-6)
    usual = expected(vanilla(discount=0.5), state)
    assert jnp.abs(usual - target).max() > 1e-2
