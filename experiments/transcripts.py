"""A row in words: what was asked, what was answered, what it was worth; enough to judge it again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.setup import Setup
from gpg_jax.data.examples import Example
from gpg_jax.training.collect import Collected
from gpg_jax.types import STOP_EOS, STOP_LENGTH, STOP_TOOL_LIMIT

STOPS = {STOP_EOS: "end", STOP_LENGTH: "length", STOP_TOOL_LIMIT: "tool limit"}


def transcript(
    setup: Setup, example: Example, ids: Sequence[int], *, stop: int, outcome: float, reward: float
) -> dict[str, Any]:
    """One row.

    Args:
      setup: of the run.
      example: what was asked.
      ids: tokens of the response.
      stop: why it ended.
      outcome: by the verifier.
      reward: what it earned.
    """
    return {
        "prompt": setup.task.tokenizer.decode_all(setup.task.encode(example)),
        "response": setup.task.tokenizer.decode(ids),
        "answer": example.answer,
        "metadata": dict(example.metadata),
        "tokens": len(ids),
        "stop": STOPS[stop],
        "outcome": float(outcome),
        "reward": float(reward),
    }


def of_rollout(setup: Setup, collected: Collected, count: int) -> list[dict[str, Any]]:
    """Some rows of a rollout: the first of every group, then the second ones, and so on.

    Args:
      setup: of the run.
      collected: the rollout.
      count: rows at most.
    """
    rollout = collected.rollout
    group = len(rollout.length) // len(collected.examples)
    rows = sorted(range(len(rollout.length)), key=lambda row: (row % group, row))[:count]
    return [_of_row(setup, collected, row, group) for row in rows]


def _of_row(setup: Setup, collected: Collected, row: int, group: int) -> dict[str, Any]:
    rollout = collected.rollout
    ids = rollout.tokens[row, rollout.prompt_length[row] : rollout.length[row]].tolist()
    said = transcript(
        setup,
        collected.examples[row // group],
        ids,
        stop=int(rollout.stop[row]),
        outcome=float(rollout.outcome[row]),
        reward=float(rollout.reward[row]),
    )
    parts = {name: float(values[row]) for name, values in collected.parts.items()}
    return (
        said | {"parts": parts} | ({"failure": collected.failures[row]} if row in collected.failures else {})
    )
