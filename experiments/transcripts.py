"""A row in words: what was asked, what was answered, what it was worth; enough to judge it again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.setup import Setup
from gpg_jax.training.collect import Collected, Verdicts
from gpg_jax.types import STOP_EOS, STOP_LENGTH

STOPS = {STOP_EOS: "end", STOP_LENGTH: "length"}


def transcript(
    setup: Setup, example: Any, ids: Sequence[int], stop: int, verdicts: Verdicts, row: int
) -> dict[str, Any]:
    """One row.

    Args:
      setup: of the run.
      example: what was asked.
      ids: tokens of the response.
      stop: why it ended.
      verdicts: of its batch.
      row: its place there.
    """
    return {
        **setup.task.describe(example),
        "prompt": setup.tokenizer.decode_all(setup.task.encode(example)),
        "response": setup.tokenizer.decode(ids),
        "tokens": len(ids),
        "stop": STOPS[int(stop)],
        "outcome": float(verdicts.outcome[row]),
        "reward": float(verdicts.reward[row]),
        **({"failure": verdicts.failures[row]} if row in verdicts.failures else {}),
    }


def of_rollout(setup: Setup, collected: Collected, count: int) -> list[dict[str, Any]]:
    """Some rows of a rollout: the first of every group, then the second ones, and so on.

    Args:
      setup: of the run.
      collected: the rollout.
      count: rows at most.
    """
    rollout, group = collected.rollout, setup.schedule.plan.layout.shared
    rows = sorted(range(len(rollout.length)), key=lambda row: (row % group, row))[:count]
    verdicts = Verdicts(rollout.outcome, rollout.reward, collected.failures)
    starts, ends = rollout.prompt_length, rollout.length
    return [
        transcript(
            setup,
            collected.examples[row // group],
            rollout.tokens[row, starts[row] : ends[row]].tolist(),
            rollout.stop[row],
            verdicts,
            row,
        )
        for row in rows
    ]
