"""What a study ends with: a table, a figure, and the sentences that go with them."""

from __future__ import annotations

import io
import json
import math
import os
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
      runs: arm -> the numbers of each of its runs, by seed; for who wants them one by one.
    """

    rows: Sequence[Mapping[str, Cell]]
    figure: Figure
    notes: Sequence[str] = ()
    tables: Mapping[str, Sequence[Mapping[str, Cell]]] = MappingProxyType({})
    runs: Mapping[str, Sequence[Mapping[str, float]]] = MappingProxyType({})


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


def paired(first: Sequence[float], second: Sequence[float]) -> Interval:
    """The interval of first − second, seed by seed; see `interval`."""
    return interval(np.subtract(first, second).tolist())


def markdown(rows: Sequence[Mapping[str, Cell]]) -> str:
    """A table as text."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_text(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def sections(tables: Mapping[str, Sequence[Mapping[str, Cell]]]) -> str:
    """Tables as text, each with its title above it."""
    return "".join(f"\n## {title}\n\n{markdown(rows)}" for title, rows in tables.items())


class Asked(NamedTuple):
    """What a study was asked.

    Attributes:
      question: in words.
      command: that makes all of it again.
      seeds: how many runs of each kind.
      arms: what is compared, for a study that trains arms.
    """

    question: str
    command: str
    seeds: int
    arms: tuple[str, ...] = ()


def check_folder(folder: Path, asked: Asked) -> None:
    """Raises a ValueError if `write` would replace findings that are of something else, or of more.

    Args:
      folder: of the study; it need not exist.
      asked: what is to be found out.
    """
    path = folder / "findings.json"
    if not path.exists():
        return
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found = Asked(record["question"], record["command"], record["seeds"], tuple(record["arms"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} holds no findings of the present form ({error}), and would be replaced; move it away"
        ) from error
    others = ", ".join(arm for arm in found.arms if arm not in asked.arms)
    if found.question != asked.question or others:
        raise ValueError(
            f"{path} answers {found.question!r}{f' of {others}' if others else ''}; give another --workdir"
        )
    if found.seeds > asked.seeds:
        raise ValueError(
            f"{path} is of {found.seeds} seeds, and {asked.seeds} would replace it; ask for as many, or give "
            "another --workdir"
        )


def write(findings: Findings, folder: Path, asked: Asked) -> Path:
    """Writes `findings.md`, `findings.json` and `findings.png`, each whole or not at all.

    Args:
      findings: of the study.
      folder: where to.
      asked: what was found out.

    Returns:
      The path of the text.
    """
    notes = "".join(f"- {note}\n" for note in findings.notes)
    table = f"{markdown(findings.rows)}\n{notes}{sections(findings.tables)}"
    record = {
        **asked._asdict(),
        "notes": list(findings.notes),
        "rows": _plain_rows(findings.rows),
        "tables": {title: _plain_rows(rows) for title, rows in findings.tables.items()},
        "runs": {arm: _plain_rows(runs) for arm, runs in findings.runs.items()},
    }
    picture = io.BytesIO()
    findings.figure.savefig(picture, dpi=130, format="png")
    path = folder / "findings.md"
    for file, content in (
        (folder / "findings.png", picture.getvalue()),
        (path, f"# {asked.question}\n\n    {asked.command}\n\n{table}".encode()),
        (folder / "findings.json", json.dumps(record, indent=1, allow_nan=False).encode()),
    ):
        scratch = file.with_suffix(".part")
        scratch.write_bytes(content)
        os.replace(scratch, file)
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
