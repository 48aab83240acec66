"""The actors of a run: their devices, what they bring, and what came when, in `deliveries.jsonl`."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from experiments import records
from experiments.learning_config import ActorsConfig
from experiments.output import DELIVERIES
from experiments.phases import make_program
from experiments.setup import Setup, make_collector, stream
from gpg_jax.environments.toolbox import Toolbox
from gpg_jax.training.asynchronous import Actor, Crew, Work, live, repeated
from gpg_jax.training.batches import Batches, TrainingSet
from gpg_jax.training.deliveries import Delivery, check_deliveries, delayed, read_delivery
from gpg_jax.training.loop import Iteration
from gpg_jax.training.sharding import make_mesh, row_shards
from gpg_jax.training.split_step import Found, make_split_step
from gpg_jax.training.state import Networks, TrainState
from gpg_jax.training.step import Step
from gpg_jax.types import Array


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
    if actors.bring == "gradients":
        make_split_step(make_program(setup))


def fed(
    setup: Setup,
    step: Step,
    state: TrainState,
    numbers: range,
    cursor: Any,
    workdir: Path,
    open_toolbox: Callable[[], Toolbox | None],
) -> Iterator[Iteration]:
    """The method's own iterations, fed by actors.

    Args:
      setup: of the run.
      step: compiled, for actors that bring rollouts.
      state: before the first of these iterations; it is used up.
      numbers: of the iterations.
      cursor: of the iteration before, where that was fed by actors too; else None.
      workdir: of the run.
      open_toolbox: makes an actor's toolbox.

    Raises:
      ValueError: a journal that is not of such a run.
    """
    config = setup.config.actors
    crew = make_crew(setup, step, [open_toolbox() for _ in range(config.count)])
    own = setup.task.batches
    source = TrainingSet(lambda: next(own), own.get_state, own.set_state)
    batches = Batches(source, None if cursor is None else cursor["batches"])
    if not config.repeats:
        opened = () if cursor is None else cursor["open"]
        return live(crew, state, numbers, batches, config.staleness, opened)
    all_numbers = setup.schedule.numbers[-1]
    if config.journal is None:
        deliveries = list(delayed(all_numbers, config.delays, config.count))
    else:
        deliveries = recorded(Path(config.journal), all_numbers, config)
        copy_answers(Path(config.journal), workdir)
    return repeated(crew, state, [one for one in deliveries if one.step in numbers], batches)


def make_crew(setup: Setup, step: Step, toolboxes: Sequence[Toolbox | None]) -> Crew:
    """Actors on their devices, and what the learner does with what they bring.

    Args:
      setup: of the run.
      step: compiled, for actors that bring rollouts.
      toolboxes: one an actor.
    """
    config = setup.config.actors
    apply = None
    if config.bring == "gradients":
        _, apply = make_split_step(make_program(setup))
        places = jax.tree.map(lambda leaf: leaf.sharding, setup.like)
        apply = jax.jit(apply, donate_argnums=0, out_shardings=(places, None))

    def learn(state: TrainState, work: Work) -> tuple[TrainState, dict[str, Array]]:
        if apply is None or work.found is None:
            return step(state, work.collected.rollout)
        return apply(state, _brought(setup, work.found))

    schedule = setup.schedule
    return Crew(
        actors=[_actor(setup, number, toolbox) for number, toolbox in enumerate(toolboxes)],
        learn=learn,
        key=stream(setup.config, "rollout"),
        updates=lambda iteration: schedule.updates_through(iteration - 1),
    )


def _brought(setup: Setup, found: Found) -> Found:
    """What an actor found, on the learner's devices."""
    places = jax.tree.map(lambda leaf: leaf.sharding, setup.like)
    policy = jax.device_put(found.gradient.policy, places.params)
    critic = found.gradient.critic
    if critic is not None:
        critic = jax.device_put(critic, places.critic.params)
    return Found(Networks(policy, critic), jax.device_get(found.metrics))


def recorded(folder: Path, numbers: range, config: ActorsConfig) -> list[Delivery]:
    """The deliveries of a run that has ended.

    Args:
      folder: of the run.
      numbers: iterations that they are for.
      config: of the run that repeats them.

    Raises:
      ValueError: no such run, one that had not ended, or one with more actors or staler rollouts.
    """
    path = folder / DELIVERIES
    if not path.exists():
        raise ValueError(f"actors.journal is {str(folder)!r}, and there is no {DELIVERIES} in it")
    deliveries = [read_delivery(line) for line in records.read(path)]
    check_deliveries(deliveries, numbers)
    stalest = max((delivery.staleness for delivery in deliveries), default=0)
    crew = 1 + max((delivery.actor for delivery in deliveries), default=0)
    if stalest > config.staleness or crew > config.count:
        raise ValueError(
            f"the run in {str(folder)!r} had {crew} actors and a staleness up to {stalest}; actors.count is "
            f"{config.count} and actors.staleness {config.staleness}: give what it had"
        )
    return deliveries


def copy_answers(folder: Path, workdir: Path) -> None:
    """What tools answered in a run that is repeated, so that they answer the same; kept where it is there."""
    if (folder / "tools").exists() and not (workdir / "tools").exists():
        shutil.copytree(folder / "tools", workdir / "tools")


def _actor(setup: Setup, number: int, toolbox: Toolbox | None) -> Actor:
    """An actor on its devices, or on the learner's where it has none of its own."""
    size, config = setup.config.actors.devices, setup.config.actors
    if size:
        first = len(jax.devices()) - size * (config.count - number)
        mesh = make_mesh((size, 1, 1), jax.devices()[first : first + size])
        plan = dataclasses.replace(setup.schedule.plan, shards=row_shards(mesh))
        setup = setup._replace(schedule=setup.schedule._replace(mesh=mesh, plan=plan))
    find = None
    if config.bring == "gradients":
        find = jax.jit(make_split_step(make_program(setup))[0])
    place = functools.partial(_placed, setup.schedule.mesh) if size else lambda view: view
    return Actor(make_collector(setup, toolbox), place, find)


def _placed(mesh: Mesh, view: TrainState) -> TrainState:
    """A view on every device of an actor."""
    return jax.device_put(view, NamedSharding(mesh, Spec()))
