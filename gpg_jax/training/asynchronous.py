"""Actors that do not wait for the learner: rollouts, or gradients, made with parameters of some time ago.

    live      threads make them at their own pace, each on its own devices, within a bound on staleness
    repeated  the deliveries are given: those of a live run again, bit for bit, or any delays one thinks of

What a rollout is follows from its ticket, the batches of prompts that it took and the version of its
parameters, and the learner's next state from that alone: a list of deliveries is all that a live run adds.
Responses are judged in the learner's thread whoever made them: many verifiers keep their time by signals,
which only the main thread has, and few say whether they may be called by several at once.
Asynchronous rollouts: IMPALA, arXiv 1802.01561; gradients: A3C, arXiv 1602.01783.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax

from gpg_jax.data.examples import Example
from gpg_jax.decoding.rollouts import Written
from gpg_jax.environments.rewards import Judged
from gpg_jax.training.batches import Batches
from gpg_jax.training.collect import Collected, Collector, Judge, collect
from gpg_jax.training.deliveries import Delivery, admissible
from gpg_jax.training.loop import Iteration
from gpg_jax.training.split_step import Find, Found, as_of
from gpg_jax.training.state import Networks, TrainState, networks_of
from gpg_jax.types import Array


class Actor(NamedTuple):
    """Who makes rollouts.

    Attributes:
      collector: what with; its own `draw` is not asked.
      place: a state without moments -> the same on the actor's devices.
      find: compiled, where actors bring gradients; None where they bring rollouts.
    """

    collector: Collector
    place: Callable[[TrainState], TrainState]
    find: Find | None = None


class Work(NamedTuple):
    """What an actor brings: a rollout, and the gradient that it found where it looks for one."""

    collected: Collected
    found: Found | None


class Crew(NamedTuple):
    """Actors and their learner.

    Attributes:
      actors: at least one.
      learn: state, work -> next state, metrics; uses up the state.
      key: of all rollouts; rollout n has the key `fold_in(key, n)`.
      updates: iteration -> updates before it by the schedule.
    """

    actors: Sequence[Actor]
    learn: Callable[[TrainState, Work], tuple[TrainState, dict[str, Array]]]
    key: Array
    updates: Callable[[int], int]


def repeated(
    crew: Crew, state: TrainState, deliveries: Iterable[Delivery], batches: Batches
) -> Iterator[Iteration]:
    """Iterations fed as they are told to be, one after the other in this thread.

    Args:
      crew: actors and learner.
      state: before the first of the iterations, with a memory as long as the staleness; it is used up.
      deliveries: in the order of their iterations.
      batches: of prompts.

    Yields:
      An `Iteration` each; read its state before asking for the next.

    Raises:
      ValueError: a delivery older than the memory, or one whose rollout takes other batches than it tells.
    """
    for delivery in deliveries:
        actor, drawn = crew.actors[delivery.actor], _Drawn(batches, delivery.batches)
        view = actor.place(as_of(state, _networks_then(state, delivery), whole=_whole(crew)))
        work = _make(crew, actor, view, delivery.ticket, delivery.version, drawn)
        del view
        if delivery.batches and drawn.numbers != [*delivery.batches]:
            raise ValueError(
                f"iteration {delivery.step} took the batches {drawn.numbers}, and its delivery tells of "
                f"{[*delivery.batches]}: that was another run's, or one on other devices"
            )
        batches.done(drawn.numbers)
        cursor = {"batches": batches.cursor()}
        state, metrics = crew.learn(state, work)
        told = {"staleness": float(delivery.staleness)}
        delivery = delivery._replace(batches=tuple(drawn.numbers))
        yield _iteration(delivery, state, work, metrics, cursor, told)


def live(
    crew: Crew,
    state: TrainState,
    numbers: range,
    batches: Batches,
    bound: int,
    open_tickets: Sequence[Any] = (),
) -> Iterator[Iteration]:
    """Iterations fed by whichever actor is first, unless another's rollout would become too old.

    Args:
      crew: actors and learner.
      state: before the first of the iterations; it is used up.
      numbers: of the iterations.
      batches: of prompts.
      bound: largest staleness; at most `bound + 1` rollouts are under way.
      open_tickets: of the cursor of the iteration before, where a run goes on: those are made again first.

    Yields:
      An `Iteration` each, with its delivery; read its state before asking for the next.

    Raises:
      RuntimeError: no rollout left for an iteration.
    """
    desk = _Desk(crew, state, numbers, batches, bound, open_tickets)
    with ThreadPoolExecutor(len(crew.actors), thread_name_prefix="actor") as threads:
        try:
            for number in range(len(crew.actors)):
                threads.submit(desk.serve, number)
            for step in numbers:
                delivery, work, cursor, waited = desk.take(step)
                told = {"staleness": float(delivery.staleness), "learner_waits": waited}
                state, metrics = crew.learn(state, work)
                desk.publish(step, state)
                desk.judge()  # while the devices learn
                yield _iteration(delivery, state, work, metrics, cursor, told)
        finally:
            desk.close()


class _Drawn:
    """What a collector draws from: batches that are given, then further ones."""

    def __init__(self, batches: Batches, given: Iterable[int], lock: Any = None):
        self.numbers: list[int] = []
        self._batches, self._given, self._lock = batches, list(given), lock or threading.Lock()

    def __call__(self) -> Sequence[Example]:
        with self._lock:
            number = self._given.pop(0) if self._given else self._batches.take()
            self.numbers.append(number)
            return self._batches.examples(number)

    @property
    def left(self) -> list[int]:
        """Batches that were given and not drawn."""
        return [*self._given]


class _Underway(NamedTuple):
    """A rollout that was begun and not delivered."""

    ticket: int
    version: int
    actor: int
    drawn: _Drawn


class _Desk:
    """Where actors and learner meet: they may `serve` in any thread, the rest is the learner's."""

    def __init__(
        self,
        crew: Crew,
        state: TrainState,
        numbers: range,
        batches: Batches,
        bound: int,
        open_tickets: Sequence[Any],
    ):
        self._crew, self._batches, self._bound = crew, batches, bound
        self._changed = threading.Condition(threading.RLock())
        self._placing = threading.Lock()  # JAX lists the shards of an array for one thread at a time
        again = [(ticket, list(taken)) for ticket, taken in open_tickets]
        self._fresh = numbers.start + len(again)  # the first ticket that was never begun
        self._waiting = [*again, *((ticket, []) for ticket in range(self._fresh, numbers.stop))]
        self._underway: dict[int, _Underway] = {}
        self._ready: dict[int, Work] = {}
        self._asked: list[tuple[Future[Judged], Callable[[], Judged]]] = []
        self._coming = numbers.start  # the iteration that the learner asks for next
        self._error: BaseException | None = None
        self._closed = False
        self._reference = _copy(state.reference) if _whole(crew) else None
        self.publish(numbers.start - 1, state)

    def publish(self, version: int, state: TrainState) -> None:
        """Shows the networks behind an iteration; copies them, since the next iteration uses them up."""
        moved = dataclasses.replace(state, reference=None)  # it stays what it was
        shown = _copy(as_of(moved, networks_of(state), whole=_whole(self._crew)))
        with self._changed:
            self._version = version
            self._shown = dataclasses.replace(shown, reference=self._reference)
            self._changed.notify_all()

    def serve(self, actor: int) -> None:
        """Makes one rollout after the other, until there is none left to begin."""
        try:
            while self._serve_one(actor):
                pass
        except BaseException as error:  # the learner raises it, wherever it came from
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def judge(self) -> None:
        """Judges what actors wait for."""
        while True:
            with self._changed:
                if not self._asked:
                    return
                answer, question = self._asked.pop(0)
            try:
                answer.set_result(question())
            except BaseException as error:
                answer.set_exception(error)
                raise

    def take(self, step: int) -> tuple[Delivery, Work, dict[str, Any], float]:
        """Waits for a rollout that iteration `step` may be fed with.

        Returns:
          The delivery, the rollout, the cursor behind it, and the seconds in which there was nothing to do.
        """
        waited = 0.0
        while True:
            self.judge()
            with self._changed:
                ticket = self._deliverable(step)
                if ticket is not None:
                    return *self._deliver(step, ticket), waited
                if not self._asked:
                    before = time.perf_counter()
                    self._changed.wait()
                    waited += time.perf_counter() - before

    def close(self) -> None:
        """Lets the actors go once they have finished what they are at; nothing is judged any more."""
        with self._changed:
            self._closed = True
            for answer, _ in self._asked:
                answer.cancel()
            self._asked.clear()
            self._changed.notify_all()

    def _serve_one(self, actor: int) -> bool:
        """Makes a rollout; False where there is none left to begin."""
        begun = self._begin(actor)
        if begun is None:
            return False
        (underway, shown), own = begun, self._crew.actors[actor]
        with self._placing:
            view = own.place(shown)
        del begun, shown  # they lie on the learner's devices
        own = own._replace(collector=own.collector._replace(judge=self._asking(own.collector.judge)))
        work = _make(self._crew, own, view, underway.ticket, underway.version, underway.drawn)
        with self._changed:
            self._ready[underway.ticket] = work
            self._changed.notify_all()
        return True

    def _asking(self, judge: Judge) -> Judge:
        """A judge that is asked for by any thread, and works in the learner's."""

        def ask(said: Written, examples: Sequence[Example]) -> Judged:
            answer: Future[Judged] = Future()
            with self._changed:
                if self._closed:
                    raise CancelledError
                self._asked.append((answer, functools.partial(judge, said, examples)))
                self._changed.notify_all()
            return answer.result()

        return ask

    def _begin(self, actor: int) -> tuple[_Underway, TrainState] | None:
        with self._changed:
            while not self._closed and self._waiting and self._too_early(actor):
                self._changed.wait()
            if self._closed or not self._waiting:
                return None
            ticket, taken = self._waiting.pop(0)
            begun = _Underway(ticket, self._version, actor, _Drawn(self._batches, taken, self._changed))
            self._underway[ticket] = begun
            return begun, self._shown

    def _too_early(self, actor: int) -> bool:
        """Whether a rollout begun now could come too late, or would only lie about and grow stale."""
        if any(self._underway[ticket].actor == actor for ticket in self._ready):
            return True
        versions = [*(one.version for one in self._underway.values()), self._version]
        return not admissible(versions, self._coming, self._bound)

    def _deliver(self, step: int, ticket: int) -> tuple[Delivery, Work, dict[str, Any]]:
        work, done = self._ready.pop(ticket), self._underway.pop(ticket)
        self._batches.done(done.drawn.numbers)
        self._batches.give_back(done.drawn.left)
        self._coming = step + 1
        self._changed.notify_all()
        numbers = tuple(done.drawn.numbers)
        return Delivery(step, ticket, done.version, done.actor, numbers), work, self._cursor()

    def _deliverable(self, step: int) -> int | None:
        if self._error is not None:
            raise self._error
        for ticket in self._ready:  # in the order in which they came
            others = [other.version for other in self._underway.values() if other.ticket != ticket]
            if admissible(others, step + 1, self._bound):
                return ticket
        if not self._underway and not self._waiting:
            raise RuntimeError(f"no rollout is left for iteration {step}: one of them was lost")
        return None

    def _cursor(self) -> dict[str, Any]:
        """Every ticket that was begun and not delivered, with all batches that it has ever drawn."""
        opened = [[one.ticket, one.drawn.numbers + one.drawn.left] for one in self._underway.values()]
        opened += [[ticket, taken] for ticket, taken in self._waiting if ticket < self._fresh]
        return {"batches": self._batches.cursor(), "open": opened}


def _make(crew: Crew, actor: Actor, view: TrainState, ticket: int, version: int, drawn: _Drawn) -> Work:
    key = jax.random.fold_in(crew.key, ticket)
    collector = actor.collector._replace(draw=drawn)
    collected = collect(collector, view.params, key, crew.updates(version + 1))
    return Work(collected, None if actor.find is None else actor.find(view, collected.rollout))


def _copy(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.copy(), tree)


def _whole(crew: Crew) -> bool:
    return any(actor.find is not None for actor in crew.actors)


def _networks_then(state: TrainState, delivery: Delivery) -> Networks:
    age = delivery.staleness
    if age > len(state.past):
        raise ValueError(f"{delivery} is {age} iterations old, and {len(state.past)} are remembered")
    return state.past[age - 1] if age else networks_of(state)


def _iteration(
    delivery: Delivery,
    state: TrainState,
    work: Work,
    metrics: dict[str, Array],
    cursor: dict[str, Any],
    told: dict[str, float],
) -> Iteration:
    step = delivery.step
    return Iteration(step, state, work.collected, metrics, cursor, step + 1, delivery, told)
