"""What each method's gradient is on average, by the cards: the published facts, and a sampled check.

Two prompts, groups of two, at most two tokens of three symbols: 784 rollouts. Expectations are exact.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.estimators.divergences import full_kl
from gpg_jax.losses.objective import coefficients
from gpg_jax.theory import cards
from gpg_jax.theory.cards import Problem, card, fixed_state, gradient_moments, without_penalties
from gpg_jax.theory.gradients import GradientMoments
from gpg_jax.theory.responses import (
    divergence,
    expected_reward,
    list_responses,
    moved,
    prefix_values,
    token_log_prob,
    visits,
)
from gpg_jax.theory.rollouts import Rollouts, forked_rollouts, independent_rollouts

SUM = {"aggregation": "sequence_mean_token_sum"}
EVERY = list_responses(3, 2)
PAIRS = independent_rollouts(EVERY, 2, 2)
DRAW = np.random.default_rng(0)
POLICY, WAY, OTHER = DRAW.normal(size=(3, 2, 3, 3))
REWARD = np.clip(DRAW.uniform(-1, 2, (2, 7)), 0, 1)


@functools.cache
def problem(nats=0.0, *, constant_length=False, error=0.0):
    """π_θ, and a behaviour so far away that is π_old too, with its exact critic or one off by `error`."""
    policy = jnp.asarray(POLICY)
    if constant_length:
        policy = policy.at[:, :, 0].add(-1000.0)  # never ends: every response has two tokens
    behaviour = moved(EVERY, policy, jnp.asarray(WAY), nats)
    reward = jnp.asarray(REWARD)
    critic = exact_critic(behaviour, reward) + error * jnp.asarray(OTHER[:, :, 0])
    return Problem(reward, policy, behaviour, behaviour, jnp.asarray(OTHER), critic)


exact_critic = jax.jit(functools.partial(prefix_values, EVERY))


@jax.jit
def aim(asked, coefficient=0.0):
    def worth(logits):
        cost = divergence(EVERY, logits, asked.reference)
        return expected_reward(EVERY, logits, asked.reward) - coefficient * cost

    return jax.grad(worth)(asked.policy)


@functools.cache
def moments(name, *options):
    return gradient_moments(method(name, *options), EVERY, PAIRS)


@functools.cache
def method(name, *options):
    return without_penalties(ALGORITHMS[name](**dict(options)))


def measured(name, asked, **options):
    """The card of a method's surrogate."""
    key = name, *options.items()
    return card(moments(*key)(asked, fixed_state(method(*key), EVERY, asked)), aim(asked))


# ------------------------------------------------------------------ on-policy: which means are ∇J


@pytest.mark.parametrize(
    ("name", "options", "scale"),
    [
        ("reinforce", {}, 1),
        ("reinforce_constant", {}, 1),
        ("reinforce_running", {}, 1),
        ("rloo", {}, 1),
        ("reinforce_group", {}, 1 / 2),  # 1 − 1/G
        ("reinforce_batch", {}, 3 / 4),  # 1 − 1/B over two prompts
        ("a2c", SUM, 1),
    ],
)
def test_baselines_that_leave_the_direction(name, options, scale):
    found = measured(name, problem(), **options)
    np.testing.assert_allclose([found.cosine, found.scale], [1, scale], rtol=1e-12)
    np.testing.assert_allclose([found.bias, found.bend], [1 - scale, 0], atol=1e-12)


def test_a_discounted_objective_needs_the_discounts_of_states():
    """Vanilla with γ^t against ∇E[γ^(n−1) R], n tokens, to the digits of float64; without it is bent."""
    asked = problem()
    late = asked._replace(reward=asked.reward * 0.9 ** (EVERY.mask.sum(axis=1)[None] - 1))
    with_it, without = (
        card(moments("vanilla", *options)(asked, method("vanilla").state), aim(late))
        for options in ((("discount", 0.9), ("discount_state", True)), (("discount", 0.9),))
    )
    assert with_it.bias < 1e-12 < 1e-4 < without.bend


def test_a_baseline_of_others_is_noisier_than_the_value():
    """A single other response in the place of V, and both beside none: 1/gain = (1 + noise)/cosine²."""
    value = measured("a2c", problem(), **SUM).noise
    other, none = (measured(name, problem()).noise for name in ("rloo", "reinforce"))
    assert value < other and value < none
    found = measured("rloo", problem())
    np.testing.assert_allclose(1 / found.gain, (1 + found.noise) / found.cosine**2, rtol=1e-12)


def test_the_std_bends():
    found = measured("grpo", problem(), **SUM)
    assert found.cosine < 0.999
    np.testing.assert_allclose(found.bend, math.sqrt(1 - found.cosine**2), rtol=1e-9)


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_lengths_bend_where_they_vary(aggregation):
    """Leave-one-out over the tokens of the batch or of the row: exact, over the length, where it is one."""
    bent = measured("rloo", problem(), aggregation=aggregation)
    assert bent.bend > 1e-3
    # an end of probability e^−1000 is none, and the last token of both rows counts a half
    exact = measured("rloo", problem(constant_length=True), aggregation=aggregation)
    np.testing.assert_allclose([exact.cosine, exact.scale, exact.bend], [1, 0.5, 0], atol=1e-12)


def test_a_wrong_critic_costs_bias_where_it_is_believed():
    """λ = 1 takes it for a baseline, λ = 0 for the truth; the exact one may be believed."""
    for error, biased in ((0.0, False), (0.3, True)):
        asked = problem(error=error)
        assert measured("a2c", asked, **SUM).bias < 1e-12
        assert (measured("a2c", asked, lambda_=0.0, **SUM).bias > 1e-2) == biased


# ------------------------------------------------------------------------------- off-policy


def test_only_the_whole_ratio_keeps_the_mean_off_policy():
    """Π r over the output is importance sampling: exact at any distance, and noisier with it."""
    far, near = problem(0.5), problem(0.01)
    options = {"ratio": "unit_product", "clip": math.inf}
    exact = measured("rloo", far, **options)
    assert exact.bias < 1e-11 and exact.noise > 1.2 * measured("rloo", near, **options).noise
    for name, other in (("rloo", {}), ("rloo", {"ratio": "token"})):
        bias = [measured(name, asked, **other).bias for asked in (problem(), near, far)]
        assert bias[0] < 1e-12 < 1e-3 < bias[1] < bias[2]


# ---------------------------------------------------------------------- KL to the reference


def test_kl_estimators_beside_the_regularised_gradient():
    """In the reward it is exact; in the loss k2 is the full KL's where responses go, k3 another, k1 none.

    A β that float32 does not hold: 4e-8 is lost where it does not stay in float64.
    """
    asked, coefficient = problem(), 0.3

    def mean(**options):
        made = ALGORITHMS["rloo"](kl_coefficient=coefficient, **options)
        return gradient_moments(made, EVERY, PAIRS)(asked, ()).mean

    regularised, plain = aim(asked, coefficient), aim(asked)
    exact = mean(kl_placement="reward", kl_estimator="k1")
    np.testing.assert_allclose(exact, regularised, atol=1e-12)
    k1, k2, k3, full = (mean(kl_estimator=name) for name in ("k1", "k2", "k3", "full"))
    np.testing.assert_allclose(k1, plain, atol=1e-12)
    there = visits(EVERY, asked.policy)
    local = jax.jit(
        jax.grad(lambda logits: jnp.mean(jnp.sum(there * full_kl(logits, asked.reference), axis=1)))
    )
    np.testing.assert_allclose(full, plain - coefficient * local(asked.policy), atol=1e-12)
    np.testing.assert_allclose(k2, full, atol=1e-12)
    for one, other in ((full, regularised), (k3, regularised), (k3, full)):
        assert jnp.linalg.norm(one - other) > 0.01 * jnp.linalg.norm(regularised)


# ------------------------------------------------------------------------------ forked rows


def test_leaf_weights_of_forked_rows():
    """Uniform weights count a tree by its leaves; tree weights are exact, the tree's own left out."""
    asked = Problem(*(table[:1] for table in problem()))
    bias = {}
    for kind in ("uniform", "tree"):
        rollouts = forked_rollouts(EVERY, 2, 2, 1, kind)
        found = gradient_moments(ALGORITHMS["rloo"](), EVERY, rollouts)(asked, ())
        bias[kind] = card(found, aim(asked)).bias
    assert bias["tree"] < 1e-12 < 1e-2 < bias["uniform"]


# ------------------------------------------------------------------- two other ways to the same


def explicit(made, asked, rollouts):
    """−Σ coefficients·∇log π of every rollout `[M, P, S, V]`: the method's coefficients, scores by hand."""
    table = jax.nn.softmax(asked.policy)
    log_prob = token_log_prob(EVERY, asked.policy)

    def push(row):
        batch = cards.make_batch(EVERY, rollouts.prompt, asked, *row)
        scores = batch.old._replace(
            log_prob=jnp.pad(log_prob[jnp.asarray(rollouts.prompt), row[0]], ((0, 0), (1, 0)))
        )
        return -coefficients(made, batch, scores)[:, 1:]

    rows = rollouts.response, rollouts.parent, rollouts.shared, rollouts.leaf_weight
    pushes = np.asarray(jax.jit(jax.vmap(push))(rows))
    gradient = np.zeros((len(pushes), *asked.policy.shape))
    for b, prompt in enumerate(rollouts.prompt):
        for t in range(EVERY.token.shape[1]):
            state, token = EVERY.prefix[rollouts.response[:, b], t], EVERY.token[rollouts.response[:, b], t]
            score = np.eye(3)[token] - np.asarray(table)[prompt, state]
            gradient[np.arange(len(pushes)), prompt, state] += pushes[:, b, t, None] * score
    return gradient


def sampled(logits, count, group, seed):
    """Numbers of responses `[count, P·G]`, drawn token by token."""
    table, draw = np.asarray(jax.nn.softmax(logits)), np.random.default_rng(seed)
    spoken = {tuple(row[mask].tolist()): n for n, (row, mask) in enumerate(zip(*EVERY[::2], strict=True))}
    number = {(): 0, (1,): 1, (2,): 2}

    def one(prompt):
        word = ()
        while len(word) < 2 and word[-1:] != (0,):
            word = (*word, int(draw.choice(3, p=table[prompt, number[word]])))
        return spoken[word]

    return np.array(
        [[one(prompt) for prompt in range(len(table)) for _ in range(group)] for _ in range(count)]
    )


@pytest.mark.parametrize(
    ("name", "options"), [("sapo", {}), ("dapo", {})], ids=["a soft gate", "dynamic sampling"]
)
def test_the_mean_of_sampled_rollouts_is_the_enumerated_one(name, options):
    """Off-policy, 4000 rollouts; those that dynamic sampling refuses are thrown away.

    Each of the 18 components lies within 4.5 standard errors (once in 8000 runs it would not), and the
    variance within 10%.
    """
    asked, made = problem(0.05), method(name, *options.items())
    rows = sampled(asked.behaviour, 4000, 2, seed=3)
    if made.resample:
        reward = REWARD[PAIRS.prompt, rows]
        rows = rows[(reward[:, 0] != reward[:, 1]) & (reward[:, 2] != reward[:, 3])]
    plain = Rollouts(
        PAIRS.prompt,
        rows.astype(np.int32),
        np.ones(len(rows)),
        np.broadcast_to(np.arange(4, dtype=np.int32), rows.shape),
        np.zeros_like(rows),
        np.ones(rows.shape),
    )
    drawn = explicit(made, asked, plain)
    found = moments(name, *options.items())(asked, ())
    error = drawn.std(axis=0, ddof=1) / math.sqrt(len(drawn))
    assert (np.abs(drawn.mean(axis=0) - found.mean) < 4.5 * error + 1e-12).all()
    assert np.linalg.norm(found.mean) > 10 * np.linalg.norm(error) / math.sqrt(18)
    np.testing.assert_allclose(drawn.var(axis=0).sum(), found.variance, rtol=0.1)


def test_orders_of_rows_make_no_difference():
    """All 7⁴ rollouts one by one, by coefficients and scores, against the bags of them."""
    asked, made = problem(0.05), method("sapo")
    every = np.indices((7,) * 4).reshape(4, -1).T.astype(np.int32)
    ones = Rollouts(
        PAIRS.prompt,
        every,
        np.ones(len(every)),
        np.broadcast_to(np.arange(4, dtype=np.int32), every.shape),
        np.zeros_like(every),
        np.ones(every.shape),
    )
    chance = np.exp(np.asarray(token_log_prob(EVERY, asked.behaviour).sum(axis=2)))
    chance = np.prod(chance[PAIRS.prompt, every], axis=1)
    gradient = explicit(made, asked, ones)
    mean = np.tensordot(chance, gradient, axes=1)
    found = moments("sapo")(asked, ())
    np.testing.assert_allclose(found.mean, mean, atol=1e-12)
    np.testing.assert_allclose(found.variance, chance @ ((gradient - mean) ** 2).sum((1, 2, 3)), rtol=1e-10)


@pytest.mark.parametrize("name", ["reinforce_constant", "grpo", "dapo", "vapo", "gpg"])
def test_nothing_but_counts_is_in_float32(name):
    """No float64 is narrowed, and no product, quotient or power of the program is one of float32."""
    asked = problem(0.05)
    program = jax.make_jaxpr(moments(name))(asked, fixed_state(method(name), EVERY, asked))
    rounded = [equation for equation in equations(program.jaxpr) if rounds_to_float32(equation)]
    assert not rounded


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for parameter in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def rounds_to_float32(equation):
    given, made = ([variable.aval.dtype for variable in side] for side in (equation.invars, equation.outvars))
    if made != [jnp.float32]:
        return False
    if equation.primitive.name == "convert_element_type":
        return given == [jnp.float64]
    return equation.primitive.name in ("mul", "div", "pow", "exp", "log")


# ------------------------------------------------------------------------------- the numbers


def test_a_card_by_hand():
    """∇J = (3, 4) and E[g] = (5, 0): along 15, so a cosine of .6, a scale of .6 and a bias of √20/5.

    The best c is 3/5: (3, 0) misses (0, 4), 4/5 of ∇J. With a variance of 75 E‖g‖² = 100.
    """
    found = card(GradientMoments(np.array([[5.0, 0]]), 75.0), np.array([[3.0, 4]]))
    wanted = (0.6, 0.6, math.sqrt(20) / 5, 0.8, 3.0, 3.0, 15**2 / (100 * 25))
    np.testing.assert_allclose(found, wanted, rtol=1e-14)
    against = card(GradientMoments(np.array([[-3.0, -4]]), 0.0), np.array([[3.0, 4]]))
    np.testing.assert_allclose(against, (-1, -1, 2, 1, 0, 0, 0), atol=1e-14)
    nothing = card(GradientMoments(np.zeros((1, 2)), 1.0), np.array([[3.0, 4]]))
    np.testing.assert_allclose(nothing, (0, 0, 1, 1, 1 / 25, math.inf, 0), rtol=1e-14)


def test_states_are_fixed():
    asked = problem(0.1)
    state = fixed_state(ALGORITHMS["reinforce_running"](), EVERY, asked)
    assert state.weight == 1 and state.total == expected_reward(EVERY, asked.behaviour, asked.reward)
    kl = ALGORITHMS["ppo"](bound="kl")
    assert fixed_state(kl, EVERY, asked) is kl.state
    assert not without_penalties(kl).objective.penalties
