"""Units hold every action once, in order, and nothing else."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_jax.decoding import units

MASK = jnp.array([[0, 1, 1, 0, 1, 1, 1, 0], [0, 0, 1, 0, 0, 0, 0, 0], [0] * 8], bool)


def test_by_hand():
    empty = [-1] * 8
    one = [-1, -1, 0, -1, -1, -1, -1, -1]
    np.testing.assert_array_equal(units.token_units(MASK), [[-1, 0, 1, -1, 2, 3, 4, -1], one, empty])
    np.testing.assert_array_equal(units.sequence_unit(MASK), [[-1, 0, 0, -1, 0, 0, 0, -1], one, empty])
    halves = [[-1, 0, 0, -1, 1, 1, 2, -1], one, empty]
    np.testing.assert_array_equal(units.fixed_length_units(MASK, 2), halves)
    # five actions in two units: ⌊2n/5⌋ = 0 0 0 1 1
    two = [[-1, 0, 0, -1, 0, 1, 1, -1], one, empty]
    np.testing.assert_array_equal(units.fixed_count_units(MASK, 2), two)


def test_the_ends_of_the_ladder():
    np.testing.assert_array_equal(units.fixed_count_units(MASK, 1), units.sequence_unit(MASK))
    np.testing.assert_array_equal(units.fixed_count_units(MASK, 99), units.token_units(MASK))
    np.testing.assert_array_equal(units.fixed_length_units(MASK, 1), units.token_units(MASK))
    np.testing.assert_array_equal(units.fixed_length_units(MASK, 99), units.sequence_unit(MASK))


@given(st.lists(st.booleans(), min_size=6, max_size=6), st.integers(1, 7))
def test_units_are_consecutive_and_nearly_equal(mask, count):
    ids = np.asarray(units.fixed_count_units(jnp.array([mask]), count))[0]
    np.testing.assert_array_equal(ids >= 0, mask)
    inside = ids[ids >= 0]
    if len(inside):
        assert np.all(np.isin(np.diff(inside), [0, 1])) and inside[0] == 0
        sizes = np.bincount(inside)
        assert len(sizes) == min(count, len(inside)) and sizes.max() - sizes.min() <= 1


def test_empty_units_are_refused():
    with pytest.raises(ValueError, match="at least 1 action"):
        units.fixed_length_units(MASK, 0)
    with pytest.raises(ValueError, match="at least 1 unit"):
        units.fixed_count_units(MASK, 0)


def test_units_end_after_the_tokens_named_and_at_every_gap():
    ends = jnp.array([[0, 1, 0, 0, 0, 1, 0, 0]] * 3, bool)
    found = units.units_ending(MASK, ends)
    np.testing.assert_array_equal(found[0], [-1, 0, 1, -1, 2, 2, 3, -1])
    np.testing.assert_array_equal(found[1], [-1, -1, 0, -1, -1, -1, -1, -1])
    np.testing.assert_array_equal(found[2], [-1] * 8)


def test_units_begin_where_the_policy_was_least_certain():
    entropy = jnp.array([[9.0, 0.1, 0.5, 9.0, 0.2, 0.9, 0.3, 9.0]] * 3)
    # two of five actions: the third and the second but one; the first action begins a unit anyway
    found = units.high_entropy_units(MASK, entropy, 0.4)
    np.testing.assert_array_equal(found[0], [-1, 0, 1, -1, 1, 2, 2, -1])
    np.testing.assert_array_equal(units.high_entropy_units(MASK, entropy, 1.0), units.token_units(MASK))
    for fraction in (0.0, 1.1):
        with pytest.raises(ValueError, match="must be in"):
            units.high_entropy_units(MASK, entropy, fraction)


@pytest.mark.parametrize(
    ("fraction", "actions", "count"),
    [(0.3, 50, 15), (0.3, 51, 16), (0.15, 100, 15), (0.3, 10250, 3075), (5 / 7, 7, 5), (0.001, 3, 1)],
)
def test_of_the_actions_so_many_begin_a_unit(fraction, actions, count):
    entropy = jnp.arange(actions, dtype=jnp.float32)[None]  # the last ones are the least certain
    found = units.high_entropy_units(jnp.ones((1, actions), bool), entropy, fraction)
    assert found[0].tolist() == [0] * (actions - count) + list(range(1, count + 1))


TOKENS = jnp.array(np.random.default_rng(0).integers(0, 50, (64, 24)))
LONG = jnp.broadcast_to((jnp.arange(24) >= 3) & (jnp.arange(24) % 7 != 6), (64, 24))


def test_degraded_units_keep_their_number():
    whole = units.fixed_length_units(LONG, 4)
    np.testing.assert_array_equal(units.degraded_units(whole, TOKENS, 0.0), whole)
    for noise in (0.3, 1.0):
        found = np.asarray(units.degraded_units(whole, TOKENS, noise))
        np.testing.assert_array_equal(found >= 0, LONG)
        np.testing.assert_array_equal(found.max(axis=1), np.asarray(whole).max(axis=1))
        assert (found != np.asarray(whole)).any()


def boundaries(ids):
    """Actions that begin a unit, as places among the row's actions."""
    inside = [row[row >= 0] for row in np.asarray(ids)]
    return [set(np.flatnonzero(np.diff(row)).tolist()) for row in inside]


def test_a_boundary_is_moved_as_often_as_the_noise_says():
    whole = units.fixed_length_units(LONG, 4)
    kept = []
    for seed in range(20):
        found = units.degraded_units(whole, TOKENS, 0.5, seed)
        kept += [
            len(one & two) / len(one) for one, two in zip(boundaries(whole), boundaries(found), strict=True)
        ]
    # 4 boundaries among 17 places: half are kept, and of the moved ones some come back by chance
    actions = int(LONG[0].sum()) - 1
    back = 0.5 * np.mean([2 / (actions - 2)])
    assert 0.5 - 0.03 < np.mean(kept) < 0.5 + back + 0.06


def test_random_boundaries_are_everywhere_alike():
    whole = units.fixed_count_units(LONG, 2)
    places = [
        place
        for seed in range(40)
        for row in boundaries(units.degraded_units(whole, TOKENS, 1.0, seed))
        for place in row
    ]
    counts = np.bincount(places, minlength=int(LONG[0].sum()) - 1)
    expected = len(places) / len(counts)
    assert np.sum((counts - expected) ** 2 / expected) < 2 * len(counts)  # chi-square, far past its 99.9 %


def test_what_is_drawn_depends_on_the_row_alone():
    whole = units.fixed_length_units(LONG, 4)
    found = units.degraded_units(whole, TOKENS, 0.7)
    order = np.random.default_rng(1).permutation(64)
    np.testing.assert_array_equal(units.degraded_units(whole[order], TOKENS[order], 0.7), found[order])
    wider = [jnp.pad(x, ((0, 0), (0, 5)), constant_values=value) for x, value in ((whole, -1), (TOKENS, 0))]
    np.testing.assert_array_equal(units.degraded_units(*wider, 0.7)[:, :24], found)
    with pytest.raises(ValueError, match="noise must be in"):
        units.degraded_units(whole, TOKENS, 1.5)
