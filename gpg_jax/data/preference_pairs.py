"""Preferences of two responses to one prompt: from files, and as rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import struct

from gpg_jax.data.examples import Message
from gpg_jax.data.rows import Row, existing, is_empty, json_lines, prompt_of
from gpg_jax.types import Array

Prompt = str | tuple[Message, ...]


@dataclasses.dataclass(frozen=True)
class Preference:
    """A preference.

    Attributes:
      prompt: text, or chat messages.
      chosen: the better response.
      rejected: the worse one.
      margin: what the chosen response is to be better by, in rewards.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    margin: float = 0.0


class Preferences(NamedTuple):
    """What a file of them holds.

    Attributes:
      rows: preferences.
      left_out: how many rows were not fit.
    """

    rows: list[Preference]
    left_out: int


class PairTokens(NamedTuple):
    """A preference in token ids; the responses with what ends them."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    margin: float = 0.0


@struct.dataclass
class Pairs:
    """N preferences as rows; axis 1 is the chosen response, then the rejected one.

    Attributes:
      tokens: `int32[N, 2, L]`, prompt, response, padding.
      prompt_length: `int32[N]`.
      length: `int32[N, 2]`, prompt and response.
      margin: `float32[N]`.
      mask: `bool[N]`, false for pairs that only fill a batch up.
    """

    tokens: Array
    prompt_length: Array
    length: Array
    margin: Array
    mask: Array


def read_preferences(path: str | Path, *, drop_equal: bool = False) -> Preferences:
    """Reads preferences: `prompt`, `chosen` and `rejected`, as public sets have them.

    A prompt is a text or chat messages, a response a text or chat messages that end with the assistant's.
    Where the messages of both responses hold the whole conversation, that is the prompt, and a `prompt`
    beside them, the text that was asked, is one of its messages. A number `margin` is what the chosen
    response is to be better by.

    Args:
      path: `.jsonl`, an object a line.
      drop_equal: leave out rows that compare a response with itself, which are errors otherwise.

    Raises:
      ValueError: no such file, no preferences, or a row that is none, and which.
    """
    path = existing(path)
    read: list[Preference] = []
    equal = 0
    for row, place in json_lines(path):
        found = _preference(row, place)
        if found.chosen != found.rejected:
            read.append(found)
        elif drop_equal:
            equal += 1
        else:
            raise ValueError(f"{place} prefers {_start(found.chosen)} to itself")
    if not read:
        raise ValueError(f"{path} holds no preferences")
    return Preferences(read, equal)


def lay_out_pairs(rows: Sequence[PairTokens], prompt_slots: int, new_slots: int, count: int = 0) -> Pairs:
    """Preferences as arrays.

    Args:
      rows: the preferences, at least one.
      prompt_slots: budget of a prompt in tokens.
      new_slots: budget of a response in tokens.
      count: N; masked copies of the first preference fill up to it. 0 for as many as there are.

    Raises:
      ValueError: none or too many preferences, or one that is longer than the budgets.
    """
    if not 1 <= len(rows) <= (count or len(rows)):
        raise ValueError(f"{len(rows)} preferences do not make a batch of {count or 'one or more'}")
    for number, row in enumerate(rows):
        if not fits(row, prompt_slots, new_slots):
            raise ValueError(
                f"preference {number} has a prompt of {len(row.prompt)} tokens and responses of "
                f"{len(row.chosen)} and {len(row.rejected)}; a prompt needs 1 to {prompt_slots}, and a "
                f"response at most {new_slots}: raise the budgets, or leave it out"
            )
    filled = [*rows, *[rows[0]] * (count - len(rows))]
    tokens = np.zeros((len(filled), 2, prompt_slots + new_slots), np.int32)
    for own, row in zip(tokens, filled, strict=True):
        for line, response in zip(own, (row.chosen, row.rejected), strict=True):
            line[: len(row.prompt) + len(response)] = row.prompt + response
    asked = np.array([len(row.prompt) for row in filled], np.int32)
    said = np.array([[len(row.chosen), len(row.rejected)] for row in filled], np.int32)
    return Pairs(
        tokens=tokens,
        prompt_length=asked,
        length=asked[:, None] + said,
        margin=np.array([row.margin for row in filled], np.float32),
        mask=np.arange(len(filled)) < len(rows),
    )


def fits(row: PairTokens, prompt_slots: int, new_slots: int) -> bool:
    """Whether a preference is within the budgets."""
    return 1 <= len(row.prompt) <= prompt_slots and max(len(row.chosen), len(row.rejected)) <= new_slots


def _preference(row: Row, place: str) -> Preference:
    for field in ("chosen", "rejected"):
        if is_empty(row.get(field)):
            raise ValueError(f"{place} has no {field!r}; its fields are {sorted(row)}")
    (before, chosen), (other, rejected) = (_said(row, field, place) for field in ("chosen", "rejected"))
    if before != other:
        raise ValueError(
            f"{place}: the messages before the chosen and the rejected response differ; both must answer the "
            "same conversation"
        )
    return Preference(_asked(row, before, place), chosen, rejected, _margin(row, place))


def _said(row: Row, field: str, place: str) -> tuple[tuple[Message, ...], str]:
    """The conversation before a response, and the response."""
    said = prompt_of(row[field], f"{place}, {field}")
    if isinstance(said, str):
        return (), said
    *before, last = said
    if last["role"] != "assistant":
        raise ValueError(
            f"{place}: the last message of {field!r} is the {last['role']}'s, not the assistant's"
        )
    return tuple(before), last["content"]


def _asked(row: Row, before: tuple[Message, ...], place: str) -> Prompt:
    """The prompt: what stands before the responses in their own messages, or else `prompt`."""
    asked = row.get("prompt")
    if is_empty(asked):
        if before:
            return before
        raise ValueError(f"{place} has no 'prompt'; its fields are {sorted(row)}")
    prompt = prompt_of(asked, place)
    known = prompt == before if isinstance(prompt, tuple) else any(prompt == one["content"] for one in before)
    if before and not known:
        raise ValueError(f"{place}: its 'prompt' is not in the conversation that its responses belong to")
    return before or prompt


def _margin(row: Row, place: str) -> float:
    margin: Any = row.get("margin")
    if margin is None:
        return 0.0
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 <= margin < math.inf:
        raise ValueError(f"{place} has the margin {margin!r}; it is a number from 0 on")
    return float(margin)


def _start(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")
