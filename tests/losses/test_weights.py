"""O-16: every aggregation is a weighted sum; its weights by hand."""

from __future__ import annotations

import examples
import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.losses import weights

# two rows of 2 and 4 actions, one without any
MASK = np.array([[0, 1, 1, 0, 0, 0], [0, 1, 1, 0, 1, 1], [0] * 6], bool)
UNITS = jnp.array([[-1, 0, 0, -1, -1, -1], [-1, 0, 0, -1, 0, 1], [-1] * 6])
ROLLOUT = examples.make_rollout(MASK, [0, 0, 0], [0, 0, 0])
LOSS = jnp.where(MASK, jnp.array([[1.0], [-1.0], [jnp.nan]]), 0)

CASES = [
    # token losses +1 (2 of them) and −1 (4): Σ of the two rows, aggregated
    (weights.token_sum, -2),
    (weights.token_mean, -1 / 3),
    (weights.sequence_mean, 0),
    (weights.sequence_mean_token_sum, -1),
    (weights.constant_length(8), -0.125),
    (weights.unit_sum_weights, -0.5),  # (1 − 2)/2: one unit, two units
    (weights.unit_mean_weights, -1 / 3),  # (1 − 1 − 1)/3
]


@pytest.mark.parametrize(("aggregation", "expected"), CASES)
def test_by_hand(aggregation, expected):
    weight = aggregation(ROLLOUT, UNITS)
    np.testing.assert_allclose(jnp.sum(weight * LOSS), expected, atol=1e-6)
    np.testing.assert_array_equal(weight[~MASK], 0)


@pytest.mark.parametrize(("aggregation", "expected"), CASES)
def test_a_row_of_weight_two_counts_as_two_rows(aggregation, expected):
    del expected
    twice = ROLLOUT.replace(leaf_weight=np.array([2, 1, 5], np.float32))
    copies = jnp.array([0, 0, 1, 2])
    rollout = examples.make_rollout(MASK[copies], [0] * 4, [0] * 4)
    expected = jnp.sum(aggregation(rollout, UNITS[copies]) * LOSS[copies])
    np.testing.assert_allclose(jnp.sum(aggregation(twice, UNITS) * LOSS), expected, atol=1e-6)


@pytest.mark.parametrize(("aggregation", "expected"), CASES)
def test_a_batch_without_actions_weighs_nothing(aggregation, expected):
    del expected
    np.testing.assert_array_equal(aggregation(ROLLOUT, jnp.full_like(UNITS, -1)), 0)


def test_a_constant_length_is_positive():
    with pytest.raises(ValueError, match="must be positive"):
        weights.constant_length(0)
