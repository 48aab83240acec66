"""The actors of a run: their devices, what they bring, and what came when, in `deliveries.jsonl`."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from experiments import records
from experiments.config import Experiment
from experiments.output import DELIVERIES
from experiments.phases import make_program
from experiments.reading import flatten
from experiments.reward_model.scorer import check_identity, find_scorer
from experiments.setup import Setup, make_collector, stream
from experiments.workdir import FREE, read_workdir
from gpg_jax.environments.toolbox import Toolbox
from gpg_jax.training.asynchronous import Actor, Crew, Work, live, repeated
from gpg_jax.training.batches import Batches, TrainingSet
from gpg_jax.training.checkpoints import newest_host, read_checkpoints
from gpg_jax.training.collect import Collector
from gpg_jax.training.deliveries import Delivery, check_deliveries, delayed, read_delivery
from gpg_jax.training.loop import Iteration
from gpg_jax.training.sharding import make_mesh, row_shards
from gpg_jax.training.split_step import Find, Found, make_split_step
from gpg_jax.training.state import Networks, TrainState
from gpg_jax.training.step import Step
from gpg_jax.types import Array

TOLD = ("actors.journal", "actors.delays")
"""Keys that say what comes when: a run that is repeated has others."""


def check_actors(setup: Setup) -> None:
    """Raises a ValueError if the run's actors cannot work."""
    actors = setup.config.actors
    if not actors.count:
        return
    if jax.process_count() > 1:
        raise ValueError("actors.count needs a run of one process: its actors are threads of that process")
    if not actors.devices and not actors.repeats and setup.schedule.mesh.size > 1:
        raise ValueError(
            "actors.devices is 0 and the learner has several devices: programs of several threads on the "
            "same devices would wait for each other; give each actor devices of its own"
        )
    for number in range(actors.count):
        own = _on_own_devices(setup, number)
        if actors.bring == "gradients":
            make_split_step(make_program(own))


def told(setup: Setup) -> tuple[Delivery, ...] | None:
    """What comes when, where the run's actors are told; None where they go at their own pace.

    Raises:
      ValueError: a journal that is not of such a run.
    """
    actors, numbers = setup.config.actors, setup.schedule.numbers[-1]
    if actors.journal is not None:
        deliveries = recorded(Path(actors.journal), numbers, setup.config)
        _check_scored_alike(setup, Path(actors.journal))
        return deliveries
    return tuple(delayed(numbers, actors.delays, actors.count)) if actors.delays else None


def fed(
    setup: Setup,
    step: Step,
    state: TrainState,
    numbers: range,
    cursor: Any,
    open_toolbox: Callable[[], Toolbox | None],
) -> Iterator[Iteration]:
    """The method's own iterations, fed by actors.

    Args:
      setup: of the run.
      step: compiled, for actors that bring rollouts.
      state: before the first of these iterations; it is used up.
      numbers: of the iterations.
      cursor: of the iteration before, where that was fed by actors too; else None.
      open_toolbox: makes an actor's toolbox.

    Raises:
      ValueError: a journal that is not of such a run.
    """
    config = setup.config.actors
    crew = make_crew(setup, step, [open_toolbox() for _ in range(config.count)])
    own = setup.task.batches
    source = TrainingSet(lambda: next(own), own.get_state, own.set_state)
    batches = Batches(source, None if cursor is None else cursor["batches"])
    deliveries = told(setup) if setup.deliveries is None else setup.deliveries
    if deliveries is not None:
        return repeated(crew, state, [one for one in deliveries if one.step in numbers], batches)
    return live(crew, state, numbers, batches, config.staleness, () if cursor is None else cursor["open"])


def make_crew(setup: Setup, step: Step, toolboxes: Sequence[Toolbox | None]) -> Crew:
    """Actors on their devices, and what the learner does with what they bring.

    Args:
      setup: of the run.
      step: compiled, for actors that bring rollouts.
      toolboxes: one an actor.
    """
    schedule = setup.schedule
    return Crew(
        actors=_actors(setup, toolboxes),
        learn=_applying(setup) if setup.config.actors.whole else _stepping(step),
        key=stream(setup.config, "rollout"),
        updates=lambda iteration: schedule.updates_through(iteration - 1),
    )


def recorded(folder: Path, numbers: range, config: Experiment) -> tuple[Delivery, ...]:
    """The deliveries of a run that has ended.

    Args:
      folder: of the run.
      numbers: iterations that they are for.
      config: of the run that repeats them.

    Raises:
      ValueError: no such run, one that had not ended, or one with another configuration.
    """
    path, actors = folder / DELIVERIES, config.actors
    if not path.exists():
        raise ValueError(f"actors.journal is {str(folder)!r}, and there is no {DELIVERIES} in it")
    _check_same_run(folder, config)
    deliveries = tuple(read_delivery(line) for line in records.read(path))
    check_deliveries(deliveries, numbers)
    stalest = max((delivery.staleness for delivery in deliveries), default=0)
    crew = 1 + max((delivery.actor for delivery in deliveries), default=0)
    if stalest > actors.staleness or crew > actors.count:
        raise ValueError(
            f"{path} tells of {crew} actors and a staleness up to {stalest}; its run had {actors.count} and "
            f"{actors.staleness}: the file is damaged"
        )
    return deliveries


def copy_answers(journal: str | None, workdir: Path) -> None:
    """What tools answered in a run that is repeated, before anything is asked: they answer the same.

    Args:
      journal: folder of that run; None copies nothing.
      workdir: of the run that repeats it; a file that is there is kept.
    """
    if journal is None:
        return
    source = Path(journal) / "tools"
    for path in sorted(source.rglob("*.jsonl")):
        own = workdir / "tools" / path.relative_to(source)
        if not own.exists():
            own.parent.mkdir(parents=True, exist_ok=True)
            scratch = own.with_suffix(".tmp")
            shutil.copyfile(path, scratch)
            os.replace(scratch, own)


def _check_same_run(folder: Path, config: Experiment) -> None:
    was, now = flatten(read_workdir(folder)), flatten(config)
    for key in sorted({**was, **now}):
        if key not in (*TOLD, *FREE) and was.get(key) != now.get(key):
            raise ValueError(
                f"actors.journal is {str(folder)!r}, a run whose {key} was {was.get(key)!r}, and here it is "
                f"{now.get(key)!r}: deliveries repeat the run that they are of; give its configuration"
            )


def _check_scored_alike(setup: Setup, folder: Path) -> None:
    if setup.scorer is not None:
        with read_checkpoints(folder / "checkpoints") as checkpoints:
            kept = newest_host(checkpoints)
        check_identity(setup.scorer, kept.get("reward_model"), f"the run in actors.journal={str(folder)!r}")


def _actors(setup: Setup, toolboxes: Sequence[Toolbox | None]) -> list[Actor]:
    """Actors each on its devices; on the learner's all share what is compiled, but for dialogues."""
    alone, actors = bool(setup.config.actors.devices), []
    shared: tuple[Collector, Find | None] | None = None
    for number, toolbox in enumerate(toolboxes):
        own = _on_own_devices(setup, number)
        if shared is None or alone:
            shared = make_collector(own, toolbox), _finding(own)
        elif toolbox is not None:
            shared = make_collector(own, toolbox), shared[1]
        place = functools.partial(_placed, own.schedule.mesh) if alone else lambda view: view
        actors.append(Actor(shared[0], place, shared[1]))
    return actors


def _on_own_devices(setup: Setup, number: int) -> Setup:
    """The setup as an actor has it; the run's where actors have no devices of their own.

    Raises:
      ValueError: sizes that an actor's devices do not divide.
    """
    config = setup.config.actors
    size, prompts = config.devices, setup.schedule.prompts
    if not size:
        return setup
    if prompts % size:
        raise ValueError(
            f"schedule.prompts is {prompts}, and an actor decodes on {size} devices: choose actors.devices "
            f"that divides {prompts}"
        )
    first = len(jax.devices()) - size * (config.count - number)
    mesh = make_mesh((size, 1, 1), jax.devices()[first : first + size])
    plan = setup.schedule.plan
    if config.whole:
        plan = dataclasses.replace(plan, shards=row_shards(mesh))
    scorer = setup.scorer and find_scorer(setup.config, setup.task.tokenizer, mesh)
    return setup._replace(schedule=setup.schedule._replace(mesh=mesh, plan=plan), scorer=scorer)


def _finding(setup: Setup) -> Find | None:
    return jax.jit(make_split_step(make_program(setup))[0]) if setup.config.actors.whole else None


def _placed(mesh: Mesh, view: TrainState) -> TrainState:
    """A view on every device of an actor."""
    return jax.device_put(view, NamedSharding(mesh, Spec()))


def _stepping(step: Step) -> Callable[[TrainState, Work], tuple[TrainState, dict[str, Array]]]:
    return lambda state, work: step(state, work.collected.rollout)


def _applying(setup: Setup) -> Callable[[TrainState, Work], tuple[TrainState, dict[str, Array]]]:
    """What adds an actor's gradient, on the learner's devices."""
    places = jax.tree.map(lambda leaf: leaf.sharding, setup.like)
    _, apply = make_split_step(make_program(setup))
    compiled = jax.jit(apply, donate_argnums=0, out_shardings=(places, None))

    def learn(state: TrainState, work: Work) -> tuple[TrainState, dict[str, Array]]:
        assert work.found is not None  # an actor that looks for a gradient finds one
        policy = jax.device_put(work.found.gradient.policy, places.params)
        critic = work.found.gradient.critic
        if critic is not None:
            critic = jax.device_put(critic, places.critic.params)
        return compiled(state, Found(Networks(policy, critic), jax.device_get(work.found.metrics)))

    return learn
