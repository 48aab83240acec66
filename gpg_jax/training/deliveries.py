"""Which rollout an iteration is fed with, and how old the parameters were that made it.

In iteration n the learner's parameters are those behind iteration n − 1. A delivery of version v was made
with those behind iteration v: its staleness is n − 1 − v, 0 where nobody is ahead of anybody.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple


class Delivery(NamedTuple):
    """What an iteration was fed with.

    Attributes:
      step: number of the iteration, from 1.
      ticket: number of the rollout, which names its randomness; each is delivered once.
      version: the iteration behind which its parameters were taken, 0 for the first parameters.
      actor: who made it.
      batches: numbers of the batches of prompts that it took; empty for the next ones that there are.
    """

    step: int
    ticket: int
    version: int
    actor: int
    batches: tuple[int, ...] = ()

    @property
    def staleness(self) -> int:
        """Iterations between the parameters that made it and those that learn from it."""
        return self.step - 1 - self.version


def delayed(numbers: range, delays: Sequence[int], actors: int = 1) -> Iterator[Delivery]:
    """The deliveries of a simulated delay: iteration n has parameters `delays[(n − first) % len]` old.

    At the beginning there are no parameters that old; what there is takes their place.

    Args:
      numbers: of the iterations.
      delays: staleness, one iteration after the other, again and again.
      actors: who take turns.

    Raises:
      ValueError: no delays, a negative one, or no actor.
    """
    if not delays or min(delays) < 0 or actors < 1:
        raise ValueError(
            f"delays {tuple(delays)} of {actors} actors: give one delay at least, none below 0, and an actor"
        )
    for index, (step, delay) in enumerate(zip(numbers, itertools.cycle(delays), strict=False)):
        yield Delivery(step, step, max(numbers.start - 1, step - 1 - delay), index % actors)


def admissible(versions: Iterable[int], step: int, bound: int) -> bool:
    """Whether rollouts that are under way can all be delivered in time, from an iteration on.

    Delivered the oldest first, that of rank i comes to iteration `step + i` with the staleness
    `step + i − 1 − v_i`.

    Args:
      versions: of the rollouts that are under way.
      step: the next iteration.
      bound: largest staleness.
    """
    return all(step + rank - 1 - version <= bound for rank, version in enumerate(sorted(versions)))


def read_delivery(line: Mapping[str, Any]) -> Delivery:
    """A delivery as a journal has it.

    Raises:
      ValueError: a line that is none.
    """
    try:
        return Delivery(**{**line, "batches": tuple(line["batches"])})
    except (KeyError, TypeError) as error:
        raise ValueError(f"{dict(line)} is not a delivery: {error}") from error


def check_deliveries(deliveries: Sequence[Delivery], numbers: range) -> None:
    """Raises a ValueError unless every iteration is fed once, by a rollout that could be there.

    Args:
      deliveries: in order.
      numbers: of the iterations that they are for.
    """
    steps = [delivery.step for delivery in deliveries]
    if steps != list(numbers):
        raise ValueError(
            f"the deliveries are of {len(steps)} iterations, {steps[:1]} to {steps[-1:]}; the run has "
            f"{len(numbers)}, {numbers.start} to {numbers.stop - 1}"
        )
    tickets = [delivery.ticket for delivery in deliveries]
    if len(set(tickets)) < len(tickets):
        raise ValueError("a rollout is delivered twice")
    for delivery in deliveries:
        if not numbers.start - 1 <= delivery.version < delivery.step:
            raise ValueError(f"{delivery} was made with parameters that there could not be")
