"""The loop of a run: collect → step, as an iterator of values that knows nothing of files or screens.

While an iteration is looked at, the devices already decode for the next one, where responses need no tools:
a dialogue is held when it is waited for. Everything random is named
by the run's key and the number of the rollout, so that a run that is resumed goes on bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from gpg_jax.training.collect import Asked, Collected, Collector, ask, batch_key, collect
from gpg_jax.training.deliveries import Delivery
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
      following: number of the next iteration, further on where a phase is over early.
      delivery: what it was fed with, where actors do not wait for it; else None.
      told: name -> number, what the host counted besides.
    """

    step: int
    state: TrainState
    collected: Collected
    metrics: dict[str, Array]
    cursor: Any
    following: int
    delivery: Delivery | None
    told: dict[str, float]


class Phase(NamedTuple):
    """Iterations that are of one kind.

    Attributes:
      numbers: of its iterations, behind those of the phase before.
      collector: what rollouts are collected with.
      step: the compiled step.
      version: number of an iteration -> updates before it by the schedule.
      begin: state -> state, before its first iteration; a run that is resumed there does it again, so that
        twice must be as good as once.
      over: metrics of an iteration -> whether the next phase begins behind it, whatever numbers are left;
        None for a phase that goes through all of them.
    """

    numbers: range
    collector: Collector
    step: Step
    version: Callable[[int], int]
    begin: Callable[[TrainState], TrainState] = lambda state: state
    over: Callable[[dict[str, Array]], bool] | None = None


def iterations(
    phases: Sequence[Phase], state: TrainState, key: Array, numbers: range, cursor: Callable[[], Any]
) -> Iterator[Iteration]:
    """Runs iterations one after the other; the state that is passed in is used up.

    Args:
      phases: in order, from iteration 1 without a gap.
      state: before the first of these iterations.
      key: of all rollouts.
      numbers: of the iterations to run, from 1; those that a phase leaves out are passed over.
      cursor: () -> place in the training set.

    Yields:
      An `Iteration` each; read its state before asking for the next.
    """
    number, asked = numbers.start, None
    if numbers:
        state, asked = _start(phases, state, key, number)
    while number in numbers:
        phase, rollout_key = _phase(phases, number), jax.random.fold_in(key, number)
        collected = collect(phase.collector, state.params, rollout_key, phase.version(number), asked)
        place = cursor()
        state, metrics = phase.step(state, collected.rollout)
        following = _following(phase, number, metrics)
        if following in numbers:
            state, asked = _start(phases, state, key, following)
        yield Iteration(number, state, collected, metrics, place, following, delivery=None, told={})
        number = following


def _following(phase: Phase, number: int, metrics: dict[str, Array]) -> int:
    if phase.over is not None and phase.over(metrics):
        return phase.numbers.stop
    return number + 1


def _start(phases: Sequence[Phase], state: TrainState, key: Array, number: int) -> tuple[TrainState, Asked]:
    """The state that an iteration begins with, and its first prompts on their way."""
    phase = _phase(phases, number)
    if number == phase.numbers.start:
        state = phase.begin(state)
    return state, ask(phase.collector, state.params, batch_key(jax.random.fold_in(key, number), 0))


def _phase(phases: Sequence[Phase], number: int) -> Phase:
    return next(phase for phase in phases if number in phase.numbers)
