"""Programs of rows that live on: what a fork copies and what it costs, and when the devices return."""

from __future__ import annotations

import functools

import hlo
import jax
import jax.numpy as jnp
import numpy as np
import small

from gpg_jax.decoding.automaton import compile_automaton
from gpg_jax.decoding.live import live_programs
from gpg_jax.decoding.rollouts import pad_prompts
from gpg_jax.decoding.sampling import Sampling
from gpg_jax.decoding.uncertainty import entropy

PROMPTS = pad_prompts([[3, 4, 5], [6, 7]], 3)
ROWS, NEW = 8, 16
UID, KEY = np.arange(ROWS, dtype=np.int32), jax.random.key(9)
CALLS, ENDS = (3, 9, 14), (4, 8, 11, 20)


def make(slots: int, **options):
    automaton = compile_automaton((), [b""] * small.ARCHITECTURE.vocab_size, (*CALLS, *ENDS))
    return live_programs(
        small.policy(), new_slots=slots, sampling=Sampling(temperature=1.5), automaton=automaton, **options
    )


@functools.cache
def programs():
    return make(NEW, uncertainty=entropy)


def begin(running=None):
    running = np.ones(ROWS, bool) if running is None else running
    return programs().begin(small.params(), *PROMPTS, running)


def advance(prefix, live, steps, calls=3, watched=()):
    watched = np.isin(np.arange(ROWS), watched)
    return programs().advance(small.params(), prefix, live, UID, KEY, steps, calls, watched)


def test_a_fork_costs_the_children_alone():
    rows, slots, children = 64, 64, 2
    live = jax.eval_shape(
        make(slots, uncertainty=entropy).begin,
        small.params(),
        np.zeros((8, 4), np.int32),
        np.ones(8, np.int32),
        np.ones(rows, bool),
    )[1]
    place = jax.ShapeDtypeStruct((children,), jnp.int32)
    with hlo.optimised():
        compiled = make(slots, uncertainty=entropy).fork.lower(live, place, place, place).compile()
    memory = compiled.memory_analysis()
    row = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(live)) // rows
    assert children * row / 2 < memory.temp_size_in_bytes < (children + 1) * row
    # What is not a child stays where it is.
    assert memory.alias_size_in_bytes == rows * row


def test_a_fork_copies_and_the_others_stay():
    prefix, live = begin(UID % 4 < 3)
    live = advance(prefix, live, 4, calls=0)
    before = jax.device_get(live)
    # Row 3 becomes two tokens of row 1; row 7 begins at its prompt; the third place is not used.
    children, parents, length = np.array([3, 7, ROWS]), np.array([1, 7, 0]), np.array([2, 0, 0])
    after = jax.device_get(programs().fork(live, *(a.astype(np.int32) for a in (children, parents, length))))
    for name in ("tokens", "acted", "log_prob", "uncertainty"):
        old, new = getattr(before, name), getattr(after, name)
        np.testing.assert_array_equal(new[[0, 1, 2, 4, 5, 6]], old[[0, 1, 2, 4, 5, 6]])
        np.testing.assert_array_equal(new[3], np.where(np.arange(NEW) < 2, old[1], 0))
        assert not new[7].any()
    for old, new in zip(before.cache, after.cache, strict=True):
        np.testing.assert_array_equal(new[:, [0, 1, 2, 4, 5, 6, 7]], old[:, [0, 1, 2, 4, 5, 6, 7]])
        np.testing.assert_array_equal(new[:, 3], old[:, 1])
    assert after.length[[3, 7]].tolist() == [2, 0] and after.running[[3, 7]].all()
    assert after.pattern[[3, 7]].tolist() == [-1, -1] and after.state[[3, 7]].tolist() == [0, 0]


def test_the_devices_return_for_calls_and_for_rows_that_are_watched():
    run = functools.partial(advance, *begin())
    whole = jax.device_get(run(NEW, calls=0))  # nothing is heeded: until no row runs
    assert not whole.running.any()
    last = whole.length.max()
    called = (whole.pattern >= 0) & (whole.pattern < len(CALLS))
    first_call, first_end = whole.length[called].min(), whole.length[~called].min()
    assert first_end < first_call < last, "rows must differ for this test to say anything"
    assert jax.device_get(advance(*begin(), NEW).length).max() == first_call
    assert jax.device_get(advance(*begin(), NEW, watched=UID).length).max() == first_end
    late = int(np.argmax(np.where(~called, whole.length, 0)))
    seen = jax.device_get(advance(*begin(), NEW, calls=0, watched=[late]).length)
    assert seen.max() == whole.length[late]
    assert jax.device_get(advance(*begin(), 1, calls=0).length).tolist() == [1] * ROWS
