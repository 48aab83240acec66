"""The phases of a run: cold start, value pretraining, and the method's own iterations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.critics import from_policy, ready
from experiments.draws import check_draws
from experiments.reward_model.scorer import scoring
from experiments.setup import Setup, make_collector
from gpg_jax.algorithms.supervised import supervised
from gpg_jax.algorithms.value_pretraining import value_pretraining
from gpg_jax.environments.toolbox import Toolbox
from gpg_jax.estimators.filters import every_row
from gpg_jax.training.collect import Collector, demonstrated
from gpg_jax.training.loop import Phase
from gpg_jax.training.plan import Plan
from gpg_jax.training.program import BOTH, Program, check_needs
from gpg_jax.training.sharding import rows_on
from gpg_jax.training.state import TrainState
from gpg_jax.training.step import Step, compile_step, make_step
from gpg_jax.types import Method


class Programs(NamedTuple):
    """Of the cold start and of the value pretraining, None where there is none, and of the method."""

    cold: Program | None
    value: Program | None
    own: Program


def make_programs(setup: Setup) -> Programs:
    """What the steps of a run's phases are made of.

    Raises:
      ValueError: needs that no step can meet, or rollouts that are not what the method takes them for.
    """
    check_draws(setup.config, setup.method)
    schedule, cold, value = setup.schedule, None, None
    if schedule.cold_plan is not None:
        method = supervised(state=setup.method.state)
        method = method._replace(needs=method.needs | ({"entropy"} & setup.method.needs))
        cold = make_program(setup, method, schedule.cold_plan)
    if schedule.value_steps:
        discount = setup.config.method.arguments.get("discount", 1.0)
        method = value_pretraining(setup.method, discount=discount)
        value = make_program(setup, method, trains=frozenset({"critic"}))
    programs = Programs(cold, value, make_program(setup))
    for program in programs:
        if program is not None:
            check_needs(program)
    return programs


def make_phases(setup: Setup, toolbox: Toolbox | None = None) -> tuple[Phase, ...]:
    """The cold start and the value pretraining, where there are any, and the method's own iterations.

    Args:
      setup: of the run.
      toolbox: from `open_toolbox`.
    """
    schedule, programs = setup.schedule, make_programs(setup)
    cold, value, own = schedule.numbers
    collector = make_collector(setup, toolbox)

    def version(number: int) -> int:
        """Updates before an iteration as they are planned: those that a method left out are counted too."""
        return schedule.updates_through(number - 1)

    phases = []
    if programs.cold is not None:
        collected = _demonstrations(setup, programs.cold.plan)
        phases.append(Phase(cold, collected, _compiled(setup, programs.cold), version))
    begin = _take_policy(setup) if phases else lambda state: state
    if programs.value is not None:
        step = _compiled(setup, programs.value)
        phases.append(Phase(value, collector, step, version, begin, ready(setup.config)))
        begin = lambda state: state  # noqa: E731
    return (*phases, Phase(own, collector, _compiled(setup, programs.own), version, begin))


def _demonstrations(setup: Setup, plan: Plan) -> Collector:
    """What a cold start is collected with: demonstrations in the place of responses."""
    task, demonstrations = setup.task, setup.demonstrations
    assert demonstrations is not None  # a schedule with a cold plan has them
    return Collector(
        draw=lambda: [
            example
            for _ in range(setup.config.cold_start.batches)
            for example in next(demonstrations.batches)
        ],
        encode=task.encode,
        write=scoring(demonstrated(demonstrations.rows, plan.layout.new_slots), setup.scorer),
        judge=task.judge,
        keep=every_row,
        prompt_slots=plan.layout.prompt_slots,
        group=1,
    )


def _take_policy(setup: Setup) -> Callable[[TrainState], TrainState]:
    """The policy that the cold start has made is what the reference and a critic's trunk begin as."""
    copies = setup.config.critic.copies

    def take(state: TrainState) -> TrainState:
        if state.reference is not None:
            state = dataclasses.replace(state, reference=jax.tree.map(jnp.copy, state.params))
        return from_policy(state) if copies else state

    return jax.jit(take, donate_argnums=0)


def compiled_step(
    setup: Setup,
    method: Method | None = None,
    plan: Plan | None = None,
    trains: frozenset[str] = BOTH,
) -> Step:
    """The training step on the mesh; see `make_program`."""
    return _compiled(setup, make_program(setup, method, plan, trains))


def make_program(
    setup: Setup,
    method: Method | None = None,
    plan: Plan | None = None,
    trains: frozenset[str] = BOTH,
) -> Program:
    """What a step of the run is made of.

    Args:
      setup: of the run.
      method: another one than the run's, with a state of the same form.
      plan: another one than the run's.
      trains: what its updates change.
    """
    critic = setup.critic
    return Program(
        policy=setup.policy,
        method=setup.method if method is None else method,
        optimizer=setup.optimizer,
        plan=setup.schedule.plan if plan is None else plan,
        critic=None if critic is None else (critic.critic, critic.optimizer),
        trains=trains,
        constrain=rows_on(setup.schedule.mesh),
    )


def _compiled(setup: Setup, program: Program) -> Step:
    return compile_step(make_step(program), jax.tree.map(lambda leaf: leaf.sharding, setup.like))
