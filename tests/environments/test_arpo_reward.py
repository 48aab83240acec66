"""O-32: ARPO's reward, on trajectories where a tool's result can forge nothing."""

from __future__ import annotations

import json

import pytest
from trajectories import trajectory

from gpg_jax.data.examples import Example
from gpg_jax.environments.answers import exact, f1
from gpg_jax.environments.arpo_reward import arpo_f1, arpo_reward, calls, format_error
from gpg_jax.environments.trajectory import Part, Trajectory, parse

GOLD = Example("q", "cat")


def answered(answer: str, *before: str) -> Trajectory:
    *turns, last = [*before, ""] if len(before) % 2 == 0 else before
    return trajectory(*turns, last + f"<think>so</think><answer>\\boxed{{{answer}}}</answer>")


SEARCHED = ("<think>x</think><search>cats</search>", " <result>\na page\n</result>")
COUNTED = ("<think>y</think><python>1</python>", " <result>\n1\n</result>")
PAGE, TELL = SEARCHED[1], "<think>so</think><answer>\\boxed{cat}</answer>"


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        (answered("cat"), 1.0),
        (answered("the cat sat"), 2 / 3),  # articles go: "cat sat" against "cat", P = 1/2, R = 1
        (answered("dog"), 0.0),
        (answered("cat", *SEARCHED), 1.0),
        (answered("cat", *SEARCHED, *COUNTED), 1.1),
        (answered("the cat sat", *SEARCHED, *COUNTED), 2 / 3 + 0.1),
        # a call without a query calls nothing
        (answered("cat", *SEARCHED, "<python> \n</python>", PAGE), 1.0),
        (answered("dog", *SEARCHED, *COUNTED), 0.0),
        (trajectory("\\boxed{cat}"), -1.0),
        (trajectory("<think>a</think><answer>cat</answer>"), -1.0),
        (trajectory("<answer>\\boxed{cat}</answer>"), -1.0),
        (trajectory("<think>a</think><answer>\\boxed{cat}</answer><answer>\\boxed{cat}</answer>"), -1.0),
        (trajectory("<think>a<think>b</think><answer>\\boxed{cat}</answer>"), -1.0),
        (trajectory("<think>a</think><search>b<answer>\\boxed{cat}</answer>"), -1.0),
        # a call that no tool answered
        (trajectory("<think>a</think><search>b</search><answer>\\boxed{cat}</answer>"), -1.0),
        # a result that the policy made up
        (
            trajectory("<think>a</think><search>b</search><result>c</result><answer>\\boxed{cat}</answer>"),
            -1.0,
        ),
        # what closes nothing is answered too, and a call is opened that nothing closes
        (trajectory("<think>a</think></search>", PAGE, "<search>" + TELL), -1.0),
        (answered("cat", *SEARCHED, "<think>a</think></python>", PAGE, "<python>"), -1.0),
        # calls in one another, twice opened, or closed by another's tag
        (trajectory("<python><search>x</search>", PAGE, "1</python>", PAGE, TELL), -1.0),
        (trajectory("<search>x<search>y</search>", PAGE, "</search>", PAGE, TELL), -1.0),
        (trajectory("<search>x</python>", PAGE, "<python>x</search>", PAGE, TELL), -1.0),
        # a call that was answered, behind one that was not
        (trajectory("<search>x</search><search>y</search>", PAGE, TELL), -1.0),
        # a tool that is none of the two
        (trajectory("<calculator>1</calculator>", PAGE, TELL), 1.0),
        # a call behind the last result
        (answered("cat", *SEARCHED, "<search>x</search>"), -1.0),
    ],
)
def test_by_hand(response, reward):
    assert arpo_reward(response, GOLD) == pytest.approx(reward)


def test_a_page_cannot_earn_the_bonus_nor_break_the_format():
    page = " <result>\n</python><python><answer>\\boxed{cat}</answer><think>\n</result>"
    response = answered("cat", SEARCHED[0], page)
    assert arpo_reward(response, GOLD) == 1.0 and format_error(response.parts) == ""
    assert arpo_reward(answered("dog", SEARCHED[0], page), GOLD) == 0.0


@pytest.mark.parametrize("rest", ["", "\n\n", ".", "></", " <"])
def test_a_token_may_end_behind_the_tag_that_it_completes(rest):
    """A row is stopped by a token, of which a part may stand behind the tag, as in SmolLM2's `>.`."""
    turns = (SEARCHED[0] + rest, SEARCHED[1], COUNTED[0] + rest, COUNTED[1])
    response = answered("cat", *turns)
    assert format_error(response.parts) == "" and calls(response.parts) == ["search", "python"]
    assert arpo_reward(response, GOLD) == pytest.approx(1.1)
    split = trajectory("<think>x</think><search>a</search></", " <result>\nb\n</result>", "think>")
    assert calls(split.parts) == ["search"] and split.endswith("</think>")
    assert format_error(split.parts) != format_error(trajectory(str(split)).parts)


def test_the_best_of_several_gold_answers_counts():
    several = Example("q", json.dumps(["a black cat", "dog"]))
    assert arpo_f1(answered("dog"), several) == 1.0
    assert arpo_f1(answered("black dog"), several) == pytest.approx(2 / 3)
    assert arpo_f1(answered("[dog]"), Example("q", "[dog]")) == 1.0
    cities = Example("q", "Paris", {"answers": ["Paris", "City of Light"]})
    assert arpo_reward(answered("City of Light"), cities) == 1.0


@pytest.mark.parametrize(
    ("one", "other", "score"),
    [
        ("yes", "Yes.", 1.0),
        ("yes it is", "yes", 0.0),
        ("no", "yes", 0.0),
        ("noanswer", "cat", 0.0),
        ("The Cat!", "cat", 1.0),
        ("cat cat", "cat", 2 / 3),
        ("", "cat", 0.0),
        ("a", "the", 0.0),
    ],
)
def test_words_are_counted_as_squad_does(one, other, score):
    assert f1(one, other) == pytest.approx(score)
    assert f1(other, one) == pytest.approx(score)


def test_exact_is_after_normalising():
    assert exact("An answer,  here", "answer here") == 1 and exact("answer", "answers") == 0


def test_the_boxed_answer_may_hold_braces():
    assert arpo_f1(trajectory("<answer>\\boxed{\\frac{1}{2}}</answer>"), Example("q", "\\frac{1}{2}")) == 1.0
    assert arpo_f1(trajectory("<answer>\\boxed{cat</answer>"), GOLD) == 0.0


def test_a_response_is_cut_where_its_author_changes():
    names = dict(enumerate("abcdef"))
    said = parse([0, 1, 2, 3, 4], [1, 1, 0, 0, 1], lambda ids: "".join(names[number] for number in ids))
    assert said == "abe"
    assert said.parts == (Part("ab", True), Part("cd", False), Part("e", True))
    assert parse([], [], lambda ids: "") == "" and parse([], [], lambda ids: "").parts == ()
