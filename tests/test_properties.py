"""Laws that hold for any rollout: padding, order, micro-batches, shifts and scales, masks, extremes."""

from __future__ import annotations

import dataclasses

import examples
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.losses import metrics, objective
from gpg_jax.types import Batch, Scores

SEEDS = st.integers(0, 2**16)
FEW = settings(max_examples=5)

SHIFT_INVARIANT = set(ALGORITHMS) - {"reinforce", "reinforce_constant", "reinforce_running", "vanilla"}
"""Methods whose baseline moves with the rewards."""
CRITICS = {name for name, make in ALGORITHMS.items() if "value" in make().needs}
"""Methods whose baseline is a critic's value, which moves with the rewards if it is right."""
SCALE_INVARIANT = {"grpo", "dapo", "gspo", "gspo_token", "sapo", "gpg"}
"""Methods that divide by the group's std. The others are linear, but for a constant baseline."""
LINEAR = set(ALGORITHMS) - SCALE_INVARIANT - CRITICS - {"reinforce_constant"}


def with_rollout(batch: Batch, **fields) -> Batch:
    return batch._replace(rollout=dataclasses.replace(batch.rollout, **fields))


def push(name, batch, scores):
    value, coefficients, _ = examples.compiled(name)(batch, scores)
    return float(value), np.asarray(coefficients)


def close(left, right, tolerance=1e-5):
    np.testing.assert_allclose(left[0], right[0], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(left[1], right[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ALGORITHMS)
@FEW
@given(SEEDS)
def test_rows_may_stand_in_any_order(name, seed):
    batch, scores = examples.random_batch(seed)
    order = np.random.default_rng(seed).permutation(8)
    moved, moved_scores = jax.tree.map(lambda leaf: np.asarray(leaf)[order], (batch, scores))
    rank = np.argsort(order).astype(np.int32)
    moved = with_rollout(moved, parent=rank[batch.rollout.parent[order]])
    value, coefficients = push(name, batch, scores)
    close(push(name, moved, moved_scores), (value, coefficients[order]))


@pytest.mark.parametrize("name", sorted(SHIFT_INVARIANT))
@FEW
@given(SEEDS, st.floats(-5, 5, width=32))
def test_a_shift_of_the_rewards_changes_nothing(name, seed, shift):
    batch, scores = examples.random_batch(seed)
    shift = np.float32(shift)
    moved = with_rollout(batch, reward=batch.rollout.reward + shift)
    expected = push(name, batch, scores)
    if name in CRITICS:
        moved = moved._replace(old=moved.old._replace(value=moved.old.value + shift))
        scores = scores._replace(value=scores.value + shift)
    close(push(name, moved, scores), expected, 1e-4)


@pytest.mark.parametrize("name", sorted(SCALE_INVARIANT | LINEAR))
@FEW
@given(SEEDS, st.floats(0.125, 8, width=32))
def test_a_scale_of_the_rewards_scales_the_push_or_nothing(name, seed, scale):
    batch, scores = examples.random_batch(seed)
    scaled = with_rollout(batch, reward=batch.rollout.reward * np.float32(scale))
    factor = 1 if name in SCALE_INVARIANT else scale
    value, coefficients = push(name, batch, scores)
    close(push(name, scaled, scores), (factor * value, factor * coefficients), 1e-4)


@pytest.mark.parametrize(("name", "power"), [("a2c", 1), ("ppo", 0)])
@FEW
@given(SEEDS, st.floats(0.125, 8, width=32))
def test_rewards_and_values_in_another_unit_scale_the_push_unless_it_is_whitened(name, power, seed, scale):
    batch, scores = examples.random_batch(seed)
    scale = np.float32(scale)
    scaled = with_rollout(batch, reward=batch.rollout.reward * scale)
    scaled = scaled._replace(old=scaled.old._replace(value=scaled.old.value * scale))
    _, coefficients = push(name, batch, scores)
    _, moved = push(name, scaled, scores._replace(value=scores.value * scale))
    np.testing.assert_allclose(moved, scale**power * coefficients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_stands_under_the_mask_is_not_read(name):
    batch, scores = examples.random_batch(2)
    mask = np.asarray(batch.rollout.action_mask)

    def poison(tree, values):
        noise = np.resize(np.float32(values), mask.shape)
        return jax.tree.map(lambda leaf: np.where(mask, leaf, noise) if np.ndim(leaf) == 2 else leaf, tree)

    expected = push(name, batch, scores)
    for values in ([np.nan, np.inf, -np.inf], [-np.inf], [1e30, -1e30]):
        behaviour = poison(batch.rollout.behaviour_log_prob, values)
        noisy = with_rollout(batch, behaviour_log_prob=behaviour)
        noisy = noisy._replace(old=poison(batch.old, values), reference=poison(batch.reference, values))
        close(push(name, noisy, poison(scores, values)), expected, 0)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_wholly_masked_rows_contribute_nothing(name):
    """Rows 1 and 6 without actions, whatever they carry, are rows that are not there."""
    batch, scores = examples.random_batch(2)
    gone = np.isin(np.arange(8), [1, 6])
    mask = np.asarray(batch.rollout.action_mask) & ~gone[:, None]
    outcome = (np.arange(8) % 3 == 0).astype(np.float32)
    empty = with_rollout(batch, action_mask=mask, outcome=outcome)
    value, coefficients = push(name, empty, scores)
    np.testing.assert_array_equal(coefficients[gone], 0)
    assert np.abs(coefficients).max() > 1e-5
    other = np.where(gone, 100, batch.rollout.reward).astype(np.float32)
    moved = with_rollout(empty, reward=other, outcome=np.where(gone, 1 - outcome, outcome))
    close(push(name, moved, scores), (value, coefficients), 0)
    if name not in ("grpo", "dapo", "rloo", "reinforce_batch", "gpg"):
        return  # the others' weights and baselines are among these
    rest = np.flatnonzero(~gone)
    less, less_scores = jax.tree.map(lambda leaf: np.asarray(leaf)[rest], (empty, scores))
    less = with_rollout(less, parent=np.arange(6, dtype=np.int32))
    close(push(name, less, less_scores), (value, coefficients[rest]))


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in ALGORITHMS), ("ppo", {"bound": "kl"})]
)
def test_extremes_are_finite(name, options):
    """O-36: log-ratios of ±1e4, no action at all, groups of one."""
    batch, scores = examples.random_batch(2)
    mask = np.asarray(batch.rollout.action_mask)
    far = np.where(np.arange(9) % 2, 1e4, -1e4).astype(np.float32)
    rows = np.arange(8, dtype=np.int32)
    cases = [
        (batch, scores._replace(log_prob=scores.log_prob + far)),
        (with_rollout(batch, action_mask=np.zeros_like(mask)), scores),
        (with_rollout(batch, group=rows), scores),
        (with_rollout(batch, reward=np.ones(8, np.float32), outcome=np.ones(8, np.float32)), scores),
    ]
    for case in cases:
        value, coefficients, seen = examples.compiled(name, **options)(*case)
        assert np.isfinite(value) and np.all(np.isfinite(coefficients))
        assert all(np.all(np.isfinite(x)) for key, x in seen.items() if not key.startswith("kl_")), seen
    value, coefficients, _ = examples.compiled(name, **options)(*cases[1])
    assert value == 0 and np.all(np.asarray(coefficients) == 0)


@pytest.mark.parametrize("convention", ["trl", "oat"])
@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "gspo_token", "gpg"])
def test_conventions_without_a_log_ratio_range_are_never_nan(name, convention):
    """Log-ratios of ±100 and no range: the loss is ∞ where an open gate's is, and nothing is NaN."""
    batch, scores = examples.random_batch(2)
    method = ALGORITHMS[name](convention=convention, kl_coefficient=0.0)
    scores = scores._replace(log_prob=batch.old.log_prob)
    _, on_policy, _ = examples.loss_and_coefficients(method, batch, scores)
    rises = np.asarray(on_policy) < 0  # a positive advantage
    for far in (100.0, -100.0):
        for where in (rises, np.asarray(batch.rollout.action_mask)):
            moved = scores._replace(log_prob=scores.log_prob + np.where(where, np.float32(far), 0))
            value, coefficients, _ = examples.loss_and_coefficients(method, batch, moved)
            assert not np.isnan(value) and not np.any(np.isnan(coefficients))
            if where is rises and far > 0:
                assert np.isfinite(value)
                np.testing.assert_array_equal(np.asarray(coefficients)[rises], 0)


@pytest.mark.parametrize("name", ["grpo", "gpg", "vanilla"])
def test_all_rows_truncated_and_dropped(name):
    batch, scores = examples.random_batch(2)
    batch = with_rollout(batch, stop=np.ones(8, np.int32))
    for options in ({}, {"truncated_in_statistics": False}) if name != "vanilla" else ({},):
        method = ALGORITHMS[name](drop_truncated=True, **options)
        value, coefficients, _ = examples.loss_and_coefficients(method, batch, scores)
        assert value == 0 and np.all(np.asarray(coefficients) == 0)


@pytest.mark.parametrize("name", ["vanilla", "grpo", "dr_grpo", "dapo", "gpg"])
def test_padding_changes_nothing(name):
    batch, scores = examples.random_batch(2)

    def pad(leaf):
        leaf = np.asarray(leaf)
        return np.pad(leaf, ((0, 0), (0, 4))) if leaf.ndim == 2 else leaf

    wide, wide_scores = jax.tree.map(pad, (batch, scores))
    value, coefficients = push(name, batch, scores)
    wide_value, wide_coefficients, _ = examples.loss_and_coefficients(ALGORITHMS[name](), wide, wide_scores)
    close((wide_value, wide_coefficients), (value, pad(coefficients)))


@pytest.mark.parametrize("name", ["grpo", "dapo", "gpg"])
def test_micro_batches_add(name):
    batch, scores = examples.random_batch(6)
    method = ALGORITHMS[name](entropy_coefficient=0.1)
    estimated, _ = objective.estimate(method, batch, method.state)
    weights = objective.weigh(method.objective, batch.rollout, estimated)
    scales = objective.penalty_coefficients(method.objective, method.state)

    @jax.jit
    def whole_and_parts(scores: Scores):
        def part(rows):
            return objective.loss(method.objective, *rows, scales)

        everything = (scores, batch, estimated, *weights)
        value, seen = part(everything)
        total, summed = jnp.float32(0), metrics.empty(seen)
        for rows in (slice(0, 1), slice(1, 4), slice(4, 8)):
            one, one_seen = part(jax.tree.map(lambda leaf, rows=rows: leaf[rows], everything))
            total, summed = total + one, metrics.merge(summed, one_seen)
        return (value, metrics.reduce(seen)), (total, metrics.reduce(summed))

    one, many = whole_and_parts(scores)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6), one, many)


@pytest.mark.parametrize("name", ["gpg"])
def test_sharded_rows_give_the_same_numbers(name):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    batch, scores = examples.random_batch(6)
    value, coefficients, _ = examples.compiled(name)(*jax.device_put((batch, scores), rows))
    close((value, coefficients), push(name, batch, scores))
