"""O-14 and O-15: group advantages, and what they do with groups of one, of no spread and of forks."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.estimators.groups import group_centre, group_normalise, leave_one_out
from gpg_jax.estimators.segments import tree_roots

ONE = jnp.zeros(4, jnp.int32)
WEIGHT = jnp.ones(4)


@pytest.mark.parametrize(
    ("reward", "ddof", "expected"),
    [
        # mean 1/4, population std √(3)/4, sample std 1/2
        ((1, 0, 0, 0), 0, (1.7320508, -0.5773503, -0.5773503, -0.5773503)),
        ((1, 0, 0, 0), 1, (1.5, -0.5, -0.5, -0.5)),
        # mean 5/2, population variance 5/4, sample variance 5/3
        ((1, 2, 3, 4), 0, (-1.3416408, -0.4472136, 0.4472136, 1.3416408)),
        ((1, 2, 3, 4), 1, (-1.161895, -0.3872983, 0.3872983, 1.161895)),
    ],
)
def test_normalised_by_hand(reward, ddof, expected):
    reward = jnp.array(reward, jnp.float32)
    advantage = group_normalise(reward, ONE, WEIGHT, ddof=ddof)
    np.testing.assert_allclose(advantage, expected, rtol=1e-6)
    np.testing.assert_allclose(jnp.sum(advantage), 0, atol=1e-6)
    moved = group_normalise(1000 + 8 * reward, ONE, WEIGHT, ddof=ddof)
    np.testing.assert_allclose(moved, expected, rtol=1e-5)


@pytest.mark.parametrize("correct", range(1, 8))
def test_binary_rewards_of_eight(correct):
    # k of 8 right: p = k/8, population std √(p(1−p)), so ((1−p)/√…, −p/√…); k = 1: 2.6457513, −.3779645
    p = correct / 8
    reward = jnp.array([1.0] * correct + [0.0] * (8 - correct))
    std = np.sqrt(p * (1 - p))
    expected = [(1 - p) / std] * correct + [-p / std] * (8 - correct)
    group, weight = jnp.zeros(8, jnp.int32), jnp.ones(8)
    np.testing.assert_allclose(group_normalise(reward, group, weight), expected, rtol=1e-5)
    # leave-one-out is G/(G−1) times the centred advantage
    loo = reward - leave_one_out(reward, group, jnp.arange(8), weight)
    np.testing.assert_allclose(loo, 8 / 7 * group_centre(reward, group, weight), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e6, 0.0])
@pytest.mark.parametrize("eps", [0.0, 1e-9])
def test_a_constant_group_is_exactly_zero(value, eps):
    reward, group = jnp.full(7, value, jnp.float32), jnp.zeros(7, jnp.int32)
    for placement in ("inside", "outside"):
        advantage = group_normalise(reward, group, jnp.ones(7), ddof=1, eps=eps, eps_placement=placement)
        np.testing.assert_array_equal(advantage, 0)
    np.testing.assert_array_equal(group_centre(reward, group, jnp.ones(7)), 0)


def test_a_large_offset_costs_no_digits():
    reward = jnp.array([0.0, 1.0, 0.0, 0.0]) + 2.0**20
    np.testing.assert_allclose(group_normalise(reward, ONE, WEIGHT)[1], 1.7320508, rtol=1e-6)


def test_where_eps_stands():
    # population variance 1/4 of (0, 1): √(1/4) + 1/2 = 1 outside, √(1/4 + 3/4) = 1 inside
    reward, group, weight = jnp.array([0.0, 1.0]), jnp.zeros(2, jnp.int32), jnp.ones(2)
    outside = group_normalise(reward, group, weight, eps=0.5)
    inside = group_normalise(reward, group, weight, eps=0.75, eps_placement="inside")
    np.testing.assert_allclose(outside, [-0.5, 0.5])
    np.testing.assert_allclose(inside, [-0.5, 0.5])


def test_a_row_alone_in_its_group():
    reward, group = jnp.array([3.0, 1.0, 2.0]), jnp.array([0, 1, 1])
    for ddof in (0, 1):
        zero = group_normalise(reward, group, jnp.ones(3), ddof=ddof)
        raw = group_normalise(reward, group, jnp.ones(3), ddof=ddof, eps=0.5, singleton="raw")
        assert zero[0] == 0 and raw[0] == 2  # 3 / (1 + .5)
    assert group_centre(reward, group, jnp.ones(3), singleton="raw")[0] == 3
    assert leave_one_out(reward, group, jnp.arange(3), jnp.ones(3))[0] == 3


def test_a_whole_batch_may_set_the_scale():
    # deviations ±1 and ±3 from the groups' means; the batch (1, 3, −2, 4) has the mean 1.5, variance 5.25
    reward, group = jnp.array([1.0, 3, -2, 4]), jnp.array([0, 0, 1, 1])
    advantage = group_normalise(reward, group, jnp.ones(4), std_over="batch")
    np.testing.assert_allclose(advantage, np.array([-1, 1, -3, 3]) / np.sqrt(5.25), rtol=1e-6)


def test_rows_of_no_weight_leave_the_statistics():
    reward = jnp.array([1.0, jnp.nan, 0.0, 0.0])
    advantage = group_normalise(reward, ONE, jnp.array([1.0, 0, 1, 1]), ddof=1)
    alone = group_normalise(reward[jnp.array([0, 2, 3])], ONE[:3], jnp.ones(3), ddof=1)
    np.testing.assert_allclose(advantage[jnp.array([0, 2, 3])], alone, rtol=1e-6)
    baseline = leave_one_out(reward, ONE, jnp.arange(4), jnp.array([1.0, 0, 1, 1]))
    np.testing.assert_allclose(baseline[jnp.array([0, 2, 3])], [0, 0.5, 0.5])


@pytest.mark.parametrize("placement", ["inside", "outside"])
@pytest.mark.parametrize("ddof", [0, 1])
def test_rows_outside_of_statistics_without_spread_get_nothing(ddof, placement):
    """Finished rows all right and a truncated one wrong: no scale says how far −1 is, ε least of all."""
    reward, weight = jnp.array([1.0, 1, 1, 0]), jnp.array([1.0, 1, 1, 0])
    options = {"ddof": ddof, "eps": 1e-6, "eps_placement": placement}
    np.testing.assert_array_equal(group_normalise(reward, ONE, weight, **options), 0)
    alone = group_normalise(reward, ONE, jnp.array([1.0, 0, 0, 0]), **options)
    np.testing.assert_array_equal(alone, 0)
    # the batch has a spread: rewards in it 1, 1, 0, 2, of the population variance .5
    group, weight = jnp.array([0, 0, 0, 1, 1]), jnp.array([1.0, 1, 0, 1, 1])
    scaled = group_normalise(jnp.array([1.0, 1, 0, 0, 2]), group, weight, std_over="batch")
    np.testing.assert_allclose(scaled, np.array([0, 0, -1, -1, 1]) / np.sqrt(0.5), rtol=1e-6)


def test_leaf_weights_are_weights():
    # two half-leaves of one tree count as one row: (1, 1)/2 beside 0 is (1, 0)
    reward, weight = jnp.array([1.0, 1.0, 0.0]), jnp.array([0.5, 0.5, 1.0])
    group = jnp.zeros(3, jnp.int32)
    np.testing.assert_allclose(group_centre(reward, group, weight), [0.5, 0.5, -0.5])
    np.testing.assert_allclose(group_normalise(reward, group, weight), [1, 1, -1])
    np.testing.assert_allclose(
        group_normalise(reward, group, weight, ddof=1), np.sqrt([0.5] * 3) * [1, 1, -1]
    )


def test_leave_one_out_leaves_out_the_whole_tree():
    # rows 0, 1, 2 are a tree (2 forked from 1, 1 from 0), row 3 the other rollout of the prompt
    reward, parent = jnp.array([1.0, 2.0, 3.0, 10.0]), jnp.array([0, 0, 1, 3])
    weight = jnp.array([0.5, 0.25, 0.25, 1.0])
    baseline = leave_one_out(reward, ONE, parent, weight)
    np.testing.assert_allclose(baseline, [10, 10, 10, 1.75])  # .5·1 + .25·2 + .25·3
    one_tree = leave_one_out(reward, ONE, jnp.array([0, 0, 1, 0]), weight)
    np.testing.assert_array_equal(one_tree, reward)


def test_roots_of_a_long_chain_in_any_order():
    parent = jnp.array([3, 1, 0, 4, 4, 2, 1])  # 5 → 2 → 0 → 3 → 4, and 6 → 1
    np.testing.assert_array_equal(tree_roots(parent), [4, 1, 4, 4, 4, 4, 1])
    np.testing.assert_array_equal(tree_roots(jnp.maximum(jnp.arange(50) - 1, 0)), np.zeros(50))


@pytest.mark.parametrize(
    "wrong",
    [{"ddof": 2}, {"eps": -1.0}, {"eps_placement": "under"}, {"singleton": "one"}, {"std_over": "all"}],
)
def test_wrong_choices_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        group_normalise(jnp.zeros(4), ONE, WEIGHT, **wrong)
