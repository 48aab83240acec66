"""Conservative updates: mixtures by hand, and a small autoregressive model that is enumerated whole."""

import dataclasses

import bigram
import enumeration
import examples
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.estimators.conservative import horizon_shift_cost, improvement_bound, step_size
from gpg_jax.losses.objective import estimate
from gpg_jax.policies.architecture import Architecture
from gpg_jax.policies.critic import head_critic, trunk_critic
from gpg_jax.policies.mixture import mixture, mixture_params
from gpg_jax.policies.score import Layout
from gpg_jax.training.checkpoints import open_checkpoints, restore, save, template
from gpg_jax.training.conservative import fresh_moments, gain_of, mix_in, shift_cost
from gpg_jax.training.held_out import training_plan, training_rows
from gpg_jax.training.plan import Plan
from gpg_jax.training.program import Program
from gpg_jax.training.sharding import ROWS, make_mesh, row_shards, state_shardings
from gpg_jax.training.state import create_critic_state, create_state
from gpg_jax.training.step import compile_step, make_step
from gpg_jax.types import Conservative, Rollout

# ---------------------------------------------------------------------------------------- by hand


MIX_IN = jax.jit(mix_in)


def numbered(weights):
    """A mixture whose members are single numbers, and what they are."""
    values = [{"w": jnp.full(2, 10.0 * k)} for k in range(len(weights))]
    return mixture_params(values, weights)


def members(params):
    return [float(own["w"][0]) for own in params["members"]]


NEW = {"w": jnp.full(2, 99.0)}


def test_a_candidate_takes_a_free_place_and_stands_first():
    mixed = MIX_IN(numbered([0.75, 0.25, 0, 0]), NEW, jnp.float32(0.2))
    assert members(mixed.params) == [99, 0, 10, 30]
    np.testing.assert_allclose(mixed.params["weights"], [0.2, 0.6, 0.2, 0], rtol=1e-6)
    assert mixed.dropped == 0
    again = MIX_IN(mixed.params, {"w": jnp.full(2, 77.0)}, jnp.float32(0.5))
    assert members(again.params) == [77, 99, 0, 10]
    np.testing.assert_allclose(again.params["weights"], [0.5, 0.1, 0.3, 0.1], rtol=1e-6)
    assert again.dropped == 0


@pytest.mark.parametrize(
    "before, after, kept",
    [
        ([0.5, 0.1, 0.4], [0.2, 0.8 * 0.6, 0.8 * 0.4], [99, 0, 20]),
        ([0.1, 0.5, 0.4], [0.2 + 0.8 * 0.1, 0.8 * 0.5, 0.8 * 0.4], [99, 10, 20]),
        ([0.4, 0.5, 0.1], [0.2, 0.8 * 0.4, 0.8 * 0.6], [99, 0, 10]),
    ],
)
def test_the_lightest_makes_room_and_leaves_its_weight_to_its_successor(before, after, kept):
    mixed = MIX_IN(numbered(before), NEW, jnp.float32(0.2))
    assert members(mixed.params) == kept
    np.testing.assert_allclose(mixed.params["weights"], after, rtol=1e-6)
    np.testing.assert_allclose(mixed.dropped, 0.8 * 0.1, rtol=1e-6)


def test_small_steps_add_up_where_there_is_no_room():
    """After n steps of α the policy that they began with has (1 − α)ⁿ, as if all had been kept."""
    params = numbered([1.0, 0, 0])
    for _ in range(40):
        params = MIX_IN(params, NEW, jnp.float32(0.02)).params
    oldest = [
        float(weight) for weight, own in zip(params["weights"], members(params), strict=True) if own == 0
    ]
    np.testing.assert_allclose(oldest, [0.98**40], rtol=1e-4)


def test_a_full_mixture_keeps_no_promise():
    """Two actions of a row, each worth 1 with probability q, and no room: the bound is π_α's alone.

    q = .6·.2 + .4·.9 = .48; π′ has .6: g = 2·.12, ε = .12, α* = g/(2·2ε) = .5. The member of .9 goes, and its
    .2 of weight with it to that of .2: ΔJ = 2·(.5·.6 + .5·.2 − .48) = −.16.
    """
    before = {
        "members": ({"q": jnp.float32(0.2)}, {"q": jnp.float32(0.9)}),
        "weights": jnp.float32([0.6, 0.4]),
    }

    def worth(params):
        pairs = zip(params["weights"], params["members"], strict=True)
        return 2 * sum(float(weight * own["q"]) for weight, own in pairs)

    alpha = step_size(0.24, horizon_shift_cost(0.12, 2))
    mixed = MIX_IN(before, {"q": jnp.float32(0.6)}, alpha)
    np.testing.assert_allclose([alpha, mixed.dropped], [0.5, 0.2], rtol=1e-5)
    np.testing.assert_allclose(worth(mixed.params) - worth(before), -0.16, rtol=1e-5)
    assert improvement_bound(alpha, 0.24, horizon_shift_cost(0.12, 2)) > 0
    room = {"members": (*before["members"], before["members"][0]), "weights": jnp.float32([0.6, 0.4, 0])}
    free = MIX_IN(room, {"q": jnp.float32(0.6)}, alpha)
    assert free.dropped == 0
    np.testing.assert_allclose(worth(free.params) - worth(before), 0.5 * 0.24, rtol=1e-5)


def test_the_whole_share_leaves_nothing_of_the_others():
    mixed = MIX_IN(numbered([0.75, 0.25, 0]), NEW, jnp.float32(1.0))
    np.testing.assert_array_equal(mixed.params["weights"], [1, 0, 0])
    assert members(mixed.params)[0] == 99 and mixed.dropped == 0


@given(
    st.lists(st.floats(0.01, 1), min_size=2, max_size=4), st.floats(1 / 64, 1, width=32), st.integers(0, 99)
)
def test_a_mixture_moves_by_its_share_and_by_what_was_dropped(sizes, alpha, seed):
    """TV(new, (1 − α)π + απ′) ≤ dropped, and it is 0 where a place was free."""
    for free in (False, True):
        weights = np.float32([*sizes, 0] if free else sizes)
        weights = weights / weights.sum()
        tables = np.random.default_rng(seed).dirichlet(np.ones(5), len(weights) + 1).astype(np.float32)
        params = mixture_params([{"p": row} for row in tables[1:]], weights)
        mixed = MIX_IN(params, {"p": tables[0]}, jnp.float32(alpha))
        rows = np.stack([own["p"] for own in mixed.params["members"]])
        found = np.asarray(mixed.params["weights"]) @ rows
        wanted = (1 - alpha) * weights @ tables[1:] + alpha * tables[0]
        distance = 0.5 * np.abs(found - wanted).sum()
        assert distance <= mixed.dropped + 1e-5 and (mixed.dropped == 0) == (free or alpha == 1)
        np.testing.assert_allclose(np.sum(mixed.params["weights"]), 1, rtol=1e-6)
        assert np.min(mixed.params["weights"]) >= 0


def test_without_a_share_no_bit_moves():
    params = numbered(np.float32([0.1, 0.2, 0.7]))
    mixed = MIX_IN(params, {"w": jnp.full(2, jnp.nan)}, jnp.float32(0))
    jax.tree.map(np.testing.assert_array_equal, mixed.params, params)
    assert mixed.dropped == 0


def test_a_candidate_has_its_share_of_weights_that_were_decayed():
    """(1 − α)·π + α·π′ is of π's probabilities, whatever its weights add up to."""
    whole, decayed = numbered([0.5, 0.1, 0.4]), numbered(0.9 * np.array([0.5, 0.1, 0.4]))
    one, other = (MIX_IN(params, NEW, jnp.float32(0.2)) for params in (whole, decayed))
    np.testing.assert_allclose(other.params["weights"], one.params["weights"], rtol=1e-6)
    np.testing.assert_allclose(other.dropped, one.dropped, rtol=1e-6)


def test_fresh_moments_go_on_with_the_schedule():
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.linear_schedule(1.0, 0.0, 10)))
    state = fresh_moments(optimizer, NEW, jnp.int32(7))
    step, _ = optimizer.update({"w": jnp.ones(2)}, state, NEW)
    first, _ = optimizer.update({"w": jnp.ones(2)}, optimizer.init(NEW), NEW)
    np.testing.assert_allclose(step["w"], 0.3 * first["w"], rtol=1e-5)
    plain = optax.adam(0.1)
    jax.tree.map(np.testing.assert_array_equal, fresh_moments(plain, NEW, jnp.int32(7)), plain.init(NEW))


# --------------------------------------------------------------------------------------- measured


def measured(log_prob, batch, advantage=None, **rule):
    """g and ε of a candidate by this rule, what the states' shift costs, and α*."""
    method = ALGORITHMS["cpi"](**rule)

    @jax.jit
    def measure(log_prob, batch):
        fixed, _ = estimate(method, batch, ())
        if advantage is not None:
            fixed = fixed._replace(advantage=jnp.full(log_prob.shape, advantage))
        found = gain_of(method.objective, log_prob, batch, fixed, rule.get("discount", 1.0))
        cost = shift_cost(method.update, found.worst, log_prob.shape[1] - 1)
        return found, cost, step_size(found.gain, cost)

    return measure(np.float32(log_prob), batch)


def plain_rows(log_prob, reward):
    """Rows of as many actions as `log_prob` has columns, of one prompt."""
    rows, actions = np.shape(log_prob)
    mask = np.concatenate([np.zeros((rows, 1), bool), np.ones((rows, actions), bool)], axis=1)
    rollout = examples.make_rollout(mask, reward, np.zeros(rows))
    return examples.make_batch(rollout, np.pad(log_prob, ((0, 0), (1, 0))))


def test_advantages_that_are_all_alike_are_not_free():
    """Â = 1 throughout, ten actions from ½ to .9: each is worth .8, and the step g/(2·.8·10·9), not whole."""
    batch = plain_rows(np.full((4, 10), np.log(0.5)), np.ones(4))
    found, _, alpha = measured(np.where(batch.rollout.action_mask, np.log(0.9), 0), batch, 1.0)
    np.testing.assert_allclose([found.gain, found.worst, alpha], [8, 0.8, 8 / 144], rtol=1e-5)
    still, cost, none = measured(batch.old.log_prob, batch, 1.0)
    assert still.gain == still.worst == cost == none == 0
    one = plain_rows(np.full((4, 1), np.log(0.5)), np.ones(4))
    found, cost, whole = measured(np.where(one.rollout.action_mask, np.log(0.9), 0), one, 1.0)
    assert found.worst > 0 and cost == 0 and whole == 1  # a single action's states cannot shift


def test_a_rare_action_is_worth_more_than_the_spread():
    """π takes it with .01 and π′ with ½, A = (−.01, .99): Σ π′A = .49, which the mean ε of a draw reaches."""
    old, new, worth = np.array([0.99, 0.01]), np.array([0.5, 0.5]), np.array([-0.01, 0.99])
    worst = []
    for action in (0, 1):
        batch = plain_rows(np.full((2, 1), np.log(old[action])), np.zeros(2))
        log_prob = np.where(batch.rollout.action_mask, np.log(new[action]), 0)
        worst.append(measured(log_prob, batch, worth[action])[0].worst)
    np.testing.assert_allclose(worst, np.abs((new / old - 1) * worth), rtol=1e-4)
    assert worst[1] > 40 and old @ np.array(worst) >= new @ worth > 0


def test_the_discounted_bound_is_of_the_discounted_return():
    """Ten actions, γ = .9, of which the first and the last are choices of ½; R = 2·a_0 + 3·a_9 at the end.

    π′ takes a_0 with .9 and a_9 with .1: the return falls, where γ^t times the plain outcome would rise.
    Every outcome is there equally often: R less the mean of the 255 others is 256/255 times R less the mean.
    """
    choices = np.array([(i, j) for i in (0, 1) for j in (0, 1)] * 64)
    old, new = np.zeros((2, 256, 10))
    old[:, [0, -1]] = np.log(0.5)
    new[:, [0, -1]] = np.log(np.where(choices, [0.9, 0.1], [0.1, 0.9]))
    batch, padded = plain_rows(old, choices @ [2.0, 3.0]), np.pad(new, ((0, 0), (1, 0)))

    def worth(first, last):
        return 0.9**9 * (2 * first + 3 * last)

    change = worth(0.9, 0.1) - worth(0.5, 0.5)
    rule = {"step": "discounted", "discount": 0.9}
    found, _, alpha = measured(padded, batch, **rule)
    # action 9's Â is R − b, action 0's γ⁹R − b with the same b; both baselines are of the state
    np.testing.assert_allclose(found.gain, change, rtol=0.02)
    assert change < 0 and alpha == 0
    better = np.where(
        padded == np.log(0.1), np.log(0.9), np.where(padded == np.log(0.9), np.log(0.1), padded)
    )
    better[:, 1] = padded[:, 1]  # .9 at both
    found, cost, alpha = measured(better, batch, **rule)
    np.testing.assert_allclose(found.gain, worth(0.9, 0.9) - worth(0.5, 0.5), rtol=0.02)
    share = 0.5 + 0.4 * float(alpha)
    assert worth(share, share) - worth(0.5, 0.5) >= improvement_bound(alpha, found.gain, cost) > 0


# ------------------------------------------------------------------------------------ enumerated

TOY = bigram.policy(
    Architecture(vocab_size=3, width=4, layers=1, heads=1, kv_heads=1, head_dim=4, mlp_width=4, max_length=8)
)
"""π(y | s) by the last token of s; outputs of three tokens of which 0 ends one, as in `enumeration`."""
CAPACITY = 3
MIXED = mixture([TOY] * CAPACITY, (1.0, 0.0, 0.0))
START = mixture_params([TOY.init(jax.random.key(seed)) for seed in (1, 2, 3)], (0.6, 0.4, 0.0))
PROMPT = 2
N, HORIZON = enumeration.N, 3
REWARD = np.random.default_rng(4).uniform(size=N).astype(np.float32)
LAST = np.array([prefix[-1] if prefix else PROMPT for prefix in enumeration.PREFIXES])


def tables(params):
    """π(· | prefix) of a member, `[7, 3]`."""
    hidden, _ = TOY.hidden(params, jnp.asarray(LAST)[None], jnp.zeros((1, 7), jnp.int32), ())
    return np.asarray(jax.nn.softmax(TOY.unembed(params, hidden[0])), np.float64)


def mixed_tables(params):
    shares = np.asarray(params["weights"], np.float64)
    return sum(share * tables(own) for share, own in zip(shares, params["members"], strict=True))


def probabilities(table):
    """Of every output."""
    chosen = np.where(enumeration.MASK, table[enumeration.STATE, enumeration.TOKEN], 1)
    return chosen.prod(axis=1)


def advantages(table, discount=1.0):
    """A(s, a) `[7, 3]` and the probability, discounted, of being at each prefix `[7]`, by enumeration."""
    p = probabilities(table)
    value, action, visits = np.zeros(7), np.zeros((7, 3)), np.zeros(7)
    for s, prefix in enumerate(enumeration.PREFIXES):
        depth = len(prefix)

        def worth(start, depth=depth):
            inside = np.array([output[: len(start)] == start for output in enumeration.OUTPUTS])
            later = np.array([discount ** (len(output) - depth - 1) for output in enumeration.OUTPUTS])
            return (p * later * REWARD)[inside].sum() / p[inside].sum(), p[inside].sum()

        value[s], visits[s] = worth(prefix)
        visits[s] *= discount**depth
        action[s] = [worth((*prefix, a))[0] for a in range(3)]
    return action - value[:, None], visits


def exact(params, table, discount=1.0):
    """g = Σ_s d(s) Σ_a π′(a|s) A(s, a) and ε = max_s |Σ_a π′(a|s) A(s, a)|."""
    advantage, visits = advantages(mixed_tables(params), discount)
    expected = np.sum(table * advantage, axis=1)
    return visits @ expected, np.abs(expected).max()


def every_output():
    """All outputs, each with the weight of its probability: averages over them are expectations.

    Twice, to train on and to hold out.
    """
    p = probabilities(mixed_tables(START))
    length = 1 + enumeration.MASK.sum(1)
    tokens = np.where(np.arange(4) == 0, PROMPT, enumeration.TOKEN)
    once = Rollout(
        tokens=tokens.astype(np.int32),
        action_mask=enumeration.MASK,
        prompt_length=np.ones(N, np.int32),
        length=length.astype(np.int32),
        behaviour_log_prob=np.zeros((N, 4), np.float32),
        group=np.zeros(N, np.int32),
        parent=np.arange(N, dtype=np.int32),
        fork=np.ones(N, np.int32),
        leaf_weight=(p * N).astype(np.float32),
        stop=np.zeros(N, np.int32),
        version=np.zeros(N, np.int32),
        outcome=REWARD,
        reward=REWARD,
    )
    twice = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), once)
    return twice.replace(group=np.repeat(np.int32([0, 1]), N), parent=np.arange(2 * N, dtype=np.int32))


def toy_step(rule, rate=0.1, epochs=20, params=START):
    """An update of the toy whose advantages are the exact ones."""
    method = ALGORITHMS["cpi"]()._replace(update=rule)
    discount = rule.discount if rule.step == "discounted" else 1.0
    table = advantages(mixed_tables(params), discount)[0][enumeration.STATE, enumeration.TOKEN]
    known = jnp.asarray(np.tile(np.where(enumeration.MASK, table, 0), (2, 1)), jnp.float32)
    objective = method.objective._replace(advantage=lambda batch, units, rewards, state: (known, None, state))
    method = method._replace(objective=objective)
    optimizer = optax.adam(rate)
    state = create_state(jax.tree.map(jnp.asarray, params), method, optimizer, jax.random.key(0))
    plan = Plan(layout=Layout(1, HORIZON, N), rows=2 * N, epochs=epochs)
    return jax.jit(make_step(Program(MIXED, method, optimizer, plan)))(state, every_output())


@pytest.fixture(scope="module")
def by_horizon():
    return toy_step(Conservative("horizon", capacity=CAPACITY))


def test_gain_and_worst_are_the_enumerated_ones(by_horizon):
    """(π′/π − 1)·A over all outputs is g exactly; its largest is no smaller than ε."""
    state, metrics = by_horizon
    gain, worst = exact(START, tables(state.params["members"][0]))
    np.testing.assert_allclose(metrics["cpi_gain"], gain, rtol=1e-4)
    assert gain > 0.01 and worst <= metrics["cpi_worst"] < 5 * worst
    best = min(1, metrics["cpi_gain"] / (2 * metrics["cpi_worst"] * HORIZON * (HORIZON - 1)))
    np.testing.assert_allclose([metrics["cpi_alpha"], metrics["cpi_alpha_star"]], best, rtol=1e-5)
    np.testing.assert_allclose(state.params["weights"], [best, 0.6 * (1 - best), 0.4 * (1 - best)], rtol=1e-5)
    assert metrics["mixture_members"] == 3 and metrics["mixture_dropped"] == 0
    assert state.update == 20 and state.rollout == 1 and state.optimizer == ()
    for before, after in zip(START["members"][:2], state.params["members"][1:], strict=True):
        jax.tree.map(np.testing.assert_array_equal, before, after)


def test_the_surrogate_is_linear_and_the_distance_proportional(by_horizon):
    candidate = tables(by_horizon[0].params["members"][0])
    before = mixed_tables(START)
    gain, _ = exact(START, candidate)
    far = 0.5 * np.abs(candidate - before).sum(axis=1)
    for alpha in (0.1, 0.5, 1.0):
        mixed = mixed_tables(MIX_IN(START, by_horizon[0].params["members"][0], jnp.float32(alpha)).params)
        np.testing.assert_allclose(exact(START, mixed)[0], alpha * gain, rtol=1e-4)
        np.testing.assert_allclose(0.5 * np.abs(mixed - before).sum(axis=1), alpha * far, rtol=1e-4)


def test_the_bound_holds_for_every_share(by_horizon):
    """J(π_α) − J(π) ≥ αg − α²c by enumeration; at α* that is above 0, and the step improves the policy."""
    state, metrics = by_horizon
    before = probabilities(mixed_tables(START)) @ REWARD
    after = probabilities(mixed_tables(state.params)) @ REWARD
    assert after - before >= metrics["cpi_bound"] > 0 and metrics["cpi_guaranteed"] == 1
    share = float(metrics["cpi_alpha"])
    cost = float(metrics["cpi_worst"]) * HORIZON * (HORIZON - 1)
    np.testing.assert_allclose(metrics["cpi_bound"], share * metrics["cpi_gain"] - share**2 * cost, rtol=1e-4)
    gain, worst = exact(START, tables(state.params["members"][0]))
    for alpha in np.linspace(0, 1, 11):
        mixed = (1 - alpha) * mixed_tables(START) + alpha * tables(state.params["members"][0])
        bound = improvement_bound(alpha, gain, worst * HORIZON * (HORIZON - 1))
        assert probabilities(mixed) @ REWARD - before >= bound - 1e-7


def test_the_discounted_share_has_the_papers_form():
    state, metrics = toy_step(Conservative("discounted", discount=0.9, capacity=CAPACITY))
    gain, worst = exact(START, tables(state.params["members"][0]), 0.9)
    np.testing.assert_allclose(metrics["cpi_gain"], gain, rtol=1e-4)
    assert worst <= metrics["cpi_worst"]
    best = (1 - 0.9) ** 2 * metrics["cpi_gain"] / (4 * 0.9 * metrics["cpi_worst"])
    np.testing.assert_allclose(metrics["cpi_alpha"], best, rtol=1e-4)


def test_nothing_moves_where_the_candidate_is_worse():
    state, metrics = toy_step(Conservative("fixed", alpha=0.25, capacity=CAPACITY), rate=-0.1)
    assert metrics["cpi_gain"] < 0
    assert metrics["cpi_alpha"] == metrics["cpi_alpha_star"] == metrics["cpi_bound"] == 0
    jax.tree.map(np.testing.assert_array_equal, state.params, START)
    assert metrics["mixture_members"] == 2 and metrics["mixture_dropped"] == 0
    assert metrics["cpi_guaranteed"] == 1  # that of no step


ONE = bigram.policy(
    Architecture(vocab_size=4, width=8, layers=1, heads=1, kv_heads=1, head_dim=8, mlp_width=8, max_length=2)
)
"""Of one action behind each of four prompts."""


def one_action(method):
    """An update on 64 responses to each prompt, where token 0 earns 1: π before, π behind it, and metrics."""
    policy, optimizer = mixture([ONE] * 2, (1.0, 0.0)), optax.adam(0.3)

    def table(params):
        hidden, _ = policy.hidden(params, jnp.arange(4)[None], jnp.zeros((1, 4), jnp.int32), ())
        return np.asarray(jax.nn.softmax(policy.unembed(params, hidden[0])), np.float64)

    state = create_state(policy.init(jax.random.key(0)), method, optimizer, jax.random.key(2))
    before = table(state.params)
    prompts, rng = np.repeat(np.arange(4), 64), np.random.default_rng(0)
    drawn = np.array([rng.choice(4, p=before[prompt] / before[prompt].sum()) for prompt in prompts])
    log_prob = np.stack([np.zeros(256), np.log(before[prompts, drawn])], axis=1)
    tokens = np.stack([prompts, drawn], axis=1).astype(np.int32)
    mask = np.tile([False, True], (256, 1))
    rollout = examples.make_rollout(
        mask, drawn == 0, prompts, tokens=tokens, behaviour_log_prob=np.float32(log_prob)
    )
    plan = Plan(layout=Layout(1, 1, 64), rows=256, epochs=15)
    state, metrics = jax.jit(make_step(Program(policy, method, optimizer, plan)))(state, rollout)
    return before, table(state.params), metrics


@pytest.mark.parametrize("placement", ["reward", "loss"])
def test_nothing_is_promised_of_a_kl_in_the_reward(placement):
    """One action's states cannot shift: α = 1, and g is the change of the reward, but not of its own charge.

    In the loss the KL is no part of J. In the reward J(π) = E_π[R] − β·KL(π‖π_ref), and with π_ref = π what
    g leaves out is −β·KL(π_α‖π), more than was gained.
    """
    options = {"kl_coefficient": 0.5, "kl_placement": placement}
    before, after, metrics = one_action(ALGORITHMS["cpi"](capacity=2, **options))
    gained = np.mean(after[:, 0] - before[:, 0])
    charged = 0.5 * np.mean(np.sum(after * np.log(after / before), axis=1))
    assert metrics["cpi_alpha"] == 1
    if placement == "loss":
        assert metrics["cpi_guaranteed"] == 1 and gained > 0
        np.testing.assert_allclose(metrics["cpi_bound"], gained, rtol=0.2)  # g is of samples
    else:
        assert gained - charged < 0 < metrics["cpi_gain"]
        assert metrics["cpi_guaranteed"] == metrics["cpi_bound"] == 0


def test_a_kl_in_the_reward_is_known_whatever_the_method_is_made_of():
    for name in ("cpi", "trpo", "rloo"):
        placed = [ALGORITHMS[name](kl_coefficient=0.1, kl_placement=place) for place in ("loss", "reward")]
        assert [method.kl_in_reward for method in (ALGORITHMS[name](), *placed)] == [False, False, True]


# --------------------------------------------------------------------------------------- on rollouts

WIDTH = 4
NETWORK = bigram.policy(
    Architecture(
        vocab_size=32, width=WIDTH, layers=1, heads=1, kv_heads=1, head_dim=4, mlp_width=4, max_length=64
    )
)
POLICY = mixture([NETWORK] * 2, (1.0, 0.0))


def two_tokens():
    """Rows of two tokens, of which one earns: what some prompts teach is true of the others."""
    rows = small.rollout()
    tokens = np.where(rows.action_mask, 4 + rows.tokens % 2, rows.tokens)
    share = np.sum(rows.action_mask & (tokens == 4), axis=1) / rows.action_mask.sum(axis=1)
    return rows.replace(tokens=tokens, outcome=np.float32(share), reward=np.float32(share))


ROLLOUT = two_tokens()
OPTIMIZER = optax.adam(0.05)
METHOD = ALGORITHMS["cpi"](step="fixed", alpha=0.3, capacity=2, entropy_coefficient=0.01)
FULL = mixture_params([NETWORK.init(jax.random.key(seed)) for seed in (1, 2)], (0.7, 0.3))


def plan(**options):
    return Plan(layout=small.LAYOUT, rows=32, epochs=2, minibatches=2, **options)


def first_state(method=METHOD, critic=None):
    trained = None
    if critic is not None:
        trained = create_critic_state(critic.init(jax.random.key(0), FULL["members"][0]), OPTIMIZER)
    return create_state(jax.tree.map(jnp.copy, FULL), method, OPTIMIZER, jax.random.key(5), trained)


STEP = jax.jit(make_step(Program(POLICY, METHOD, OPTIMIZER, plan())))


@pytest.fixture(scope="module")
def whole():
    return STEP(first_state(), ROLLOUT)


def training_part():
    """Rows that the candidate of the first state is trained on."""
    key = jax.random.fold_in(jax.random.key(5), 0)
    return np.asarray(training_rows(jax.random.fold_in(key, 2), plan(), METHOD.update.held_out))


def test_a_candidate_is_what_its_own_prompts_make_of_it(whole):
    """The newest member, trained by the plain method on a rollout of these prompts alone."""
    learns = training_part()
    index = np.arange(16, dtype=np.int32)
    rows = jax.tree.map(lambda leaf: leaf[learns], ROLLOUT).replace(group=index // 4, parent=index)
    method = METHOD._replace(update=None)
    program = Program(NETWORK, method, OPTIMIZER, training_plan(plan(), METHOD.update.held_out))
    alone = create_state(FULL["members"][0], method, OPTIMIZER, jax.random.key(5))
    found, seen = jax.jit(make_step(program))(alone, rows)
    single = mixture_params(FULL["members"], (1.0, 0.0))  # whose old policy is its newest member
    state, metrics = STEP(dataclasses.replace(first_state(), params=single), ROLLOUT)
    assert metrics["cpi_alpha"] == np.float32(0.3)
    for one, two in zip(
        jax.tree.leaves(state.params["members"][0]), jax.tree.leaves(found.params), strict=True
    ):
        np.testing.assert_allclose(one, two, atol=1e-5)
    for name in ("loss", "gradient_norm", "ratio_max", "entropy"):
        np.testing.assert_allclose(metrics[name], seen[name], rtol=1e-4, err_msg=name)


def test_prompts_held_out_teach_nothing_and_measure_alone(whole):
    learns = np.isin(np.arange(32), training_part())
    assert learns.sum() == 16 and np.all(learns.reshape(8, 4).any(1) == learns.reshape(8, 4).all(1))
    found = {}
    for name, changed in (("learns", learns), ("held", ~learns)):
        reward = np.where(changed, -ROLLOUT.reward, ROLLOUT.reward)
        found[name] = STEP(first_state(), ROLLOUT.replace(outcome=reward, reward=reward))[1]
    for name in (
        "loss",
        "gradient_norm",
        "update_norm",
        "ratio_max",
        "kl_old_k3",
        "clip_fraction",
        "entropy",
    ):
        assert found["held"][name] == whole[1][name], name
    # the same candidate by the opposite outcomes
    np.testing.assert_allclose(found["held"]["cpi_gain"], -whole[1]["cpi_gain"], rtol=1e-4)
    np.testing.assert_allclose(found["held"]["cpi_worst"], whole[1]["cpi_worst"], rtol=1e-4)
    assert found["held"]["cpi_alpha"] == 0
    assert np.abs(found["learns"]["gradient_norm"] - whole[1]["gradient_norm"]) > 1e-4


def test_a_full_mixture_lets_its_lightest_go(whole):
    state, metrics = whole
    assert metrics["cpi_gain"] > 0 and state.update == 4
    assert metrics["cpi_alpha"] == np.float32(0.3) > metrics["cpi_alpha_star"]
    assert metrics["cpi_guaranteed"] == metrics["cpi_bound"] == 0  # it is not π_α
    np.testing.assert_allclose(state.params["weights"], [0.3, 0.7], rtol=1e-6)
    np.testing.assert_allclose(metrics["mixture_dropped"], 0.7 * 0.3, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, state.params["members"][1], FULL["members"][0])
    assert metrics["ratio_max"] > 1 and metrics["gradient_norm"] > 0


@pytest.mark.parametrize("kind", ["mesh", "shard_map"])
def test_the_update_is_the_same_however_it_is_cut(whole, kind):
    state, shards = first_state(), 4
    if kind == "mesh":
        mesh = make_mesh((2, 2, 2))
        shardings = state_shardings(state, OPTIMIZER, mesh)

        def constrain(rows):
            return jax.lax.with_sharding_constraint(rows, NamedSharding(mesh, ROWS))

        cut = plan(shards=row_shards(mesh), micro_batches=2)
        program = Program(POLICY, METHOD, OPTIMIZER, cut, constrain=constrain)
        run = compile_step(make_step(program), shardings)
        state = jax.device_put(state, shardings)
    else:
        cut = plan(shards=shards, micro_batches=2)
        step = make_step(Program(POLICY, METHOD, OPTIMIZER, cut, axis_name="devices"))
        mesh = Mesh(jax.devices()[:shards], "devices")
        run = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=Spec(), out_specs=Spec(), check_vma=False))
    found, metrics = run(state, ROLLOUT)
    for one, two in zip(jax.tree.leaves(found.params), jax.tree.leaves(whole[0].params), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)
    assert metrics.keys() == whole[1].keys()
    for name, value in metrics.items():
        np.testing.assert_allclose(value, whole[1][name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_a_critic_with_a_trunk_is_fitted_besides():
    critic = trunk_critic(NETWORK, WIDTH)
    method = ALGORITHMS["trpo"](whiten=False)._replace(update=METHOD.update)
    program = Program(POLICY, method, OPTIMIZER, plan(), (critic, OPTIMIZER))
    state, metrics = jax.jit(make_step(program))(first_state(method, critic), ROLLOUT)
    assert np.abs(state.critic.params["weight"]).max() > 0.01 and metrics["critic_gradient_norm"] > 0
    assert state.critic.optimizer[0].count == state.update == 4
    with pytest.raises(ValueError, match="give it a trunk"):
        make_step(program._replace(critic=(head_critic(8), OPTIMIZER)))


def test_a_mixture_is_saved_and_restored_with_its_members(whole, tmp_path):
    state, mesh = whole[0], make_mesh((2, 2, 2))
    like = template(state, state_shardings(state, OPTIMIZER, mesh))
    with open_checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, state, {}, score=0.0)
    with open_checkpoints(tmp_path) as checkpoints:
        found = restore(checkpoints, like, pytest.fail).state
    assert isinstance(found.params["members"], tuple) and found.optimizer == ()
    assert found.params["members"][0]["embedding"].sharding.spec == Spec("tensor", "fsdp")
    jax.tree.map(np.testing.assert_array_equal, found.params, state.params)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"policy": NETWORK}, "mixes 2 policies of one network, and the program's policy has 0 members"),
        ({"policy": mixture([NETWORK, TOY._replace(vocab_size=32)], (1.0, 0.0))}, "policies of one network"),
        ({"policy": mixture([NETWORK] * 3, (1.0, 0.0, 0.0))}, r"take mixture\(\(policy,\) \* 2, weights\)"),
        (
            {"plan": plan(temperature=0.7)},
            "temperature=0.7: a mixture is one of distributions at temperature 1",
        ),
        ({"method": ALGORITHMS["cpi"](capacity=2, kl_coefficient=0.1, kl_estimator="full")}, "no full KL"),
        (
            {"method": ALGORITHMS["cpi"](capacity=2, held_out=0.01)},
            "held_out=0.01 of a rollout's prompts is 0 of 8",
        ),
        ({"plan": Plan(layout=small.LAYOUT, rows=4)}, "is 0 of 1, and a candidate needs one"),
        ({"method": ALGORITHMS["cpi"](capacity=2, held_out=0.4)}, "leaves 5 prompts .* 2 minibatches"),
    ],
)
def test_what_cannot_be_mixed_is_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_step(Program(POLICY, METHOD, OPTIMIZER, plan())._replace(**options))
