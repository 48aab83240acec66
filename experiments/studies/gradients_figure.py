"""The picture of the study of gradients: every way to fork beside none, calibrated or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from experiments.studies.estimators import FAMILIES, TREE, WEIGHTS
from experiments.studies.findings import GeometricInterval, Interval, paired, plain_log_axis
from experiments.studies.gradients_records import (
    BIAS,
    SAME,
    Budget,
    Line,
    Seeds,
    apart_of,
    bias_of,
    branchings,
    calibrated,
    over,
    ratio_of,
    shares_of,
    unforked,
    values_of,
)

SOFT: tuple[Line, ...] = tuple(
    (family, next(iter(kinds)), weight) for family, kinds in FAMILIES.items() for weight in WEIGHTS
)
"""Lines of the panels of forks: every family and leaf weight, not calibrated."""

PLACES = """
rrtt
bbbb
cchd
"""
"""Variance at equal rows and tokens; bias; cosine, variance of hard over soft, distance of the two."""

ROOM = 0.72
"""Of the distance between two ways to fork, that their lines take."""

LINEAR = 0.03
"""Up to which the axis of the squared bias, which may be below 0, is linear."""

TICKS = [sign * size for sign in (-1, 1) for size in (0.01, 0.03, 0.1, 0.3, 1, 3, 10)] + [0]
"""Of that axis."""

LEVEL: dict[str, Any] = {"color": "grey", "linewidth": 0.8, "zorder": 0}
"""Of the line that says: no difference."""

SMALL, LARGE = 5.0, 50.0
"""Areas of dots."""


class Mark(NamedTuple):
    """What is drawn of a way to fork and a line.

    Attributes:
      spread: mean and the ends of a bar, all three NaN where nothing is told.
      dots: a number a policy.
      shares: of the policies in the mean, 0 where all have the same.
    """

    spread: tuple[float, float, float]
    dots: Sequence[float]
    shares: np.ndarray | float = 0.0


def draw(found: Seeds, budget: Budget) -> Figure:
    """Variance, squared bias and cosine by the way to fork; calibrated gradients beside those that are not.

    Args:
      found: of the seeds.
      budget: rollouts of each.
    """
    figure = Figure(figsize=(11, 12), layout="constrained")
    axes = figure.subplot_mosaic(PLACES, height_ratios=(1, 1.1, 1))
    none = unforked(found)
    ways = [label for label in branchings(found) if label != none]
    _variance(axes["r"], found, "variance", none, ways)
    _variance(axes["t"], found, "variance at equal tokens", none, ways)
    _bias(axes["b"], found, budget, none, ways)
    _cosine(axes["c"], found, none, ways)
    hard: list[Line] = [(family, "hard", weight) for family in calibrated(found) for weight in WEIGHTS]
    _hard_variance(axes["h"], found, ways, hard)
    _distance(axes["d"], found, budget, ways, hard)
    _legend(figure, len(found))
    return figure


def _variance(axis: Axes, found: Seeds, column: str, none: str, ways: Sequence[str]) -> None:
    _marks(axis, ways, SOFT, lambda way, line: _ratio(found, column, (way, line), (none, line)))
    _frame(axis, ways, column if "equal" in column else f"{column} at equal rows", "times that without forks")
    axis.axhline(1, **LEVEL)
    plain_log_axis(axis)


def _bias(axis: Axes, found: Seeds, budget: Budget, none: str, ways: Sequence[str]) -> None:
    def read(way: str, line: Line) -> Mark:
        spread, shares = bias_of(found, budget, way, line), shares_of(found, budget, way, line)
        return Mark(_ends(spread), values_of(found, BIAS, way, line), np.nan_to_num(shares))

    _marks(axis, [none, *ways], SOFT, read)
    title = "squared bias: policies are weighed by what they tell, which is the area of a dot"
    _frame(axis, ["no forks", *ways], title, f"‖E[x] − g‖² / ‖g‖², linear up to ±{LINEAR:g}")
    axis.axhline(0, **LEVEL)
    _plain_axis_around_0(axis)


def _cosine(axis: Axes, found: Seeds, none: str, ways: Sequence[str]) -> None:
    def read(way: str, line: Line) -> Mark:
        own, other = (values_of(found, "cosine", label, line) for label in (way, none))
        return Mark(_ends(paired(own, other)), np.subtract(own, other).tolist())

    _marks(axis, ways, SOFT, read)
    _frame(axis, ways, "cosine of one rollout's gradient to g", "less that without forks")
    axis.axhline(0, **LEVEL)


def _hard_variance(axis: Axes, found: Seeds, ways: Sequence[str], hard: Sequence[Line]) -> None:
    def read(way: str, line: Line) -> Mark:
        return _ratio(found, "variance", (way, line), (way, (line[0], "soft", line[2])))

    _marks(axis, ways, hard, read)
    _frame(axis, ways, "variance of hard calibration\nover that of soft", "times that of soft")
    axis.axhline(1, **LEVEL)


def _distance(axis: Axes, found: Seeds, budget: Budget, ways: Sequence[str], hard: Sequence[Line]) -> None:
    def read(way: str, line: Line) -> Mark:
        dots = np.maximum(apart_of(found, way, line), SAME)  # a logarithm has no place for 0
        return Mark((float(np.median(dots)), float(dots.min()), float(dots.max())), dots.tolist())

    _marks(axis, ways, hard, read)
    title = f"distance of hard from soft,\nlargest of {budget.rollouts} rollouts"
    _frame(axis, ways, title, "‖hard − soft‖ / ‖soft‖")
    plain_log_axis(axis)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 3)))


def _ratio(found: Seeds, column: str, above: tuple[str, Line], below: tuple[str, Line]) -> Mark:
    first, second = values_of(found, column, *above), values_of(found, column, *below)
    dots = [over(one, other) for one, other in zip(first, second, strict=True)]
    return Mark(_ends(ratio_of(found, column, above, below)), dots)


def _ends(spread: Interval | GeometricInterval) -> tuple[float, float, float]:
    return spread.mean, spread.low, spread.high


def _frame(axis: Axes, ways: Sequence[str], title: str, unit: str) -> None:
    axis.set_title(title, fontsize=11)
    axis.set_ylabel(unit)
    names = [f"width\n{way}" if way.isdigit() else way.replace(", ", ",\n") for way in ways]
    axis.set_xticks(range(len(ways)), names)
    axis.set_xlim(-0.5, len(ways) - 0.5)
    axis.grid(alpha=0.25, axis="y")
    for between in np.arange(0.5, len(ways) - 1):
        axis.axvline(between, color="grey", linewidth=0.5, alpha=0.4, zorder=0)


def _plain_axis_around_0(axis: Axes) -> None:
    """Logarithmic on both sides, and linear between them, with numbers as one says them."""
    axis.set_yscale("symlog", linthresh=LINEAR, linscale=1.2)
    low, high = 1.5 * np.array(axis.get_ylim())
    axis.set_yticks([tick for tick in TICKS if low <= tick <= high])
    axis.set_yticks([], minor=True)
    axis.set_ylim(low, high)
    axis.yaxis.set_major_formatter("{x:g}")


def _marks(axis: Axes, ways: Sequence[str], lines: Sequence[Line], read: Callable[[str, Line], Mark]) -> None:
    """Every line of every way: a bar with its mean, and beside it a dot a policy."""
    if not lines:
        axis.text(0.5, 0.5, "hard and soft are one", transform=axis.transAxes, ha="center")
    step = ROOM / max(len(lines), 1)
    for place, line in enumerate(lines):
        where = np.arange(len(ways)) + step * (place - (len(lines) - 1) / 2)
        _line(axis, where, step, [read(way, line) for way in ways], line)


def _line(axis: Axes, where: np.ndarray, step: float, marks: Sequence[Mark], line: Line) -> None:
    family, _, weight = line
    colour = f"C{list(FAMILIES).index(family)}"
    dots = np.array([mark.dots for mark in marks])
    shares = np.array([np.broadcast_to(mark.shares, len(mark.dots)) for mark in marks])
    axis.scatter(
        np.repeat(where + 0.25 * step, dots.shape[1]),
        dots.ravel(),
        SMALL + LARGE * shares.ravel(),
        color=colour,
        alpha=0.4,
        linewidths=0,
    )
    mean, low, high = np.array([mark.spread for mark in marks]).T
    axis.errorbar(
        where - 0.15 * step,
        mean,
        [mean - low, high - mean],
        color=colour,
        linestyle="none",
        marker="o",
        markerfacecolor="white" if weight == "tree" else None,
        markersize=4,
        linewidth=1.2,
        capsize=1.5,
    )


def _legend(figure: Figure, seeds: int) -> None:
    def key(colour: str, label: str, **style) -> Line2D:
        return Line2D([], [], color=colour, marker="o", linestyle="none", label=label, **style)

    handles = [
        *(
            key(f"C{number}", f"{family}{', tree advantages' if family == TREE else ''}")
            for number, family in enumerate(FAMILIES)
        ),
        key("0.3", "uniform leaf weights"),
        key("0.3", "tree leaf weights", markerfacecolor="white"),
        key("0.3", "one policy", markersize=2.5, alpha=0.5),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    if seeds > 1:
        figure.suptitle(
            f"means of {seeds} policies with 95% intervals, geometric on logarithmic axes; "
            "distance: median and range",
            fontsize=10,
        )
