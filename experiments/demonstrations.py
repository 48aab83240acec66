"""What a cold start learns from: the task's own demonstrations, or a file of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.config import Experiment
from experiments.tasks import Task
from gpg_jax.data.demonstrations import Turn, demonstration_tokens, read_demonstrations
from gpg_jax.data.examples import Example
from gpg_jax.data.loader import Loader, loader

Row = tuple[list[int], list[bool]]
"""Tokens of a demonstration, and which of them the policy chose."""


class Demonstrations(NamedTuple):
    """Where demonstrations come from.

    Attributes:
      batches: P examples at a time, without end; the task's own where nothing else is asked.
      rows: example -> what is written in answer to it.
      summary: how many there are, and how many of a file were left out.
    """

    batches: Loader[Example]
    rows: Callable[[Example], Row]
    summary: str


def load_demonstrations(config: Experiment, task: Task) -> Demonstrations | None:
    """The demonstrations of a run, None where it has no cold start.

    Raises:
      ValueError: a cold start from nothing, or demonstrations that cannot be read or are too long.
    """
    cold = config.cold_start
    if not cold.steps:
        return None
    if cold.data is not None:
        return _from_file(config, task, Path(cold.data))
    demonstrate = task.demonstrate
    if demonstrate is None:
        raise ValueError(
            f"cold_start.steps is {cold.steps}, and the task {config.task.name!r} has no demonstrations; "
            "give cold_start.data, a file of them"
        )
    return Demonstrations(
        task.batches, lambda example: _tokens(task, demonstrate(example)), "the task's own demonstrations"
    )


def place(task: Task, demonstrations: Demonstrations | None) -> Any:
    """Where a run stands in its examples, and in its demonstrations where those are others; JSON-able."""
    own = task.batches.get_state()
    if demonstrations is None or demonstrations.batches is task.batches:
        return own
    return {"train": own, "demonstrations": demonstrations.batches.get_state()}


def go_to(task: Task, demonstrations: Demonstrations | None, saved: Any) -> None:
    """Goes back to what `place` gave."""
    if demonstrations is None or demonstrations.batches is task.batches:
        task.batches.set_state(saved)
        return
    task.batches.set_state(saved["train"])
    demonstrations.batches.set_state(saved["demonstrations"])


def _from_file(config: Experiment, task: Task, path: Path) -> Demonstrations:
    cold = config.cold_start
    read = read_demonstrations(path, config.tools.names, drop_unfit=cold.drop_unfit)
    turns = [own for _, own in read.rows]
    # A row is found again by its number, which a shuffled example carries along.
    examples = [
        dataclasses.replace(example, metadata={**example.metadata, "demonstration": number})
        for number, (example, _) in enumerate(read.rows)
    ]

    def rows(example: Example) -> Row:
        return _tokens(task, turns[example.metadata["demonstration"]])

    fitting = [example for example in examples if _fits(config, task, example, rows(example))]
    if len(fitting) < len(examples) and not (cold.drop_unfit and fitting):
        raise ValueError(
            f"{len(examples) - len(fitting)} of the {len(examples)} demonstrations of {path} are longer than "
            f"task.prompt_tokens={config.task.prompt_tokens} or sampling.new_tokens="
            f"{config.sampling.new_tokens}: raise them, or leave those out with cold_start.drop_unfit"
        )
    batches = loader(fitting, batch_size=config.schedule.prompts, seed=config.seed)
    out = read.left_out + len(examples) - len(fitting)
    return Demonstrations(batches, rows, f"{len(fitting):,} demonstrations, {out:,} left out as unfit")


def _fits(config: Experiment, task: Task, example: Example, row: Row) -> bool:
    short = len(task.encode(example)) <= config.task.prompt_tokens
    return short and len(row[0]) <= config.sampling.new_tokens


def _tokens(task: Task, turns: Sequence[Turn]) -> Row:
    tokenizer = task.tokenizer
    return demonstration_tokens(turns, tokenizer.encode, tokenizer.eos_ids[0], tokenizer.encode_foreign)
