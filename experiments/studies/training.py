"""Arms that are trained side by side: the same task and budget, the same seeds, one change each."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from experiments import records
from experiments.config import Experiment
from experiments.config_checks import at_least
from experiments.progress import say
from experiments.reading import from_config_dict
from experiments.studies.contrasts import contrasts, told
from experiments.studies.findings import Cell, Findings, interval
from experiments.studies.training_figure import Lines, draw
from experiments.train import train
from experiments.workdir import check_workdir

WHOLE = ", all iterations"
"""Behind a metric's name: its mean over a run's iterations behind the cold start."""

DRAWN = "new tokens"
"""Tokens drawn in all, behind the cold start."""

COUNTED = (f"reward{WHOLE}", DRAWN)
"""Columns that every table has."""


def default_study() -> ConfigDict:
    """Every key of such a study.

    - `base`: the experiment that all arms share.
    - `arms`: name -> the keys that it changes, nested as they are in an experiment; from `in_order`.
    - `seeds`: runs of each arm; `jobs` of them at once.
    - `asked`: what the study is made to tell, as (arm, arm that is taken from it, column).
    - `growth`: likewise, as (pair of arms, pair of arms, column): the second pair's difference less the
      first's.
    - `trend`: likewise, arms that change one thing in equal steps, from none of it to all: the rise of a line
      that is fitted to each seed's compared columns.
    - `pairs`: of arms that are compared besides; without any, the first with each other.
    - `compared`: columns of the table by which they are. The intervals of what is asked hold together, and so
      do those of what is told besides.
    - `columns`: metrics of the table: a held-out accuracy at the end, any other as its mean over the last
      `tail` iterations, or with `WHOLE` behind its name over all of them.
    - `curves`: metrics that are drawn by iteration, a panel each, as means over the last `tail` of them,
      beside the columns that are compared.
    - `threshold`: of the outcome; `tail` iterations with this mean are waited for.
    """
    return ConfigDict(
        {
            "study": "training",
            "question": "",
            "base": ConfigDict(),
            "arms": ConfigDict(),
            "seeds": 5,
            "jobs": 1,
            "asked": (),
            "growth": (),
            "trend": (),
            "pairs": (),
            "compared": ("held_out/sampled", *COUNTED),
            "columns": ("held_out/sampled", "reward"),
            "curves": ("reward",),
            "tail": 10,
            "threshold": 0.8,
        }
    )


def in_order(arms: Mapping[str, Any]) -> ConfigDict:
    """Arms in the order in which they are given, which a plain `ConfigDict` would sort by name."""
    return ConfigDict(dict(arms), sort_keys=False)


def of_length(base: ConfigDict, length: str, short: int) -> ConfigDict:
    """The experiment as it is, or cut short.

    Args:
      base: of a study; it is changed.
      length: "full" or "short".
      short: iterations behind the cold start of a short one.

    Raises:
      ValueError: another length.
    """
    if length not in ("short", "full"):
        raise ValueError(f'the length is "short" or "full", got {length!r}')
    if length == "short":
        base.schedule.steps = short
    return base


def training(config: ConfigDict, workdir: Path, console: Console) -> Findings:
    """Trains what is not there yet, and compares.

    Args:
      config: see `default_study`.
      workdir: has a run's folder `ARM/SEED` each.
      console: where a person reads.

    Raises:
      ValueError: an arm whose configuration is wrong, or a column or curve that there cannot be, before
        anything runs; a column that a run does not have, once the runs that have begun by then have ended.
    """
    _check(config)
    seeds = range(config.seeds)
    runs = {(arm, seed): experiment_of(config, arm, seed) for arm in config.arms for seed in seeds}
    families = contrasts(config, (*config.columns, *COUNTED))
    first = next(iter(runs.values())).cold_start.steps + 1
    lines: dict[str, list[Lines]] = {arm: [] for arm in config.arms}
    values: dict[str, list[dict[str, float]]] = {arm: [] for arm in config.arms}
    with contextlib.closing(train_all(runs, workdir, config.jobs, console)) as ended:
        for (arm, _), folder in ended:
            lines[arm].append(list(records.read(folder / "metrics.jsonl")))
            values[arm].append(numbers(config, lines[arm][-1], first))
    rows = [_row(arm, found) for arm, found in values.items()]
    notes = [*told(values, *families), *_thresholds(config, lines, first)]
    columns = dict.fromkeys(one.column for family in families for one in family)
    figure = draw(values, tuple(columns) or COUNTED, lines, config.curves, first, config.tail)
    return Findings(rows, figure, notes, runs=values)


def _check(config: ConfigDict) -> None:
    for key in ("seeds", "jobs", "tail"):
        at_least(key, config[key], 1)
    if not config.curves:
        raise ValueError("curves is empty; name a metric to draw")
    if wrong := [name for name in config.columns if name.startswith("held_out/") and name.endswith(WHOLE)]:
        raise ValueError(
            f"columns has {wrong[0]!r}: what is held out is evaluated now and then; take it alone"
        )


def experiment_of(config: ConfigDict, arm: str, seed: int) -> Experiment:
    """The configuration of one run.

    Args:
      config: of the study.
      arm: its name.
      seed: of the run.

    Raises:
      ValueError: a key that there is not, or a value that it refuses.
    """
    base = config.base.copy_and_resolve_references().lock()
    try:
        base.update(config.arms[arm].to_dict())
    except (KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"the arm {arm!r} does not fit an experiment: {error}") from error
    base.seed = seed
    return from_config_dict(Experiment, base)


def numbers(config: ConfigDict, lines: Lines, first: int) -> dict[str, float]:
    """What the table says of one run.

    Args:
      config: of the study.
      lines: of the run.
      first: iteration after the cold start.

    Returns:
      Column -> number: `columns`, the mean reward of all iterations, and tokens drawn in all.

    Raises:
      ValueError: a metric that the run does not have.
    """
    own = iterations(lines, first)
    return {name: _number(lines, own, name, config.tail) for name in (*config.columns, *COUNTED)}


def reached(lines: Lines, first: int, metric: str, threshold: float, tail: int) -> int | None:
    """The first iteration at whose end the mean of a metric over the last `tail` ones is at the threshold."""
    own = iterations(lines, first)
    values = np.array([line[metric] for line in own])
    if len(values) < tail:
        return None
    means = np.convolve(values, np.ones(tail) / tail, mode="valid")
    above = np.flatnonzero(means >= threshold)
    return int(own[above[0] + tail - 1]["step"]) if len(above) else None


def train_all(
    runs: Mapping[tuple[str, int], Experiment], workdir: Path, jobs: int, console: Console
) -> Generator[tuple[tuple[str, int], Path], None, None]:
    """Trains each in a process of its own, seed by seed, so that a study that is stopped can be compared.

    Args:
      runs: (arm, seed) -> experiment.
      workdir: has a run's folder `ARM/SEED` each; what has ended is left alone.
      jobs: runs at once.
      console: where a person reads.

    Yields:
      Each run with its folder as soon as it has ended, seed by seed.
    """
    folders = {name: _folder(workdir, *name) for name in sorted(runs, key=lambda name: name[1])}
    waiting = [name for name, folder in folders.items() if not _done(folder, runs[name])]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        futures = {name: pool.submit(_train_one, runs[name], folders[name]) for name in waiting}
        try:
            for name, folder in folders.items():
                if name in futures:
                    futures[name].result()
                    say(console, f"{waiting.index(name) + 1} of {len(waiting)}: {name[0]}, seed {name[1]}")
                yield name, folder
        finally:
            pool.shutdown(cancel_futures=True)


def _train_one(experiment: Experiment, workdir: Path) -> None:
    workdir.parent.mkdir(parents=True, exist_ok=True)
    train(experiment, workdir, Console(quiet=True))


def _folder(workdir: Path, arm: str, seed: int) -> Path:
    return workdir / arm.replace(" ", "_") / str(seed)


def _done(workdir: Path, experiment: Experiment) -> bool:
    """Whether the run has ended; its report is the last thing that it writes."""
    check_workdir(workdir, experiment)
    return (workdir / "report.png").exists()


def _since(lines: Lines, first: int) -> Lines:
    return [line for line in lines if line["step"] >= first]


def iterations(lines: Lines, first: int) -> Lines:
    """The lines of iterations from one on; evaluations have lines of their own."""
    return [line for line in _since(lines, first) if "reward" in line]


def _number(lines: Lines, own: Lines, name: str, tail: int) -> float:
    if name == DRAWN:
        return float(np.sum(_found(own, "new_tokens")))
    if name.endswith(WHOLE):
        return float(np.mean(_found(own, name.removesuffix(WHOLE))))
    found = _found(lines, name)
    return found[-1] if name.startswith("held_out/") else float(np.mean(found[-tail:]))


def _found(lines: Lines, metric: str) -> list[float]:
    found = [float(line[metric]) for line in lines if metric in line]
    if not found:
        raise ValueError(f"the runs have no metric {metric!r}; see their metrics.jsonl")
    return found


def _row(arm: str, found: Sequence[Mapping[str, float]]) -> dict[str, Cell]:
    return {"arm": arm, **{name: interval([run[name] for run in found]) for name in found[0]}}


def _thresholds(config: ConfigDict, lines: Mapping[str, Sequence[Lines]], first: int) -> list[str]:
    """When each arm's outcome was at the threshold, and the tokens that were drawn until then."""
    notes = []
    for arm, found in lines.items():
        ends = [(one, reached(one, first, "outcome", config.threshold, config.tail)) for one in found]
        there = [(one, step) for one, step in ends if step is not None]
        steps = sorted(step - first + 1 for _, step in there)
        tokens = sorted(
            sum(line["new_tokens"] for line in iterations(one, first) if line["step"] <= step)
            for one, step in there
        )
        after = (
            f", after {', '.join(map(str, steps))} iterations of {config.tail} at least, "
            f"{', '.join(f'{drawn / 1e3:.3g}k' for drawn in tokens)} new tokens"
        )
        notes.append(
            f"{arm}: an outcome of {config.threshold} in {len(there)} of {len(found)} seeds"
            f"{after if there else ''}"
        )
    return notes
