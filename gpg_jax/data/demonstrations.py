"""Demonstrations, from files and as rows: what a skilled policy wrote, and what tools answered it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpg_jax.data.examples import Example
from gpg_jax.data.rows import answer_text, existing, is_empty, json_lines, json_list, prompt_of
from gpg_jax.types import STOP_EOS

Turn = tuple[str, str]
"""Author, "policy" or "tool", and text."""

_AUTHORS = {"gpt": "policy", "assistant": "policy", "observation": "tool", "tool": "tool"}
_ASKERS = {"system": "system", "human": "user", "user": "user"}
_RESULT = re.compile(r"\s*<result>.*?</result>", re.DOTALL)
_TOLD = re.compile(r"(\s*<result>\n?)(.*?)(\n?</result>\s*)", re.DOTALL)
_RESULT_TAG = re.compile(r"</?result>")
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class Demonstrations(NamedTuple):
    """What a file of them holds.

    Attributes:
      rows: examples and their turns; the last turn of each is the policy's.
      left_out: how many rows were not fit.
    """

    rows: list[tuple[Example, list[Turn]]]
    left_out: int


def read_demonstrations(
    path: str | Path, tools: Collection[str], *, drop_unfit: bool = False
) -> Demonstrations:
    """Reads demonstrations: what was asked, and who wrote what.

    A row is asked by `question`, a text, or `prompt`, a text or chat messages, and answered by `turns`,
    `[["policy", text], ["tool", text], …]`, or `response`, a text that `split_turns` takes apart. Or it has
    the layout of a published set: `instruction` (the system prompt of an `input` beside it) and `output`, as
    Tool-Star's (arXiv 2505.16410); `conversations` of `from` and `value`, as ARPO's (arXiv 2507.19849). A
    `system` beside them is the system prompt.

    The gold answer is `answer`, and without one the demonstration's own: what stands in its last
    `<answer>…</answer>`, or else its last turn. The other fields become metadata.

    Args:
      path: `.jsonl`, an object a line, or `.json`, a list of objects.
      tools: names of the tools that are called in them.
      drop_unfit: leave out rows whose calls and results do not alternate, which are errors otherwise.

    Raises:
      ValueError: no such file, another ending, no demonstrations, or a row that is none, and which.
    """
    path = existing(path)
    if path.suffix not in (".jsonl", ".json"):
        raise ValueError(f"{path} is neither .jsonl nor .json")
    read: list[tuple[Example, list[Turn]]] = []
    left_out = 0
    for row, place in json_lines(path) if path.suffix == ".jsonl" else json_list(path):
        asked, said, rest = _layout(row, place)
        try:
            turns = _alternating(said, tools)
        except ValueError as error:
            if drop_unfit:
                left_out += 1
                continue
            raise ValueError(f"{place}: {error} (drop_unfit leaves such demonstrations out)") from error
        gold = rest.pop("answer", None)
        answer = _own_answer(turns[-1][1]) if is_empty(gold) else answer_text(gold, place)
        read.append((Example(prompt_of(asked, place), answer, rest), turns))
    if not read:
        raise ValueError(f"{path} holds no demonstrations of the tools {', '.join(tools) or 'none'}")
    return Demonstrations(read, left_out)


def split_turns(response: str, tools: Collection[str]) -> list[Turn]:
    """A response with results in it as turns: a call ends the policy's, and its result is the tool's.

    The white space before a result is the tool's: a policy is answered as soon as it has made a call.

    Args:
      response: text.
      tools: names of the tools.

    Raises:
      ValueError: a call without a result, or a result without a call.
    """
    call = _closing_tag(tools)
    turns: list[Turn] = []
    begin = 0
    while found := call.search(response, begin):
        result = _RESULT.match(response, found.end())
        if result is None:
            raise ValueError(f"no <result>…</result> follows the call that {found[0]} ends")
        turns += [("policy", response[begin : found.end()]), ("tool", result[0])]
        begin = result.end()
    if response[begin:].strip():
        turns.append(("policy", response[begin:]))
    _check_own_words(turns, tools)
    return turns


def _layout(row: dict[str, Any], place: str) -> tuple[Any, list[Turn], dict[str, Any]]:
    """What a row asks, who says what in it, and its other fields."""
    rest = dict(row)
    system = rest.pop("system", None)
    if "conversations" in rest:
        asked, said = _conversation(rest.pop("conversations"))
    elif "instruction" in rest:
        asked, given, said = rest.pop("instruction"), rest.pop("input", None), rest.pop("output", None)
        if not is_empty(given):
            system, asked = (asked, given) if is_empty(system) else (system, f"{asked}\n{given}")
    else:
        asked = rest.pop("question" if "question" in rest else "prompt", None)
        said = rest.pop("turns" if "turns" in rest else "response", None)
    turns = [("policy", said)] if isinstance(said, str) else said
    if is_empty(asked) or not isinstance(turns, list) or not turns or not all(map(_is_turn, turns)):
        raise ValueError(
            f"{place} is no demonstration, which has question or prompt and turns or response, or "
            f"instruction and output, or conversations of one question; its fields are {sorted(row)}"
        )
    if not is_empty(system):
        asked = asked if isinstance(asked, list) else [{"role": "user", "content": asked}]
        asked = [{"role": "system", "content": system}, *asked]
    return asked, [(author, text) for author, text in turns], rest


def _conversation(entries: Any) -> tuple[Any, Any]:
    """What is asked at the beginning of a conversation, and the turns behind it; neither, if it is none."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return None, None
    spoken = [(str(entry.get("from")), entry.get("value")) for entry in entries]
    asked = list(itertools.takewhile(lambda entry: entry[0] in _ASKERS, spoken))
    said = [(_AUTHORS.get(who), text) for who, text in spoken[len(asked) :]]
    if len(asked) == 1 and asked[0][0] != "system":
        return asked[0][1], said
    return [{"role": _ASKERS[who], "content": text} for who, text in asked], said


def _is_turn(turn: Any) -> bool:
    return (
        isinstance(turn, list | tuple)
        and len(turn) == 2
        and turn[0] in ("policy", "tool")
        and isinstance(turn[1], str)
        and not is_empty(turn[1])
    )


def _alternating(said: Sequence[Turn], tools: Collection[str]) -> list[Turn]:
    """The turns, taken apart where all are the policy's and have the tools' in them."""
    if all(author == "policy" for author, _ in said):
        turns = [turn for _, text in said for turn in split_turns(text, tools)]
    else:
        turns = list(said)
        _check_order(turns, tools)
    if turns[-1][0] != "policy":
        raise ValueError("the policy says nothing behind the last result")
    return turns


def _check_order(turns: Sequence[Turn], tools: Collection[str]) -> None:
    """A tool speaks after each call of the policy's and nowhere else."""
    call = _closing_tag(tools)
    for number, (author, _) in enumerate(turns):
        if author != ("policy", "tool")[number % 2]:
            raise ValueError(f"turn {number} is the {author}'s; turns are the policy's and a tool's by turns")
        before = turns[number - 1][1].rstrip()
        if author == "tool" and [found.end() for found in call.finditer(before)] != [len(before)]:
            raise ValueError(
                f"turn {number} is a tool's, and turn {number - 1} does not end in a call, its only one"
            )
    if turns[-1][0] == "policy" and (found := call.search(turns[-1][1])):
        raise ValueError(f"no tool's turn follows the call that {found[0]} ends")
    _check_own_words(turns, tools)


def _closing_tag(tools: Collection[str]) -> re.Pattern[str]:
    """What ends a call."""
    return re.compile("|".join(f"</{re.escape(tool)}>" for tool in tools) or "(?!)")


def _check_own_words(turns: Sequence[Turn], tools: Collection[str]) -> None:
    """What stands in a result is a tool's, and never the policy's: it would be learnt."""
    if any(author == "policy" and _RESULT_TAG.search(text) for author, text in turns):
        calls = f"a call of {', '.join(tools)}" if tools else "any call"
        raise ValueError(f"a <result> or </result> stands outside of what answers {calls}")


def _own_answer(text: str) -> str:
    found = _ANSWER.findall(text)
    return (found[-1] if found else text).strip()


def demonstration_tokens(
    turns: Sequence[Turn],
    encode: Callable[[str], list[int]],
    eos_id: int,
    encode_foreign: Callable[[str], list[int]] | None = None,
) -> tuple[list[int], list[bool]]:
    """Tokens of a demonstration, and which of them the policy chose; its end-of-sequence token is one.

    Each turn is tokenised on its own, and of a result the tags and the text, as it is while a policy speaks
    with its tools (`environments.toolbox`).

    Args:
      turns: in order.
      encode: text -> ids of exactly this text.
      eos_id: ends the row.
      encode_foreign: of the tools' turns, `Tokenizer.encode_foreign`; `encode` for None.

    Raises:
      ValueError: an author that is neither policy nor tool, or no turn of the policy's.
    """
    ids: list[int] = []
    acted: list[bool] = []
    for author, text in turns:
        if author not in ("policy", "tool"):
            raise ValueError(f'the author of a turn is "policy" or "tool", got {author!r}')
        own = encode(text) if author == "policy" else _result_tokens(text, encode_foreign or encode)
        ids += own
        acted += [author == "policy"] * len(own)
    if not any(acted):
        raise ValueError("a demonstration needs a turn of the policy's")
    return [*ids, eos_id], [*acted, True]


def _result_tokens(text: str, encode: Callable[[str], list[int]]) -> list[int]:
    told = _TOLD.fullmatch(text)
    return [token for piece in (told.groups() if told else (text,)) for token in encode(piece)]


def lay_out(rows: Sequence[tuple[list[int], list[bool]]], slots: int) -> dict[str, Any]:
    """Demonstrations as the fields of `decoding.rollouts.Written`.

    Args:
      rows: from `demonstration_tokens`.
      slots: N, the budget of a response.

    Raises:
      ValueError: a demonstration that is longer.
    """
    lengths = np.array([len(ids) for ids, _ in rows], np.int32)
    if len(lengths) and lengths.max() > slots:
        row = int(lengths.argmax())
        raise ValueError(
            f"demonstration {row} has {lengths[row]} tokens, and a response at most {slots}: raise the "
            "budget, or leave it out"
        )
    tokens, acted = np.zeros((len(rows), slots), np.int32), np.zeros((len(rows), slots), bool)
    for row, (ids, own) in enumerate(rows):
        tokens[row, : len(ids)], acted[row, : len(own)] = ids, own
    count = np.arange(len(rows), dtype=np.int32)
    return {
        "tokens": tokens,
        "acted": acted,
        "log_prob": np.zeros((len(rows), slots), np.float32),
        "length": lengths,
        "stop": np.full(len(rows), STOP_EOS, np.int32),
        "parent": count,
        "fork": np.zeros_like(count),
        "calls": np.zeros_like(count),
    }
