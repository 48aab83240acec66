"""Actors: delay 0 is no actor at all, bit for bit; a live run keeps its bound and can be repeated."""

import contextlib
import dataclasses
import itertools
import json
import threading
import time

import bigram
import jax
import pytest
from exact import bits, same

from experiments.actors import make_crew
from experiments.config import (
    ActorsConfig,
    CriticConfig,
    EvaluationConfig,
    Experiment,
    ModelConfig,
    OptimizerConfig,
    SamplingConfig,
    ScheduleConfig,
    TaskConfig,
)
from experiments.first_state import first_state
from experiments.methods import MethodConfig
from experiments.phases import compiled_step, make_phases
from experiments.setup import build, stream
from experiments.tasks import load_task
from gpg_jax.policies.transformer import transformer
from gpg_jax.training.asynchronous import live, repeated
from gpg_jax.training.batches import Batches, TrainingSet
from gpg_jax.training.checkpoints import open_checkpoints, restore, save
from gpg_jax.training.deliveries import Delivery, check_deliveries, delayed
from gpg_jax.training.loop import iterations

STEPS = 6
NUMBERS = range(1, STEPS + 1)
METHODS = {
    "rollouts": MethodConfig(name="dapo", arguments={"overlong_cache": None, "correction": "token"}),
    "gradients": MethodConfig(name="a2c"),
}


def experiment(bring: str, prompts: int = 6, **actors) -> Experiment:
    """Of eight devices each actor has three, and the learner two."""
    given = {"count": 2, "devices": 3, "staleness": 2, **actors}
    return Experiment(
        mesh=(-1, 1, 1),
        model=ModelConfig(width=16, layers=1, heads=2, kv_heads=2, head_dim=8, mlp_width=16),
        task=TaskConfig(name="reversal", verifier="places_right", prompt_tokens=3),
        sampling=SamplingConfig(new_tokens=2),
        method=METHODS[bring],
        optimizer=OptimizerConfig(learning_rate=1e-2),
        critic=CriticConfig(optimizer=OptimizerConfig(learning_rate=1e-2 if bring == "gradients" else 1e-3)),
        schedule=ScheduleConfig(steps=STEPS, prompts=prompts, group=4, generations=2),
        evaluation=EvaluationConfig(examples=-1, batch=prompts),
        actors=ActorsConfig(bring=bring, **given),
    )


@pytest.fixture(scope="module", params=["rollouts", "gradients"])
def bring(request):
    return request.param


def take(network, patch):
    """The network of the experiments that are built from now on."""
    for module in ("setup", "critics"):
        patch.setattr(f"experiments.{module}.transformer", network)


@pytest.fixture(scope="module")
def team(bring):
    """A setup that remembers two iterations, its crew, and the step: compiled once for all tests.

    The network minds its last token alone; a transformer is in the test of no delay.
    """
    with pytest.MonkeyPatch.context() as patch:
        take(bigram.policy, patch)
        setup = build(experiment(bring, delays=(2,)))
    step = compiled_step(setup)
    return setup, make_crew(setup, step, [None, None]), step


def training_set(setup):
    own = load_task(setup.config).batches
    return TrainingSet(lambda: next(own), own.get_state, own.set_state)


def seen(found):
    return bits(found.state), bits(found.metrics), bits(found.collected.rollout)


@pytest.fixture
def optimised(bring):
    """XLA as a run has it: without its passes the two halves of a step are not rounded as the whole."""
    jax.config.update("jax_disable_most_optimizations", bring == "rollouts")
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.parametrize(
    ("bring", "network"),
    [
        ("rollouts", transformer),
        ("gradients", bigram.policy),
        pytest.param("gradients", transformer, marks=pytest.mark.slow),
    ],
    ids=["rollouts", "gradients", "gradients of a transformer"],
)
def test_no_delay_is_no_actor_bit_for_bit(bring, network, optimised, monkeypatch):
    """O-39: with one actor at the learner's one device and delay 0, A3C is A2C; so is any other method."""
    take(network, monkeypatch)
    setup = build(experiment(bring, 7, count=1, devices=7, delays=(0,), staleness=0))
    shared = dataclasses.replace(setup.config.actors, devices=0)
    setup = setup._replace(config=dataclasses.replace(setup.config, actors=shared))
    phases, key = make_phases(setup), stream(setup.config, "rollout")
    place = setup.task.batches.get_state
    numbers = range(1, 4)
    plain = [seen(found) for found in iterations(phases, first_state(setup), key, numbers, place)]
    crew, batches = make_crew(setup, phases[-1].step, [None]), Batches(training_set(setup))
    fed = [seen(found) for found in repeated(crew, first_state(setup), delayed(numbers, (0,)), batches)]
    same(plain, fed)


def test_a_delay_takes_the_parameters_of_so_many_iterations_ago(team):
    setup, crew, _ = team
    shown, actor = [], crew.actors[0]

    def looking(view):
        shown.append(bits(view.params))
        return actor.place(view)

    watched = crew._replace(actors=[actor._replace(place=looking)] * 2)
    behind = [bits(first_state(setup).params)]
    batches = Batches(training_set(setup))
    for found in repeated(watched, first_state(setup), delayed(NUMBERS, (0, 1, 2), 2), batches):
        behind.append(bits(found.state.params))
        assert found.told["staleness"] == found.delivery.staleness
        same(shown[-1], behind[found.delivery.version])
        updates = setup.schedule.updates_through(found.delivery.version)
        assert (found.collected.rollout.version == updates).all()
    assert [one.told["staleness"] for one in [found]] == [2]


def test_what_is_too_old_for_the_memory_is_refused(team):
    setup, crew, _ = team
    early = [Delivery(step, step, 0, 0) for step in NUMBERS]
    with pytest.raises(ValueError, match="is 3 iterations old, and 2 are remembered"):
        list(repeated(crew, first_state(setup), early, Batches(training_set(setup))))


def slowly(crew):
    """Actors whose pace changes: the first is slow at first, the second later."""
    turns = itertools.count()

    def write_of(actor, slow):
        def write(*asked):
            time.sleep(0.3 if next(turns) % 4 in slow else 0.0)
            return actor.collector.write(*asked)

        return actor._replace(collector=actor.collector._replace(write=write))

    first, second = crew.actors
    return crew._replace(actors=[write_of(first, {0, 1}), write_of(second, {3})])


def test_a_live_run_keeps_its_bound_and_is_repeated_bit_for_bit(team):
    setup, crew, _ = team
    found, deliveries = [], []
    for one in live(slowly(crew), first_state(setup), NUMBERS, Batches(training_set(setup)), 2):
        found.append(seen(one))
        deliveries.append(one.delivery)
    check_deliveries(deliveries, NUMBERS)
    assert {one.ticket for one in deliveries} == set(NUMBERS)
    assert {one.actor for one in deliveries} == {0, 1}
    assert max(one.staleness for one in deliveries) <= 2
    taken = [number for one in deliveries for number in one.batches]
    assert sorted(taken) == list(range(len(taken)))
    again = repeated(crew, first_state(setup), deliveries, Batches(training_set(setup)))
    same(found, [seen(one) for one in again])


@pytest.mark.parametrize("stop", [1, 4])
def test_a_live_run_that_is_stopped_loses_doubles_and_skips_nothing(team, stop):
    setup, crew, _ = team
    deliveries = []
    with contextlib.closing(
        live(slowly(crew), first_state(setup), NUMBERS, Batches(training_set(setup)), 2)
    ) as run:
        for one in run:
            deliveries.append(one.delivery)
            if one.step == stop:
                cursor, state = (
                    json.loads(json.dumps(one.cursor)),
                    jax.tree.map(lambda x: x.copy(), one.state),
                )
                break
    batches = Batches(training_set(setup), cursor["batches"])
    rest = live(crew, state, range(stop + 1, STEPS + 1), batches, 2, cursor["open"])
    deliveries += [one.delivery for one in rest]
    check_deliveries(deliveries, NUMBERS)
    assert {one.ticket for one in deliveries} == set(NUMBERS)
    taken = [number for one in deliveries for number in one.batches]
    assert sorted(taken) == list(range(len(taken)))


def test_a_repeated_run_that_is_restored_goes_on_bit_for_bit(team, tmp_path):
    """O-37 with parameters of the past: they are part of the state."""
    setup, crew, _ = team
    plan, half = list(delayed(NUMBERS, (2, 0, 1), 2)), STEPS // 2
    whole = []
    with open_checkpoints(tmp_path) as checkpoints:
        for one in repeated(crew, first_state(setup), plan, Batches(training_set(setup))):
            whole.append(seen(one))
            if one.step == half:
                save(checkpoints, half, one.state, {"cursor": one.cursor}, score=0.0)
    with open_checkpoints(tmp_path) as checkpoints:
        restored = restore(checkpoints, setup.like, pytest.fail)
    batches = Batches(training_set(setup), restored.host["cursor"]["batches"])
    rest = [seen(one) for one in repeated(crew, restored.state, plan[half:], batches)]
    same(whole[half:], rest)


def changed(crew, **parts):
    return crew._replace(
        actors=[one._replace(collector=one.collector._replace(**parts)) for one in crew.actors]
    )


@pytest.mark.parametrize("part", ["write", "judge"])
def test_what_an_actor_fails_with_reaches_the_learner(team, part):
    setup, crew, _ = team

    def gone(*asked):
        raise RuntimeError("the service is gone")

    run = live(changed(crew, **{part: gone}), first_state(setup), NUMBERS, Batches(training_set(setup)), 2)
    with pytest.raises(RuntimeError, match="the service is gone"):
        next(run)


def test_responses_are_judged_in_the_learners_thread(team):
    """Whoever made them, for further batches of prompts and before a gradient too."""
    setup, crew, _ = team
    threads = {"judge": set(), "keep": set()}

    def watching(name):
        own = getattr(crew.actors[0].collector, name)

        def work(*given):
            threads[name].add(threading.current_thread())
            return own(*given)

        return work

    watched = changed(crew, **{name: watching(name) for name in threads})
    for _ in live(watched, first_state(setup), range(1, 4), Batches(training_set(setup)), 2):
        pass
    assert threads["judge"] == {threading.main_thread()} and threading.main_thread() not in threads["keep"]


def test_a_learner_that_judges_does_not_wait(team, monkeypatch):
    """By a clock that goes on while responses are judged, and then alone."""
    setup, crew, _ = team
    now, own = [0.0], crew.actors[0].collector.judge

    def slow(*given):
        now[0] += 100
        return own(*given)

    monkeypatch.setattr("gpg_jax.training.asynchronous.time.perf_counter", lambda: now[0])
    run = live(changed(crew, judge=slow), first_state(setup), range(1, 4), Batches(training_set(setup)), 2)
    assert [one.told["learner_waits"] for one in run] == [0, 0, 0]
    assert now[0] >= 300


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"count": 0, "bring": "gradients"}, "there are no actors"),
        ({"count": 3, "staleness": 1}, "no more than 2 rollouts can be under way"),
        ({"count": 1, "delays": (3,), "staleness": 2}, "has 3, above actors.staleness=2"),
        ({"count": 1, "delays": (1,), "journal": "W"}, "give one of them"),
        ({"count": 1, "bring": "thoughts"}, "must be 'rollouts' or 'gradients'"),
    ],
)
def test_sections_that_contradict_themselves(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        ActorsConfig(**given)
