"""The step with a critic: the same sums however it is cut, a critic that learns alone, updates that halt."""

import functools

import bigram
import examples
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from exact import bits, same
from small import plan

from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.algorithms.value_pretraining import value_pretraining
from gpg_jax.losses import objective
from gpg_jax.policies.critic import head_critic, trunk_critic
from gpg_jax.training import updates
from gpg_jax.training.program import BOTH, Program
from gpg_jax.training.state import create_critic_state, create_state
from gpg_jax.training.step import compile_step, make_step, prepare
from gpg_jax.training.updates import minibatch_rows

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.3))
ROLLOUT = small.rollout()
WIDTH = small.ARCHITECTURE.width
BIGRAM = bigram.policy(small.ARCHITECTURE)
"""For the step around the network, which compiles in a third of a transformer's time."""
PARAMS = BIGRAM.init(jax.random.key(0))
CRITICS = {"head": head_critic(WIDTH), "trunk": trunk_critic(BIGRAM, WIDTH)}
CRITIC_OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))
PPO = ALGORITHMS["ppo"](entropy_coefficient=0.01)


def first_state(method, critic, params=PARAMS):
    params = jax.tree.map(jnp.array, params)
    values = critic.init(jax.random.key(1), params)
    weight = 0.1 * jax.random.normal(jax.random.key(2), (WIDTH,))
    own = create_critic_state({**values, "weight": weight}, CRITIC_OPTIMIZER)
    return create_state(params, method, OPTIMIZER, jax.random.key(5), own)


def program(method, critic, devices=1, trains=BOTH, policy=BIGRAM, **cut):
    axis = {"axis_name": "devices"} if devices > 1 else {}
    pair = (critic, CRITIC_OPTIMIZER)
    cut = plan(shards=devices, **cut)
    return Program(policy, method, OPTIMIZER, cut, critic=pair, trains=trains, **axis)


def run(method, critic, devices=1, policy=BIGRAM, params=PARAMS, **cut):
    state = first_state(method, critic, params)
    step = make_step(program(method, critic, devices, policy=policy, **cut))
    if devices == 1:
        return compile_step(step)(state, ROLLOUT)
    used = jax.devices()[:devices]
    mapped = jax.pmap(step, axis_name="devices", in_axes=(0, None), devices=used)
    found = mapped(jax.tree.map(lambda leaf: jnp.stack([leaf] * devices), state), ROLLOUT)
    return jax.tree.map(lambda leaf: leaf[0], found)


TRANSFORMER = {"policy": small.policy(), "params": small.params()}
IN_PARTS = {"devices": 2, "micro_batches": 2}


@pytest.mark.parametrize(
    ("method", "name", "network", "cuts"),
    [
        (PPO, "head", TRANSFORMER, [IN_PARTS]),
        (PPO, "trunk", {}, [{"micro_batches": 4}, IN_PARTS]),
        (ALGORITHMS["vapo"](), "head", {}, [{"micro_batches": 4}, IN_PARTS]),
    ],
    ids=["0", "1", "vapo"],
)
def test_micro_batches_and_devices_add_up_to_the_whole(method, name, network, cuts):
    """VAPO's likelihood too (O-25), whose rows are not spread evenly."""
    whole = run(method, CRITICS[name], **network)
    for cut in cuts:
        parts = run(method, CRITICS[name], **network, **cut)
        for part in (lambda state: state.params, lambda state: state.critic.params):
            for one, other in zip(bits(part(whole[0])), bits(part(parts[0])), strict=True):
                np.testing.assert_allclose(one, other, atol=2e-5)
        for metric, value in whole[1].items():
            np.testing.assert_allclose(value, parts[1][metric], atol=1e-4, rtol=1e-4, err_msg=metric)
    assert whole[1]["critic_gradient_norm"] > 0 and whole[1]["gradient_norm"] > 0


def test_a_critic_on_the_policys_trunk_shapes_it_and_a_separate_one_does_not():
    """With a gate that silences the surrogate, and no entropy bonus, the value loss is all that is left."""
    rows = ROLLOUT.replace(reward=np.zeros_like(ROLLOUT.reward))
    method = ALGORITHMS["a2c"](lambda_=1.0, entropy_coefficient=0.0)
    silent = method._replace(objective=method.objective._replace(gate=lambda ratio, advantage: 0 * ratio))
    for name, moves in (("head", True), ("trunk", False)):
        state, _ = compile_step(make_step(program(silent, CRITICS[name])))(
            first_state(silent, CRITICS[name]), rows
        )
        moved = any(np.any(x != y) for x, y in zip(bits(state.params), bits(PARAMS), strict=True))
        assert moved == moves


def test_a_critic_that_learns_alone_comes_to_explain_its_targets():
    method = value_pretraining(PPO, discount=1.0)
    critic = trunk_critic(small.policy(), WIDTH)
    state = first_state(method, critic, small.params())
    before = bits((state.params, state.optimizer, state.update))
    own = program(method, critic, trains=frozenset({"critic"}), policy=small.policy())
    step = compile_step(make_step(own))
    seen = []
    for _ in range(40):
        state, metrics = step(state, ROLLOUT)
        seen.append((float(metrics["value_error"]), float(metrics["explained_variance"])))
        assert "gradient_norm" not in metrics
    same(bits((state.params, state.optimizer, state.update)), before)
    assert seen[-1][0] < 0.6 * seen[0][0] and seen[-1][1] > 0.1 > seen[0][1]


def test_the_targets_of_the_pretraining_are_whole_returns():
    """Whatever the critic says: the reward at the end is the target of every action where γ = 1."""
    batch, _ = examples.random_batch(3)
    actions = np.asarray(batch.rollout.action_mask)
    method = value_pretraining(ALGORITHMS["vapo"](target_lambda=0.5), discount=1.0)
    estimate, _ = objective.estimate(method, batch, method.state)
    wanted = np.where(actions, batch.rollout.reward[:, None], 0)
    np.testing.assert_allclose(np.where(actions, estimate.value_target, 0), wanted, atol=1e-5)


def test_the_penalised_form_measures_the_kl_behind_its_updates_and_steers_by_it():
    """`kl_old_after` is the mean of k3 over actions by the parameters behind, scored anew."""
    method, critic = ALGORITHMS["ppo"](bound="kl"), CRITICS["head"]
    own = program(method, critic, epochs=3, minibatches=2)
    before = first_state(method, critic)
    state, metrics = jax.jit(make_step(own))(before, ROLLOUT)
    scored = jax.jit(lambda state: prepare(own, state, ROLLOUT).batch.old.log_prob)
    old, new = scored(before), scored(state)
    moved = np.asarray(new - old, np.float64)[ROLLOUT.action_mask]
    distance = np.mean(np.expm1(moved) - moved)
    np.testing.assert_allclose(metrics["kl_old_after"], distance, rtol=1e-3)
    assert distance > 1.5 * 0.01 and metrics["kl_old_k3"] < distance
    assert metrics["state/old"] == 1 and metrics["state/old_held"] == 0 and state.method.old == 2


@pytest.mark.parametrize("forked", [False, True])
def test_what_is_told_of_the_critic(forked):
    """1 − Var(G − V)/Var(G), and the means of V and of (V − G)², over actions by their rows' weights."""
    critic, weight = CRITICS["head"], np.ones(32, np.float32)
    if forked:
        weight = np.resize(np.float32([1, 0.5, 0.5, 0]), 32)

    @jax.jit
    def told(state):
        ready = prepare(program(PPO, critic), state, ROLLOUT.replace(leaf_weight=weight))
        return ready.batch.old.value, ready.fixed.value_target, ready.metrics

    *measured, metrics = told(first_state(PPO, critic))
    value, target = (np.asarray(x, np.float64)[ROLLOUT.action_mask] for x in measured)
    mean = functools.partial(np.average, weights=np.repeat(weight, ROLLOUT.action_mask.sum(axis=1)))

    def variance(x):
        return mean((x - mean(x)) ** 2)

    wanted = {
        "explained_variance": 1 - variance(target - value) / variance(target),
        "value_mean": mean(value),
        "value_error": mean((value - target) ** 2),
    }
    for name, number in wanted.items():
        np.testing.assert_allclose(metrics[name], number, rtol=1e-4, err_msg=name)
        assert abs(number) > 1e-3


def test_updates_halt_and_what_is_behind_is_left_out():
    """A halt at the first minibatch leaves everything as it was; without one nothing is left out."""
    critic, counted = CRITICS["head"], {"minibatches": 4}
    free, metrics = run(PPO, critic, **counted)
    assert "halted" not in metrics
    never = PPO._replace(halt=lambda seen: seen["kl_old_k3"] > 1e9)
    state, metrics = run(never, critic, **counted)
    for one, other in zip(bits(state.params), bits(free.params), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert metrics["halted"] == 0 and int(state.update) == 4
    always = PPO._replace(halt=lambda seen: seen["kl_old_k3"] >= 0)
    state, metrics = run(always, critic, **counted)
    same(bits(state.params), bits(PARAMS))
    assert metrics["halted"] == 1 and int(state.update) == 0


def test_a_halt_leaves_what_the_updates_before_it_made_bit_for_bit(monkeypatch):
    """At the third of four minibatches, where the KL is .0016 behind 0 and .0012, against a run of two."""
    critic = CRITICS["head"]
    halting = PPO._replace(halt=lambda seen: seen["kl_old_k3"] > 0.0014)
    state, metrics = run(halting, critic, minibatches=4)
    assert metrics["halted"] == 0.5 and int(state.update) == 2
    monkeypatch.setattr(updates, "minibatch_rows", lambda key, plan: minibatch_rows(key, plan)[:2])
    alone, metrics = run(halting, critic, minibatches=4)
    assert metrics["halted"] == 0 and int(alone.update) == 2
    for part in ("params", "optimizer", "critic"):
        same(bits(getattr(state, part)), bits(getattr(alone, part)))
    assert any(np.any(x != y) for x, y in zip(bits(state.params), bits(PARAMS), strict=True))


def test_a_method_with_a_critic_needs_one():
    with pytest.raises(ValueError, match="there is no critic"):
        make_step(Program(BIGRAM, PPO, OPTIMIZER, plan()))
    with pytest.raises(ValueError, match="one at least"):
        make_step(program(PPO, CRITICS["head"], trains=frozenset()))
    with pytest.raises(ValueError, match="for methods with a critic"):
        value_pretraining(ALGORITHMS["grpo"](), discount=1.0)
