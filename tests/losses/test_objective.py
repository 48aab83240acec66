"""The three phases: what is held fixed, what is refused, and what enters the sums."""

from __future__ import annotations

import examples
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.losses import objective
from gpg_jax.losses.penalties import entropy_bonus, kl_penalty
from gpg_jax.losses.weights import token_mean
from gpg_jax.types import Scores

BATCH, SCORES = examples.random_batch(seed=1)


def phases(method, batch, scores):
    estimated, _ = objective.estimate(method, batch, method.state)
    weights = objective.weigh(method.objective, batch.rollout, estimated)
    scales = objective.penalty_coefficients(method.objective, method.state)
    return objective.loss(method.objective, scores, batch, estimated, *weights, scales)[0]


def test_no_gradient_passes_what_is_held_fixed():
    method = ALGORITHMS["grpo"](correction="token", kl_placement="reward")

    def through_old(log_prob):
        batch = BATCH._replace(old=BATCH.old._replace(log_prob=log_prob))
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(objective.estimate(method, batch, ())[0]))

    gradient = jax.grad(through_old, allow_int=True)(jnp.asarray(BATCH.old.log_prob))
    np.testing.assert_array_equal(gradient, 0)


def test_refused_rows_enter_neither_numerator_nor_denominator():
    outcome = np.where(np.asarray(BATCH.rollout.group) == 0, 1.0, BATCH.rollout.outcome).astype(np.float32)
    batch = BATCH._replace(rollout=BATCH.rollout.replace(outcome=outcome))
    kept = np.flatnonzero(np.asarray(BATCH.rollout.group) == 1)
    method = ALGORITHMS["dapo"]()

    def only(tree):
        return jax.tree.map(lambda leaf: leaf[kept], tree)

    alone = only(batch)
    rows = np.arange(len(kept), dtype=np.int32)
    rollout = alone.rollout.replace(group=np.zeros_like(rows), parent=rows)
    smaller = jax.jit(lambda *rows: objective.coefficients(method, *rows))
    expected = smaller(alone._replace(rollout=rollout), only(SCORES))
    result = objective.coefficients(method, batch, SCORES)
    np.testing.assert_allclose(result[kept], expected, rtol=1e-5)
    np.testing.assert_array_equal(np.delete(np.asarray(result), kept, axis=0), 0)


def test_truncated_rows_may_be_dropped():
    stop = np.zeros(8, np.int32)
    stop[[1, 6]] = 1
    batch = BATCH._replace(rollout=BATCH.rollout.replace(stop=stop))
    method = ALGORITHMS["grpo"](drop_truncated=True, kl_coefficient=0.0)
    estimated, _ = objective.estimate(method, batch, ())
    weights, _ = objective.weigh(method.objective, batch.rollout, estimated)
    np.testing.assert_array_equal(np.asarray(weights)[[1, 6]], 0)
    np.testing.assert_allclose(jnp.sum(weights), 1, rtol=1e-6)
    whole = objective.estimate(ALGORITHMS["grpo"](kl_coefficient=0.0), batch, ())[0]
    inside = np.asarray(estimated.unit_ids) >= 0
    np.testing.assert_array_equal(estimated.advantage, np.where(inside, whole.advantage, 0))
    apart = ALGORITHMS["grpo"](drop_truncated=True, kl_coefficient=0.0, truncated_in_statistics=False)
    other = objective.estimate(apart, batch, ())[0].advantage
    assert np.abs(np.asarray(other - estimated.advantage)).max() > 0.1


@pytest.mark.parametrize("correction", ["token", "sequence", "token_mask", "sequence_mask"])
def test_an_equal_sampler_needs_no_correction(correction):
    behaviour = np.where(BATCH.rollout.action_mask, BATCH.old.log_prob, 0).astype(np.float32)
    batch = BATCH._replace(rollout=BATCH.rollout.replace(behaviour_log_prob=behaviour))
    corrected = objective.coefficients(ALGORITHMS["grpo"](correction=correction), batch, SCORES)
    plain = objective.coefficients(ALGORITHMS["grpo"](), batch, SCORES)
    np.testing.assert_array_equal(corrected, plain)
    other = objective.coefficients(ALGORITHMS["grpo"](correction=correction), BATCH, SCORES)
    assert np.abs(np.asarray(other - plain)).max() > 1e-4


def test_the_kl_is_not_corrected():
    """The correction multiplies the surrogate alone: with no advantage the two losses agree."""
    flat = BATCH._replace(rollout=BATCH.rollout.replace(reward=np.ones(8, np.float32)))
    plain = objective.coefficients(ALGORITHMS["grpo"](), flat, SCORES)
    corrected = objective.coefficients(ALGORITHMS["grpo"](correction="token"), flat, SCORES)
    np.testing.assert_array_equal(plain, corrected)


def test_an_entropy_bonus_is_a_weighted_mean():
    plain = phases(ALGORITHMS["dapo"](), BATCH, SCORES)
    with_bonus = phases(ALGORITHMS["dapo"](entropy_coefficient=0.5), BATCH, SCORES)
    entropy = np.asarray(SCORES.entropy)[np.asarray(BATCH.rollout.action_mask)].mean()
    np.testing.assert_allclose(with_bonus - plain, -0.5 * entropy, rtol=1e-4)


def test_full_kl_is_read_from_the_scores():
    method = ALGORITHMS["dapo"](kl_coefficient=0.5, kl_estimator="full")
    assert method.needs == {"reference", "kl_ref"}
    cost = np.where(BATCH.rollout.action_mask, 0.3, np.nan).astype(np.float32)
    with_kl = phases(method, BATCH, SCORES._replace(kl_ref=cost))
    np.testing.assert_allclose(with_kl - phases(ALGORITHMS["dapo"](), BATCH, SCORES), 0.15, rtol=1e-4)


def test_missing_scores_are_named():
    with pytest.raises(ValueError, match=r"Scores\.entropy"):
        phases(ALGORITHMS["grpo"](entropy_coefficient=0.1), BATCH, Scores(SCORES.log_prob))
    with pytest.raises(ValueError, match=r"Scores\.kl_ref"):
        phases(ALGORITHMS["grpo"](kl_estimator="full"), BATCH, SCORES)
    with pytest.raises(ValueError, match=r"Batch\.reference"):
        phases(ALGORITHMS["grpo"](), BATCH._replace(reference=None), SCORES)
    with pytest.raises(ValueError, match=r"Batch\.reference"):
        phases(ALGORITHMS["grpo"](kl_placement="reward"), BATCH._replace(reference=None), SCORES)
    with pytest.raises(ValueError, match="one a token"):
        phases(ALGORITHMS["grpo"](), BATCH, Scores(SCORES.log_prob[:, 1:]))


def test_a_coefficient_may_be_a_function_of_the_state():
    penalty = kl_penalty("k2", lambda state: 2 * state, token_mean)
    assert penalty.coefficient(jnp.float32(3)) == 6
    assert entropy_bonus(0.25, token_mean).coefficient(()) == 0.25
    with pytest.raises(ValueError, match="no KL estimator 'k4'"):
        kl_penalty("k4", 0.1, token_mean)


def test_pad_and_end_of_sequence_may_share_an_id():
    """O-38: the end-of-sequence token is trained, the pads after it are not, whatever their ids."""
    rollout = BATCH.rollout
    with_eos = rollout.replace(tokens=np.full_like(rollout.tokens, 2))
    other_pad = rollout.replace(tokens=np.where(rollout.action_mask, 2, 77).astype(np.int32))
    method = ALGORITHMS["grpo"]()
    one = objective.coefficients(method, BATCH._replace(rollout=with_eos), SCORES)
    two = objective.coefficients(method, BATCH._replace(rollout=other_pad), SCORES)
    np.testing.assert_array_equal(one, two)
    last = np.asarray(rollout.length) - 1
    assert np.all(np.asarray(one)[np.arange(8), last] != 0)
    np.testing.assert_array_equal(np.asarray(one)[~np.asarray(rollout.action_mask)], 0)
