"""A task as a run sees it: examples with a place to resume from, prompts as token ids, judgements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpg_jax.data.tokenizers import character_tokenizer
from gpg_jax.training.collect import Verdicts


class Task(NamedTuple):
    """What a run needs of a task.

    Attributes:
      draw: () -> the next P examples of the training set.
      cursor: () -> the place in the training set, as JSON can hold it.
      seek: goes to such a place.
      held_out: examples that are never trained on.
      encode: example -> token ids of its prompt.
      judge: P examples, B responses as token ids -> verdicts.
      correct: outcomes -> `bool`.
      describe: example -> what a transcript says of it.
    """

    draw: Callable[[], Sequence[Any]]
    cursor: Callable[[], Any]
    seek: Callable[[Any], None]
    held_out: Sequence[Any]
    encode: Callable[[Any], list[int]]
    judge: Callable[[Sequence[Any], Sequence[list[int]]], Verdicts]
    correct: Callable[[np.ndarray], np.ndarray]
    describe: Callable[[Any], dict[str, Any]]


def load_task(config):
    tokenizer = character_tokenizer("0123456789+=")
    place = [0]
    pairs = [(a, b) for a in range(10) for b in range(10)]
    P = config.schedule.prompts

    def draw():
        rng = np.random.default_rng((config.seed, place[0]))
        place[0] += 1
        return [pairs[i] for i in rng.integers(0, 75, P)]

    def seek(cursor):
        place[0] = cursor

    def judge(examples, ids):
        g = len(ids) // len(examples)
        out = np.array(
            [
                float(tokenizer.decode(r)[:1] == str((examples[i // g][0] + examples[i // g][1]) % 10))
                for i, r in enumerate(ids)
            ],
            np.float32,
        )
        return Verdicts(out, out, {})

    return Task(
        draw,
        lambda: place[0],
        seek,
        pairs[75:],
        lambda e: tokenizer.encode(f"{e[0]}+{e[1]}="),
        judge,
        lambda o: o > 0.5,
        lambda e: {"answer": str((e[0] + e[1]) % 10)},
    ), tokenizer
