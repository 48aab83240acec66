"""A suite from its files to its table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from experiments import records
from experiments.config import Experiment
from experiments.evaluation import make_evaluators
from experiments.progress import say
from experiments.setup import Setup, build
from experiments.suites import report
from experiments.suites.benchmarks import suite
from experiments.suites.questions import find_files, read
from experiments.suites.scores import ask, suite_config
from gpg_jax.types import Params


class Request(NamedTuple):
    """What is wanted of a suite.

    Attributes:
      name: a key of `benchmarks.SUITES`.
      folder: with its files.
      config: of the run or the model.
      out: file of the transcripts; the table goes beside it, as .json.
      judge: see `benchmarks.suite`.
      samples: responses to a question, see `scores.suite_config`.
      examples: of a benchmark, the first so many; None for all.
      ks: of pass@k.
    """

    name: str
    folder: Path
    config: Experiment
    out: Path
    judge: str | None = None
    samples: int | None = None
    examples: int | None = None
    ks: Sequence[int] = ()


def run_suite(request: Request, console: Console, params_of: Callable[[Setup], Params]) -> None:
    """Asks a suite's questions and shows what came out.

    Args:
      request: what is wanted.
      console: where a person reads.
      params_of: the setup -> the parameters that are asked.

    Raises:
      ValueError: whatever is wrong with the request, before anything is asked.
    """
    benchmarks = suite(request.name, request.judge)
    files = find_files(benchmarks, request.folder)
    table = request.out.with_suffix(".json")
    if table.exists() or table == request.out:
        raise ValueError(f"{table} is where the table goes; remove it, or give another --out=FILE.jsonl")
    setup = build(suite_config(request.config, request.samples))
    task, tools = setup.config.task, setup.config.tools.names
    questions = [
        read(benchmark, path, task, setup.task.encode, tools, request.examples)
        for benchmark, path in files.items()
    ]
    params = params_of(setup)
    (evaluator,) = make_evaluators(setup)
    missing = [benchmark for benchmark in benchmarks if benchmark not in files]
    for benchmark in missing:
        say(console, f"{benchmark.title}: skipped, {request.folder} has no file {benchmark.name}")
    scores = []
    for asked in questions:
        say(console, f"{asked.benchmark.title}: {len(asked.examples)} questions of {asked.path}")
        score, rows = ask(evaluator, params, asked)
        records.append(request.out, rows)
        scores.append(score)
    said = report.remarks(scores, missing)
    sampling: dict[str, Any] = {"kind": evaluator.kind, "samples": evaluator.samples}
    if evaluator.kind == "sampled":
        sampling |= dataclasses.asdict(setup.config.sampling.distribution)
    report.write_json(table, request.name, sampling, scores, said, request.ks)
    for line in (*report.table(scores, request.ks), *said, f"table: {table}", f"transcripts: {request.out}"):
        say(console, line)
