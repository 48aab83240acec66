"""Checkpoints of a whole run, on orbax: the state on any mesh, and what the host remembers beside it.

Orbax commits atomically, saves in the background and prunes. Added here: a digest of every array, since
orbax reads flipped bits without a word; the way back from a damaged checkpoint to the newest sound one;
and sentences where a checkpoint does not fit.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from gpg_jax.training.digest import digests
from gpg_jax.training.processes import agreed, from_first, on_first, together

Checkpoints: TypeAlias = ocp.training.Checkpointer
_POLICIES = ocp.training.preservation_policies
_STATUS_OF_DAMAGE = ("DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE")


class Restored(NamedTuple):
    """A checkpoint that was read and verified.

    Attributes:
      step: its number.
      state: the state, laid out as the template asked.
      host: what was saved beside it.
      damaged: newer checkpoints that could not be used, step -> reason.
    """

    step: int
    state: Any
    host: dict[str, Any]
    damaged: dict[int, str]


class _DamagedError(Exception):
    """A checkpoint that was committed and cannot be trusted."""


def open_checkpoints(directory: Path | str, *, keep_latest: int = 2, keep_best: int = 1) -> Checkpoints:
    """The checkpoints of a folder; half-written ones that a killed process left are removed.

    Args:
      directory: created if there is none.
      keep_latest: newest ones that are kept, at least 1.
      keep_best: those of the highest score that are kept besides.

    Returns:
      A checkpointer; close it, or use it in a `with` statement, so that the last save is committed.

    Raises:
      ValueError: nothing to be kept, or a folder that cannot be written.
    """
    if keep_latest < 1 or keep_best < 0:
        raise ValueError(
            f"keep_latest={keep_latest}, keep_best={keep_best}: at least the newest checkpoint must be kept, "
            "and no fewer than 0 of the best"
        )
    policies = [_POLICIES.LatestN(keep_latest)]
    if keep_best:
        best = _POLICIES.BestN(
            get_metric_fn=lambda metrics: metrics["score"],
            n=keep_best,
            keep_checkpoints_without_metrics=False,
        )
        policies.append(best)
    try:
        return Checkpoints(
            Path(directory).absolute(),
            preservation_policy=_POLICIES.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
        )
    except OSError as error:
        raise ValueError(f"checkpoints cannot be kept in {str(directory)!r}: {error}") from error


def read_checkpoints(directory: Path | str) -> Checkpoints:
    """The checkpoints of a folder to read alone: a run that is still writing there is not disturbed.

    Args:
      directory: of checkpoints.

    Raises:
      ValueError: no such folder.
    """
    if not Path(directory).is_dir():
        raise ValueError(f"there are no checkpoints in {str(directory)!r}")
    return Checkpoints(Path(directory).absolute())


def best_step(checkpoints: Checkpoints) -> int:
    """The step of the highest score, the latest of equal ones.

    Args:
      checkpoints: from `open_checkpoints` or `read_checkpoints`.

    Raises:
      ValueError: no checkpoint with a score.
    """
    scored = [(known.metrics["score"], known.step) for known in checkpoints.checkpoints if known.metrics]
    if not scored:
        raise ValueError(f"no checkpoint in {checkpoints.directory} has a score")
    return max(scored)[1]


def newest_host(checkpoints: Checkpoints) -> dict[str, Any]:
    """What was saved beside the newest state, which is not read.

    Args:
      checkpoints: from `open_checkpoints` or `read_checkpoints`.

    Raises:
      ValueError: no checkpoint, or a newest one of which this cannot be read.
    """
    there = _steps(checkpoints)
    if not there:
        raise ValueError(f"there is no checkpoint in {checkpoints.directory}")
    try:
        return _read_record(checkpoints, max(there))["host"]
    except _DamagedError as error:
        raise ValueError(f"checkpoint {max(there)} in {checkpoints.directory} is damaged: {error}") from error


def save(
    checkpoints: Checkpoints, step: int, state: Any, host: Mapping[str, Any], *, score: float | None
) -> ocp.AsyncResponse[bool]:
    """Begins to save; the arrays may be donated as soon as this returns.

    Args:
      checkpoints: from `open_checkpoints`.
      step: number of the checkpoint.
      state: a pytree of arrays, typed PRNG keys among them.
      host: what JSON can hold.
      score: by which the best ones are kept; higher is better. None for a state that was not measured.

    Returns:
      A response whose `result()` waits for the commit.

    Raises:
      ValueError: a step that was saved before, or a score or host part that cannot be kept.
    """
    if any(known.step == step for known in checkpoints.checkpoints):
        raise ValueError(f"checkpoint {step} exists in {checkpoints.directory}; a step is saved once")
    if score is not None and not np.isfinite(score):
        raise ValueError(f"checkpoint {step} has the score {score}; the best of such cannot be found")
    record = json.dumps({"arrays": _describe(state), "digests": _digests(state), "host": dict(host)})
    response = checkpoints.save_checkpointables_async(
        step,
        {"state": state},
        force=True,
        metrics=None if score is None else {"score": float(score)},
        custom_metadata={"record": record, "crc32": zlib.crc32(record.encode())},
    )
    if response is None:
        raise RuntimeError(f"orbax refused to save checkpoint {step} in {checkpoints.directory}")
    return response


def restore(
    checkpoints: Checkpoints,
    like: Any,
    report: Callable[[str], None],
    steps: Sequence[int] | None = None,
    part: bool = False,
) -> Restored | None:
    """The newest checkpoint that is sound.

    A checkpoint is damaged where its bytes are: a lack of memory, or a disk that does not answer, is no
    fault of the files, and is raised as it is.

    Args:
      checkpoints: from `open_checkpoints`.
      like: a template of the state, see `template`; the result lies on its mesh.
      report: told of every checkpoint that is damaged, in a sentence.
      steps: those to consider; all of them for None.
      part: `like` is a dictionary of some of the state's fields, and they alone are read.

    Returns:
      The checkpoint, or None where there is none at all.

    Raises:
      ValueError: a sound checkpoint of another state, none that is sound among some, or a step that is not
        there.
    """
    damaged: dict[int, str] = {}
    there = _steps(checkpoints)
    if unknown := sorted(set(steps or ()) - set(there)):
        raise ValueError(f"there is no checkpoint {unknown[0]} in {checkpoints.directory}; there are {there}")
    for step in sorted(there if steps is None else steps, reverse=True):
        try:
            return Restored(step, *_load(checkpoints, step, like, part), damaged)
        except _DamagedError as error:
            damaged[step] = str(error)
            report(f"checkpoint {step} in {checkpoints.directory} is damaged and passed over: {error}")
    if damaged:
        reasons = "; ".join(f"{step}: {reason}" for step, reason in damaged.items())
        raise ValueError(
            f"no checkpoint in {checkpoints.directory} is sound ({reasons}); if the run is to start again "
            "from its first step, move that folder away"
        )
    return None


def set_aside(checkpoints: Checkpoints, steps: Mapping[int, str]) -> Path:
    """Moves checkpoints out of the way, beside their folder, so that their steps can be saved again.

    Args:
      checkpoints: from `open_checkpoints`.
      steps: those to move, such as `Restored.damaged`.

    Returns:
      The folder that they are in now.
    """
    root = Path(checkpoints.directory)
    target = root.with_name(f"{root.name}.damaged")
    if steps:
        on_first(lambda: _move(root, target, steps))
        checkpoints.reload()
    return target


def template(state: Any, shardings: Any) -> Any:
    """Shapes, types and places of a state: what `restore` fills.

    Args:
      state: the state or its shapes (`jax.eval_shape`).
      shardings: of every leaf.
    """
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), state, shardings
    )


def _move(root: Path, target: Path, steps: Mapping[int, str]) -> None:
    target.mkdir(exist_ok=True)
    for step in steps:
        number = sum(1 for _ in target.glob(f"{step}.*"))
        (root / str(step)).rename(target / f"{step}.{number}")


def _steps(checkpoints: Checkpoints) -> list[int]:
    """The steps that there are, as the first process sees them."""
    return json.loads(
        from_first(lambda: json.dumps([known.step for known in checkpoints.checkpoints]).encode())
    )


def _load(checkpoints: Checkpoints, step: int, like: Any, part: bool) -> tuple[Any, dict[str, Any]]:
    record = _read_record(checkpoints, step)
    saved = record["arrays"]
    if part:
        saved = {name: what for name, what in saved.items() if name.split("/")[0] in like}
    _check_fit(saved, _describe(like), f"checkpoint {step} in {checkpoints.directory}")
    state = _read_arrays(checkpoints, step, like, part)
    found, wanted = _digests(state), record["digests"]
    wrong = [name for name in found if found[name] != wanted[name]]
    if wrong:
        raise _DamagedError(f"the bits of {', '.join(wrong[:5])} are not those that were saved")
    return state, record["host"]


def _read_arrays(checkpoints: Checkpoints, step: int, like: Any, part: bool) -> Any:
    """The arrays; damaged where any process finds them so."""

    def read() -> tuple[Any, str]:
        try:
            return _read_own(Path(checkpoints.directory) / str(step), like, part), ""
        except Exception as error:
            return None, f"its arrays cannot be read ({_damage(error)})"

    state, reason = together(read)
    if agreed(bool(reason)):
        raise _DamagedError(reason or "another process cannot read its arrays")
    return state


def _read_own(path: Path, like: Any, part: bool) -> Any:
    """This process's part, waiting for no other: of two at a barrier, one may have failed."""
    own, alone = jax.process_index(), ocp.Context()
    alone.multiprocessing.primary_host, alone.multiprocessing.active_processes = own, {own}
    alone.pytree.loading.partial_load = part
    with alone:
        return ocp.load_checkpointables(path, {"state": like})["state"]


def _damage(error: Exception) -> str:
    """What is wrong with the bytes, if that is why orbax failed; else raises what it failed with."""
    root: BaseException = error
    while root.__cause__ is not None:  # orbax wraps whatever it catches, a MemoryError too
        root = root.__cause__
    status = re.match(r"([A-Z_]+): ", str(root))  # of tensorstore, whose errors are all ValueErrors
    of_format = isinstance(root, ValueError) and (status is None or status[1] in _STATUS_OF_DAMAGE)
    if not of_format and not isinstance(root, FileNotFoundError | KeyError | EOFError):
        raise root
    return " ".join(f"{type(root).__name__}: {root}".split())[:200]


def _read_record(checkpoints: Checkpoints, step: int) -> dict[str, Any]:
    """What was written beside the arrays, as the first process finds it."""

    def read() -> bytes:
        try:
            metadata = checkpoints.checkpointables_metadata(step).custom_metadata or {}
        except Exception as error:
            return json.dumps({"damage": f"its metadata cannot be read ({_damage(error)})"}).encode()
        if "record" not in metadata:
            return json.dumps({"damage": "it holds no record of what was saved"}).encode()
        if zlib.crc32(metadata["record"].encode()) != metadata.get("crc32"):
            return json.dumps({"damage": "its record was altered"}).encode()
        return metadata["record"].encode()

    record = json.loads(from_first(read))
    if "damage" in record:
        raise _DamagedError(record["damage"])
    return record


def _named(state: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _describe(state: Any) -> dict[str, str]:
    return {name: f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" for name, leaf in _named(state).items()}


def _check_fit(saved: Mapping[str, str], wanted: Mapping[str, str], what: str) -> None:
    wrong = [f"{name} ({saved[name]}) is not in this run" for name in saved if name not in wanted]
    wrong += [f"{name} ({wanted[name]}) is missing" for name in wanted if name not in saved]
    wrong += [
        f"{name} is {saved[name]} and this run needs {wanted[name]}"
        for name in saved
        if name in wanted and saved[name] != wanted[name]
    ]
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"{what} is of another run: {'; '.join(wrong[:5])}{more}")


def _digests(state: Any) -> dict[str, int]:
    named = _named(state)
    return dict(zip(named, np.asarray(digests(list(named.values()))).tolist(), strict=True))
