"""A suite's questions asked and counted, by the tools and the dialogue that a run is evaluated with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.config import ColdStartConfig, Experiment
from experiments.evaluation import Answers, Evaluator, evaluate
from experiments.methods import MethodConfig, make_method
from experiments.setup import Setup
from experiments.statistics import Accuracy, score
from experiments.suites.benchmarks import GROUPS, KNOWLEDGE, Benchmark
from experiments.suites.questions import Questions
from experiments.tasks import judge_of
from experiments.trained import unscored
from gpg_jax.types import Conservative, Params

TEMPERATURE, TOP_P = 0.6, 0.95
"""ARPO's (arXiv 2507.19849, section 4.4), which evaluates by pass@1."""

EXACT, FORMAT, ANSWERED = "boxed_exact", "broken_format", "answered"


class Score(NamedTuple):
    """What a benchmark came to.

    Attributes:
      questions: what was asked.
      metric: mean of the benchmark's metric over all responses.
      exact: share of exact matches, None where no words are asked for.
      format_errors: share of the responses whose format is broken.
      calls: of tools that were answered, a response.
      answered: share of the responses with an answer in a box.
      metric_answered: the metric's mean over those, None where there are none.
      correct: `bool[P, S]`, where the metric is 1.
      failures: sentences of what the metric did not survive; such responses are 0.
    """

    questions: Questions
    metric: Accuracy
    exact: float | None
    format_errors: float
    calls: float
    answered: float
    metric_answered: float | None
    correct: np.ndarray
    failures: tuple[str, ...]


def suite_config(config: Experiment, samples: int | None) -> Experiment:
    """A configuration for a suite: the paper's sampling, and in the place of the task, whose data nobody
    needs, the smallest there is.

    Args:
      config: of a run.
      samples: responses to each question, 1 for None; 0 for the greedy one.

    Raises:
      ValueError: a model from scratch, which reads no chat messages, or a mixture that is to be sampled.
    """
    if config.model.name is None:
        raise ValueError("a suite asks in chat messages, and a model from scratch has no chat template")
    samples = 1 if samples is None else samples
    sampling = dataclasses.replace(config.sampling, temperature=TEMPERATURE, top_p=TOP_P, top_k=0, min_p=0.0)
    if _mixes(config.method):
        if samples:
            raise ValueError(
                f"a suite samples at temperature {TEMPERATURE}, and what {config.method.name!r} has learnt "
                "mixes distributions at temperature 1: ask for greedy responses (--samples=0)"
            )
        sampling = dataclasses.replace(sampling, temperature=1.0)
    return dataclasses.replace(
        unscored(config),
        task=dataclasses.replace(config.task, name="reversal", verifier="exact", rewards={}, chat=False),
        cold_start=ColdStartConfig(),
        sampling=sampling,
        evaluation=dataclasses.replace(config.evaluation, examples=-1, samples=samples, greedy=samples == 0),
    )


def _mixes(method: MethodConfig) -> bool:
    """Whether the policies of a method are mixtures."""
    plain = make_method(MethodConfig(name=method.name), new_tokens=1)  # arguments do not change that
    return isinstance(plain.update, Conservative)


def ask(evaluator: Evaluator, params: Params, questions: Questions) -> tuple[Score, list[dict[str, Any]]]:
    """Asks the questions of a benchmark.

    Args:
      evaluator: how to ask.
      params: of the policy.
      questions: what to ask.

    Returns:
      What it came to, and the transcripts.
    """
    benchmark = questions.benchmark
    judging = evaluator._replace(setup=_judging(evaluator.setup, benchmark))
    answers = evaluate(judging, params, questions.examples)
    return _score(questions, answers), _rows(benchmark, evaluator.kind, answers)


def averages(scores: Sequence[Score]) -> dict[str, tuple[float, int]]:
    """The metric's mean over the benchmarks of each group, and of all: name -> mean, benchmarks."""
    means: dict[str, list[float]] = {name: [] for name in (*GROUPS, "all")}
    for found in scores:
        for name in (found.questions.benchmark.group, "all"):
            means[name].append(found.metric.mean)
    return {name: (float(np.mean(group)), len(group)) for name, group in means.items() if group}


def _judging(setup: Setup, benchmark: Benchmark) -> Setup:
    """The same run, whose responses are judged as the benchmark's are; what is only counted weighs 0."""
    counted = (FORMAT, ANSWERED, *([EXACT] if benchmark.group == KNOWLEDGE else []))
    rewards = dict.fromkeys(counted, 0.0) | {benchmark.metric: 1.0}
    task = dataclasses.replace(setup.config.task, verifier=benchmark.metric, rewards=rewards)
    return setup._replace(task=setup.task._replace(judge=judge_of(task, setup.task.tokenizer)))


def _score(questions: Questions, answers: Answers) -> Score:
    parts = answers.parts
    has_answer = parts[ANSWERED] > 0
    return Score(
        questions=questions,
        metric=score(answers.outcome),
        exact=float(parts[EXACT].mean()) if EXACT in parts else None,
        format_errors=float(parts[FORMAT].mean()),
        calls=float(answers.calls.mean()),
        answered=float(has_answer.mean()),
        metric_answered=float(answers.outcome[has_answer].mean()) if has_answer.any() else None,
        correct=answers.correct,
        failures=tuple(map(str, answers.failures)),
    )


def _rows(benchmark: Benchmark, kind: str, answers: Answers) -> list[dict[str, Any]]:
    """Transcripts with the benchmark's name, what was counted, and what failed."""
    parts = {name: values.ravel().tolist() for name, values in answers.parts.items()}
    failed = {failure.row: str(failure) for failure in answers.failures}
    return [
        {
            "benchmark": benchmark.name,
            "kind": kind,
            **transcript,
            "calls": calls,
            "parts": {name: values[row] for name, values in parts.items()},
            **({"failure": failed[row]} if row in failed else {}),
        }
        for row, (transcript, calls) in enumerate(
            zip(answers.transcripts, answers.calls.ravel().tolist(), strict=True)
        )
    ]
