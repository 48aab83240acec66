"""O-30: rows that share tokens, hard and soft; what the shared tokens are pushed by, taken together."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.losses.objective import coefficients
from gpg_jax.types import STOP_EOS, STOP_LENGTH, Batch, Rollout, Scores

# Two rows share two tokens behind a prompt of one, then part; their responses have 4 and 3 tokens. A third
# row has the first token by chance, a fourth nothing.
TOKENS = np.array([[9, 1, 2, 3, 4], [9, 1, 2, 5, 0], [9, 1, 6, 6, 6], [9, 7, 7, 7, 7]])
LENGTH = np.array([5, 4, 5, 5])
ACTED = (np.arange(5)[None] >= 1) & (np.arange(5)[None] < LENGTH[:, None])
REWARD = np.array([1.0, 0.0, 0.5, -1.0], np.float32)


def batch(reward=REWARD, **changed) -> Batch:
    rollout = Rollout(
        tokens=TOKENS,
        action_mask=ACTED,
        prompt_length=np.ones(4, int),
        length=LENGTH,
        behaviour_log_prob=np.where(ACTED, -1.0, 0).astype(np.float32),
        group=np.zeros(4, int),
        parent=np.array([0, 0, 2, 3]),
        fork=np.array([1, 3, 1, 1]),
        leaf_weight=np.ones(4, np.float32),
        stop=np.zeros(4, int),
        version=np.zeros(4, int),
        outcome=reward,
        reward=reward,
    )
    return Batch(rollout.replace(**changed), Scores(jnp.where(ACTED, -1.0, 0.0)))


def gpg(**options):
    return ALGORITHMS["gpg"](unit_count=1, ratio="token", **options)


def pushes(method, given=None, scores=None) -> np.ndarray:
    """What moves log π of each *node*: the two copies of a shared token are one."""
    each = np.asarray(coefficients(method, given or batch(), scores))
    return np.concatenate([each[0, 1:3] + each[1, 1:3], each[0, 3:], each[1, 3:], *each[2:, 1:]])


@pytest.mark.parametrize("aggregation", ["token_sum", "token_mean"])
def test_hard_and_soft_push_a_shared_token_alike(aggregation):
    hard = pushes(gpg(calibration="hard", aggregation=aggregation))
    soft = pushes(gpg(calibration="soft", aggregation=aggregation))
    np.testing.assert_allclose(hard, soft, atol=1e-7)
    assert np.max(np.abs(soft)) > 0.05


def test_not_where_a_row_counts_by_its_own_length():
    # The copies have the weights 1/4 and 1/3: their mean advantage is not their advantages' weighted mean.
    hard = pushes(gpg(calibration="hard", aggregation="sequence_mean"))
    soft = pushes(gpg(calibration="soft", aggregation="sequence_mean"))
    advantage = (REWARD - REWARD.mean()) / REWARD.std()
    expected = advantage[:2] @ [1 / 4, 1 / 3] - advantage[:2].mean() * (1 / 4 + 1 / 3)
    np.testing.assert_allclose((hard - soft)[:2], expected / 4, atol=1e-6)
    assert abs(expected) > 0.03


def test_not_once_the_clip_binds():
    # r = 1.5: the row with A > 0 is clipped, the one with A < 0 is not; their mean is one or the other.
    scores = Scores(jnp.where(ACTED, -1.0 + np.log(1.5), 0.0))
    hard = pushes(gpg(calibration="hard", aggregation="token_mean"), scores=scores)
    soft = pushes(gpg(calibration="soft", aggregation="token_mean"), scores=scores)
    assert np.max(np.abs(hard - soft)[:2]) > 0.01


def test_rows_that_were_not_forked_keep_their_own():
    alone = batch(parent=np.arange(4), fork=np.ones(4, int))
    soft = coefficients(gpg(calibration="soft"), alone)
    np.testing.assert_allclose(coefficients(gpg(calibration="hard"), alone), soft, atol=1e-7)
    by_tokens = coefficients(gpg(calibration="hard", prefix="tokens"), alone)
    assert np.max(np.abs(by_tokens - soft)) > 0.01  # three of them began with the same token by chance


@pytest.mark.parametrize("in_statistics", [False, True])
def test_a_row_that_the_loss_leaves_out_calibrates_nobody(in_statistics):
    cut_off = batch(stop=np.array([STOP_EOS, STOP_LENGTH, STOP_EOS, STOP_EOS]))
    options = {"aggregation": "token_sum", "drop_truncated": True}
    kept = {"truncated_in_statistics": in_statistics}
    soft = np.asarray(coefficients(gpg(calibration="soft", **options, **kept), cut_off))
    hard = coefficients(gpg(calibration="hard", **options, **kept), cut_off)
    np.testing.assert_allclose(hard, soft, atol=1e-7)
    assert abs(soft[0, 1]) > 0.5 and not soft[1].any()
    tree = -np.asarray(coefficients(gpg(calibration="tree", **options), cut_off))
    np.testing.assert_allclose(tree[0, 1:], [1 - (1 + 0.5 - 1) / 3] * 2 + [0, 0], atol=1e-6)


def test_a_token_of_everybody_is_pushed_by_nothing():
    everybody = batch(tokens=np.where(np.arange(5)[None] == 1, 1, TOKENS))
    hard = np.asarray(coefficients(gpg(prefix="tokens", aggregation="token_sum"), everybody))
    np.testing.assert_allclose(hard[:, 1], 0, atol=1e-6)
    before = np.asarray(coefficients(gpg(prefix="tokens", inclusive=False, aggregation="token_sum"), batch()))
    np.testing.assert_allclose(before[:, 1], 0, atol=1e-6)


def test_branches_are_worth_what_they_bring_beside_their_parent():
    found = -np.asarray(coefficients(gpg(calibration="tree", aggregation="token_sum"), batch()))
    trunk = 0.5 - REWARD.mean()  # the shared part has leaves of 1 and 0, the group the mean 0.125
    np.testing.assert_allclose(found[0, 1:], [trunk, trunk, 0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(found[1, 1:4], [trunk, trunk, -0.5], atol=1e-6)
    np.testing.assert_allclose(found[3, 1:], [-1 - REWARD.mean()] * 4, atol=1e-6)


def test_leaf_weights_count():
    weighted = batch(leaf_weight=np.array([0.75, 0.25, 1, 1], np.float32))
    found = coefficients(gpg(calibration="hard", aggregation="token_sum"), weighted)
    mean = np.average(REWARD, weights=[0.75, 0.25, 1, 1])
    std = np.sqrt(np.average((REWARD - mean) ** 2, weights=[0.75, 0.25, 1, 1]))
    shared = (0.75 - mean) / std
    np.testing.assert_allclose(found[:2, 1], [-0.75 * shared, -0.25 * shared], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibration": "soft-ish"}, "calibration must be one of hard, soft, tree"),
        ({"prefix": "words"}, "prefix one of tree, tokens"),
        ({"calibration": "tree", "inclusive": False}, "compares branches"),
        ({"calibration": "tree", "ddof": 1}, "does not read 'ddof'"),
        ({"calibration": "tree", "advantage_range": (-1.0, 1.0)}, "does not read 'advantage_range'"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        gpg(**options)
