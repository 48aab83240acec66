"""Every method on one task and budget: who learns it, how fast, and whether a trust region held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from rich.console import Console

from experiments import records
from experiments.config import Experiment
from experiments.methods import make_method
from experiments.studies.findings import Cell, Findings, interval
from experiments.studies.training import Lines, default_study, in_order, iterations, reached, train_all
from experiments.studies.training import experiment_of as experiment_of_arm
from gpg_jax.types import TrustRegion

COLUMNS = 5
"""Panels in a row of the figure."""


def methods_study(experiments: Mapping[str, ConfigDict], start: float, threshold: float) -> ConfigDict:
    """The configuration of a comparison: every key of `default_study`, and where a run has to begin.

    Args:
      experiments: method -> its whole experiment; what they have in common is the task and the budget.
      start: reward that a run has to begin at or below.
      threshold: reward at which it has learnt the task.
    """
    config = default_study()
    config.study = "methods"
    config.question = "Does every method learn the same task?"
    config.base = next(iter(experiments.values()))
    config.arms = in_order({name: experiment.to_dict() for name, experiment in experiments.items()})
    config.threshold, config.start = threshold, start
    return config


def methods(config: ConfigDict, workdir: Path, console: Console) -> Findings:
    """Trains what is not there yet, and says of each method whether it learns.

    Args:
      config: from `methods_study`.
      workdir: has a run's folder `METHOD/SEED` each.
      console: where a person reads.

    Raises:
      ValueError: a method whose configuration is wrong; nothing has run then.
    """
    seeds = range(config.seeds)
    runs = {(arm, seed): experiment_of_arm(config, arm, seed) for arm in config.arms for seed in seeds}
    check_budgets(runs)
    ended = train_all(runs, workdir, config.jobs, console)
    read = {run: list(records.read(folder / "metrics.jsonl")) for run, folder in ended}
    own = {run: numbered(iterations(found, runs[run].cold_start.steps + 1)) for run, found in read.items()}
    lines = {arm: [own[arm, seed] for seed in seeds] for arm in config.arms}
    rows = [row(config, arm, found) for arm, found in lines.items()]
    notes = [verdict(config, lines), *regions(config, lines)]
    return Findings(rows, draw(config, lines), notes)


def numbered(lines: Lines) -> Lines:
    """Iterations as they came, from 1: a value pretraining that is over early leaves numbers out."""
    return [{**line, "step": number} for number, line in enumerate(lines, 1)]


def check_budgets(runs: Mapping[tuple[str, int], Experiment]) -> None:
    """Raises a ValueError unless all runs have as many iterations on as many responses to the same prompts.

    What a method that resamples or one that pretrains its critic draws besides, and how often another uses
    what it has drawn, is not limited: `row` tells of all.
    """
    first = next(iter(runs.values()))
    for (arm, _), run in runs.items():
        budget = run.task, run.sampling, run.schedule.steps, run.schedule.prompts * run.schedule.group
        own = first.task, first.sampling, first.schedule.steps, first.schedule.prompts * first.schedule.group
        if budget != own:
            raise ValueError(
                f"{arm!r} has another task, budget of tokens or number of responses than the rest"
            )


def row(config: ConfigDict, arm: str, found: Sequence[Lines]) -> dict[str, Cell]:
    """What the table says of a method.

    `responses drawn` are all, with those that dynamic sampling has not kept and those of a value pretraining;
    `new tokens` are those of the responses that were trained on.

    Args:
      config: of the study.
      arm: its name.
      found: metrics of its runs.
    """
    firsts, lasts = zip(*(_ends(one, config.tail) for one in found), strict=True)
    steps = [reached(one, 1, "reward", config.threshold, config.tail) for one in found]
    there = [step for step in steps if step is not None]
    group = experiment_of_arm(config, arm, 0).schedule.group
    counts = {
        "updates": [_last(one, "updates") for one in found],
        "responses drawn": [group * _total(one, "offered_groups") for one in found],
        "new tokens": [_total(one, "new_tokens") for one in found],
    }
    return {
        "method": arm,
        "first": interval(firsts),
        "last": interval(lasts),
        "seeds that learn": f"{len(there)} of {len(found)}",
        "iterations until then": interval(there) if there else "",
        **{name: interval(numbers) for name, numbers in counts.items()},
        "seconds": interval([_total(one, "seconds") for one in found]),
    }


def verdict(config: ConfigDict, lines: Mapping[str, Sequence[Lines]]) -> str:
    """Which methods begin below the start and end above the threshold, in the mean over seeds."""
    failed = []
    for arm, found in lines.items():
        first, last = (
            np.mean(ends) for ends in zip(*(_ends(one, config.tail) for one in found), strict=True)
        )
        if first > config.start or last < config.threshold:
            failed.append(arm)
    told = f"{len(lines) - len(failed)} of {len(lines)} methods begin at {config.start} or below and end at "
    told += f"{config.threshold} or above"
    return f"{told}; not {', '.join(failed)}" if failed else told


def regions(config: ConfigDict, lines: Mapping[str, Sequence[Lines]]) -> list[str]:
    """The largest KL that was measured behind a step with a trust region, beside its radius."""
    notes = []
    for arm, found in lines.items():
        experiment = experiment_of_arm(config, arm, 0)
        update = make_method(experiment.method, experiment.sampling.new_tokens).update
        if isinstance(update, TrustRegion):
            seen = [line["trust_region_kl"] for one in found for line in one if "trust_region_kl" in line]
            notes.append(
                f"{arm}: the largest of {len(seen)} measured KL(old‖new) is {max(seen):.5f} nats an action, "
                f"δ = {update.radius}"
            )
    return notes


def draw(config: ConfigDict, lines: Mapping[str, Sequence[Lines]]) -> Figure:
    """A panel a method: its runs, their mean, and the threshold."""
    height = -(-len(lines) // COLUMNS)
    figure = Figure(figsize=(2.6 * COLUMNS, 2.1 * height), layout="constrained")
    axes = list(figure.subplots(height, COLUMNS, sharex=True, sharey=True, squeeze=False).flat)
    for axis, (arm, found) in zip(axes, lines.items(), strict=False):
        _panel(axis, config, arm, found)
    for axis in axes[len(lines) :]:
        axis.set_axis_off()
    figure.supxlabel("iteration", fontsize=10)
    figure.supylabel("reward, mean of a rollout", fontsize=10)
    return figure


def _ends(lines: Lines, tail: int) -> tuple[float, float]:
    """Mean reward of the first and of the last iterations of a run."""
    rewards = [line["reward"] for line in lines if "reward" in line]
    return float(np.mean(rewards[:tail])), float(np.mean(rewards[-tail:]))


def _total(lines: Lines, name: str) -> float:
    return float(np.sum([line[name] for line in lines if name in line]))


def _last(lines: Lines, name: str) -> float:
    return [line[name] for line in lines if name in line][-1]


def _panel(axis: Axes, config: ConfigDict, arm: str, found: Sequence[Lines]) -> None:
    curves = [{line["step"]: line["reward"] for line in one if "reward" in line} for one in found]
    for curve in curves:
        axis.plot(list(curve), list(curve.values()), color="tab:blue", alpha=0.25, linewidth=0.7)
    common = sorted(set.intersection(*(set(curve) for curve in curves)))
    axis.plot(
        common,
        [np.mean([curve[step] for curve in curves]) for step in common],
        color="tab:blue",
        linewidth=1.4,
    )
    axis.axhline(config.threshold, color="grey", linestyle=":", linewidth=1)
    axis.set_title(arm, fontsize=9)
    axis.grid(alpha=0.2)
