"""The table, the picture and the sentences of the study of overhead."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.studies.findings import (
    Cell,
    GeometricInterval,
    Interval,
    geometric_interval,
    interval,
    plain_log_axis,
)

Record = Mapping[str, float]
Rounds = Sequence[Mapping[str, Record]]
"""What `overhead.measure_round` gave, a round each."""

FIRST = "GRPO"
"""The way that the others are compared with."""

PARTS = {
    "begin": "reading prompts",
    "advance": "drawing tokens",
    "append": "reading tool results",
    "fork": "copying rows",
    "host": "host, tools, judging",
    "update": "update",
}
"""Part of an iteration -> what it is."""

DRAWING = ("begin", "advance", "append", "fork", "host")

COLUMNS: dict[str, Callable[[Record], float]] = {
    "iteration s": lambda one: total(one, tuple(PARTS)),
    "rollout s": lambda one: total(one, DRAWING),
    "update s": lambda one: one["update"],
    "steps of the loop": lambda one: one["steps"],
    "ms a step": lambda one: 1e3 * one["advance"] / one["steps"],
    "tokens drawn": lambda one: one["drawn"],
    "ms a token drawn": lambda one: 1e3 * total(one, DRAWING) / one["drawn"],
    "tokens trained": lambda one: one["trained"],
    "rollout GFLOP by formula": lambda one: one["decode_flops"] / 1e9,
    "rollout GFLOP of the programs": lambda one: one["program_flops"] / 1e9,
    "update GFLOP by formula": lambda one: one["train_flops"] / 1e9,
    "update GFLOP by XLA": lambda one: one["counted_flops"] / 1e9,
}
"""Column -> its number in a round. The formula's are of tokens that there are, the others of padding too."""

COMPARED = (
    "tokens drawn",
    "rollout GFLOP by formula",
    "rollout GFLOP of the programs",
    "steps of the loop",
    "ms a step",
    "ms a token drawn",
    "rollout s",
    "update s",
    "iteration s",
)
"""Columns that are told as ratios."""


def total(record: Record, parts: Sequence[str]) -> float:
    """Seconds of several parts."""
    return sum(record[part] for part in parts)


def table(found: Rounds) -> list[dict[str, Cell]]:
    """A row a way."""
    return [
        {"way": name, **{column: _number(found, name, read) for column, read in COLUMNS.items()}}
        for name in found[0]
    ]


def draw(found: Rounds) -> Figure:
    """Where the seconds of an iteration go, and what each way takes beside GRPO."""
    figure = Figure(figsize=(11.5, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _bars(left, found)
    names = list(found[0])
    for number, column in enumerate(COMPARED):
        spread = [_ratio(found, name, COLUMNS[column]) for name in names]
        places = np.arange(len(names)) + (number - len(COMPARED) / 2) * 0.08
        below, above = ([one.mean - one.low for one in spread], [one.high - one.mean for one in spread])
        means = [one.mean for one in spread]
        right.errorbar(places, means, [below, above], fmt="o", markersize=4, capsize=2, label=column)
    right.axhline(1, color="grey", linewidth=0.8)
    right.set_xticks(range(len(names)), names)
    plain_log_axis(right)
    right.set_ylabel(f"times {FIRST}'s")
    right.set_title(f"over {FIRST}, at the same rows")
    right.grid(alpha=0.25, axis="y")
    for axis in (left, right):
        axis.legend(fontsize=8, frameon=False, ncols=2)
    figure.suptitle(f"mean of {len(found)} rounds, 95% intervals", fontsize=10)
    return figure


def notes(found: Rounds, parameters: int) -> list[str]:
    """What came out, in sentences."""
    forked = [name for name in found[0] if name != FIRST]
    busy = interval([max(record["others"] for record in one.values()) for one in found])
    return [
        f"The blocks have {parameters / 1e6:.2f} M parameters; a round has "
        f"{found[0][FIRST]['rows']:.0f} rows. Other processes used {busy.mean:.2g} cores "
        "meanwhile (mean over rounds of the busiest moment).",
        "All rounds are of one policy: intervals are over its prompts and draws, and do not tell how often "
        "another policy forks.",
        *[_compared(found, name) for name in forked],
        *[_dominant(found, name) for name in found[0]],
        _padding(found),
    ]


def _compared(found: Rounds, name: str) -> str:
    told = [f"{column} × {_ratio(found, name, COLUMNS[column])}" for column in COMPARED]
    iteration = _ratio(found, name, COLUMNS["iteration s"])
    if iteration.low > 1:
        verdict = "slower an iteration"
    elif iteration.high < 1:
        verdict = "faster an iteration"
    else:
        verdict = "not told from it in seconds an iteration"
    return f"{name} over {FIRST}: {', '.join(told)}; {verdict}."


def _dominant(found: Rounds, name: str) -> str:
    """The parts of an iteration, the largest first."""
    shares = {
        part: interval([one[name][part] / total(one[name], tuple(PARTS)) for one in found]).mean
        for part in PARTS
    }
    order = sorted(shares, key=lambda part: -shares[part])
    told = ", ".join(f"{PARTS[part]} {100 * shares[part]:.0f}%" for part in order if shares[part] >= 0.01)
    idle = interval([1 - one[name]["drawn"] / (one[name]["steps"] * one[name]["rows"]) for one in found])
    return f"{name}: {told} of the seconds; {100 * idle.mean:.0f}% of the loop's places drew nothing."


def _padding(found: Rounds) -> str:
    """Counts that have the padding, over the formula's."""

    def over(above: str, below: str) -> str:
        ratios = [record[above] / record[below] for one in found for record in one.values()]
        return f"{min(ratios):.2f} to {max(ratios):.2f} times the formula's operations"

    return (
        "Programs of static shapes compute their padding too: a step of the loop draws for all rows, which "
        f"comes to {over('program_flops', 'decode_flops')} of a rollout, and XLA counts "
        f"{over('counted_flops', 'train_flops')} of an update."
    )


def _bars(axis: Axes, found: Rounds) -> None:
    names = list(found[0])
    bottom = np.zeros(len(names))
    for number, (part, label) in enumerate(PARTS.items()):
        heights = np.array([_number(found, name, operator.itemgetter(part)).mean for name in names])
        axis.bar(names, heights, bottom=bottom, label=label, color=f"C{number}", width=0.7)
        bottom += heights
    whole = [_number(found, name, COLUMNS["iteration s"]) for name in names]
    axis.errorbar(
        names, [one.mean for one in whole], [one.half for one in whole], fmt="none", ecolor="black", capsize=3
    )
    axis.set_ylim(0, 1.5 * float(bottom.max()))
    axis.set_ylabel("seconds an iteration")
    axis.set_title("where they go")


def _number(found: Rounds, name: str, read: Callable[[Record], float]) -> Interval:
    return interval([read(one[name]) for one in found])


def _ratio(found: Rounds, name: str, read: Callable[[Record], float]) -> GeometricInterval:
    """Over GRPO's, round by round."""
    return geometric_interval([read(one[name]) / read(one[FIRST]) for one in found])
