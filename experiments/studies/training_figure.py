"""The picture of arms that were trained side by side: their runs as dots, then their curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from experiments.studies.contrasts import Values
from experiments.studies.findings import interval

Lines = list[dict[str, Any]]
"""A run's `metrics.jsonl`."""

ACROSS = 3
"""Panels in a row."""

WIDTH, HEIGHT, LINE = 4.6, 3.4, 0.3
"""Inches of a panel, and of an arm among the dots."""


def draw(
    values: Values,
    columns: Sequence[str],
    lines: Mapping[str, Sequence[Lines]],
    curves: Sequence[str],
    first: int = 0,
    tail: int = 1,
) -> Figure:
    """A panel of dots a column, then a panel a curve.

    Args:
      values: what the table says of each run.
      columns: of the table: a dot a run, and the mean over seeds with its 95% interval.
      lines: arm -> metrics of its runs.
      curves: metrics: the mean over seeds, and 95% intervals as bands. A panel reaches as far as its runs do,
        so that a band that is wider is cut off.
      first: iteration after the cold start, where the arms begin to differ.
      tail: iterations, up to each one, that a curve is the mean of.
    """
    rows = [-(-len(names) // ACROSS) for names in (columns, curves)]
    heights = [rows[0] * (LINE * len(values) + 0.8), rows[1] * HEIGHT]
    figure = Figure(figsize=(WIDTH * ACROSS, sum(heights)), layout="constrained")
    dots, bands = figure.subfigures(2, 1, squeeze=False, height_ratios=heights).flat
    for axis, name in zip(_panels(dots, rows[0], len(columns), sharey=True), columns, strict=True):
        _dots(axis, values, name)
    own = {
        arm: [[line for line in run if line["step"] >= first] for run in runs] for arm, runs in lines.items()
    }
    for axis, metric in zip(_panels(bands, rows[1], len(curves)), curves, strict=True):
        drawn = [_band(axis, runs, metric, f"C{number}", tail) for number, runs in enumerate(own.values())]
        _reach(axis, np.concatenate(drawn))
        axis.set_title(metric, fontsize=10)
        axis.set_xlabel("iteration" if tail == 1 else f"iteration, mean of the last {tail}")
        axis.grid(alpha=0.25)
    handles = [Line2D([], [], color=f"C{number}", label=arm) for number, arm in enumerate(values)]
    bands.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    seeds = len(next(iter(values.values())))
    told = f"a dot a run, means of {seeds} seeds, 95% intervals" if seeds > 1 else "one run an arm"
    figure.suptitle(told, fontsize=10)
    return figure


def _panels(figure: SubFigure, rows: int, wanted: int, **options: Any) -> list[Axes]:
    axes = list(figure.subplots(rows, ACROSS, squeeze=False, **options).flat)
    for axis in axes[wanted:]:
        axis.set_axis_off()
    return axes[:wanted]


def _dots(axis: Axes, values: Values, column: str) -> None:
    """The arms from top to bottom; a grey line joins the runs of one seed."""
    found = np.array([[run[column] for run in runs] for runs in values.values()])
    places = np.arange(len(found))
    axis.plot(found, places, color="grey", alpha=0.35, linewidth=0.8)
    for place, runs in enumerate(found):
        axis.plot(runs, np.full(len(runs), place), "o", color=f"C{place}", markersize=3.5, alpha=0.6)
        spread = interval(runs.tolist())
        axis.errorbar(
            spread.mean,
            place,
            xerr=spread.half,
            fmt="D",
            color=f"C{place}",
            markersize=6,
            capsize=3,
            mec="white",
        )
    axis.set_yticks(places, list(values), fontsize=8)
    axis.set_ylim(len(found) - 0.5, -0.5)
    axis.set_title(column, fontsize=10)
    axis.grid(alpha=0.25, axis="x")
    if np.max(np.abs(found)) >= 1e4:
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))  # 300k


def _band(axis: Axes, found: Sequence[Lines], metric: str, colour: str, tail: int) -> np.ndarray:
    """Draws an arm; gives the values of its runs back."""
    points = [{line["step"]: float(line[metric]) for line in one if metric in line} for one in found]
    steps = sorted(set.intersection(*(set(one) for one in points)))
    if not steps:
        return np.array([])
    runs = np.array([_smooth([one[step] for step in steps], tail) for one in points])
    spread = [interval(values.tolist()) for values in runs.T]
    mean, half = np.array([one.mean for one in spread]), np.array([one.half for one in spread])
    axis.plot(steps, mean, color=colour, linewidth=1.5)
    axis.fill_between(steps, mean - half, mean + half, color=colour, alpha=0.12, linewidth=0)
    return runs.ravel()


def _reach(axis: Axes, values: np.ndarray) -> None:
    """A panel that holds the values and a little more."""
    values = values[np.isfinite(values)]
    if len(values) and np.ptp(values) > 0:
        margin = 0.04 * np.ptp(values)
        axis.set_ylim(values.min() - margin, values.max() + margin)


def _smooth(values: Sequence[float], tail: int) -> np.ndarray:
    """Means of the last `tail` values, of fewer at the beginning."""
    return np.array([np.mean(values[max(end - tail, 0) : end]) for end in range(1, len(values) + 1)])
