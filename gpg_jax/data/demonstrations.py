"""Demonstrations as rows: what a skilled policy wrote, and what tools answered it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gpg_jax.types import STOP_EOS

Turn = tuple[str, str]
"""Author, "policy" or "tool", and text."""


def demonstration_tokens(
    turns: Sequence[Turn], encode: Callable[[str], list[int]], eos_id: int
) -> tuple[list[int], list[bool]]:
    """Tokens of a demonstration, and which of them the policy chose; its end-of-sequence token is one.

    Each turn is tokenised on its own, as it is while a policy speaks with its tools.

    Args:
      turns: in order.
      encode: text -> ids of exactly this text.
      eos_id: ends the row.

    Raises:
      ValueError: an author that is neither policy nor tool, or no turn of the policy's.
    """
    ids: list[int] = []
    acted: list[bool] = []
    for author, text in turns:
        if author not in ("policy", "tool"):
            raise ValueError(f'the author of a turn is "policy" or "tool", got {author!r}')
        own = encode(text)
        ids += own
        acted += [author == "policy"] * len(own)
    if not any(acted):
        raise ValueError("a demonstration needs a turn of the policy's")
    return [*ids, eos_id], [*acted, True]


def lay_out(rows: Sequence[tuple[list[int], list[bool]]], slots: int) -> dict[str, np.ndarray]:
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
