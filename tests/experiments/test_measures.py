"""What the host counts of a rollout."""

import examples
import numpy as np
import pytest

from experiments import measures

MASK = np.array([[0, 1, 1, 1], [0, 1, 1, 0], [0, 1, 1, 1], [0, 1, 0, 1], [0, 1, 0, 0], [0, 1, 1, 0]], bool)


@pytest.mark.parametrize(
    ("parent", "fork", "drawn", "forks"),
    [
        ([0, 1, 2, 3, 4, 5], [1, 1, 1, 1, 1, 1], 13, 0.0),  # 3 + 2 + 3 + 2 + 1 + 2
        ([0, 0, 2, 3, 4, 5], [1, 2, 1, 1, 1, 1], 12, 0.5),  # row 1's first token is row 0's
        ([0, 0, 1, 3, 3, 3], [1, 2, 3, 1, 1, 2], 9, 2.0),  # 1 + 2 + 0 + 1 are another's
    ],
)
def test_what_forked_rows_share_is_drawn_once(parent, fork, drawn, forks):
    parent, fork = np.array(parent, np.int32), np.array(fork, np.int32)
    rollout = examples.make_rollout(MASK, np.zeros(6), [0, 0, 0, 1, 1, 1], parent=parent, fork=fork)
    assert measures.drawn_tokens(rollout) == drawn
    assert measures.forks(rollout) == forks
