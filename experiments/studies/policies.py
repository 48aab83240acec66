"""Policies in the middle of a run, and rollouts of them forked in any way; compiled once for all seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from experiments.first_state import first_state
from experiments.measures import drawn_tokens, forks
from experiments.setup import Setup, stream
from experiments.tasks import load_task
from experiments.tools import asking
from gpg_jax.data.examples import Example
from gpg_jax.data.loader import Loader
from gpg_jax.decoding.branching import Branching, fixed_width
from gpg_jax.decoding.live import LivePrograms, live_programs
from gpg_jax.decoding.replicas import compile_dialogue
from gpg_jax.decoding.uncertainty import Uncertainty
from gpg_jax.environments.toolbox import Toolbox
from gpg_jax.estimators.filters import every_row
from gpg_jax.training.collect import Collector, spoken
from gpg_jax.training.loop import Phase, iterations
from gpg_jax.training.sharding import parameter_specs
from gpg_jax.types import Params, Rollout


def with_seed(setup: Setup, seed: int) -> Setup:
    """The setup under another seed; programs that were compiled for one serve the other."""
    config = dataclasses.replace(setup.config, seed=seed)
    return setup._replace(config=config, task=load_task(config))


def policy_after(setup: Setup, phases: Sequence[Phase], steps: int) -> Params:
    """Parameters behind the first iterations of a run.

    Args:
      setup: of the run.
      phases: from `make_phases` of the setup under any seed.
      steps: iterations, those of the cold start among them; 0 for the first parameters.
    """
    cold, times = setup.schedule.cold_steps, setup.config.cold_start.batches
    key, state = stream(setup.config, "rollout"), first_state(setup)
    for phase in phases:
        first = phase.numbers.start
        state = phase.begin(state)
        own = _reading(phase, setup.task.batches, times if first <= cold else 1)
        numbers = range(first, min(phase.numbers.stop, steps + 1))
        for iteration in iterations([own], state, key, numbers, lambda: None):
            state = iteration.state
    return state.params


def _reading(phase: Phase, batches: Loader, times: int) -> Phase:
    """The phase with its examples from another loader, and begun already."""

    def draw() -> list[Example]:
        return [example for _ in range(times) for example in next(batches)]

    return phase._replace(collector=phase.collector._replace(draw=draw), begin=lambda state: state)


def dialogue_programs(setup: Setup, uncertainty: Uncertainty | None) -> LivePrograms:
    """The programs of dialogues.

    Args:
      setup: of the run.
      uncertainty: what is measured at each token, or None.

    Raises:
      ValueError: a run whose rows neither call nor fork.
    """
    if setup.turns is None:
        raise ValueError(
            "this study forks rows at boundaries: give base.tools.names or base.tools.boundaries"
        )
    return live_programs(
        setup.policy,
        new_slots=setup.config.sampling.new_tokens,
        sampling=setup.config.sampling.distribution,
        automaton=setup.automaton,
        uncertainty=uncertainty,
        patience=setup.config.tools.patience,
    )


def forked_collector(
    setup: Setup,
    toolbox: Toolbox,
    programs: LivePrograms,
    branching: Branching,
    examples: Sequence[Example],
    group: int,
) -> Collector:
    """What collects the same prompts again and again, rows forked in one way.

    Args:
      setup: of the run.
      toolbox: from `open_toolbox`.
      programs: from `dialogue_programs`.
      branching: how the rows of a prompt come about.
      examples: P of them.
      group: M, rows of a prompt.
    """
    mesh = setup.schedule.mesh
    assert setup.turns is not None  # `dialogue_programs` has seen to it
    turns = dataclasses.replace(setup.turns, branching=branching)
    specs = parameter_specs(setup.like.params, mesh)
    converse = compile_dialogue(setup.policy, mesh, specs, programs, turns)
    return Collector(
        draw=lambda: examples,
        encode=setup.task.encode,
        write=spoken(converse, asking(toolbox, setup.config.tools)),
        judge=setup.task.judge,
        keep=every_row,
        prompt_slots=setup.schedule.plan.layout.prompt_slots,
        group=group,
    )


def fixed_widths(widths: Sequence[int], group: int) -> dict[str, Branching]:
    """A fork at every boundary into `width` rows, M/width of them beginning at the prompt, by name.

    Args:
      widths: rows that a row becomes.
      group: M.

    Raises:
      ValueError: a width that does not cut M rows into two trees or more.
    """
    for width in widths:
        if width < 1 or group % width or group // width < 2:
            raise ValueError(
                f"a width of {width} does not cut base.schedule.group={group} rows into 2 trees or more, and "
                "a baseline is made of the other trees"
            )
    return {str(width): fixed_width(group // width, width=width) for width in widths}


def described(rollout: Rollout) -> dict[str, float]:
    """What a rollout cost.

    - `drawn`: tokens that the policy drew, those of a shared prefix once.
    - `trained`: tokens that are trained on, those of a shared prefix in every row.
    - `trees`: rows that begin at the prompt, a prompt.
    """
    prompts = len(np.unique(rollout.group))
    return {
        "drawn": float(drawn_tokens(rollout)),
        "trained": float(rollout.action_mask.sum()),
        "trees": len(rollout.parent) / prompts - forks(rollout),
    }
