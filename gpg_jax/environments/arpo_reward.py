"""The reward of ARPO (arXiv 2507.19849, "hierarchical reward design"; `deep_research.py` of its code).

    R = −1              the format is broken
        0               the answer shares no word with any gold answer
        F1              else, the best over the gold answers
        F1 + 0.1        … and both tools were called

It is read off the parsed trajectory, where a tool's result can forge nothing: the released code searches the
whole text, in which a page that says `</python>` earns the bonus.
"""

from __future__ import annotations

import itertools
import re

from gpg_jax.data.boxes import last_boxed
from gpg_jax.data.examples import Example
from gpg_jax.environments.answers import best_f1, gold_answers
from gpg_jax.environments.tools import query_of
from gpg_jax.environments.trajectory import Part, Trajectory

TOOLS = ("search", "python")
BONUS = 0.1
_CALLS = [[f"<{tool}>", f"</{tool}>"] for tool in TOOLS]
_CALL_TAG = re.compile("|".join(itertools.chain(*_CALLS)))
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def arpo_reward(response: str, example: Example) -> float:
    """See the module.

    Args:
      response: a `Trajectory`; a plain text is one without tools.
      example: its answer is the gold one, or a JSON list of several.
    """
    parts = parts_of(response)
    if format_error(parts):
        return -1.0
    score = best_f1(boxed_answer(parts) or "", gold_answers(example))
    both = set(calls(parts)) == set(TOOLS)
    return score + BONUS if score > 0 and both else score


def arpo_f1(response: str, example: Example) -> float:
    """F1 of the boxed answer alone, 0 without one; whatever the format. See `arpo_reward`."""
    return best_f1(boxed_answer(parts_of(response)) or "", gold_answers(example))


def format_error(parts: tuple[Part, ...]) -> str:
    """What is wrong with the format, "" if nothing.

    As many `<think>` as `</think>` and at least one; exactly one answer, with a `\\boxed{…}` in it; each call
    closed and answered by its tool before the next is opened; no result that the policy wrote itself.
    """
    if _count(parts, "<think>") != _count(parts, "</think>") or not _count(parts, "<think>"):
        return "as many <think> as </think> are needed, at least one"
    if _count(parts, "<answer>") != 1 or _count(parts, "</answer>") != 1:
        return "exactly one <answer>…</answer> is needed"
    if _count(parts, "<result>") or _count(parts, "</result>"):
        return "a result is the tool's to write"
    for part, after in itertools.zip_longest(parts, parts[1:]):  # authors take turns
        tags = _CALL_TAG.findall(part.text) if part.by_policy else []
        if tags and not (after and tags in _CALLS):
            return "each call must be closed and answered before the next is opened"
    if boxed_answer(parts) is None:
        return "the answer needs a \\boxed{…}"
    return ""


def parts_of(response: str) -> tuple[Part, ...]:
    """The parts of a trajectory; a plain text is all the policy's."""
    return response.parts if isinstance(response, Trajectory) else (Part(response, True),)


def calls(parts: tuple[Part, ...]) -> list[str]:
    """The tools that were asked something and answered, in order.

    A tool answers behind the token that completes a closing tag; the rest of that token may follow the tag.
    What answers a call without a query is no tool.
    """
    found = []
    for part, after in itertools.pairwise(parts):
        if part.by_policy and not after.by_policy:
            place, tool = max((part.text.rfind(f"</{tool}>"), tool) for tool in TOOLS)
            found += [tool] if place >= 0 and _asks(tool, part.text) else []
    return found


def _asks(tool: str, text: str) -> bool:
    try:
        query_of(tool, text)
    except ValueError:
        return False
    return True


def _count(parts: tuple[Part, ...], tag: str) -> int:
    """How often the policy wrote a tag; one that a tool's result lies inside of is none."""
    return sum(part.text.count(tag) for part in parts if part.by_policy)


def boxed_answer(parts: tuple[Part, ...]) -> str | None:
    """What stands in the last `\\boxed{…}` of the policy's own `<answer>`, None without one."""
    own = "".join(part.text for part in parts if part.by_policy)
    found = _ANSWER.search(own)
    return last_boxed(found.group(1)) if found else None
