"""The picture of the study of gradients: every way to fork beside none, policy by policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.studies.estimators import FAMILIES
from experiments.studies.findings import GeometricInterval, Interval, paired, plain_log_axis
from experiments.studies.gradients_records import (
    Line,
    Seeds,
    branchings,
    is_unforked,
    number_of,
    ratio_of,
    values_of,
)


class Panel(NamedTuple):
    """Title, unit, the level without forks, and what is drawn of a way to fork, beside none, and a line."""

    title: str
    unit: str
    level: float
    read: Callable[[Seeds, str, str, Line], Interval | GeometricInterval]


def _ratio(column: str) -> Callable[[Seeds, str, str, Line], GeometricInterval]:
    return lambda found, label, none, line: ratio_of(found, column, (label, line), (none, line))


def _cosine(found: Seeds, label: str, none: str, line: Line) -> Interval:
    return paired(values_of(found, "cosine", label, line), values_of(found, "cosine", none, line))


PANELS = (
    Panel("variance, at equal rows", "times that without forks", 1, _ratio("variance")),
    Panel("variance, at equal tokens", "times that without forks", 1, _ratio("variance at equal tokens")),
    Panel(
        "squared bias",
        "‖E[x] − g‖² / ‖g‖², g the family's without forks",
        0,
        lambda found, label, none, line: number_of(found, "bias²", label, line),
    ),
    Panel("cosine of one rollout's gradient to g", "less that without forks", 0, _cosine),
)


def draw(found: Seeds) -> Figure:
    """Variance, variance at equal tokens, bias and cosine by the way to fork; calibrated forms are left out.

    Args:
      found: of the seeds.
    """
    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = list(figure.subplots(2, 2).flat)
    labels = branchings(found)
    none = next((label for label in labels if is_unforked(found, label)), labels[0])
    ways = [label for label in labels if label != none]
    lines = [
        (family, next(iter(kinds)), weight)
        for family, kinds in FAMILIES.items()
        for weight in ("uniform", "tree")
    ]
    for axis, panel in zip(axes, PANELS, strict=True):
        for place, line in enumerate(lines):
            _curve(axis, [panel.read(found, way, none, line) for way in ways], line, place / len(lines) - 0.5)
        axis.axhline(panel.level, color="grey", linewidth=0.8)
        axis.set_title(panel.title, fontsize=11)
        axis.set_ylabel(panel.unit, fontsize=9)
        axis.set_xticks(range(len(ways)), [f"width {way}" if way.isdigit() else way for way in ways])
        axis.grid(alpha=0.25, axis="y")
    for axis in axes[:2]:
        plain_log_axis(axis)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    seeds = len(found)
    figure.suptitle(
        f"policy by policy: means over {seeds}, geometric on logarithmic axes, and 95% intervals"
        if seeds > 1
        else "one policy",
        fontsize=10,
    )
    return figure


def _curve(axis: Axes, spread: Sequence[Interval | GeometricInterval], line: Line, shift: float) -> None:
    family, kind, weight = line
    axis.errorbar(
        np.arange(len(spread)) + 0.6 * shift,
        [one.mean for one in spread],
        [[one.mean - one.low for one in spread], [one.high - one.mean for one in spread]],
        color=f"C{list(FAMILIES).index(family)}",
        linestyle="none",
        marker="^" if kind == "tree" else "o",
        markerfacecolor="white" if weight == "tree" else None,
        markersize=5,
        capsize=2,
        label=f"{family}{'; tree advantages' if kind == 'tree' else ''}; {weight} weights",
    )
