"""The automaton against a search of the whole text after every token."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpg_jax.decoding.automaton import Automaton, advance, compile_automaton

ALPHABET = b"abc"


def walk(automaton: Automaton, tokens: list[int]) -> list[int]:
    """The pattern after each token."""
    state, found = 0, []
    for token in tokens:
        state = automaton.next[state, automaton.token_class[token]]
        found.append(int(automaton.pattern[state]))
    return found


def completed(patterns: list[bytes], text: bytes, end: int) -> list[int]:
    """Patterns that end at `end`, the longest first and of equal ones the first."""
    ending = [index for index, pattern in enumerate(patterns) if text[:end].endswith(pattern)]
    return sorted(ending, key=lambda index: (-len(patterns[index]), index))


def search(
    patterns: list[bytes], vocabulary: list[bytes], stops: list[int], tokens: list[int], absorbing: bool
) -> list[int]:
    """What `walk` should give, by searching the concatenated bytes."""
    text, found, result = b"", -1, []
    for token in tokens:
        if not (absorbing and found >= 0):
            found, before = -1, len(text)
            text += vocabulary[token]
            ends = range(before + 1, len(text) + 1)
            for end in ends if absorbing else reversed(ends):
                if ending := completed(patterns, text, end):
                    found = ending[0]
                    break
            if token in stops:
                found, text = len(patterns) + stops.index(token), b""
        result.append(found)
    return result


texts = st.lists(st.sampled_from(ALPHABET), max_size=4).map(bytes)
patterns_over_alphabet = st.lists(
    st.lists(st.sampled_from(ALPHABET), min_size=1, max_size=5).map(bytes), max_size=4
)


@settings(max_examples=400)
@given(
    patterns=patterns_over_alphabet,
    token_bytes=st.lists(texts, min_size=1, max_size=12),
    stops=st.lists(st.integers(0, 11), max_size=2),
    tokens=st.lists(st.integers(0, 11), max_size=40),
    absorbing=st.booleans(),
)
def test_finds_what_a_search_of_the_text_finds(patterns, token_bytes, stops, tokens, absorbing):
    vocabulary = len(token_bytes)
    stops, tokens = [stop % vocabulary for stop in stops], [token % vocabulary for token in tokens]
    automaton = compile_automaton(patterns, token_bytes, stops, absorbing=absorbing)
    assert walk(automaton, tokens) == search(patterns, token_bytes, stops, tokens, absorbing)


def test_advance_reads_one_token_a_row_inside_a_compiled_loop():
    vocabulary = [b"x", b"</", b"s>", b"</s", b">", b"", b"a</s>b"]
    automaton = compile_automaton(["</s>"], vocabulary, [5])
    tokens = np.array([[0, 1, 2, 0], [3, 4, 1, 1], [1, 0, 2, 5], [0, 6, 5, 0], [3, 1, 2, 0], [2, 1, 4, 3]])

    @jax.jit
    def run(tokens):
        start = jnp.zeros(len(tokens), jnp.int32)
        return jax.lax.scan(lambda state, token: advance(automaton, state, token), start, tokens.T)

    states, found = run(tokens)
    expected = [[-1, -1, 0, 0], [-1, 0, 0, 0], [-1, -1, -1, 1], [-1, 0, 0, 0], [-1, -1, 0, 0], [-1] * 4]
    np.testing.assert_array_equal(found.T, expected)
    np.testing.assert_array_equal(automaton.pattern[states], found[-1])
    assert found.dtype == states.dtype == jnp.int32


def test_a_character_may_be_cut_between_tokens():
    vocabulary = [bytes([byte]) for byte in range(256)]
    automaton = compile_automaton(["é中"], vocabulary)
    tokens = list("xé中".encode())
    assert walk(automaton, tokens) == [-1] * 5 + [0]
    assert walk(automaton, tokens[:2] + tokens[3:]) == [-1] * 5


def test_the_first_completion_stops_and_the_longest_of_one_end_is_reported():
    automaton = compile_automaton([b"b", b"ab", b"abc", b"ab"], [b"a", b"b", b"c", b"abc"])
    assert walk(automaton, [0, 1, 2]) == [-1, 1, 1]
    assert walk(automaton, [1, 0]) == [0, 0]
    assert walk(automaton, [3]) == [1]


def test_markers_are_reported_where_they_end_and_reading_goes_on():
    vocabulary = [b"<think>", b"</th", b"ink>", b"so", b"", b"</think><think>"]
    automaton = compile_automaton(["<think>", "</think>"], vocabulary, absorbing=False)
    assert walk(automaton, [0, 3, 1, 4, 2, 4, 3]) == [0, -1, -1, -1, 1, -1, -1]
    assert walk(automaton, [5, 1, 2]) == [0, -1, 1]


def test_nothing_ever_stops_without_patterns_and_stop_tokens():
    automaton = compile_automaton([], [b"a", b"", b"b"])
    assert automaton.next.shape == (1, 1)
    assert walk(automaton, [0, 1, 2, 0]) == [-1] * 4


def test_tokens_that_act_alike_share_a_column():
    vocabulary = [b"%d" % index for index in range(5_000)] + [b"\n", b" \n\n", b"<eos>"]
    automaton = compile_automaton(["\n"], vocabulary, [5_002])
    assert automaton.next.shape == (3, 3)  # going on, "\n", end; the same three as classes
    assert automaton.token_class.shape == (5_003,)
    assert {array.dtype for array in automaton} == {np.dtype(np.int32)}


def test_states_behind_a_completion_are_left_out():
    # "ab" comes first, so that "abcdef" can only be read up to it.
    for patterns in (["ab"], ["ab", "abcdef"]):
        assert compile_automaton(patterns, [b"a", b"b", b"c"]).next.shape == (3, 3)


@pytest.mark.parametrize(
    ("patterns", "token_bytes", "stop_tokens", "says"),
    [
        (["a", ""], [b"a"], (), "pattern 1 of .* is empty"),
        ("stop", [b"a"], (), r"got 'stop'; write \['stop'\]"),
        (b"stop", [b"a"], (), r"got b'stop'; write \[b'stop'\]"),
        ([], [b"a", b"b"], (2,), "stop token 2 is outside the vocabulary of 2 tokens"),
        ([], [b"a", b"b"], (-1,), "stop token -1 is outside"),
        (["a"], [b"a", "b"], (), "token_bytes must hold bytes, got 'b' for token 1"),
    ],
)
def test_bad_input_is_refused(patterns, token_bytes, stop_tokens, says):
    with pytest.raises(ValueError, match=says):
        compile_automaton(patterns, token_bytes, stop_tokens)
