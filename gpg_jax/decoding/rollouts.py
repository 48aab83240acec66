"""From token lists to the arrays of the loop, and from its responses to rows; NumPy, on the host.

Token in, token out: a row holds the ids that were sampled, never a text that was tokenised again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpg_jax.decoding.branching import LeafWeight, leaf_weights
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


class Written(NamedTuple):
    """Responses as they were written, by the policy and by tools: B rows in NumPy.

    Attributes:
      tokens: `int32[B, N]`, a tool's tokens among them, 0 after the end.
      acted: `bool[B, N]`, tokens that the policy chose.
      log_prob: `float32[B, N]`, of those under the distribution sampled from, else 0.
      length: `int32[B]`, tokens of the response.
      stop: `int32[B]`, one of the `STOP_*` reasons.
      parent: `int32[B]`, the row that this one was forked from, itself for a root.
      fork: `int32[B]`, index of its first own token in the response.
      calls: `int32[B]`, calls of tools that were answered.
      late: `bool[B]`, rows of trees that were begun to use up rows left over; None for none.
      scores: what models say of the rows, name -> `float32[B]`; None where none was asked.
    """

    tokens: np.ndarray
    acted: np.ndarray
    log_prob: np.ndarray
    length: np.ndarray
    stop: np.ndarray
    parent: np.ndarray
    fork: np.ndarray
    calls: np.ndarray
    late: np.ndarray | None = None
    scores: dict[str, np.ndarray] | None = None


def written(responses: Responses) -> Written:
    """What the compiled loop drew: rows without tools and forks."""
    tokens, length = np.asarray(responses.tokens), np.asarray(responses.length)
    rows = np.arange(len(length), dtype=np.int32)
    acted = np.arange(tokens.shape[1])[None] < length[:, None]
    return Written(
        tokens=np.where(acted, tokens, 0),
        acted=acted,
        log_prob=np.where(acted, np.asarray(responses.log_prob), 0),
        length=length,
        stop=np.asarray(responses.stop, np.int32),
        parent=rows,
        fork=np.zeros_like(rows),
        calls=np.zeros_like(rows),
    )


def response_ids(responses: Written | Responses) -> list[list[int]]:
    """The tokens of every response as lists, the stopping token included."""
    tokens, lengths = np.asarray(responses.tokens), np.asarray(responses.length)
    return [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]


def _place(rows: np.ndarray, values: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Writes `[B, N]` values into rows `[B, L]` from each row's start on."""
    columns = start[:, None] + np.arange(values.shape[1])
    np.put_along_axis(rows, columns, values.astype(rows.dtype), axis=1)
    return rows


def rows_of(prompts: Prompts, responses: Written) -> tuple[np.ndarray, np.ndarray]:
    """Prompts and responses as rows: tokens `int32[B, S + N]`, and where the responses begin, `int32[B]`.

    Args:
      prompts: P prompts of S slots.
      responses: B rows of N slots; row b answers prompt `b // (B / P)`.

    Raises:
      ValueError: rows that the prompts do not divide.
    """
    rows, slots = responses.tokens.shape
    if rows % len(prompts.length):
        raise ValueError(f"{rows} responses cannot be shared out among {len(prompts.length)} prompts")
    group = rows // len(prompts.length)
    start = np.repeat(prompts.length, group).astype(np.int32)
    width = prompts.tokens.shape[1] + slots
    text = np.zeros((rows, width), np.int32)
    text[:, : prompts.tokens.shape[1]] = np.repeat(prompts.tokens, group, axis=0)
    text[np.arange(width)[None] >= start[:, None]] = 0
    return _place(text, responses.tokens, start), start


def build_rollout(
    prompts: Prompts,
    responses: Written,
    *,
    outcome: Array,
    reward: Array,
    version: int,
    leaf_weight: LeafWeight = "uniform",
    greedy: bool = False,
) -> Rollout:
    """Rows of prompts and responses, groups contiguous.

    Args:
      prompts: P prompts of S slots.
      responses: B rows of N slots; row b answers prompt `b // (B / P)`.
      outcome: `float32[B]`, the verifier's word.
      reward: `float32[B]`, what is earned at the last action.
      version: updates that the sampling parameters had seen.
      leaf_weight: how forked rows count, see `branching.leaf_weights`.
      greedy: whether the responses were decoded greedily.

    Returns:
      A `Rollout` of NumPy arrays with L = S + N.

    Raises:
      ValueError: greedy responses, or rows that the prompts do not divide.
    """
    if greedy:
        raise ValueError("a greedy rollout has no probabilities to train on; sample at a temperature above 0")
    text, start = rows_of(prompts, responses)
    rows, width = text.shape
    group = rows // len(prompts.length)
    fork = start + responses.fork.astype(np.int32)
    return Rollout(
        tokens=text,
        action_mask=_place(np.zeros((rows, width), bool), responses.acted, start),
        prompt_length=start,
        length=start + responses.length.astype(np.int32),
        behaviour_log_prob=_place(np.zeros((rows, width), np.float32), responses.log_prob, start),
        group=np.repeat(np.arange(rows // group), group).astype(np.int32),
        parent=responses.parent.astype(np.int32),
        fork=fork,
        leaf_weight=leaf_weights(responses.parent, fork, leaf_weight, responses.late),
        stop=responses.stop,
        version=np.full(rows, version, np.int32),
        outcome=np.asarray(outcome, np.float32),
        reward=np.asarray(reward, np.float32),
    )
