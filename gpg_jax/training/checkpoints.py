"""Checkpoints of a whole run, on orbax: the state on any mesh, and what the host remembers beside it.

Orbax commits atomically, saves in the background and prunes. Added here: a digest of every array, since
orbax reads flipped bits without a word; the way back from a damaged checkpoint to the newest sound one;
and sentences where a checkpoint does not fit.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from gpg_jax.training.digest import digests

Checkpoints: TypeAlias = ocp.training.Checkpointer
_POLICIES = ocp.training.preservation_policies


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
        policies.append(_POLICIES.BestN(get_metric_fn=lambda metrics: metrics["score"], n=keep_best))
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


def save(
    checkpoints: Checkpoints, step: int, state: Any, host: Mapping[str, Any], *, score: float
) -> ocp.AsyncResponse[bool]:
    """Begins to save; the arrays may be donated as soon as this returns.

    Args:
      checkpoints: from `open_checkpoints`.
      step: number of the checkpoint.
      state: a pytree of arrays, typed PRNG keys among them.
      host: what JSON can hold.
      score: by which the best ones are kept; higher is better.

    Returns:
      A response whose `result()` waits for the commit.

    Raises:
      ValueError: a step that was saved before, or a score or host part that cannot be kept.
    """
    if any(known.step == step for known in checkpoints.checkpoints):
        raise ValueError(f"checkpoint {step} exists in {checkpoints.directory}; a step is saved once")
    if not np.isfinite(score):
        raise ValueError(f"checkpoint {step} has the score {score}; the best of such cannot be found")
    record = json.dumps({"arrays": _describe(state), "digests": _digests(state), "host": dict(host)})
    response = checkpoints.save_checkpointables_async(
        step,
        {"state": state},
        force=True,
        metrics={"score": float(score)},
        custom_metadata={"record": record, "crc32": zlib.crc32(record.encode())},
    )
    if response is None:
        raise RuntimeError(f"orbax refused to save checkpoint {step} in {checkpoints.directory}")
    return response


def restore(
    checkpoints: Checkpoints, like: Any, report: Callable[[str], None], steps: Sequence[int] | None = None
) -> Restored | None:
    """The newest checkpoint that is sound.

    Args:
      checkpoints: from `open_checkpoints`.
      like: a template of the state, see `template`; the result lies on its mesh.
      report: told of every checkpoint that is damaged, in a sentence.
      steps: those to consider; all of them for None.

    Returns:
      The checkpoint, or None where there is none at all.

    Raises:
      ValueError: a sound checkpoint of another state, none that is sound among some, or a step that is not
        there.
    """
    damaged: dict[int, str] = {}
    there = [known.step for known in checkpoints.checkpoints]
    if unknown := sorted(set(steps or ()) - set(there)):
        raise ValueError(f"there is no checkpoint {unknown[0]} in {checkpoints.directory}; there are {there}")
    for step in sorted(there if steps is None else steps, reverse=True):
        try:
            return Restored(step, *_load(checkpoints, step, like), damaged)
        except _DamagedError as error:
            damaged[step] = str(error)
            report(f"checkpoint {step} in {checkpoints.directory} is damaged and passed over: {error}")
    if damaged:
        raise ValueError(
            f"no checkpoint in {checkpoints.directory} is sound (steps {sorted(damaged)}); "
            "remove that folder to start the run again from its first step"
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
    if steps and jax.process_index() == 0:
        target.mkdir(exist_ok=True)
        for step in steps:
            number = sum(1 for _ in target.glob(f"{step}.*"))
            (root / str(step)).rename(target / f"{step}.{number}")
    if steps:
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


def _load(checkpoints: Checkpoints, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
    record = _read_record(checkpoints, step)
    _check_fit(record["arrays"], _describe(like), f"checkpoint {step} in {checkpoints.directory}")
    try:
        state = checkpoints.load_checkpointables(step, {"state": like})["state"]
    except Exception as error:  # whatever broken bytes make a reader raise
        reason = str(error.__cause__ or error).splitlines()[0]
        raise _DamagedError(f"its arrays cannot be read ({type(error).__name__}: {reason[:200]})") from error
    found, wanted = _digests(state), record["digests"]
    wrong = [name for name in wanted if found[name] != wanted[name]]
    if wrong:
        raise _DamagedError(f"the bits of {', '.join(wrong[:5])} are not those that were saved")
    return state, record["host"]


def _read_record(checkpoints: Checkpoints, step: int) -> dict[str, Any]:
    try:
        metadata = checkpoints.checkpointables_metadata(step).custom_metadata or {}
    except Exception as error:  # whatever broken bytes make a reader raise
        raise _DamagedError(f"its metadata cannot be read ({type(error).__name__})") from error
    if "record" not in metadata:
        raise _DamagedError("it holds no record of what was saved")
    if zlib.crc32(metadata["record"].encode()) != metadata.get("crc32"):
        raise _DamagedError("its record was altered")
    return json.loads(metadata["record"])


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
