"""O-21: dynamic sampling reads what the verifier said."""

from __future__ import annotations

import examples
import numpy as np

from gpg_jax.estimators import filters
from gpg_jax.types import STOP_EOS, STOP_LENGTH, STOP_TOOL_LIMIT


def rollout(outcome, group, **fields):
    outcome = np.asarray(outcome, np.float32)
    return examples.make_rollout(np.ones((len(group), 2), bool), outcome, group).replace(**fields)


def test_groups_of_equal_outcomes_are_refused():
    # all wrong, all right, mixed, and a constant .5, whose mean lies strictly between 0 and 1
    outcome = [0, 0, 1, 1, 1, 0, 0.5, 0.5]
    keep = filters.mixed_outcomes(rollout(outcome, [0, 0, 1, 1, 2, 2, 3, 3]))
    np.testing.assert_array_equal(keep, [0, 0, 0, 0, 1, 1, 0, 0])
    alone = filters.mixed_outcomes(rollout([1.0], [0]))
    np.testing.assert_array_equal(alone, [False])


def test_the_shaped_reward_does_not_hide_a_group_without_signal():
    shaped = np.array([1.0, 0.4, 1.0, -0.3], np.float32)  # an overlong penalty spread equal outcomes
    equal = rollout([1, 1, 1, 0], [0, 0, 1, 1], reward=shaped)
    np.testing.assert_array_equal(filters.mixed_outcomes(equal), [0, 0, 1, 1])
    flat = rollout([1, 0], [0, 0], reward=np.zeros(2, np.float32))
    np.testing.assert_array_equal(filters.mixed_outcomes(flat), [1, 1])


def test_rows_may_stand_in_any_order():
    outcome, group = np.array([0, 1, 0, 0, 1, 1]), np.array([4, 2, 4, 2, 5, 5])
    keep = filters.mixed_outcomes(rollout(outcome, group))
    np.testing.assert_array_equal(keep, [0, 1, 0, 1, 0, 0])


def test_finished_rows():
    stop = np.array([STOP_EOS, STOP_LENGTH, STOP_TOOL_LIMIT], np.int32)
    rows = rollout([1, 1, 1], [0, 0, 0], stop=stop)
    np.testing.assert_array_equal(filters.finished(rows), [1, 0, 0])
    np.testing.assert_array_equal(filters.every_row(rows), [1, 1, 1])
