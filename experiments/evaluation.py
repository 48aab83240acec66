"""Accuracy on held-out examples: each is asked once greedily, or several times at the run's temperature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.setup import Setup, open_toolbox, stream, writer
from experiments.statistics import Accuracy, accuracy
from experiments.transcripts import transcript
from gpg_jax.data.examples import Example
from gpg_jax.decoding.rollouts import pad_prompts, response_ids
from gpg_jax.decoding.sampling import Sampling
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
    """

    setup: Setup
    kind: str
    samples: int
    write: Write


class Answers(NamedTuple):
    """Judged responses to examples.

    Attributes:
      correct: `bool[P, S]`.
      accuracy: its mean and interval.
      transcripts: a row each, enough to be judged again.
    """

    correct: np.ndarray
    accuracy: Accuracy
    transcripts: list[dict[str, Any]]


def make_evaluators(setup: Setup) -> tuple[Evaluator, ...]:
    """The ways to ask that a configuration wants: sampled first."""
    wanted, toolbox = setup.config.evaluation, open_toolbox(setup)
    kinds = {
        "sampled": (wanted.samples, setup.config.sampling.distribution),
        "greedy": (wanted.greedy, GREEDY),
    }
    return tuple(
        Evaluator(setup, kind, int(samples), writer(setup, toolbox, sampling, int(samples)))
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
    size = _batch_size(evaluator.setup, len(examples))
    starts = range(0, len(examples), size)
    batches = [_ask(evaluator, params, examples[start : start + size], start, size) for start in starts]
    correct = np.concatenate([found for found, _ in batches])
    return Answers(correct, accuracy(correct), [row for _, rows in batches for row in rows])


def _batch_size(setup: Setup, count: int) -> int:
    """Prompts that are decoded at once: no more than there are, as a multiple of the replicas."""
    shards = setup.schedule.plan.shards
    return min(setup.config.evaluation.batch, -(-count // shards) * shards)


def _ask(
    evaluator: Evaluator, params: Params, examples: Sequence[Example], start: int, size: int
) -> tuple[np.ndarray, list[dict[str, Any]]]:
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
    return (judged.outcome >= 1).reshape(-1, samples), rows
