"""Checkpoints of a run: where it begins or goes on, and what others read of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments import output as out
from experiments.config import CheckpointConfig
from experiments.progress import say
from experiments.workdir import refusals
from gpg_jax.training.checkpoints import (
    Checkpoints,
    Restored,
    best_step,
    open_checkpoints,
    read_checkpoints,
    restore,
    set_aside,
)
from gpg_jax.training.processes import on_first
from gpg_jax.types import Params


def open_kept(
    kept: CheckpointConfig, workdir: Path, like: Any, console: Console
) -> tuple[Checkpoints, Restored | None]:
    """The open checkpoints of a run, and the newest sound one; what is damaged is moved out of the way.

    Args:
      kept: what is kept of them.
      workdir: of the run.
      like: shapes and places of its state.
      console: where a person reads.

    Raises:
      ValueError: checkpoints that are all damaged, or of another run, or a folder that cannot be written.
    """
    folder = workdir / "checkpoints"
    checkpoints = open_checkpoints(folder, keep_latest=kept.keep_latest, keep_best=kept.keep_best)
    restored = restore(checkpoints, like, lambda text: say(console, text, "bold red"))
    if restored is not None:
        if restored.damaged:
            say(console, f"moved to {set_aside(checkpoints, restored.damaged)}", "bold red")
        say(console, f"resuming after iteration {restored.step}")
    return checkpoints, restored


def restored_params(workdir: Path, like: Params, checkpoint: str, report: Callable[[str], None]) -> Restored:
    """A checkpoint of a run, of whose state the parameters alone are read: moments and all else stay on disk.

    Args:
      workdir: of the run.
      like: shapes and places of its parameters.
      checkpoint: "latest", "best", or the number of an iteration.
      report: told of every checkpoint that is damaged, in a sentence.

    Returns:
      The checkpoint, with the parameters as its state.

    Raises:
      ValueError: no such checkpoint, or one that is damaged.
    """
    with read_checkpoints(workdir / "checkpoints") as checkpoints:
        restored = restore(checkpoints, {"params": like}, report, _steps(checkpoints, checkpoint), part=True)
    if restored is None:
        raise ValueError(f"the run in {workdir} has no checkpoint yet")
    return restored._replace(state=restored.state["params"])


def open_output(workdir: Path, step: int) -> out.Output:
    """The folder open behind a step; on all processes but the first, one in which nothing is written."""

    def act() -> out.Output:
        with refusals(workdir):
            return out.open_output(workdir, step)

    return on_first(act) or out.Output(workdir, None)


def due(step: int, every: int) -> bool:
    """Whether something is done at a step; `every` is 0 for never."""
    return every > 0 and step % every == 0


def _steps(checkpoints: Checkpoints, checkpoint: str) -> list[int] | None:
    if checkpoint == "latest":
        return None
    if checkpoint == "best":
        return [best_step(checkpoints)]
    if not checkpoint.isdigit():
        raise ValueError(f"--checkpoint={checkpoint} is not latest, best, or a number")
    return [int(checkpoint)]
