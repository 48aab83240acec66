"""Where actors and learner meet: tickets, batches and threads, without a policy."""

import dataclasses
import json
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gpg_jax.training import asynchronous
from gpg_jax.training.asynchronous import Actor, Crew, Work, _Desk, live, repeated
from gpg_jax.training.batches import Batches, TrainingSet
from gpg_jax.training.collect import Collector
from gpg_jax.training.deliveries import Delivery, check_deliveries
from gpg_jax.training.state import TrainState

COLLECTOR = Collector(draw=list, encode=None, write=None, judge=None, keep=None, prompt_slots=1, group=1)


def training_set() -> TrainingSet:
    place = [0]

    def draw() -> list[int]:
        place[0] += 1
        return [place[0] - 1]

    return TrainingSet(draw, lambda: place[0], lambda number: place.__setitem__(0, number))


def state(reference=None) -> TrainState:
    zero = np.zeros(1)
    return TrainState(zero, (), (), reference, None, zero, zero, zero)


def crew(count: int, *, find=None) -> Crew:
    return Crew([Actor(COLLECTOR, lambda view: view, find)] * count, lambda s, w: (s, {}), None, lambda n: 0)


@pytest.fixture
def making(monkeypatch):
    """What makes rollouts: `draws[ticket]` batches each, one by default; those of `held` wait for `gate`."""
    plan = types.SimpleNamespace(draws={}, held=set(), gate=threading.Event(), drawn=threading.Event())

    def make(crew, actor, view, ticket, version, drawn):
        for _ in range(plan.draws.get(ticket, 1)):
            drawn()
        if ticket in plan.held:
            plan.drawn.set()
            plan.gate.wait(20)
        return Work(types.SimpleNamespace(), None)

    monkeypatch.setattr(asynchronous, "_make", make)
    return plan


def test_batches_that_a_rollout_does_not_need_again_are_taken_by_the_next(making):
    """Ticket 2 has drawn two batches when the run is killed; made anew, it is content with one."""
    making.draws, making.held = {2: 2}, {2}
    run = live(crew(2), state(), range(1, 6), Batches(training_set()), 2)
    deliveries = [next(run).delivery]  # ticket 1: ticket 2 waits
    assert making.drawn.wait(20)
    second = next(run)
    deliveries.append(second.delivery)
    cursor = json.loads(json.dumps(second.cursor))
    assert next(taken for ticket, taken in cursor["open"] if ticket == 2)[1:]
    making.gate.set()
    run.close()
    making.draws, making.held = {}, set()
    batches = Batches(training_set(), cursor["batches"])
    rest = list(live(crew(2), state(), range(3, 6), batches, 2, cursor["open"]))
    deliveries += [one.delivery for one in rest]
    check_deliveries(deliveries, range(1, 6))
    used = [number for one in deliveries for number in one.batches]
    assert sorted(used) == list(range(5)) and not batches.cursor()["open"] and not batches.cursor()["spare"]
    again = [one.delivery for one in repeated(crew(2), remembering(), deliveries, Batches(training_set()))]
    assert again == deliveries


def remembering() -> TrainState:
    own = state()
    return dataclasses.replace(own, past=(asynchronous.networks_of(own),) * 2)


def test_a_batch_that_was_given_back_is_in_the_cursor(making):
    batches = Batches(training_set())
    first, second = batches.take(), batches.take()
    batches.give_back([second])
    batches.done([first])
    saved = json.loads(json.dumps(batches.cursor()))
    again = Batches(training_set(), saved)
    assert [(number := again.take(), again.examples(number)) for _ in range(2)] == [(1, [1]), (2, [2])]


def test_a_ticket_that_had_drawn_nothing_is_not_forgotten_by_a_second_stop(making):
    """Three rollouts are open, of which one had not drawn yet; one is delivered, and the run is killed."""
    saved = {"place": 10, "next": 10, "open": [[5, 5], [9, 9]], "spare": []}
    desk = _Desk(
        crew(4), state(), range(5, 9), Batches(training_set(), saved), 3, [[5, [5]], [6, []], [7, [9]]]
    )
    with ThreadPoolExecutor(1) as threads:
        served = threads.submit(desk._serve_one, 0)
        delivery, _, cursor, _ = desk.take(5)
        assert served.result() and delivery.ticket == 5
    assert cursor["open"] == [[6, []], [7, [9]]]
    batches = Batches(training_set(), json.loads(json.dumps(cursor["batches"])))
    rest = list(live(crew(2), state(), range(6, 9), batches, 3, cursor["open"]))
    assert {one.delivery.ticket for one in rest} == {6, 7, 8}


def test_an_iteration_for_which_nothing_is_left_is_an_error(making):
    desk = _Desk(crew(1), state(), range(1, 1), Batches(training_set()), 0, ())
    with pytest.raises(RuntimeError, match="no rollout is left for iteration 1"):
        desk.take(1)


def test_a_thread_that_cannot_be_started_ends_the_run(making, monkeypatch):
    """The first actor is there already: it is let go."""
    submit, started = ThreadPoolExecutor.submit, []

    def once(self, *given):
        if started:
            raise RuntimeError("can't start new thread")
        started.append(submit(self, *given))
        return started[0]

    monkeypatch.setattr(ThreadPoolExecutor, "submit", once)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        next(live(crew(2), state(), range(1, 5), Batches(training_set()), 1))
    assert started[0].done()


def test_an_actor_that_waits_for_its_judge_is_let_go_when_the_run_is_closed(monkeypatch):
    waits = threading.Event()

    def make(crew, actor, view, ticket, version, drawn):
        drawn()
        if ticket == 2:
            waits.set()
        return Work(actor.collector.judge("said", ticket), None)

    monkeypatch.setattr(asynchronous, "_make", make)
    judging = COLLECTOR._replace(judge=lambda said, ticket: ticket)
    one = crew(1)._replace(actors=[Actor(judging, lambda view: view)])
    run = live(one, state(), range(1, 5), Batches(training_set()), 1)
    assert next(run).collected == 1 and waits.wait(20)
    run.close()  # would wait for ever


def test_one_actor_at_a_time_places_what_is_shown(making):
    """Two threads that list the shards of an array at once get a wrong number of them from JAX."""
    inside, overlaps = threading.Lock(), []

    def place(view):
        overlaps.append(not inside.acquire(blocking=False))
        time.sleep(0.01)
        inside.release()
        return view

    one = crew(3)._replace(actors=[Actor(COLLECTOR, place)] * 3)
    assert len(list(live(one, state(), range(1, 9), Batches(training_set()), 3))) == 8
    assert overlaps == [False] * 8


def test_the_reference_is_copied_once(making):
    """What an iteration uses up is copied behind each; the reference stays what it was."""
    given = state(reference=np.ones(1))
    desk = _Desk(crew(1, find=lambda view, rollout: None), given, range(1, 3), Batches(training_set()), 0, ())
    first = desk._shown
    desk.publish(1, given)
    second = desk._shown
    assert first.reference is second.reference and first.reference is not given.reference
    assert first.params is not second.params and second.params is not given.params
    assert (second.reference == 1).all()


def test_a_rollout_that_takes_other_batches_than_its_delivery_tells_is_refused(making):
    making.draws = {1: 2}
    with pytest.raises(ValueError, match=r"iteration 1 took the batches \[0, 1\], .* tells of \[0\]"):
        list(repeated(crew(1), state(), [Delivery(1, 1, 0, 0, (0,))], Batches(training_set())))
    making.draws = {}
    with pytest.raises(ValueError, match=r"iteration 1 took the batches \[0\], .* tells of \[0, 1\]"):
        list(repeated(crew(1), state(), [Delivery(1, 1, 0, 0, (0, 1))], Batches(training_set())))
