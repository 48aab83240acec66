"""Accuracy on held-out examples: each is asked once greedily, or several times at the run's temperature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.setup import Setup, open_toolbox, stream, writer
from experiments.statistics import Accuracy, accuracy
from experiments.tools import tally
from experiments.transcripts import transcript
from gpg_jax.data.examples import Example
from gpg_jax.decoding.rollouts import Written, pad_prompts, response_ids
from gpg_jax.decoding.sampling import Sampling
from gpg_jax.environments.rewards import Failure, Judged
from gpg_jax.training.collect import Write
from gpg_jax.types import Params

GREEDY = Sampling(temperature=0.0)


class Evaluator(NamedTuple):
    """A compiled way to ask.

    Attributes:
      setup: whose task and policy.
      kind: "sampled" or "greedy".
      samples: responses to each example.
      write: what responds.
      tally: () -> what the tools did since the last time, name -> number.
    """

    setup: Setup
    kind: str
    samples: int
    write: Write
    tally: Callable[[], dict[str, float]] = dict


class Answers(NamedTuple):
    """Judged responses to P examples, S to each.

    Attributes:
      outcome: `float32[P, S]`, the verifier's word.
      correct: `bool[P, S]`, where that is 1.
      accuracy: its mean and interval.
      parts: name of a reward -> `float32[P, S]`.
      calls: `int32[P, S]`, calls of tools that were answered.
      counts: what the tools did, name -> number.
      failures: what a verifier or a reward did not survive, rows counted through.
      transcripts: a row each, enough to be judged again.
    """

    outcome: np.ndarray
    correct: np.ndarray
    accuracy: Accuracy
    parts: dict[str, np.ndarray]
    calls: np.ndarray
    counts: dict[str, float]
    failures: tuple[Failure, ...]
    transcripts: list[dict[str, Any]]


class _Batch(NamedTuple):
    """What was written to some examples, and what it is worth."""

    said: Written
    judged: Judged
    transcripts: list[dict[str, Any]]


def make_evaluators(setup: Setup) -> tuple[Evaluator, ...]:
    """The ways to ask that a configuration wants: sampled first."""
    wanted, toolbox = setup.config.evaluation, open_toolbox(setup)
    kinds = {
        "sampled": (wanted.samples, setup.config.sampling.distribution),
        "greedy": (wanted.greedy, GREEDY),
    }
    counted: Callable[[], dict[str, float]] = dict if toolbox is None else lambda: tally(toolbox)
    return tuple(
        Evaluator(setup, kind, int(samples), writer(setup, toolbox, sampling, int(samples)), counted)
        for kind, (samples, sampling) in kinds.items()
        if samples
    )


def evaluate(evaluator: Evaluator, params: Params, examples: Sequence[Example]) -> Answers:
    """Asks, judges and counts; the same randomness each time, so that two evaluations are comparable.

    Args:
      evaluator: how to ask.
      params: of the policy.
      examples: what to ask, at least one.
    """
    size, samples = _batch_size(evaluator.setup, len(examples)), evaluator.samples
    starts = range(0, len(examples), size)
    batches = [_ask(evaluator, params, examples[start : start + size], start, size) for start in starts]
    outcome = np.concatenate([batch.judged.outcome for batch in batches]).reshape(-1, samples)
    parts = {name: [batch.judged.parts[name] for batch in batches] for name in batches[0].judged.parts}
    failures = [
        failure._replace(row=start * samples + failure.row)
        for start, batch in zip(starts, batches, strict=True)
        for failure in batch.judged.failures
    ]
    return Answers(
        outcome=outcome,
        correct=outcome >= 1,
        accuracy=accuracy(outcome >= 1),
        parts={name: np.concatenate(values).reshape(-1, samples) for name, values in parts.items()},
        calls=np.concatenate([batch.said.calls for batch in batches]).reshape(-1, samples),
        counts=evaluator.tally(),
        failures=tuple(failures),
        transcripts=[row for batch in batches for row in batch.transcripts],
    )


def _batch_size(setup: Setup, count: int) -> int:
    """Prompts that are decoded at once: no more than there are, as a multiple of the replicas."""
    shards = setup.schedule.plan.shards
    return min(setup.config.evaluation.batch, -(-count // shards) * shards)


def _ask(evaluator: Evaluator, params: Params, examples: Sequence[Example], start: int, size: int) -> _Batch:
    """One batch; the last one is filled up with copies of its first example, which are not judged.

    A row's randomness is named by its place among all rows, whatever the batches are.
    """
    setup, samples = evaluator.setup, evaluator.samples
    filled = [*examples, *[examples[0]] * (size - len(examples))]
    prompts = pad_prompts([setup.task.encode(example) for example in filled], setup.config.task.prompt_tokens)
    uid = np.arange(start * samples, (start + size) * samples, dtype=np.int32)
    key = stream(setup.config, "evaluation")
    owners = [example for example in examples for _ in range(samples)]
    said = jax.tree.map(
        lambda leaf: leaf[: len(owners)], evaluator.write(params, filled, prompts, uid, key)()
    )
    judged = setup.task.judge(said, owners)
    rows = [
        transcript(setup, example, own, stop=stop, outcome=outcome, reward=reward)
        for example, own, stop, outcome, reward in zip(
            owners, response_ids(said), said.stop.tolist(), judged.outcome, judged.reward, strict=True
        )
    ]
    return _Batch(said, judged, rows)
