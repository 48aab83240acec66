"""The folder of a run: whose it is, and whether it can be written, found out before anything is."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from experiments.config import Experiment
from experiments.reading import flatten

CONFIG = "config.json"
OWN = ("checkpoints", "metrics.jsonl")
"""What a run makes after `config.json`."""

FREE = ("mesh", "checkpoint.every", "checkpoint.keep_latest", "checkpoint.keep_best")
"""Keys that may change when a run is resumed: where it runs and when it saves."""


def check_workdir(workdir: Path, config: Experiment) -> None:
    """Raises a ValueError if a run cannot live in a folder; touches nothing.

    Args:
      workdir: the folder; it need not exist.
      config: of the run that wants it.
    """
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"workdir {str(workdir)!r} is a file; give a folder")
    existing = next(path for path in (workdir.absolute(), *workdir.absolute().parents) if path.exists())
    if not existing.is_dir() or not _writable(existing):
        raise ValueError(
            f"workdir {str(workdir)!r} cannot be written: {existing} refuses it; give another folder"
        )
    owner = workdir / CONFIG
    if not owner.exists():
        left = [name for name in OWN if (workdir / name).exists()]
        if left:
            raise ValueError(f"workdir {str(workdir)!r} has {left[0]} and no {CONFIG}; give another folder")
        return
    changed = _differences(flatten(_read(owner)), flatten(config))
    if changed:
        raise ValueError(
            f"workdir {str(workdir)!r} belongs to another run: {'; '.join(changed)}. "
            "Give another --workdir, or the configuration that it was started with"
        )


def claim(workdir: Path, config: Experiment) -> None:
    """Makes the folder this run's.

    Args:
      workdir: was checked by `check_workdir`.
      config: of the run.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    scratch = workdir / f".{CONFIG}"
    scratch.write_text(json.dumps(dataclasses.asdict(config), indent=1, ensure_ascii=False))
    os.replace(scratch, workdir / CONFIG)


def read_workdir(workdir: Path) -> dict[str, Any]:
    """The configuration of the run in a folder, sections nested.

    Raises:
      ValueError: no run there.
    """
    if not (workdir / CONFIG).is_file():
        raise ValueError(f"workdir {str(workdir)!r} has no {CONFIG}: no run was started there")
    return _read(workdir / CONFIG)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); give another --workdir") from error


def _writable(folder: Path) -> bool:
    """Whether a file can be made there; permissions alone do not tell of read-only disks."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    changed = sorted(key for key in {**old, **new} if key not in FREE and old.get(key) != new.get(key))
    return [f"{key} was {_shown(old, key)} and is {_shown(new, key)}" for key in changed]


def _shown(values: dict[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "left to its default"
