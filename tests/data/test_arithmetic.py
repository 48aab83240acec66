"""One-digit products: what is held out is never shown and never trained on, in either order."""

import collections
import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_jax.data.arithmetic import FACTORS, SHOTS, multiplication, prompt, split_pairs
from gpg_jax.environments.verifiers import first_line_match

SEEDS = st.integers(0, 2**16)
SHOWN = {tuple(sorted(pair)) for pair in SHOTS}


def unordered(examples):
    return {tuple(sorted((example.metadata["left"], example.metadata["right"]))) for example in examples}


@given(SEEDS)
def test_the_split_parts_the_unordered_pairs(seed):
    train, held_out = split_pairs(seed)
    everything = set(itertools.combinations_with_replacement(FACTORS, 2))
    assert all(left <= right for left, right in train + held_out)
    assert len(set(train)) + len(set(held_out)) == len(train) + len(held_out)
    assert set(train) | set(held_out) | SHOWN == everything
    assert not set(train) & set(held_out)
    assert not SHOWN & set(train + held_out)
    # a quarter of the 36 pairs: 9; three are shown
    assert len(held_out) == 9 and len(train) == 36 - 9 - 3


@given(SEEDS)
def test_both_orders_of_a_product_are_on_one_side(seed):
    train, held_out = (multiplication(split, seed) for split in ("train", "held_out"))
    for examples, pairs in zip((train, held_out), split_pairs(seed), strict=True):
        asked = [(example.metadata["left"], example.metadata["right"]) for example in examples]
        assert len(set(asked)) == len(asked)
        assert set(asked) == {pair for left, right in pairs for pair in ((left, right), (right, left))}
    assert not unordered(train) & unordered(held_out)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_prompts_show_the_shots_and_ask_the_question(split):
    for example in multiplication(split):
        left, right = example.metadata["left"], example.metadata["right"]
        *shots, (asked_left, asked_right, given_answer) = re.findall(
            r"Q: (\d)\*(\d)\nA:(?: (\d+)\n)?", example.prompt
        )
        assert [(int(a), int(b), int(c)) for a, b, c in shots] == [(a, b, a * b) for a, b in SHOTS]
        assert (int(asked_left), int(asked_right), given_answer) == (left, right, "")
        assert tuple(sorted((left, right))) not in SHOWN
        assert example.prompt == prompt(left, right)
        assert example.prompt.endswith(f"Q: {left}*{right}\nA:")
        assert int(example.answer) == left * right
        assert first_line_match(f" {example.answer}\nQ: 1*1", example) == 1


@given(SEEDS)
def test_no_constant_answer_is_worth_training_for(seed):
    # Of 59 ordered products that are not shown, no value has more than four (18: 2·9 and 3·6; 24).
    train = multiplication("train", seed)
    whole = train + multiplication("held_out", seed)
    assert len(whole) == 59
    for examples in (train, whole):
        ((_, count),) = collections.Counter(example.answer for example in examples).most_common(1)
        assert count <= 4
        assert count / len(examples) < 0.11


def test_factors_of_0_and_1_would_have_let_a_constant_answer_pass():
    wide = [a * b for a in range(10) for b in range(10)]
    assert wide.count(0) / len(wide) == 0.19
    assert min(FACTORS) == 2


def test_the_split_depends_on_its_seed_alone():
    assert split_pairs(3) == split_pairs(3)
    assert multiplication("held_out", 3) == multiplication("held_out", 3)
    assert len({tuple(split_pairs(seed)[1]) for seed in range(5)}) == 5


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 2.0, 0.001])
def test_a_fraction_that_empties_one_side_is_refused(fraction):
    with pytest.raises(ValueError, match="of 33 pairs"):
        split_pairs(0, fraction)


@pytest.mark.parametrize("split", ["test", "", "Train"])
def test_another_split_is_refused(split):
    with pytest.raises(ValueError, match='"train" or "held_out"'):
        multiplication(split)
