"""From token lists to the arrays of the loop, and from its responses to rows; NumPy, on the host.

Token in, token out: a row holds the ids that were sampled, never a text that was tokenised again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpg_jax.decoding.loop import Responses
from gpg_jax.types import Array, Rollout


class Prompts(NamedTuple):
    """Right-padded prompts `int32[P, S]` and their lengths `int32[P]`."""

    tokens: np.ndarray
    length: np.ndarray


def pad_prompts(token_ids: Sequence[Sequence[int]], slots: int, padding: int = 0) -> Prompts:
    """Lays prompts out in rows.

    Args:
      token_ids: P prompts.
      slots: S, the budget of a prompt in tokens.
      padding: id that fills the rows; it is never read.

    Raises:
      ValueError: a prompt that is empty or longer than the budget.
    """
    lengths = np.array([len(ids) for ids in token_ids], np.int32)
    for index, length in enumerate(lengths):
        if not 1 <= length <= slots:
            raise ValueError(
                f"prompt {index} has {length} tokens; a prompt needs 1 to {slots} of them: "
                "raise the prompt budget or leave the prompt out"
            )
    tokens = np.full((len(token_ids), slots), padding, np.int32)
    for row, ids in zip(tokens, token_ids, strict=True):
        row[: len(ids)] = ids
    return Prompts(tokens, lengths)


def response_ids(responses: Responses) -> list[list[int]]:
    """The new tokens of every row as lists, the stopping token included."""
    tokens, lengths = np.asarray(responses.tokens), np.asarray(responses.length)
    return [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]


def _place(rows: np.ndarray, values: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Writes `[B, N]` values into rows `[B, L]` from each row's start on."""
    columns = start[:, None] + np.arange(values.shape[1])
    np.put_along_axis(rows, columns, values.astype(rows.dtype), axis=1)
    return rows


def build_rollout(
    prompts: Prompts,
    responses: Responses,
    *,
    outcome: Array,
    reward: Array,
    version: int,
    greedy: bool = False,
) -> Rollout:
    """Rows of prompts and responses, groups contiguous.

    Args:
      prompts: P prompts of S slots.
      responses: B rows of N slots; row b answers prompt `b // (B / P)`.
      outcome: `float32[B]`, the verifier's word.
      reward: `float32[B]`, what is earned at the last action.
      version: updates that the sampling parameters had seen.
      greedy: whether the responses were decoded greedily.

    Returns:
      A `Rollout` of NumPy arrays with L = S + N.

    Raises:
      ValueError: greedy responses, or rows that the prompts do not divide.
    """
    if greedy:
        raise ValueError("a greedy rollout has no probabilities to train on; sample at a temperature above 0")
    tokens, length = np.asarray(responses.tokens), np.asarray(responses.length)
    rows, slots = tokens.shape
    if rows % len(prompts.length):
        raise ValueError(f"{rows} responses cannot be shared out among {len(prompts.length)} prompts")
    group = rows // len(prompts.length)
    start = np.repeat(prompts.length, group).astype(np.int32)
    own = np.arange(slots)[None] < length[:, None]
    width = prompts.tokens.shape[1] + slots
    text = np.zeros((rows, width), np.int32)
    text[:, : prompts.tokens.shape[1]] = np.repeat(prompts.tokens, group, axis=0)
    text[np.arange(width)[None] >= start[:, None]] = 0
    return Rollout(
        tokens=_place(text, np.where(own, tokens, 0), start),
        action_mask=_place(np.zeros((rows, width), bool), own, start),
        prompt_length=start,
        length=start + length.astype(np.int32),
        behaviour_log_prob=_place(
            np.zeros((rows, width), np.float32), np.where(own, np.asarray(responses.log_prob), 0), start
        ),
        group=np.repeat(np.arange(rows // group), group).astype(np.int32),
        parent=np.arange(rows, dtype=np.int32),
        fork=start.copy(),
        leaf_weight=np.ones(rows, np.float32),
        stop=np.asarray(responses.stop, np.int32),
        version=np.full(rows, version, np.int32),
        outcome=np.asarray(outcome, np.float32),
        reward=np.asarray(reward, np.float32),
    )
