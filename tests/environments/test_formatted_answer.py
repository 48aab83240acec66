"""The reward for answers between tags: what breaks the format costs as much as ARPO has it cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trajectories import trajectory

from configs.arpo_search import get_config
from experiments import tools
from experiments.config import Experiment
from experiments.functions import FUNCTIONS, TOOLS
from experiments.reading import from_config_dict
from experiments.tasks import load_task
from gpg_jax.data.examples import Example
from gpg_jax.environments.formatted_answer import formatted_answer, tag_error
from gpg_jax.environments.trajectory import Part, Trajectory

GOLD = Example("q", "cat")
RESULT = " <result>\na page\n</result>"
ANSWER = "<answer>cat</answer>"
SEARCH = "<search>a</search>"
REWARD = FUNCTIONS["formatted_answer"]


@pytest.mark.parametrize(
    ("turns", "reward"),
    [
        ((ANSWER,), 1.0),
        ((f"so {ANSWER} \n",), 1.0),
        (("<answer> cat\n</answer>",), 1.0),
        (("<answer>dog</answer>",), 0.0),
        (("<answer></answer>",), 0.0),
        ((SEARCH, RESULT, ANSWER), 1.0),
        (("<think>b</think><search>a</search>", RESULT, "<python>1</python>", RESULT, ANSWER), 1.0),
        ((SEARCH, RESULT, "<answer>dog</answer>"), 0.0),
        (("I <b>think</b> 2<x>1 <br>" + ANSWER,), 1.0),  # these are no tags
        (("<python>List<int></python>", RESULT, ANSWER), 1.0),
        ((SEARCH, RESULT, ">x " + ANSWER), 1.0),
    ],
)
def test_what_is_in_order_earns_what_it_is_worth(turns, reward):
    assert tag_error(trajectory(*turns).parts, TOOLS) == ""
    assert REWARD(trajectory(*turns), GOLD) == reward


UNCLOSED, UNANSWERED, ANSWERS = "each tag must be closed", "a tool must answer", "exactly one <answer>"


@pytest.mark.parametrize(
    ("turns", "error"),
    [
        (("cat",), ANSWERS),
        (("",), ANSWERS),
        ((), ANSWERS),
        ((SEARCH, RESULT), ANSWERS),
        ((SEARCH, RESULT, ""), ANSWERS),
        ((ANSWER + ANSWER,), ANSWERS),
        ((ANSWER + "<think>a</think>",), ANSWERS),
        ((ANSWER + " and on",), ANSWERS),
        ((ANSWER + SEARCH, RESULT, ""), ANSWERS),
        ((ANSWER + "</answer>",), UNCLOSED),
        (("<answer>cat",), UNCLOSED),
        (("</answer>cat<answer>",), UNCLOSED),
        (("<think><answer>cat</answer></think>",), UNCLOSED),
        (("<search>a</answer>",), UNCLOSED),
        (("<think>a<think>b</think>" + ANSWER,), UNCLOSED),
        (("<think><search>a</search>", RESULT, "</think>" + ANSWER), UNCLOSED),
        ((SEARCH + "<answer>", RESULT, "cat</answer>"), UNCLOSED),  # an answer around a result
        ((SEARCH + ANSWER,), UNANSWERED),  # a call over the limit
        ((SEARCH + SEARCH, RESULT, ANSWER), UNANSWERED),
        ((SEARCH, RESULT, SEARCH + ANSWER), UNANSWERED),
        ((SEARCH + "<think>b</think>", RESULT, ANSWER), UNANSWERED),
        (("<think>b</think>", RESULT, ANSWER), UNANSWERED),
        (("<search>a</search><result>b</result>" + ANSWER,), "a result is the tool's"),
        ((SEARCH, RESULT, "</result>" + ANSWER), "a result is the tool's"),
    ],
)
def test_a_broken_format_earns_less_than_a_wrong_answer(turns, error):
    response = trajectory(*turns)
    assert error in tag_error(response.parts, TOOLS)
    assert REWARD(response, GOLD) == -1.0


PIECES = st.sampled_from([*("<answer>", "</answer>", "<result>", "</result>", "<search>", "</think>"),
                          *("<answer", ">", "</answer", "cat", "\n")])  # fmt: skip
PAGES = st.lists(PIECES, max_size=6).map("".join)


@given(PAGES)
def test_no_page_breaks_or_forges_a_format(page):
    assert REWARD(trajectory(SEARCH, page, ANSWER), GOLD) == 1.0
    assert REWARD(trajectory(SEARCH, page, "<answer>dog</answer>"), GOLD) == 0.0
    assert REWARD(trajectory(SEARCH, page, ""), GOLD) == -1.0
    assert REWARD(trajectory("<search>a", page, ANSWER), GOLD) == -1.0
    assert REWARD(trajectory(SEARCH + "<answer", page, ">" + ANSWER), GOLD) == 1.0  # `<answer` is text


@pytest.mark.parametrize("rest", ["", "\n\n", ".", "></", " <"])
def test_a_token_may_end_behind_the_tag_that_it_completes(rest):
    assert REWARD(trajectory(SEARCH + rest, RESULT, ANSWER), GOLD) == 1.0


def test_tools_are_named():
    reward, call = formatted_answer(("web-search",)), "<web-search>a</web-search>"
    assert reward(trajectory(call, RESULT, ANSWER), GOLD) == 1.0
    assert reward(trajectory(call + ANSWER), GOLD) == -1.0
    assert REWARD(trajectory(call + ANSWER), GOLD) == 1.0  # which knows no such tool
    assert set(TOOLS) == set(tools.TOOLS)
    with pytest.raises(ValueError, match="cannot be named answer, think"):
        formatted_answer(("think", "search", "answer"))


def test_demonstrations_of_the_search_task_are_in_order():
    """Those that search twice are right; the hasty ones, three of four, are wrong in the right format."""
    task = load_task(from_config_dict(Experiment, get_config()))
    assert task.demonstrate is not None
    earned = {3: [], 5: []}
    for example in task.held_out:
        turns = task.demonstrate(example)
        response = Trajectory([Part(text, author == "policy") for author, text in turns])
        earned[len(turns)].append(REWARD(response, example))
    assert len(earned[3]) > 2 * len(earned[5]) > 40
    assert set(earned[5]) == {1.0} and set(earned[3]) == {0.0}
