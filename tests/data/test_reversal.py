"""The from-scratch task: what a response earns, and what a blind policy can earn at most."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_jax.data.examples import Example
from gpg_jax.data.reversal import ALPHABET, END, LENGTH, SYMBOLS, blind_ceiling, places_right, reversal


def mean_of(text, examples):
    return np.mean([places_right(text, example) for example in examples])


def test_every_word_is_asked_once_and_reversed():
    examples = reversal()
    assert len({example.prompt for example in examples}) == len(examples) == len(SYMBOLS) ** LENGTH
    for example in examples:
        assert example.prompt == example.answer[::-1] + END
        assert set(example.prompt + example.answer) <= set(ALPHABET)
        assert places_right(example.answer, example) == 1


@pytest.mark.parametrize(
    ("text", "worth"),
    [
        ("bca", 1),
        ("bcx", 2 / 3),
        ("b", 1 / 3),
        ("cab", 0),
        ("", 0),
        ("bcaaaa", 1),
        ("xbca", 0),
        ("xca", 2 / 3),
    ],
)
def test_an_outcome_is_the_fraction_of_places(text, worth):
    assert places_right(text, Example("acb>", "bca")) == pytest.approx(worth)


def test_no_blind_policy_earns_more_than_a_fifth():
    # A policy that does not read the prompt is a distribution over responses, whose mean earns no more than
    # its best response: so all responses are tried, of every length up to one too many, END included.
    examples = reversal()
    lengths = range(LENGTH + 2)
    responses = ["".join(r) for n in lengths for r in itertools.product(ALPHABET, repeat=n)]
    best = max(mean_of(response, examples) for response in responses)
    assert best == pytest.approx(0.2, abs=1e-12)
    assert blind_ceiling(examples) == best == 1 / len(SYMBOLS)


@given(st.sets(st.text("abc", min_size=2, max_size=2), min_size=1))
def test_the_ceiling_of_any_examples_is_the_best_constant_response(answers):
    examples = [Example(answer[::-1] + END, answer) for answer in sorted(answers)]
    best = max(mean_of("".join(response), examples) for response in itertools.product("abc", repeat=2))
    assert blind_ceiling(examples) == pytest.approx(best)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "is empty"),
        ({"length": -1}, "is empty"),
        ({"symbols": ""}, "is empty"),
        ({"symbols": "aab"}, "must all differ"),
        ({"symbols": "ab>"}, "also from '>'"),
    ],
)
def test_words_that_cannot_be_asked_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        reversal(**settings)


def test_other_lengths_and_symbols():
    assert [example.prompt for example in reversal(1, "ab")] == ["a>", "b>"]
    assert len(reversal(3, "ab")) == 8
