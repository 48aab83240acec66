"""Arms that are trained side by side: the same task and budget, the same seeds, one change each."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from experiments import records
from experiments.config import Experiment
from experiments.progress import say
from experiments.reading import from_config_dict
from experiments.studies.findings import Cell, Findings, Interval, interval, paired
from experiments.studies.training_figure import Lines, Values, draw
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
    - `pairs`: of arms that are compared, seed by seed; without any, the first with each other. A third name
      is the one column that such a pair is compared by, in the place of all.
    - `seeds`: runs of each arm; `jobs` of them at once.
    - `compared`: columns of the table whose differences are told; their intervals hold together.
    - `trend`: arms that change one thing in equal steps, from none of it to all; a line is fitted to each
      seed's compared columns, and its rise told.
    - `columns`: metrics of the table: a held-out accuracy at the end, any other as its mean over the last
      `tail` iterations, or with `WHOLE` behind its name over all of them.
    - `curves`: metrics that are drawn by iteration, a panel each, beside the columns that are compared.
    - `threshold`: of the outcome; `tail` iterations with this mean are waited for.
    """
    return ConfigDict(
        {
            "study": "training",
            "question": "",
            "base": ConfigDict(),
            "arms": ConfigDict(),
            "pairs": (),
            "trend": (),
            "seeds": 5,
            "jobs": 1,
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
      ValueError: an arm whose configuration is wrong, or a column or curve that there cannot be; nothing has
        run then.
    """
    _check_shown(config)
    seeds = range(config.seeds)
    runs = {(arm, seed): experiment_of(config, arm, seed) for arm in config.arms for seed in seeds}
    pairs = compared_pairs(config)
    folders = train_all(runs, workdir, config.jobs, console)
    lines = {
        arm: [list(records.read(folders[arm, seed] / "metrics.jsonl")) for seed in seeds]
        for arm in config.arms
    }
    first = next(iter(runs.values())).cold_start.steps + 1
    values = {arm: [numbers(config, one, first) for one in found] for arm, found in lines.items()}
    rows = [_row(arm, found) for arm, found in values.items()]
    told = [
        *comparisons(values, pairs),
        *trends(values, config.trend, config.compared),
        *_thresholds(config, lines, first),
    ]
    compared = dict.fromkeys((*config.compared, *(column for column, *_ in pairs)))
    figure = draw(values, tuple(compared) or COUNTED, lines, config.curves, first)
    return Findings(rows, figure, told)


def _check_shown(config: ConfigDict) -> None:
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
) -> dict[tuple[str, int], Path]:
    """Trains each in a process of its own, seed by seed, so that a study that is stopped can be compared.

    Args:
      runs: (arm, seed) -> experiment.
      workdir: has a run's folder `ARM/SEED` each; what has ended is left alone.
      jobs: runs at once.
      console: where a person reads.

    Returns:
      The folder of each run.
    """
    waiting = {name: run for name, run in runs.items() if not _done(_folder(workdir, *name), run)}
    order = sorted(waiting, key=lambda name: name[1])
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        futures = {name: pool.submit(_train_one, waiting[name], _folder(workdir, *name)) for name in order}
        for number, (name, future) in enumerate(futures.items(), 1):
            future.result()
            say(console, f"{number} of {len(futures)}: {name[0]}, seed {name[1]}")
    return {name: _folder(workdir, *name) for name in runs}


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


def compared_pairs(config: ConfigDict) -> tuple[tuple[str, str, str], ...]:
    """What a study compares: column, arm, and the arm that is taken from it.

    Raises:
      ValueError: an arm that there is not, or a column that the table does not have.
    """
    first, *others = config.arms
    pairs = tuple(config.pairs) or tuple((first, other) for other in others)
    named = {name for pair in (*(pair[:2] for pair in pairs), tuple(config.trend)) for name in pair}
    if strangers := ", ".join(sorted(named - set(config.arms))):
        raise ValueError(f"pairs or trend name {strangers}; the arms are {', '.join(config.arms)}")
    every = [(column, *pair) for column in config.compared for pair in pairs if len(pair) == 2]
    own = [(column, one, other) for one, other, column in (pair for pair in pairs if len(pair) == 3)]
    columns = {*config.compared, *(column for column, *_ in own)}
    if unknown := columns - {*config.columns, *COUNTED}:
        raise ValueError(f"compared names {', '.join(sorted(unknown))}, which is no column of the table")
    return (*every, *own)


def comparisons(values: Values, pairs: Sequence[tuple[str, str, str]]) -> list[str]:
    """The first of each pair of arms less the second, seed by seed.

    Args:
      values: arm -> what `numbers` said of each of its runs.
      pairs: from `compared_pairs`.

    Returns:
      A sentence each; with 95% all of their intervals hold.
    """
    notes = []
    for column, one, other in pairs:
        first, second = ([run[column] for run in values[arm]] for arm in (one, other))
        apart = paired(first, second, len(pairs))
        notes.append(f"{column}: {one} less {other} is {apart} ({_verdict(apart)})")
    return notes


def trends(values: Values, arms: Sequence[str], compared: Sequence[str]) -> list[str]:
    """The rise of a line through arms in equal steps, fitted to each seed by least squares.

    Args:
      values: arm -> what `numbers` said of each of its runs.
      arms: in order; none has no trend.
      compared: columns.

    Returns:
      A sentence a column: the rise from the first arm to the last; with 95% all of the intervals hold.
    """
    if not arms:
        return []
    steps = np.linspace(0, 1, len(arms))
    notes = []
    for column in compared:
        seeds = np.array([[run[column] for run in values[arm]] for arm in arms]).T
        rise = interval([float(np.polyfit(steps, seed, 1)[0]) for seed in seeds], len(compared))
        notes.append(f"{column}: from {arms[0]} to {arms[-1]} a line rises by {rise} ({_verdict(rise)})")
    return notes


def _verdict(apart: Interval) -> str:
    if apart.seeds < 2:
        return "one seed"
    return "not told from 0" if abs(apart.mean) <= apart.half else "told from 0"


def _thresholds(config: ConfigDict, lines: Mapping[str, Sequence[Lines]], first: int) -> list[str]:
    """When each arm's outcome was at the threshold."""
    notes = []
    for arm, found in lines.items():
        steps = [reached(one, first, "outcome", config.threshold, config.tail) for one in found]
        there = [step - first + 1 for step in steps if step is not None]
        after = f", after {interval(there)} iterations" if there else ""
        notes.append(f"{arm}: an outcome of {config.threshold} in {len(there)} of {len(found)} seeds{after}")
    return notes
