"""The training step in two: an actor finds a gradient with its own parameters, a learner applies it.

A3C (Mnih et al. 2016, arXiv 1602.01783, algorithm S3): the parameters that a gradient is found with may be
older than those it is added to. With the same parameters the two are `make_step`'s one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax

from gpg_jax.losses import metrics as measures
from gpg_jax.training.gradient import gradient
from gpg_jax.training.program import Program, check_needs
from gpg_jax.training.state import CriticState, Networks, TrainState
from gpg_jax.training.step import finish, prepare
from gpg_jax.training.updates import update
from gpg_jax.types import Array, Rollout


class Found(NamedTuple):
    """What an actor brings.

    Attributes:
      gradient: of the loss, with respect to the networks.
      metrics: of the rollout and its loss, name -> `float32[]`.
    """

    gradient: Networks
    metrics: dict[str, Array]


Find = Callable[[TrainState, Rollout], Found]
Apply = Callable[[TrainState, Found], tuple[TrainState, dict[str, Array]]]


def make_split_step(program: Program) -> tuple[Find, Apply]:
    """The two halves of the step of a program, to be compiled.

    Returns:
      What finds: a state without moments, see `as_of`, and a rollout -> gradient and metrics. What applies:
      state, what was found -> state, metrics.

    Raises:
      ValueError: a program that does more with a rollout than one update by its gradient.
    """
    check_needs(program)
    _check_whole(program)

    def find(state: TrainState, rollout: Rollout) -> Found:
        ready = prepare(program, state, rollout)
        grads, seen = gradient(program, state, ready.batch, ready.fixed, ready.coefficients)
        return Found(grads, {**ready.metrics, **measures.reduce(seen)})

    def apply(state: TrainState, found: Found) -> tuple[TrainState, dict[str, Array]]:
        moved, norms = update(program, state, found.gradient)
        reported = {**found.metrics, **norms, "updates": moved.update}
        return finish(program, state, moved, state.method, reported), reported

    return find, apply


def as_of(state: TrainState, networks: Networks, *, whole: bool = True) -> TrainState:
    """What an actor holds: a state with networks of another time, without moments and memory.

    Args:
      state: the learner's.
      networks: to put in their place.
      whole: whether a gradient is to be found with it; else it is the policy alone.
    """
    critic, reference = None, None
    if whole:
        reference = state.reference
        critic = None if networks.critic is None else CriticState(params=networks.critic, optimizer=())
    return dataclasses.replace(
        state, params=networks.policy, critic=critic, reference=reference, optimizer=(), past=()
    )


def _check_whole(program: Program) -> None:
    method, updates = program.method, program.plan.updates
    if updates != 1:
        raise ValueError(
            f"an actor finds one gradient a rollout, and the plan makes {updates} updates of it: take one "
            "epoch and one minibatch, or let actors bring rollouts"
        )
    if method.update is not None:
        raise ValueError(
            "a trust region and a conservative update look at all of a rollout, several times: they need "
            "actors that bring rollouts"
        )
    if "after" in method.needs or method.halt is not None or jax.tree.leaves(method.state):
        raise ValueError(
            "an actor knows nothing of the other gradients that are applied: a method with a state of its "
            "own, or one that looks at the policy behind its updates, needs actors that bring rollouts"
        )
