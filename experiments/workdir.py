"""The folder of a run: whose it is, and whether it can be written, found out before anything is."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from experiments.reading import flatten

CONFIG = "config.json"
LOCK = ".lock"
SCRATCH = f".{CONFIG}"

FREE = (
    "mesh",
    "actors.devices",
    "evaluation.batch",
    "reward_model.batch",
    "checkpoint.every",
    "checkpoint.keep_latest",
    "checkpoint.keep_best",
)
"""Keys that may change when a run is resumed: where it runs, how much at once, and when it saves.

On other devices, or in batches of another size, sums are made in another order, and may differ in their last
bits: scores of a reward model, and so what is learnt from them; probabilities of held-out responses, whose
draws are named by their places among all rows, and are others only where two tokens are as good as equal.
"""


@contextlib.contextmanager
def refusals(workdir: Path) -> Iterator[None]:
    """What the file system refuses inside is a ValueError.

    Args:
      workdir: the folder that is named.

    Raises:
      ValueError: in the place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"workdir {str(workdir)!r} cannot be read or written: {error}; give another folder"
        ) from error


def check_workdir(workdir: Path, config: Any) -> None:
    """Raises a ValueError if a run cannot live in a folder; touches nothing.

    Args:
      workdir: the folder; it need not exist, or is empty, or is this run's.
      config: of the run that wants it, a dataclass.
    """
    with refusals(workdir):
        _check_writable(workdir)
        if not workdir.exists():
            return
        _check_owner(workdir, config)
        if (workdir / LOCK).exists():
            _lock(workdir).close()


def claim(workdir: Path, config: Any) -> IO[bytes]:
    """Makes the folder this run's.

    Args:
      workdir: was checked by `check_workdir`; it is checked again once it is locked.
      config: of the run.

    Returns:
      The lock; nobody else can claim the folder until it is closed, or the process is dead.

    Raises:
      ValueError: another run has been faster, or the folder cannot be written.
    """
    with refusals(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        lock = _lock(workdir)
        try:
            _check_owner(workdir, config)
            scratch = workdir / SCRATCH
            scratch.write_text(json.dumps(dataclasses.asdict(config), indent=1, ensure_ascii=False))
            os.replace(scratch, workdir / CONFIG)
        except BaseException:
            lock.close()
            raise
    return lock


def read_workdir(workdir: Path) -> dict[str, Any]:
    """The configuration of the run in a folder, sections nested.

    Raises:
      ValueError: no run there, or one that cannot be read.
    """
    with refusals(workdir):
        if not (workdir / CONFIG).is_file():
            raise ValueError(f"workdir {str(workdir)!r} has no {CONFIG}: no run was started there")
        return _read(workdir / CONFIG)


def _check_writable(workdir: Path) -> None:
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"workdir {str(workdir)!r} is a file; give a folder")
    existing = next(path for path in (workdir.absolute(), *workdir.absolute().parents) if path.exists())
    if not existing.is_dir() or not _writable(existing):
        raise ValueError(
            f"workdir {str(workdir)!r} cannot be written: {existing} refuses it; give another folder"
        )


def _check_owner(workdir: Path, config: Any) -> None:
    owner = workdir / CONFIG
    if not owner.exists():
        foreign = sorted(path.name for path in workdir.iterdir() if path.name not in (LOCK, SCRATCH))
        if foreign:
            raise ValueError(
                f"workdir {str(workdir)!r} has {foreign[0]} and no {CONFIG}: it is not the folder of a run, "
                "which would overwrite what is there; give another folder"
            )
        return
    changed = _differences(flatten(_read(owner)), flatten(config))
    if changed:
        raise ValueError(
            f"workdir {str(workdir)!r} belongs to another run: {'; '.join(changed)}. "
            "Give another --workdir, or the configuration that it was started with"
        )


def _lock(workdir: Path) -> IO[bytes]:
    """An open file whose lock no other process holds."""
    lock = (workdir / LOCK).open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise ValueError(
            f"a run is going on in workdir {str(workdir)!r}; wait for its end, or give another folder"
        ) from error
    except BaseException:
        lock.close()
        raise
    return lock


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); give another --workdir") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not the configuration of a run; give another --workdir")
    return found


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
