"""What a run leaves in its folder beside checkpoints: metrics, transcripts, rollouts, TensorBoard events."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tensorboardX import SummaryWriter

from experiments import records
from gpg_jax.types import Rollout

METRICS = "metrics.jsonl"
TRANSCRIPTS = "transcripts.jsonl"
EVALUATIONS = "evaluations.jsonl"
DELIVERIES = "deliveries.jsonl"
FIELDS = tuple(Rollout.__annotations__)


class Output(NamedTuple):
    """An open folder of a run; `events` is None on processes that do not write."""

    workdir: Path
    events: SummaryWriter | None


def open_output(workdir: Path, step: int) -> Output:
    """Opens a folder behind a step; what a killed process wrote of later steps is removed.

    Args:
      workdir: exists, and is the run's.
      step: last step that is kept, -1 for none.
    """
    for name in (METRICS, TRANSCRIPTS, EVALUATIONS, DELIVERIES):
        records.keep_through(workdir / name, step)
    for path in workdir.glob("rollouts/*"):
        if path.suffix in (".npz", ".tmp") and path.stem.isdecimal() and int(path.stem) > step:
            path.unlink()
    return Output(workdir, SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1))


def close_output(output: Output) -> None:
    """Hands what is left to the disk."""
    if output.events is not None:
        output.events.close()


def write_metrics(output: Output, step: int, metrics: Mapping[str, float]) -> None:
    """One line of `metrics.jsonl`, and one point of every curve."""
    if output.events is None:
        return
    records.append(output.workdir / METRICS, [{"step": step, **metrics}])
    for name, value in metrics.items():
        output.events.add_scalar(name, value, step)


def write_lines(output: Output, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Lines of `transcripts.jsonl`, `evaluations.jsonl` or `deliveries.jsonl`."""
    if output.events is not None:
        records.append(output.workdir / name, rows)


def rollout_path(output: Output, folder: str, step: int) -> Path:
    """Where `write_rollout` saves."""
    return output.workdir / folder / f"{step}.npz"


def write_rollout(output: Output, folder: str, step: int, rollout: Rollout) -> Path:
    """Saves a rollout whole; the file appears by a rename.

    Args:
      output: of the run.
      folder: "rollouts" or "diagnosis".
      step: its iteration.
      rollout: rows in NumPy.

    Returns:
      The path of the file.
    """
    path = rollout_path(output, folder, step)
    if output.events is None:
        return path
    path.parent.mkdir(exist_ok=True)
    scratch = path.with_suffix(".tmp")
    with scratch.open("wb") as file:
        np.savez_compressed(file, **{name: getattr(rollout, name) for name in FIELDS})
    os.replace(scratch, path)
    return path


def read_rollout(path: Path) -> Rollout:
    """A rollout that `write_rollout` saved.

    Raises:
      ValueError: no such file, or not a rollout.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Rollout(**{name: arrays[name] for name in arrays.files})
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a saved rollout: {error}") from error
