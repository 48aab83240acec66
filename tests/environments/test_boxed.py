"""Answers in a box against gold answers: extracted, normalised, compared."""

from __future__ import annotations

import json

import pytest

from gpg_jax.data.boxes import last_boxed
from gpg_jax.data.examples import Example
from gpg_jax.environments.boxed import (
    answer_f1,
    answered,
    boxed_cover,
    boxed_exact,
    boxed_f1,
    boxed_math,
    broken_format,
)
from gpg_jax.environments.trajectory import Part, Trajectory


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("\\boxed{7}", "7"),
        ("\\boxed{6} no, \\boxed{7}.", "7"),
        ("\\boxed{\\frac{1}{2}} {", "\\frac{1}{2}"),
        ("\\boxed{}", ""),
        ("\\boxed{7", None),
        ("\\boxed{6} and \\boxed{7", None),
        ("boxed{7} \\box{7}", None),
        ("", None),
    ],
)
def test_the_last_box_counts_and_must_be_closed(text, inside):
    assert last_boxed(text) == inside
    assert answered(text, Example("q", "7")) == float(inside is not None)


SCORES = [
    # answer, gold, F1, exact, cover
    ("Paris", "paris", 1, 1, 1),
    ("The city of Paris.", "Paris", 1 / 2, 0, 1),  # city of paris: P = 1/3, R = 1
    ("\\text{New York}", "New York", 1, 1, 1),
    ("\\textbf{\\text{New York}}", "new york", 1, 1, 1),
    ("York New", "New York", 1, 0, 0),
    ("November", "no", 0, 0, 0),
    ("yes", "no", 0, 0, 0),
    ("New Yorker", "New York", 1 / 2, 0, 0),
    ("", "Paris", 0, 0, 0),
    ("", "The", 1, 1, 0),
]


@pytest.mark.parametrize(("answer", "gold", "f1", "exact", "cover"), SCORES)
def test_words_by_hand(answer, gold, f1, exact, cover):
    response, example = f"<answer>\\boxed{{{answer}}}</answer>", Example("q", gold)
    assert boxed_f1(response, example) == pytest.approx(f1)
    assert boxed_exact(response, example) == exact
    assert boxed_cover(response, example) == cover


def test_the_whole_text_is_the_answer_without_a_box():
    assert answer_f1("1}^N", Example("q", "1}^N")) == 1 and answer_f1("", Example("q", "The")) == 0
    assert answer_f1("It is Rome", Example("q", "Rome")) == pytest.approx(1 / 2)
    assert answer_f1("Rome, \\boxed{Oslo}", Example("q", "Rome")) == 0


def test_a_gold_answer_may_be_a_worked_solution():
    example = Example("q", "It is \\(\\boxed{C}\\).", {})
    assert boxed_exact("\\boxed{C}", example) == boxed_f1("\\boxed{\\text{C}}", example) == 1
    assert boxed_exact("\\boxed{it is C}", example) == 0
    assert boxed_math("\\boxed{7}", Example("q", "6 + 1 = \\boxed{7}")) == 1


def test_no_box_is_no_answer():
    for gold in ("The", "7", "Paris"):
        for metric in (boxed_f1, boxed_exact, boxed_cover, boxed_math, answered):
            assert metric(f"<answer>{gold}</answer>", Example("q", gold)) == 0


@pytest.mark.parametrize(
    "example",
    [
        Example("q", "a black cat", {"answers": ["a black cat", "dog"]}),
        Example("q", json.dumps(["a black cat", "dog"])),
    ],
)
def test_the_best_of_several_gold_answers_counts(example):
    assert boxed_f1("\\boxed{dog}", example) == boxed_exact("\\boxed{dog}", example) == 1
    assert boxed_cover("\\boxed{my dog}", example) == 1
    assert boxed_f1("\\boxed{black dog}", example) == pytest.approx(2 / 3)
    assert boxed_exact("\\boxed{bird}", example) == boxed_cover("\\boxed{bird}", example) == 0


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("204", "204", 1),
        ("33", "033", 1),
        ("\\frac{1}{2}", "0.5", 1),
        ("1{,}080", "1,080", 1),
        ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\frac{\\pi}{2})", 1),
        ("205", "204", 0),
        ("", "204", 0),
        ("x+1", "x+2", 0),
    ],
)
def test_mathematics(answer, gold, right):
    assert boxed_math(f"so \\boxed{{{answer}}}", Example("q", gold)) == right


def test_a_number_outside_the_box_is_no_answer():
    assert boxed_math("204 \\boxed{205} 204", Example("q", "204")) == 0


def test_one_of_several_mathematical_gold_answers_is_enough():
    example = Example("q", "1/3", {"answers": ["1/3", "1/2"]})
    assert boxed_math("\\boxed{0.5}", example) == 1 and boxed_math("\\boxed{0.25}", example) == 0


def test_a_tools_result_answers_nothing():
    response = Trajectory(
        [
            Part("<think>x</think><search>y</search>", True),
            Part(" <result>\n\\boxed{7}\n</result>", False),
            Part("<answer>7</answer>", True),
        ]
    )
    assert answered(response, Example("q", "7")) == boxed_math(response, Example("q", "7")) == 0
    assert broken_format(response, Example("q", "7")) == 1


def test_a_sound_format_is_not_broken():
    sound = "<think>x</think><answer>\\boxed{7}</answer>"
    assert (
        broken_format(sound, Example("q", "8")) == 0 and broken_format("\\boxed{7}", Example("q", "7")) == 1
    )
