"""Deliveries: delays, bounds on staleness, and the journal of a run."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gpg_jax.training.deliveries import Delivery, admissible, check_deliveries, delayed, read_delivery


def test_delays_repeat_and_begin_with_what_there_is():
    found = list(delayed(range(5, 11), (0, 2, 3), actors=2))
    # staleness 3 is asked of iteration 7, and parameters are known from behind iteration 4 on
    assert [one.staleness for one in found] == [0, 1, 2, 0, 2, 3]
    assert [one.version for one in found] == [4, 4, 4, 7, 6, 6]
    assert [one.actor for one in found] == [0, 1, 0, 1, 0, 1]
    assert [one.ticket for one in found] == [one.step for one in found] == list(range(5, 11))


@pytest.mark.parametrize(("delays", "actors"), [((), 1), ((-1,), 1), ((0,), 0)])
def test_delays_that_cannot_be(delays, actors):
    with pytest.raises(ValueError, match="give one delay at least"):
        list(delayed(range(1, 3), delays, actors))


@given(st.lists(st.integers(0, 9), max_size=6), st.integers(0, 6), st.integers(1, 12))
def test_admissible_is_the_best_order_there_is(versions, bound, step):
    """By brute force over orders: the oldest first is as good as any."""
    from itertools import permutations

    def in_time(order):
        return all(step + rank - 1 - version <= bound for rank, version in enumerate(order))

    assert admissible(versions, step, bound) == any(map(in_time, permutations(versions)))


def test_a_journal_is_read_and_checked():
    line = {"step": 2, "ticket": 1, "version": 0, "actor": 1, "batches": [3, 4]}
    assert read_delivery(line) == Delivery(2, 1, 0, 1, (3, 4))
    with pytest.raises(ValueError, match="is not a delivery"):
        read_delivery({"step": 2})
    good = [Delivery(1, 2, 0, 0), Delivery(2, 1, 0, 1)]
    check_deliveries(good, range(1, 3))
    for wrong, sentence in (
        (good[:1], "are of 1 iterations"),
        ([good[0], good[1]._replace(ticket=2)], "delivered twice"),
        ([good[0], good[1]._replace(version=2)], "could not be"),
    ):
        with pytest.raises(ValueError, match=sentence):
            check_deliveries(wrong, range(1, 3))
