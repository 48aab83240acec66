"""The loop of a run: collect → step, as an iterator of values that knows nothing of files or screens.

While an iteration is looked at, the devices already decode for the next one. Everything random is named
by the run's key and the number of the rollout, so that a run that is resumed goes on bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from gpg_jax.training.collect import Asked, Collected, Collector, ask, batch_key, collect
from gpg_jax.training.state import TrainState
from gpg_jax.training.step import Step
from gpg_jax.types import Array


class Iteration(NamedTuple):
    """One iteration.

    Attributes:
      step: its number, from 1.
      state: after its updates; the next iteration donates it.
      collected: the rollout.
      metrics: name -> `float32[]`, still on the devices.
      cursor: place in the training set behind this iteration's prompts.
    """

    step: int
    state: TrainState
    collected: Collected
    metrics: dict[str, Array]
    cursor: Any


def iterations(
    collector: Collector,
    step: Step,
    state: TrainState,
    key: Array,
    numbers: range,
    updates: int,
    cursor: Callable[[], Any],
) -> Iterator[Iteration]:
    """Runs iterations one after the other; the state that is passed in is used up.

    Args:
      collector: what rollouts are collected with.
      step: the compiled step.
      state: before the first of these iterations.
      key: of all rollouts.
      numbers: of the iterations to run, from 1.
      updates: optimizer updates of an iteration.
      cursor: () -> place in the training set.

    Yields:
      An `Iteration` each; read its state before asking for the next.
    """
    asked = _ask(collector, state, key, numbers[0]) if numbers else None
    for number in numbers:
        rollout_key = jax.random.fold_in(key, number)
        collected = collect(collector, state.params, rollout_key, (number - 1) * updates, asked)
        place = cursor()
        state, metrics = step(state, collected.rollout)
        asked = _ask(collector, state, key, number + 1) if number != numbers[-1] else None
        yield Iteration(number, state, collected, metrics, place)


def _ask(collector: Collector, state: TrainState, key: Array, number: int) -> Asked:
    return ask(collector, state.params, batch_key(jax.random.fold_in(key, number), 0))
