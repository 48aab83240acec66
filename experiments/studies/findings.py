"""What a study ends with: a table, a figure, and the sentences that go with them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from scipy import stats

NOT_TOLD = "not told"
"""What a text says in the place of a number that there is not."""


class Interval(NamedTuple):
    """A mean over seeds and its 95% confidence interval.

    Attributes:
      mean: of the seeds.
      half: half the width of the interval, NaN for one seed.
      seeds: how many.
    """

    mean: float
    half: float
    seeds: int

    @property
    def low(self) -> float:
        """The lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + self.half

    def __str__(self) -> str:
        if not math.isfinite(self.mean):
            return NOT_TOLD
        return f"{self.mean:.3g}" if self.seeds < 2 else f"{self.mean:.3g} ± {self.half:.2g}"


class GeometricInterval(NamedTuple):
    """A geometric mean over seeds and its 95% confidence interval, for ratios and other positive numbers.

    Attributes:
      mean: exp of the mean log; NaN where a seed's number is not positive.
      low, high: ends of the interval, exp of those of the logs; NaN for one seed.
      seeds: how many.
    """

    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        if not math.isfinite(self.mean):
            return NOT_TOLD
        ends = "" if self.seeds < 2 else f" ({self.low:.3g}–{self.high:.3g})"
        return f"{self.mean:.3g}{ends}"


Cell = str | int | float | Interval | GeometricInterval


class Findings(NamedTuple):
    """What came out.

    Attributes:
      rows: of the table; each has the same columns.
      figure: what is drawn.
      notes: sentences that state what came out, with their numbers.
      tables: further ones, by what stands above them.
    """

    rows: Sequence[Mapping[str, Cell]]
    figure: Figure
    notes: Sequence[str] = ()
    tables: Mapping[str, Sequence[Mapping[str, Cell]]] = MappingProxyType({})


def interval(values: Sequence[float], comparisons: int = 1) -> Interval:
    """Mean and Student's 95% interval, t_{n−1}·s/√n with s² over n − 1.

    Args:
      values: a number a seed.
      comparisons: intervals that are to hold together with 95%, by Bonferroni's 1 − 0.05/m for each.

    Raises:
      ValueError: no values.
    """
    if not len(values):
        raise ValueError("an interval needs a value")
    array = np.asarray(values, np.float64)
    if len(array) < 2:
        return Interval(float(array[0]), float("nan"), 1)
    half = stats.t.ppf(1 - 0.025 / comparisons, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array))
    return Interval(float(array.mean()), float(half), len(array))


def geometric_interval(values: Sequence[float]) -> GeometricInterval:
    """exp of mean and interval of the logs: that of a ratio is the other way up that of its inverse.

    Args:
      values: a number a seed. Where one is not positive, as an estimate that is all noise may be, nothing is
        told.

    Raises:
      ValueError: no values.
    """
    array = np.asarray(values, np.float64)
    if not np.all(np.isfinite(array) & (array > 0)):
        return GeometricInterval(math.nan, math.nan, math.nan, len(array))
    log = interval(np.log(array).tolist())
    return GeometricInterval(math.exp(log.mean), math.exp(log.low), math.exp(log.high), log.seeds)


def paired(first: Sequence[float], second: Sequence[float], comparisons: int = 1) -> Interval:
    """The interval of first − second, seed by seed; see `interval`."""
    return interval(np.subtract(first, second).tolist(), comparisons)


def markdown(rows: Sequence[Mapping[str, Cell]]) -> str:
    """A table as text."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_text(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def sections(tables: Mapping[str, Sequence[Mapping[str, Cell]]]) -> str:
    """Tables as text, each with its title above it."""
    return "".join(f"\n## {title}\n\n{markdown(rows)}" for title, rows in tables.items())


def write(findings: Findings, folder: Path, question: str, command: str) -> Path:
    """Writes `findings.md`, `findings.json` and `findings.png`.

    Args:
      findings: of the study.
      folder: where to.
      question: that was asked.
      command: that makes all of it again.

    Returns:
      The path of the text.
    """
    notes = "".join(f"- {note}\n" for note in findings.notes)
    text = f"# {question}\n\n    {command}\n\n{markdown(findings.rows)}\n{notes}{sections(findings.tables)}"
    path = folder / "findings.md"
    path.write_text(text, encoding="utf-8")
    record = {
        "question": question,
        "command": command,
        "notes": list(findings.notes),
        "rows": _plain_rows(findings.rows),
        "tables": {title: _plain_rows(rows) for title, rows in findings.tables.items()},
    }
    (folder / "findings.json").write_text(json.dumps(record, indent=1, allow_nan=False), encoding="utf-8")
    findings.figure.savefig(folder / "findings.png", dpi=130)
    return path


def plain_log_axis(axis: Axes) -> None:
    """A logarithmic y-axis of less than a decade or two, with numbers as one says them."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())


def _text(cell: Cell) -> str:
    if isinstance(cell, float):
        return f"{cell:.4g}" if math.isfinite(cell) else NOT_TOLD
    return str(cell).replace("|", "\\|")  # a bare one would end the cell


def _plain_rows(rows: Sequence[Mapping[str, Cell]]) -> list[dict[str, object]]:
    return [{name: _plain(cell) for name, cell in row.items()} for row in rows]


def _plain(cell: Cell | None) -> object:
    """What JSON can hold: it has no NaN."""
    if isinstance(cell, Interval | GeometricInterval):
        return {name: _plain(value) for name, value in cell._asdict().items()}
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell
