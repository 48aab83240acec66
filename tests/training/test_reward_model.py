"""The step of a reward model: plain sums, the same however it is cut; and it learns what is preferred."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from gpg_jax.data.preference_pairs import PairTokens, lay_out_pairs
from gpg_jax.losses.preferences import pair_weights, preference_loss
from gpg_jax.policies.critic import trunk_critic
from gpg_jax.policies.reward import reward
from gpg_jax.policies.score import Layout
from gpg_jax.training import checkpoints as ck
from gpg_jax.training.reward_model import (
    PreferenceProgram,
    compile_pair_rewards,
    compile_preference_step,
    make_preference_step,
)
from gpg_jax.training.sharding import critic_shardings, make_mesh, rows_on
from gpg_jax.training.state import create_critic_state

WIDTH = small.ARCHITECTURE.width
CRITIC = trunk_critic(small.policy(), WIDTH)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))
PROMPT, RESPONSE = 4, 6
MESH = (2, 2, 2)
BEST = 9
"""The token of which a preferred response has more."""


def draw_pairs(seed, count, fill=0):
    """Random prompts and responses; the one with more of a token is chosen."""
    draw = np.random.default_rng(seed)
    rows = []
    while len(rows) < count:
        prompt = draw.integers(3, 32, draw.integers(1, PROMPT + 1)).tolist()
        one, other = (
            np.where(draw.random(size) < 0.3, BEST, draw.integers(3, 32, size)).tolist()
            for size in draw.integers(1, RESPONSE + 1, 2)
        )
        if one.count(BEST) != other.count(BEST):
            chosen, rejected = sorted((one, other), key=lambda row: -row.count(BEST))
            rows.append(PairTokens(prompt, chosen, rejected, margin=0.1))
    return lay_out_pairs(rows, PROMPT, RESPONSE, fill)


PAIRS = draw_pairs(0, 14, fill=16)


def program(**options):
    return PreferenceProgram(CRITIC, OPTIMIZER, PROMPT, RESPONSE, centring=0.01, **options)


def first_state():
    params = CRITIC.init(jax.random.key(0), small.params())
    weight = 0.1 * np.random.default_rng(1).normal(size=WIDTH).astype(np.float32)
    return create_critic_state({**params, "weight": jnp.asarray(weight)}, OPTIMIZER)


@functools.cache
def compiled(mesh_shape, micro_batches):
    """The step, and where a state lies."""
    if mesh_shape is None:
        return compile_preference_step(make_preference_step(program(micro_batches=micro_batches))), None, None
    mesh = make_mesh(mesh_shape)
    shardings = critic_shardings(first_state(), OPTIMIZER, mesh)
    step = make_preference_step(program(micro_batches=micro_batches, constrain=rows_on(mesh)))
    return compile_preference_step(step, shardings), shardings, mesh


def run(mesh_shape=None, micro_batches=1, pairs=PAIRS):
    step, shardings, _ = compiled(mesh_shape, micro_batches)
    state = first_state()
    return step(state if shardings is None else jax.device_put(state, shardings), pairs)


@pytest.fixture(scope="module")
def whole():
    return run()


def test_the_update_is_the_gradient_of_the_plain_loss(whole):
    """Each row by itself, one loss, jax.grad, and the optimizer's step by hand."""
    state = first_state()

    def loss(params):
        def rewards(side):
            return reward(
                CRITIC, params, PAIRS.tokens[:, side], PAIRS.prompt_length, PAIRS.length[:, side],
                Layout(PROMPT, RESPONSE, 1),
            )  # fmt: skip

        both = jnp.stack([rewards(0), rewards(1)], axis=1)
        return preference_loss(both, PAIRS.mask, pair_weights(PAIRS.mask), PAIRS.margin, 0.01)[0]

    value, grads = jax.jit(jax.value_and_grad(loss))(state.params)
    updates, _ = OPTIMIZER.update(grads, state.optimizer, state.params)
    np.testing.assert_allclose(whole[1]["loss"], value, rtol=1e-5)
    np.testing.assert_allclose(whole[1]["gradient_norm"], optax.tree_utils.tree_norm(grads), rtol=1e-4)
    chex.assert_trees_all_close(whole[0].params, optax.apply_updates(state.params, updates), atol=2e-4)
    assert {"accuracy", "margin", "reward", "update_norm"} < whole[1].keys()


@pytest.mark.parametrize(("mesh_shape", "micro_batches"), [(None, 4), (MESH, 2)])
def test_however_it_is_cut(whole, mesh_shape, micro_batches):
    state, metrics = run(mesh_shape, micro_batches)
    assert metrics.keys() == whole[1].keys()
    for name, value in metrics.items():
        np.testing.assert_allclose(value, whole[1][name], rtol=2e-4, atol=1e-6, err_msg=name)
    chex.assert_trees_all_close(state.optimizer[1][0].mu, whole[0].optimizer[1][0].mu, atol=1e-6)
    if mesh_shape is not None:
        embedding = state.params["trunk"]["embedding"]
        assert embedding.sharding.spec == jax.sharding.PartitionSpec("tensor", "fsdp")


def test_pairs_that_only_fill_up_change_nothing(whole):
    """A batch of fourteen is that of sixteen with two masked, whatever stands in those."""
    broken = PAIRS.replace(margin=np.where(PAIRS.mask, PAIRS.margin, np.float32(np.nan)))
    again, metrics = run(pairs=broken)
    chex.assert_trees_all_equal(again, whole[0])
    chex.assert_trees_all_equal(metrics, whole[1])


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """Sixty updates; and thirty, a save, a restore, and thirty more."""
    step, shardings, mesh = compiled(MESH, 2)
    placed = jax.device_put(first_state(), shardings)
    batches = [draw_pairs(seed, 16) for seed in range(1, 61)]
    folder = tmp_path_factory.mktemp("kept")
    with ck.open_checkpoints(folder) as kept:
        for number, pairs in enumerate(batches, 1):
            placed, metrics = step(placed, pairs)
            if number == 30:
                ck.save(kept, number, placed, {"note": 1}, score=0.5)
    with ck.open_checkpoints(folder) as kept:
        restored = ck.restore(kept, ck.template(placed, shardings), pytest.fail)
    other = restored.state
    for pairs in batches[restored.step :]:
        other, metrics_again = step(other, pairs)
    return mesh, shardings, placed, other, metrics, metrics_again


def test_a_restored_state_goes_on_bit_for_bit(learnt):
    _, _, whole, resumed, metrics, metrics_again = learnt
    chex.assert_trees_all_equal(whole, resumed)
    chex.assert_trees_all_equal(metrics, metrics_again)


def test_it_learns_what_is_preferred(learnt):
    mesh, shardings, state, *_ = learnt
    held_out = draw_pairs(1000, 200)
    score = compile_pair_rewards(program(constrain=rows_on(mesh)), mesh, shardings.params)
    rewards = np.asarray(score(state.params, held_out))
    assert (rewards[:, 0] > rewards[:, 1]).mean() > 0.95
    first = np.asarray(score(jax.device_put(first_state(), shardings).params, held_out))
    assert (first[:, 0] > first[:, 1]).mean() < 0.75
