"""Metrics by hand, and as sums that add."""

from __future__ import annotations

import examples
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.losses import metrics, objective
from gpg_jax.losses.penalties import kl_penalty
from gpg_jax.losses.weights import token_mean
from gpg_jax.types import STOP_EOS, STOP_LENGTH, Scores

MASK = np.array([[0, 1, 1, 0], [0, 1, 1, 1]], bool)
OLD = np.where(MASK, -1.0, np.nan).astype(np.float32)
RATIO = np.array([[1, 1.5, 0.5, 1], [1, 0.5, 1.5, 1.0]])
NEW = Scores(
    np.where(MASK, -1 + np.log(RATIO), np.inf).astype(np.float32), entropy=np.where(MASK, 0.5, np.nan)
)
ROLLOUT = examples.make_rollout(MASK, [1.0, 0.0], [0, 0], stop=np.array([STOP_EOS, STOP_LENGTH], np.int32))
BATCH = examples.make_batch(ROLLOUT, OLD)


def seen(method, scores=NEW):
    estimated, _ = objective.estimate(method, BATCH, method.state)
    weights = objective.weigh(method.objective, ROLLOUT, estimated)
    result = objective.loss(method.objective, scores, BATCH, estimated, *weights, ())[1]
    return result, metrics.rollout_metrics(objective.hide_masked(BATCH), estimated)


def test_by_hand():
    # A = (1, −1): clipped are r = 1.5 of the first row and r = .5 of the second
    update, rollout = seen(ALGORITHMS["grpo"](kl_coefficient=0.0))
    update, rollout = metrics.reduce(update), metrics.reduce(rollout)
    logs = np.log([1.5, 0.5, 0.5, 1.5, 1])
    expected = {
        "ratio_mean": 1.0,
        "ratio_max": 1.5,
        "log_ratio_clamped": 0,
        "clip_fraction": 2 / 5,
        "gate": 3 / 5,
        "kl_old_k1": -logs.mean(),
        "kl_old_k3": -logs.mean(),  # E[r] = 1 here
        "sampler_gap": 0,
        "sampler_gap_max": 0,
        "entropy": 0.5,
    }
    assert set(update) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(update[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
    assert rollout["truncated"] == 0.5 and rollout["signal_groups"] == 1 and rollout["length"] == 2.5
    np.testing.assert_allclose(rollout["advantage_mean"], (2 - 3) / 5, rtol=1e-6)
    np.testing.assert_allclose(rollout["advantage_square"], 1, rtol=1e-6)


@pytest.mark.parametrize(("reward", "outcome", "signal"), [([-1, 0], [0, 0], 1), ([-1, -1], [1, 0], 0)])
def test_a_group_has_a_signal_where_its_rewards_differ(reward, outcome, signal):
    """What is paid for is learnt, whatever is right."""
    reward, outcome = (np.array(values, np.float32) for values in (reward, outcome))
    batch = examples.make_batch(examples.make_rollout(MASK, reward, [0, 0], outcome=outcome))
    method = ALGORITHMS["grpo"](kl_coefficient=0.0)
    estimated = objective.estimate(method, batch, method.state)[0]
    found = metrics.reduce(metrics.rollout_metrics(objective.hide_masked(batch), estimated))
    assert found["signal_groups"] == signal and (found["advantage_square"] > 0) == signal


def test_divergences_count_rows_by_their_leaf_weight():
    """Row 1 twice with weight ½ is row 1 once; what is trained on counts both.

    A row without weight does not enter, not even by a ratio of e¹⁰⁰, whose k3 is ∞.
    """
    rows = np.array([0, 1, 1, 0])
    leaf_weight = np.array([1, 0.5, 0.5, 0], np.float32)
    forked = examples.make_rollout(MASK[rows], [1.0, 0.0, 0.0, 1.0], [0] * 4, leaf_weight=leaf_weight)
    new = NEW._replace(entropy=np.where(MASK, [[1], [2]], np.nan).astype(np.float32))
    reference = np.where(MASK, -1.5, np.nan).astype(np.float32)
    method = ALGORITHMS["grpo"](kl_coefficient=0.0)

    def watched(rollout, rows):
        batch = examples.make_batch(rollout, OLD[rows], reference[rows])
        estimated = objective.estimate(method, batch, method.state)[0]
        weights = objective.weigh(method.objective, rollout, estimated)
        scores = jax.tree.map(lambda leaf: leaf[rows], new)
        scores.log_prob[rollout.leaf_weight == 0] += 100
        return metrics.reduce(objective.loss(method.objective, scores, batch, estimated, *weights, ())[1])

    once, twice = watched(ROLLOUT, np.array([0, 1])), watched(forked, rows)
    for name in ("kl_old_k1", "kl_old_k3", "kl_reference", "entropy"):
        np.testing.assert_allclose(twice[name], once[name], rtol=1e-6, err_msg=name)
    np.testing.assert_allclose([once["clip_fraction"], twice["clip_fraction"]], [2 / 5, 5 / 10], rtol=1e-6)


def test_clamped_log_ratios_are_reported():
    far = NEW._replace(log_prob=np.where(MASK, [[0, 30, -1, 0], [0, -1, -1, -40]], 0).astype(np.float32))
    update = metrics.reduce(seen(ALGORITHMS["sapo"](), far)[0])
    np.testing.assert_allclose(update["log_ratio_clamped"], 2 / 5)
    # the mean of row 0 is 15.5; that of row 1 is −13: no unit is clamped
    assert metrics.reduce(seen(ALGORITHMS["gspo"](), far)[0])["log_ratio_clamped"] == 0


def test_held_penalties_are_reported():
    """d = log π_ref − log π_θ is (0, 3) and (−3, 1, .5): two of five outside ±2, one cost over .2 inside."""
    reference = np.where(MASK, -1.0, np.nan).astype(np.float32)
    new = Scores(np.where(MASK, [[0, -1, -4, 0], [0, 2, -2, -1.5]], np.nan).astype(np.float32))
    batch = examples.make_batch(ROLLOUT, OLD, reference)
    plain = ALGORITHMS["grpo"](kl_coefficient=0.0)

    def clamped(*penalties):
        method = plain._replace(objective=plain.objective._replace(penalties=penalties))
        estimated, _ = objective.estimate(method, batch, ())
        weights = objective.weigh(method.objective, ROLLOUT, estimated)
        scales = objective.penalty_coefficients(method.objective, ())
        loss = objective.loss(method.objective, new, batch, estimated, *weights, scales)
        return metrics.reduce(loss[1])

    held = kl_penalty("k3", 0.1, token_mean, bounds=(-2.0, 2.0))
    np.testing.assert_allclose(clamped(held)["kl_clamped"], 2 / 5, rtol=1e-6)
    capped = kl_penalty("k3", 0.1, token_mean, bounds=(-2.0, 2.0), cost_bounds=(-0.2, 0.2))
    np.testing.assert_allclose(clamped(capped, held)["kl_clamped"], 3 / 5, rtol=1e-6)
    costs = kl_penalty("k1", 0.1, token_mean, cost_bounds=(-2.0, 2.0))
    np.testing.assert_allclose(clamped(costs)["kl_clamped"], 2 / 5, rtol=1e-6)
    for penalties in ((), (kl_penalty("k3", 0.1, token_mean),)):
        assert "kl_clamped" not in clamped(*penalties)
    assert clamped()["reference_gap_max"] == 3


def test_a_soft_gate_is_part_open():
    update = metrics.reduce(seen(ALGORITHMS["sapo"]())[0])
    assert update["clip_fraction"] == 0
    openings = [1 / np.cosh(0.25 * t) ** 2 for t in (1.0, 1.0, 1.05, 1.05)] + [1]
    np.testing.assert_allclose(update["gate"], np.mean(openings), rtol=1e-5)


def test_merge_and_reduce():
    one = {"mean": (jnp.float32(1), jnp.float32(2)), "largest": jnp.float32(3)}
    two = {"mean": (jnp.float32(5), jnp.float32(1)), "largest": jnp.float32(-1)}
    assert metrics.reduce(metrics.merge(one, two)) == {"mean": 2, "largest": 3}
    assert metrics.reduce(metrics.merge(one, metrics.empty(one))) == {"mean": 0.5, "largest": 3}
    assert metrics.reduce({"mean": (jnp.float32(0), jnp.float32(0))}) == {"mean": 0}


def steering(batch, scores, estimated, method):
    """The weighted numbers: those of the rows, those of the critic, and the KL behind the updates."""
    watched = method.watch(objective.hide_masked(batch), estimated.unit_ids)
    rows = metrics.reduce(metrics.row_metrics(watched, batch.rollout))
    after = {"kl_after": metrics.kl_after(scores, batch, estimated)}
    return {
        name: float(value)
        for name, value in (rows | after | metrics.critic_metrics(batch, estimated)).items()
    }


def test_leaves_count_as_the_row_that_they_stand_for():
    """A row of which there are four with ¼ each says what it says once, and one of weight 0 says nothing."""
    method = ALGORITHMS["ppo"](bound="kl", kl_coefficient=0.2, kl_target=6.0)
    batch, scores = examples.random_batch(3)
    estimated, _ = objective.estimate(method, batch, method.state)
    leaves = np.array([0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 7])
    late = np.arange(12)[:, None] == 11
    many, new, fixed = jax.tree.map(lambda leaf: np.asarray(leaf)[leaves], (batch, scores, estimated))
    many = many._replace(
        old=many.old._replace(value=np.where(late, 50, many.old.value)),
        reference=many.reference._replace(log_prob=np.where(late, -15, many.reference.log_prob)),
    )
    new = new._replace(log_prob=np.where(late, -9, new.log_prob))

    def weighed(weight):
        rollout = many.rollout.replace(leaf_weight=np.float32(weight))
        return steering(many._replace(rollout=rollout), new, fixed, method)

    wanted, counted = steering(batch, scores, estimated, method), weighed(np.ones(12))
    found = weighed([0.25] * 4 + [1] * 7 + [0])
    assert found.keys() == {"kl_response", "kl_after", "explained_variance", "value_mean", "value_error"}
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)
        assert abs(counted[name] - value) > 1e-2, name
    nothing = weighed(np.zeros(12))
    assert set(nothing.values()) == {0}


def test_means_over_rows_add():
    """Of parts that weigh ¾ and 2: numerators and denominators, and not means, are added."""
    rollout = examples.make_rollout(np.ones((4, 2), bool), np.zeros(4), np.zeros(4))
    rollout = rollout.replace(leaf_weight=np.float32([0.25, 0.5, 1, 1]))
    values = np.float32([8, 2, 3, 5])
    halves = (
        metrics.row_metrics({"x": values[part]}, jax.tree.map(lambda leaf, part=part: leaf[part], rollout))
        for part in (slice(2), slice(2, 4))
    )
    assert metrics.reduce(metrics.merge(*halves)) == {"x": np.float32(11 / 2.75)}
    assert metrics.reduce(metrics.row_metrics({"x": values}, rollout)) == {"x": np.float32(11 / 2.75)}
