"""Preferences that are made: what a judge says, never the other way round, and no two seeds alike."""

import collections

import pytest

from gpg_jax.data.corruptions import NONSENSE, draw_preferences
from gpg_jax.data.reversal import ALPHABET, SYMBOLS, places_right, reversal
from gpg_jax.environments.verifiers import exact_match

EXAMPLES = reversal(3)
BY_PROMPT = {example.prompt: example for example in EXAMPLES}


def drawn(judge=places_right, pairs=300, longest=4, seed=0, symbols=ALPHABET):
    return draw_preferences(EXAMPLES, judge, symbols, pairs=pairs, longest=longest, seed=seed)


@pytest.mark.parametrize("judge", [places_right, exact_match])
def test_the_chosen_response_is_worth_more(judge):
    pairs = drawn(judge)
    assert len(pairs) == 300
    for pair in pairs:
        example = BY_PROMPT[pair.prompt]
        assert judge(pair.chosen, example) > judge(pair.rejected, example)
        assert max(len(pair.chosen), len(pair.rejected)) <= 4
        assert set(pair.chosen + pair.rejected) <= set(ALPHABET)


def test_right_answers_near_misses_and_nonsense_all_occur():
    pairs = drawn(pairs=1000)
    right = [pair for pair in pairs if pair.chosen == BY_PROMPT[pair.prompt].answer]
    assert len(right) > 200
    worths = collections.Counter(
        round(3 * places_right(pair.rejected, BY_PROMPT[pair.prompt])) for pair in pairs
    )
    assert {0, 1, 2} <= worths.keys() and 3 not in worths
    lengths = collections.Counter(len(pair.rejected) for pair in pairs)
    assert set(lengths) == set(range(5)) and 0 < NONSENSE < 1
    assert len({pair.prompt for pair in pairs}) == len(SYMBOLS) ** 3


def test_a_seed_is_a_draw():
    assert drawn(seed=3) == drawn(seed=3) != drawn(seed=4)


def test_what_cannot_be_drawn_is_a_sentence():
    with pytest.raises(ValueError, match="of 1000 pairs of responses, none had one that is worth more"):
        drawn(lambda text, example: 1.0)
    with pytest.raises(ValueError, match="an answer has 3 characters, and a response at most 2"):
        drawn(longest=2)
    with pytest.raises(ValueError, match="there must be one of each at least"):
        drawn(symbols="")


def test_a_symbol_may_be_longer_than_a_character():
    pairs = drawn(symbols=["a", "<pad>"], longest=3, judge=exact_match)
    found = [pair.rejected for pair in pairs if "<pad>" in pair.rejected]
    assert found and all(len(text.replace("<pad>", "_")) <= 3 for text in found)
