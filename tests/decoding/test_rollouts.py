"""Rows from prompts and responses, by hand."""

import numpy as np
import pytest

from gpg_jax.decoding.loop import Responses
from gpg_jax.decoding.rollouts import build_rollout, pad_prompts, response_ids, written

PROMPTS = pad_prompts([[5, 6, 7], [8]], 3)
RESPONSES = written(
    Responses(
        tokens=np.array([[11, 12], [13, 0], [14, 15], [16, 0]]),
        log_prob=np.array([[-0.1, -0.2], [-0.3, 0], [-0.4, -0.5], [-0.6, 0]]),
        length=np.array([2, 1, 2, 1]),
        stop=np.array([1, 0, 1, 0]),
        steps=np.array([2]),
    )
)


def test_rows_by_hand():
    rows = build_rollout(PROMPTS, RESPONSES, outcome=[1, 0, 1, 0], reward=[1, 0, 2, 0], version=3)
    np.testing.assert_array_equal(
        rows.tokens, [[5, 6, 7, 11, 12], [5, 6, 7, 13, 0], [8, 14, 15, 0, 0], [8, 16, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        rows.action_mask, [[0, 0, 0, 1, 1], [0, 0, 0, 1, 0], [0, 1, 1, 0, 0], [0, 1, 0, 0, 0]]
    )
    np.testing.assert_allclose(
        rows.behaviour_log_prob,
        [[0, 0, 0, -0.1, -0.2], [0, 0, 0, -0.3, 0], [0, -0.4, -0.5, 0, 0], [0, -0.6, 0, 0, 0]],
    )
    assert rows.prompt_length.tolist() == [3, 3, 1, 1] and rows.length.tolist() == [5, 4, 3, 2]
    assert rows.group.tolist() == [0, 0, 1, 1] and rows.version.tolist() == [3] * 4
    assert rows.fork.tolist() == [3, 3, 1, 1] and rows.parent.tolist() == [0, 1, 2, 3]
    assert rows.stop.tolist() == [1, 0, 1, 0] and rows.reward.tolist() == [1, 0, 2, 0]


def test_rows_with_tools_and_forks_by_hand():
    # Row 1 was forked from row 0 behind its first token; row 3 has a tool's token in the middle.
    said = RESPONSES._replace(
        tokens=np.array([[11, 12], [11, 13], [14, 0], [16, 17]]),
        acted=np.array([[1, 1], [1, 1], [1, 0], [0, 1]], bool),
        length=np.array([2, 2, 1, 2]),
        parent=np.array([0, 0, 2, 3]),
        fork=np.array([0, 1, 0, 0]),
    )
    kwargs = dict(outcome=np.zeros(4), reward=np.zeros(4), version=0)
    rows = build_rollout(PROMPTS, said, leaf_weight="tree", **kwargs)
    assert rows.parent.tolist() == [0, 0, 2, 3] and rows.fork.tolist() == [3, 4, 1, 1]
    assert rows.leaf_weight.tolist() == [0.5, 0.5, 1, 1]
    assert rows.action_mask[3].tolist() == [False, False, True, False, False]
    assert rows.tokens[3].tolist() == [8, 16, 17, 0, 0] and rows.length[3] == 3
    assert build_rollout(PROMPTS, said, **kwargs).leaf_weight.tolist() == [1] * 4
    late = said._replace(late=np.array([0, 0, 0, 1], bool))
    assert build_rollout(PROMPTS, late, leaf_weight="tree", **kwargs).leaf_weight.tolist() == [0.5, 0.5, 1, 0]
    assert build_rollout(PROMPTS, late, leaf_weight="forest", **kwargs).leaf_weight.tolist() == [
        0.5,
        0.5,
        1,
        1,
    ]


def test_the_padding_id_is_never_kept():
    other = pad_prompts([[5, 6, 7], [8]], 3, padding=9)
    kwargs = dict(outcome=np.zeros(4), reward=np.zeros(4), version=0)
    np.testing.assert_array_equal(
        build_rollout(other, RESPONSES, **kwargs).tokens, build_rollout(PROMPTS, RESPONSES, **kwargs).tokens
    )


def test_response_ids_end_at_the_stop():
    assert response_ids(RESPONSES) == [[11, 12], [13], [14, 15], [16]]


@pytest.mark.parametrize(("ids", "count"), [([[1, 2, 3, 4]], 4), ([[1], []], 0)])
def test_prompts_outside_their_budget_are_refused(ids, count):
    with pytest.raises(ValueError, match=f"has {count} tokens; a prompt needs 1 to 3 of them"):
        pad_prompts(ids, 3)


def test_greedy_rows_and_odd_counts_are_refused():
    kwargs = dict(outcome=np.zeros(4), reward=np.zeros(4), version=0)
    with pytest.raises(ValueError, match="greedy rollout has no probabilities"):
        build_rollout(PROMPTS, RESPONSES, greedy=True, **kwargs)
    with pytest.raises(ValueError, match="4 responses cannot be shared out among 3 prompts"):
        build_rollout(pad_prompts([[1], [2], [3]], 3), RESPONSES, **kwargs)
