"""What a study ends with: a table, a figure, and the sentences that go with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy import stats


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

    def __str__(self) -> str:
        return f"{self.mean:.3g}" if self.seeds < 2 else f"{self.mean:.3g} ± {self.half:.2g}"


Cell = str | int | float | Interval


class Findings(NamedTuple):
    """What came out.

    Attributes:
      rows: of the table; each has the same columns.
      figure: what is drawn.
      notes: sentences that state what came out, with their numbers.
    """

    rows: Sequence[Mapping[str, Cell]]
    figure: Figure
    notes: Sequence[str] = ()


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


def paired(first: Sequence[float], second: Sequence[float], comparisons: int = 1) -> Interval:
    """The interval of first − second, seed by seed; see `interval`."""
    return interval(np.subtract(first, second).tolist(), comparisons)


def markdown(rows: Sequence[Mapping[str, Cell]]) -> str:
    """The table as text."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_text(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines) + "\n"


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
    text = f"# {question}\n\n    {command}\n\n{markdown(findings.rows)}\n{notes}"
    path = folder / "findings.md"
    path.write_text(text, encoding="utf-8")
    record = {
        "question": question,
        "command": command,
        "notes": list(findings.notes),
        "rows": [{name: _plain(cell) for name, cell in row.items()} for row in findings.rows],
    }
    (folder / "findings.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    findings.figure.savefig(folder / "findings.png", dpi=130)
    return path


def _text(cell: Cell) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _plain(cell: Cell) -> object:
    return cell._asdict() if isinstance(cell, Interval) else cell
