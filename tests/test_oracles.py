"""Expected gradients by exact enumeration: what each method climbs, against ∇J itself.

The toy: three tokens of which 0 ends the output, at most three tokens, so 15 outputs of lengths 1 to 3 over
7 prefixes. A policy is a table of logits `[7, 3]`; every output has its probability, so that expectations
over one output, or over groups of two (225 pairs), are finite sums.
"""

from __future__ import annotations

import itertools

import examples
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.algorithms import ALGORITHMS, gpg, grpo, rloo
from gpg_jax.algorithms.compose import compose, each_token, whole_output
from gpg_jax.algorithms.reinforce import reinforce, reinforce_constant, reinforce_group, reinforce_optimal
from gpg_jax.algorithms.reinforce import reinforce_running as running
from gpg_jax.algorithms.settings import resolve
from gpg_jax.algorithms.vanilla import vanilla
from gpg_jax.decoding.units import fixed_count_units, fixed_length_units
from gpg_jax.estimators import advantages, baselines
from gpg_jax.estimators.baselines import Running
from gpg_jax.estimators.divergences import full_kl
from gpg_jax.losses import objective
from gpg_jax.losses.gates import no_gate
from gpg_jax.losses.ratios import unit_product_token_ratio
from gpg_jax.types import Batch, Scores

PREFIXES = [(), (1,), (2,), (1, 1), (1, 2), (2, 1), (2, 2)]
OUTPUTS = [(0,), (1, 0), (2, 0)] + [(a, b, c) for a in (1, 2) for b in (1, 2) for c in (0, 1, 2)]
LENGTH = 4  # a prompt token and three actions
N = len(OUTPUTS)
STATE = np.zeros((N, LENGTH), int)
TOKEN = np.zeros((N, LENGTH), np.int32)
MASK = np.zeros((N, LENGTH), bool)
for i, output in enumerate(OUTPUTS):
    for t, token in enumerate(output):
        STATE[i, t + 1], TOKEN[i, t + 1], MASK[i, t + 1] = PREFIXES.index(output[:t]), token, True

_rng = np.random.default_rng(0)
THETA = jnp.asarray(_rng.normal(size=(7, 3)), jnp.float32)
REFERENCE = jnp.asarray(_rng.normal(size=(7, 3)), jnp.float32)
REWARD = jnp.asarray(_rng.normal(size=N) + 1, jnp.float32)
PAIRS = np.array(list(itertools.product(range(N), repeat=2)))
SUM = {"aggregation": "sequence_mean_token_sum"}


def log_probs(theta):
    """log π of every token of every output `[N, LENGTH]`, 0 under the mask."""
    return jnp.where(MASK, jax.nn.log_softmax(theta)[STATE, TOKEN], 0)


def probabilities(theta):
    return jnp.exp(jnp.sum(log_probs(theta), axis=1))


def expected_reward(theta, reward=REWARD):
    return jnp.sum(probabilities(theta) * reward)


def sequence_kl(theta):
    gap = jnp.sum(log_probs(theta) - log_probs(REFERENCE), axis=1)
    return jnp.sum(probabilities(theta) * gap)


def scores(theta, rows) -> Scores:
    p = jax.nn.softmax(theta)
    square = (1 - 2 * p[STATE, TOKEN] + jnp.sum(p**2, axis=1)[STATE]) * MASK
    kl = full_kl(theta, REFERENCE)[STATE] * MASK
    return Scores(log_prob=log_probs(theta)[rows], score_square=square[rows], kl_ref=kl[rows])


def batch_of(rows) -> Batch:
    """The outputs `rows [2]` as the rollout of one group."""
    rollout = examples.make_rollout(MASK[:2], np.zeros(2), np.zeros(2)).replace(
        reward=REWARD[rows],
        outcome=REWARD[rows],
        tokens=jnp.asarray(TOKEN)[rows],
        action_mask=jnp.asarray(MASK)[rows],
        behaviour_log_prob=log_probs(THETA)[rows],
    )
    return Batch(rollout, scores(THETA, rows), scores(REFERENCE, rows))


def ascent(method, batch, rows, state=None):
    """−∇_θ loss at π_θ = π_old `[7, 3]`."""
    state = method.state if state is None else state
    estimated, _ = objective.estimate(method, batch, state)
    weights = objective.weigh(method.objective, batch.rollout, estimated)
    scales = objective.penalty_coefficients(method.objective, state)

    def of_theta(theta):
        return objective.loss(method.objective, scores(theta, rows), batch, estimated, *weights, scales)[0]

    return -jax.grad(of_theta)(THETA)


def expected(method, state=None):
    """E[−∇loss] over groups of two, each group a minibatch of its own."""
    p = probabilities(THETA)[PAIRS]
    pushes = jax.vmap(lambda rows: ascent(method, batch_of(rows), rows, state))(jnp.asarray(PAIRS))
    return jnp.einsum("n,nsv->sv", p[:, 0] * p[:, 1], pushes)


def cosine(x, y):
    return float(jnp.sum(x * y) / jnp.linalg.norm(x) / jnp.linalg.norm(y))


GRADIENT = jax.grad(expected_reward)(THETA)


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
    ("name", "method"),
    [
        ("mean and std", grpo(kl_coefficient=0.0, **SUM)),
        ("leave-one-out, token mean", rloo(aggregation="token_mean")),
        ("leave-one-out, sequence mean", rloo(aggregation="sequence_mean")),
    ],
)
def test_what_bends_the_gradient(name, method):
    del name
    assert 0.5 < cosine(expected(method), GRADIENT) < 0.999


def test_kl_in_the_reward_is_exact_and_in_the_loss_is_not():
    """In the loss a token's KL is differentiated at its own state alone: it misses where the state leads."""
    target = jax.grad(lambda theta: expected_reward(theta) - 0.7 * sequence_kl(theta))(THETA)

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


def values():
    """V of every prefix `[7]`: the mean reward of the outputs that begin with it."""
    p = np.asarray(probabilities(THETA))
    begins = np.array([[output[: len(prefix)] == prefix for output in OUTPUTS] for prefix in PREFIXES])
    return jnp.asarray((begins * p * np.asarray(REWARD)).sum(1) / (begins * p).sum(1), jnp.float32)


def value_advantage(later: int):
    """R − V(MS_T), of the unit's first state; `later` reads the state that many actions on."""

    def advantage(batch, unit_ids, rewards, state):
        first = jnp.argmax(unit_ids[:, :, None] == unit_ids[:, None, :], axis=2)  # the unit's first token
        index = jnp.minimum(first + later, jnp.sum(batch.rollout.action_mask, axis=1, keepdims=True))
        value = values()[jnp.take_along_axis(prefixes(batch.rollout.tokens), index, axis=1)]
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


# --------------------------------------------------------------------------------- scores and b* (O-8, O-9)


def test_scores():
    p = jax.nn.softmax(THETA[0])
    score = jax.jacobian(jax.nn.log_softmax)(THETA[0])
    np.testing.assert_allclose(p @ score, 0, atol=1e-7)
    np.testing.assert_allclose(
        score, np.eye(3) - np.asarray(p), atol=1e-6
    )  # φ(a) − E φ with one-hot features
    for x in (0.0, 1.0):
        log_prob = jax.grad(lambda q, x=x: x * jnp.log(q) + (1 - x) * jnp.log(1 - q))(0.3)
        np.testing.assert_allclose(log_prob, x / 0.3 - (1 - x) / 0.7, rtol=1e-6)


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
