"""The reward for answers in tags: what breaks the format costs as much as ARPO has it cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_jax.data.examples import Example
from gpg_jax.environments.tag_reward import tag_error, tag_reward
from gpg_jax.environments.trajectory import Part, Trajectory

GOLD = Example("q", "cat")
RESULT = " <result>\na page\n</result>"
ANSWER = "<answer>cat</answer>"


def trajectory(*texts: str) -> Trajectory:
    """Texts by turns: the policy's, a tool's, the policy's, …"""
    return Trajectory([Part(text, number % 2 == 0) for number, text in enumerate(texts)])


@pytest.mark.parametrize(
    ("turns", "reward"),
    [
        ((ANSWER,), 1.0),
        ((f"so {ANSWER} \n",), 1.0),
        (("<answer>dog</answer>",), 0.0),
        (("<answer></answer>",), 0.0),
        (("<search>a</search>", RESULT, ANSWER), 1.0),
        (("<think>b</think><search>a</search>", RESULT, "<python>1</python>", RESULT, ANSWER), 1.0),
        (("<search>a</search>", RESULT, "<answer>dog</answer>"), 0.0),
    ],
)
def test_what_is_in_order_earns_what_it_is_worth(turns, reward):
    assert tag_error(trajectory(*turns).parts) == ""
    assert tag_reward(trajectory(*turns), GOLD) == reward


@pytest.mark.parametrize(
    ("turns", "error"),
    [
        (("cat",), "exactly one <answer>"),
        (("",), "exactly one <answer>"),
        ((), "exactly one <answer>"),
        (("<search>a</search>", RESULT), "exactly one <answer>"),
        ((ANSWER + ANSWER,), "exactly one <answer>"),
        ((ANSWER + "<think>a</think>",), "exactly one <answer>"),
        ((ANSWER + "</answer>",), "each tag must be closed"),
        (("<answer>cat",), "each tag must be closed"),
        (("</answer>cat<answer>",), "each tag must be closed"),
        (("<think><answer>cat</answer></think>",), "each tag must be closed"),
        (("<search>a</answer>",), "each tag must be closed"),
        (("<think>a<think>b</think>" + ANSWER,), "each tag must be closed"),
        ((ANSWER + " and on",), "nothing may stand behind"),
        (("<search>a</search>" + ANSWER,), "each call must be answered"),
        (("<search>a</search><search>b</search>", RESULT, ANSWER), "each call must be answered"),
        (("<search>a</search>", RESULT, "<search>b</search>" + ANSWER), "each call must be answered"),
        (("<search>a</search><result>b</result>" + ANSWER,), "a result is the tool's"),
        (("<search>a</search>", RESULT, "</result>" + ANSWER), "a result is the tool's"),
    ],
)
def test_a_broken_format_earns_less_than_a_wrong_answer(turns, error):
    response = trajectory(*turns)
    assert error in tag_error(response.parts)
    assert tag_reward(response, GOLD) == -1.0


PIECES = st.sampled_from(
    ["<answer>", "</answer>", "<result>", "</result>", "<search>", "</think>", "cat", "\n"]
)


@given(st.lists(PIECES, max_size=6).map("".join))
def test_no_page_breaks_or_forges_a_format(page):
    assert tag_reward(trajectory("<search>a</search>", page, ANSWER), GOLD) == 1.0
    assert tag_reward(trajectory("<search>a</search>", page, "<answer>dog</answer>"), GOLD) == 0.0
    assert tag_reward(trajectory("<search>a</search>", page, ""), GOLD) == -1.0
    assert tag_reward(trajectory("<search>a", page, ANSWER), GOLD) == -1.0
