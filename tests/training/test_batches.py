"""Batches by number: each is had once, and again after a stop, in whatever order they are taken."""

import json

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gpg_jax.data.examples import Example
from gpg_jax.data.loader import loader
from gpg_jax.training.batches import Batches, TrainingSet

EXAMPLES = [Example(prompt=str(number), answer="") for number in range(10)]


def training_set() -> TrainingSet:
    own = loader(EXAMPLES, batch_size=3, seed=1)
    return TrainingSet(lambda: next(own), own.get_state, own.set_state)


def expected(count: int) -> list[list[str]]:
    own = loader(EXAMPLES, batch_size=3, seed=1)
    return [[example.prompt for example in next(own)] for _ in range(count)]


def prompts(batches: Batches, number: int) -> list[str]:
    return [example.prompt for example in batches.examples(number)]


@given(st.lists(st.booleans(), max_size=12), st.integers(0, 12), st.data())
def test_a_stop_loses_doubles_and_skips_nothing(moves, stop, data):
    """Batches are taken (true) or one that is open is done with (false); somewhere the run stops."""
    batches, opened, used = Batches(training_set()), [], {}
    for step, takes in enumerate(moves):
        if step == stop:
            batches = Batches(training_set(), json.loads(json.dumps(batches.cursor())))
        if takes or not opened:
            opened.append(batches.take())
        else:
            number = opened.pop(data.draw(st.integers(0, len(opened) - 1)))
            used[number] = prompts(batches, number)
            batches.done([number])
    for number in opened:
        used[number] = prompts(batches, number)
    wanted = expected(len(used))
    assert used == dict(enumerate(wanted))


def test_a_batch_far_ahead_is_there_and_those_before_it_too():
    batches = Batches(training_set())
    wanted = expected(4)
    assert prompts(batches, 3) == wanted[3]
    assert [prompts(batches, number) for number in range(3)] == wanted[:3]
    batches.done([1])
    with pytest.raises(ValueError, match="batch 1 has been used"):
        batches.examples(1)
