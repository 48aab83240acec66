"""The training step: plain sums over micro-batches and devices, the same gradient however it is cut."""

import bigram
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec
from small import plan

from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.algorithms.compose import AGGREGATIONS
from gpg_jax.algorithms.settings import Settings
from gpg_jax.estimators.segments import group_sum, tree_roots
from gpg_jax.losses import objective
from gpg_jax.losses.penalties import entropy_bonus, kl_penalty
from gpg_jax.policies.score import score
from gpg_jax.training.program import Program
from gpg_jax.training.sharding import ROWS, make_mesh, row_shards, state_shardings
from gpg_jax.training.state import create_state
from gpg_jax.training.step import compile_step, make_step
from gpg_jax.training.updates import minibatch_rows
from gpg_jax.types import Batch, Scores

RATE = 0.3
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(RATE))
METHOD = ALGORITHMS["grpo"](entropy_coefficient=0.01)
ROLLOUT = small.rollout()
BIGRAM = bigram.policy(small.ARCHITECTURE)
"""For the step around the network, which compiles in a third of a transformer's time."""
PARAMS = BIGRAM.init(jax.random.key(0))


def first_state(method, optimizer=OPTIMIZER, params=PARAMS):
    state = create_state(jax.tree.map(jnp.array, params), method, optimizer, jax.random.key(5))
    if state.reference is None:
        return state
    # A reference that differs, so that the penalty has a gradient.
    return state.replace(reference=jax.tree.map(lambda leaf: 0.8 * leaf, state.reference))


def run(method=METHOD, mesh=None, devices=None, rollout=ROLLOUT, policy=BIGRAM, params=PARAMS, **options):
    """One step, on one device, on a mesh by `jit`, or by `shard_map` or `pmap` on so many devices."""
    state = first_state(method, params=params)
    if devices:
        kind, count = devices
        cut, used = plan(shards=count, **options), jax.devices()[:count]
        step = make_step(Program(policy, method, OPTIMIZER, cut, axis_name="devices"))
        if kind == "shard_map":
            whole = {"in_specs": Spec(), "out_specs": Spec(), "check_vma": False}
            return jax.jit(jax.shard_map(step, mesh=Mesh(used, "devices"), **whole))(state, rollout)
        mapped = jax.pmap(step, axis_name="devices", in_axes=(0, None), devices=used)
        found = mapped(jax.tree.map(lambda leaf: jnp.stack([leaf] * count), state), rollout)
        return jax.tree.map(lambda leaf: leaf[0], found)
    if mesh is None:
        return compile_step(make_step(Program(policy, method, OPTIMIZER, plan(**options))))(state, rollout)
    shardings = state_shardings(state, OPTIMIZER, mesh)
    cut = plan(shards=row_shards(mesh), **options)

    def constrain(rows):
        return jax.lax.with_sharding_constraint(rows, NamedSharding(mesh, ROWS))

    program = Program(policy, method, OPTIMIZER, cut, constrain=constrain)
    return compile_step(make_step(program), shardings)(jax.device_put(state, shardings), rollout)


def run_transformer(**options):
    return run(policy=small.policy(), params=small.params(), **options)


def assert_same(one, other, atol):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=atol),
        one[0].params,
        other[0].params,
    )
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        np.testing.assert_allclose(value, other[1][name], atol=1e-4, rtol=1e-4, err_msg=name)


@pytest.fixture(scope="module")
def transformer_whole():
    return run_transformer()


@pytest.fixture(scope="module")
def whole():
    return run()


def test_the_update_is_the_gradient_of_the_plain_loss(transformer_whole):
    """Against one forward of all rows, one loss, jax.grad and the clipped step by hand."""
    whole, state = transformer_whole, first_state(METHOD, params=small.params())

    def scored(params):
        return score(
            small.policy(),
            params,
            ROLLOUT.tokens,
            ROLLOUT.prompt_length,
            ROLLOUT.length,
            small.LAYOUT,
            temperature=1.0,
            needs=frozenset({"entropy"}),
        )

    def loss(params):
        scores = scored(params)
        old = jax.lax.stop_gradient(scores)
        reference = Scores(scored(state.reference).log_prob)
        batch = Batch(rollout=ROLLOUT, old=old, reference=reference)
        fixed, _ = objective.estimate(METHOD, batch, ())
        weights, penalty_weights = objective.weigh(METHOD.objective, ROLLOUT, fixed)
        scales = objective.penalty_coefficients(METHOD.objective, ())
        return objective.loss(METHOD.objective, scores, batch, fixed, weights, penalty_weights, scales)[0]

    value, grads = jax.jit(jax.value_and_grad(loss))(small.params())
    norm = optax.tree_utils.tree_norm(grads)
    expected = jax.tree.map(
        lambda leaf, grad: leaf - RATE * grad / jnp.maximum(norm, 1.0), small.params(), grads
    )
    np.testing.assert_allclose(whole[1]["loss"], value, atol=1e-6)
    np.testing.assert_allclose(whole[1]["gradient_norm"], norm, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), whole[0].params, expected)


def on_devices(options):
    """With its mesh made."""
    return options | {"mesh": make_mesh(options["mesh"])} if "mesh" in options else options


@pytest.mark.parametrize(
    "options",
    [
        {"micro_batches": 16, "chunk": 64},
        {"mesh": (2, 2, 2)},
        {"devices": ("shard_map", 4), "micro_batches": 2},
    ],
    ids=str,
)
def test_however_it_is_cut_the_update_of_a_transformer_is_the_same(transformer_whole, options):
    assert_same(transformer_whole, run_transformer(**on_devices(options)), atol=2e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"mesh": (1, 8, 1), "micro_batches": 2},
        {"devices": ("pmap", 4), "micro_batches": 2},
    ],
    ids=str,
)
def test_however_it_is_cut_the_update_is_the_same(whole, options):
    assert_same(whole, run(**on_devices(options)), atol=2e-6)


@pytest.fixture(scope="module")
def every_aggregation():
    """A method whose loss holds each aggregation, and its update on the whole rollout at once.

    The surrogate is by one, an entropy bonus and a KL by each.

    Each has its own coefficient, so that no error of one is made good by another's; those of the sums are
    smaller by a row's or a batch's tokens.
    """
    share = {"token_sum": 1 / 200, "sequence_mean_token_sum": 1 / 6, "unit_sum": 1 / 3}
    terms = []
    for number, (name, make) in enumerate(AGGREGATIONS.items(), start=1):
        scale = 0.05 * number * share.get(name, 1.0)
        weigh = make(Settings(max_length=10))
        terms += [entropy_bonus(scale, weigh), kl_penalty("k2", 0.3 * scale, weigh)]
    method = ALGORITHMS["gpg"](unit_count=3, ratio="unit_product")
    objective = method.objective._replace(penalties=tuple(terms))
    method = method._replace(objective=objective, needs=method.needs | {"entropy", "reference"})
    return method, run(method)


@pytest.mark.parametrize(
    "options", [{"micro_batches": 8}, {"devices": ("pmap", 4), "micro_batches": 2}], ids=str
)
def test_every_aggregation_is_the_same_however_it_is_cut(every_aggregation, options):
    """O-16: micro-batches of 4 ragged rows, and devices of 4, beside one batch of 32."""
    method, whole = every_aggregation
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), whole[0].params, PARAMS)
    assert max(jax.tree.leaves(moved)) > 0.02, "the update must be large beside the tolerance"
    assert_same(whole, run(method, **options), atol=3e-6)


def test_several_updates_are_the_same_on_a_mesh_and_under_pmap():
    method = ALGORITHMS["dapo"](max_response=10, overlong_cache=4)
    cut = {"epochs": 2, "minibatches": 2}
    alone = run(method, **cut)
    assert alone[0].update == 4 and alone[0].rollout == 1
    assert alone[1]["ratio_max"] > 1.0, "later minibatches must be off-policy for this test to say anything"
    assert_same(alone, run(method, make_mesh((2, 2, 2)), **cut), atol=2e-5)
    assert_same(alone, run(method, devices=("pmap", 2), micro_batches=2, **cut), atol=2e-5)


def test_scoring_the_old_policy_apart_changes_nothing(whole):
    apart = METHOD._replace(needs=METHOD.needs | {"old"})
    measured = run(apart)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole[0].params, measured[0].params
    )
    assert whole[1]["sampler_gap"] > 0.1, "the made-up behaviour is far from the trainer"
    np.testing.assert_allclose(whole[1]["sampler_gap"], measured[1]["sampler_gap"], rtol=1e-5)


def test_minibatches_are_whole_groups_and_every_row_is_seen_once_an_epoch():
    cut = plan(epochs=3, minibatches=4)
    rows = np.asarray(minibatch_rows(jax.random.key(0), cut))
    assert rows.shape == (12, 8)
    for epoch in rows.reshape(3, -1):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(32))
    np.testing.assert_array_equal(rows.reshape(-1, 4) % 4, np.tile(np.arange(4), (24, 1)))
    assert (rows[:4] != rows[4:8]).any(), "every epoch has its own order"


def test_a_minibatch_counts_its_groups_and_trees_from_its_own_first_row():
    """Minibatches of one group each, ids up to 7 in 4 rows: weights by ids are those by place.

    Where they are not, the weight is NaN, which no update hides.
    """

    def by_id(rollout, actions):
        return group_sum(actions, rollout.group) + tree_roots(rollout.parent) % 4

    def by_place(actions):
        tree = jnp.tile(jnp.array([0.0, 1, 0, 3]), len(actions) // 4)
        return jnp.repeat(jnp.sum(actions.reshape(-1, 4), axis=1), 4) + tree

    def weights(rollout, units):
        actions = jnp.sum(units >= 0, axis=1, dtype=jnp.float32)
        places = by_place(actions)
        rows = jnp.where(by_id(rollout, actions) == places, places, jnp.nan) / 100
        return jnp.where(units >= 0, rows[:, None], 0)

    method = METHOD._replace(objective=METHOD.objective._replace(weights=weights))
    first = np.arange(32) // 4 * 4
    parent = (first + np.tile([0, 1, 0, 3], 8)).astype(np.int32)  # each third row is a fork
    forked = ROLLOUT.replace(parent=parent)
    for cut in ({"minibatches": 8}, {"minibatches": 2, "epochs": 2, "micro_batches": 2}):
        state, metrics = run(method, rollout=forked, **cut)
        assert 0 < metrics["gradient_norm"] < np.inf and np.isfinite(metrics["loss"])
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize(
    ("needs", "sentence"),
    [
        ({"entropy", "values"}, "cannot meet the needs values; Method.needs may hold after, entropy, kl_ref"),
        ({"entropi", "bootstrap"}, "cannot meet the needs bootstrap, entropi"),
        ({"kl_ref"}, 'must hold "reference" too'),
    ],
)
def test_needs_that_nothing_meets_are_refused(needs, sentence):
    method = METHOD._replace(needs=frozenset(needs))
    with pytest.raises(ValueError, match=sentence):
        make_step(Program(BIGRAM, method, OPTIMIZER, plan()))


def test_one_trace_and_the_state_is_donated():
    chex.clear_trace_counter()
    state = jax.device_put(first_state(METHOD))
    step = chex.assert_max_traces(n=1)(make_step(Program(BIGRAM, METHOD, OPTIMIZER, plan())))
    compiled = compile_step(step)
    before = state.params["embedding"]
    for seed in range(2):
        state, _ = compiled(state, jax.device_put(small.rollout(seed)))
    assert before.is_deleted() and state.update == 2


def test_rows_without_signal_leave_the_parameters_alone():
    """All rewards equal: advantages are 0, so nothing moves but the penalties (here none)."""
    method = ALGORITHMS["dr_grpo"](max_length=10)
    program = Program(BIGRAM, method, OPTIMIZER, plan())
    same = ROLLOUT.replace(reward=np.ones_like(ROLLOUT.reward), outcome=np.ones_like(ROLLOUT.outcome))
    state, metrics = compile_step(make_step(program))(first_state(method), same)
    assert metrics["gradient_norm"] == 0 and metrics["signal_groups"] == 0
    chex.assert_trees_all_equal(state.params, PARAMS)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"minibatches": 3}, "32 rows in groups of 4 cannot be cut into 3 minibatches"),
        ({"micro_batches": 5}, "cannot be cut into 5 micro-batches on 1 devices"),
        ({"minibatches": 4, "shards": 3}, "8 rows cannot be cut into 1 micro-batches on 3 devices"),
        ({"temperature": 0.0}, "greedy rollout has no probabilities"),
        ({"epochs": 0}, "epochs=0"),
    ],
)
def test_impossible_plans_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        plan(**options)


def test_a_rollout_of_another_shape_is_refused():
    step = make_step(Program(BIGRAM, METHOD, OPTIMIZER, plan()))
    with pytest.raises(ValueError, match=r"the plan needs \(32, 16\)"):
        step(first_state(METHOD), small.rollout(prompts=4))
