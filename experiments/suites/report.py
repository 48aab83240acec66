"""A suite's scores as a table to read and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.statistics import pass_at_k
from experiments.suites.benchmarks import METRICS, Benchmark, notes
from experiments.suites.scores import Score, averages

_HEADER = (
    "benchmark",
    "questions",
    "metric",
    "score [95%]",
    "exact",
    "format errors",
    "calls",
    "answered",
    "score of those",
)


def table(scores: Sequence[Score], ks: Sequence[int] = ()) -> list[str]:
    """The lines of the table, with the averages below.

    Args:
      scores: of the benchmarks.
      ks: of pass@k, a column each.
    """
    rows = [[*_HEADER, *(f"pass@{k}" for k in ks)]]
    for found in scores:
        asked = found.questions
        rows.append(
            [
                asked.benchmark.title,
                f"{len(asked.examples)}" + (f" ({asked.dropped} dropped)" if asked.dropped else ""),
                METRICS.get(asked.benchmark.metric, asked.benchmark.metric),
                str(found.metric),
                _share(found.exact),
                _share(found.format_errors),
                f"{found.calls:.2f}",
                _share(found.answered),
                _share(found.metric_answered),
                *(_share(pass_at_k(found.correct, k)) for k in ks),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return lines + [
        f"average, {name}: {mean:.3f} over {count} {'benchmark' if count == 1 else 'benchmarks'}"
        for name, (mean, count) in averages(scores).items()
    ]


def remarks(scores: Sequence[Score], missing: Sequence[Benchmark]) -> list[str]:
    """What the numbers are not, in sentences."""
    said = [f"no file: {', '.join(benchmark.name for benchmark in missing)}"] if missing else []
    said += notes([found.questions.benchmark for found in scores])
    for found in scores:
        if found.failures:
            said.append(
                f"{found.questions.benchmark.title}: {len(found.failures)} responses count 0 because the "
                f"metric failed, the first one: {found.failures[0]}"
            )
    return said


def write_json(
    path: Path,
    suite: str,
    sampling: Mapping[str, Any],
    scores: Sequence[Score],
    said: Sequence[str],
    ks: Sequence[int] = (),
) -> None:
    """Writes the table.

    Args:
      path: of the file.
      suite: its name.
      sampling: how responses were drawn.
      scores: of the benchmarks.
      said: the remarks.
      ks: of pass@k.
    """
    record = {
        "suite": suite,
        "sampling": dict(sampling),
        "benchmarks": [_record(found, ks) for found in scores],
        "averages": {name: {"score": mean, "benchmarks": n} for name, (mean, n) in averages(scores).items()},
        "remarks": list(said),
    }
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _record(found: Score, ks: Sequence[int]) -> dict[str, Any]:
    asked, metric = found.questions, found.metric
    return {
        "name": asked.benchmark.name,
        "title": asked.benchmark.title,
        "group": asked.benchmark.group,
        "file": str(asked.path),
        "questions": len(asked.examples),
        "dropped": asked.dropped,
        "samples": metric.samples,
        "metric": asked.benchmark.metric,
        "score": metric.mean,
        "low": metric.low,
        "high": metric.high,
        "exact": found.exact,
        "format_errors": found.format_errors,
        "calls": found.calls,
        "answered": found.answered,
        "score_answered": found.metric_answered,
        "pass_at": {str(k): pass_at_k(found.correct, k) for k in ks},
        "failures": len(found.failures),
    }


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
