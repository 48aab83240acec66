"""What suites are made of: benchmarks, and how each is judged.

ARPO (arXiv 2507.19849, section 4.4) takes F1 for the multi-hop questions, and a language model for a judge
of all others. Here is none: math-verify judges mathematics, and WebWalker's answers are right where they have
all words of a gold one in a row. A judge of your own is an entry of `experiments.functions.FUNCTIONS`, by
`--judge`. F1 and exact match are SQuAD's; the released evaluation keeps punctuation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from experiments.functions import FUNCTIONS
from experiments.methods import nearest

MATHEMATICS, KNOWLEDGE = "mathematical", "knowledge-intensive"
GROUPS = (MATHEMATICS, KNOWLEDGE)


class Benchmark(NamedTuple):
    """A benchmark.

    Attributes:
      name: of its file.
      title: as the paper writes it.
      group: one of `GROUPS`.
      metric: a key of `FUNCTIONS`; response and example -> number from 0 to 1.
      judged: whether the paper has a language model judge it.
    """

    name: str
    title: str
    group: str
    metric: str
    judged: bool = False


SUITES: dict[str, tuple[Benchmark, ...]] = {
    "arpo": (
        Benchmark("aime24", "AIME24", MATHEMATICS, "boxed_math", judged=True),
        Benchmark("aime25", "AIME25", MATHEMATICS, "boxed_math", judged=True),
        Benchmark("math500", "MATH500", MATHEMATICS, "boxed_math", judged=True),
        Benchmark("gsm8k", "GSM8K", MATHEMATICS, "boxed_math", judged=True),
        Benchmark("math", "MATH", MATHEMATICS, "boxed_math", judged=True),
        Benchmark("webwalker", "WebWalker", KNOWLEDGE, "boxed_cover", judged=True),
        Benchmark("hotpotqa", "HotpotQA", KNOWLEDGE, "boxed_f1"),
        Benchmark("2wiki", "2Wiki", KNOWLEDGE, "boxed_f1"),
        Benchmark("musique", "MuSiQue", KNOWLEDGE, "boxed_f1"),
        Benchmark("bamboogle", "Bamboogle", KNOWLEDGE, "boxed_f1"),
    )
}
"""Suites by name."""

METRICS = {
    "boxed_math": "math-verify",
    "boxed_cover": "cover exact match",
    "boxed_f1": "F1",
    "boxed_exact": "exact match",
}
"""Metrics in words."""


def suite(name: str, judge: str | None = None) -> tuple[Benchmark, ...]:
    """The benchmarks of a suite.

    Args:
      name: a key of `SUITES`.
      judge: a key of `FUNCTIONS` that judges where the paper has a language model do so.

    Raises:
      ValueError: no such suite or judge.
    """
    if name not in SUITES:
        raise ValueError(f"there is no suite {name!r}; {nearest(name, SUITES)}")
    if judge is None:
        return SUITES[name]
    if judge not in FUNCTIONS:
        raise ValueError(f"there is no judge {judge!r}; {nearest(judge, FUNCTIONS)}")
    return tuple(
        benchmark._replace(metric=judge) if benchmark.judged else benchmark for benchmark in SUITES[name]
    )


def notes(benchmarks: Sequence[Benchmark]) -> list[str]:
    """What is judged otherwise than in the paper, in sentences."""
    judges: dict[str, list[str]] = {}
    for benchmark in benchmarks:
        if benchmark.judged:
            judges.setdefault(benchmark.metric, []).append(benchmark.title)
    return [
        f"{', '.join(titles)}: judged by {METRICS.get(metric, metric)}, where the paper asks "
        "Qwen2.5-72B-Instruct; the numbers are not its numbers"
        for metric, titles in judges.items()
    ]
