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
