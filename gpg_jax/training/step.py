"""One iteration of training on one rollout, as one pure function: state, rollout -> state, metrics.

    score old, reference -> estimate -> for every epoch and minibatch: weigh -> sum of micro-batches -> update

or, where the method has an update of its own, that one in the place of the policy's minibatches.

The function is the same on one device, under `jax.jit` on a mesh, and under `pmap` or `shard_map`
with `axis_name`: weights are normalised over the global minibatch before anything is split, so what
micro-batches and devices compute are plain sums.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax

from gpg_jax.losses import metrics as measures
from gpg_jax.losses.objective import estimate, hide_masked, penalty_coefficients
from gpg_jax.training.conservative import conservative_update
from gpg_jax.training.program import Program, check_needs, check_shape
from gpg_jax.training.scoring import score_all, score_frozen_policies
from gpg_jax.training.state import TrainState, networks_of, remember
from gpg_jax.training.trust_region_update import trust_region_update
from gpg_jax.training.updates import updates
from gpg_jax.types import Array, Batch, Estimate, Rollout, State, TrustRegion

Step = Callable[[TrainState, Rollout], tuple[TrainState, dict[str, Array]]]


class Prepared(NamedTuple):
    """What is held fixed through the updates on a rollout.

    Attributes:
      batch: the rollout with the scores of frozen policies.
      fixed: the estimate.
      method: the method's state behind the estimate.
      coefficients: a scalar a penalty.
      metrics: what the rollout brought.
    """

    batch: Batch
    fixed: Estimate
    method: State
    coefficients: tuple[Array, ...]
    metrics: dict[str, Array]


def make_step(program: Program) -> Step:
    """The training step of a program.

    Returns:
      state, rollout of `plan.rows` rows -> state, metrics (name -> `float32[]`), to be compiled. Among them
      is `updates`, `int32[]`: those of the policy so far.

    Raises:
      ValueError: needs that no step can meet.
    """
    check_needs(program)

    def step(state: TrainState, rollout: Rollout) -> tuple[TrainState, dict[str, Array]]:
        before, ready = state, prepare(program, state, rollout)
        state, seen = improve(program, state, ready)
        reported = {**ready.metrics, **seen, "updates": state.update}
        if "after" in program.method.needs:
            moved = score_all(program, networks_of(state), rollout, frozenset())
            reported["kl_old_after"] = measures.kl_after(moved, ready.batch, ready.fixed)
        return finish(program, before, state, ready.method, reported), reported

    return step


def prepare(program: Program, state: TrainState, rollout: Rollout) -> Prepared:
    """Scores the rollout by the policies that stay as they are, and estimates its advantages.

    Args:
      program: of the step.
      state: before the updates.
      rollout: `plan.rows` rows.

    Raises:
      ValueError: a rollout of another shape.
    """
    check_shape(program.plan, rollout)
    method = program.method
    batch = score_frozen_policies(program, state, rollout)
    coefficients = penalty_coefficients(method.objective, state.method)
    fixed, method_state = estimate(method, batch, state.method)
    watched = measures.row_metrics(method.watch(hide_masked(batch), fixed.unit_ids), rollout)
    brought = measures.reduce({**measures.rollout_metrics(batch, fixed), **watched})
    brought |= measures.critic_metrics(batch, fixed) | measures.state_metrics(state.method)
    return Prepared(batch, fixed, method_state, coefficients, brought)


def improve(program: Program, state: TrainState, ready: Prepared) -> tuple[TrainState, dict[str, Array]]:
    """What the method does with a rollout: minibatches, or an update of its own and those of a critic.

    Args:
      program: what the step is made of.
      state: before it.
      ready: the rollout, prepared.
    """
    method, rows = program.method, (ready.batch, ready.fixed)
    if method.update is None or "policy" not in program.trains:
        return updates(program, state, *rows, ready.coefficients)
    if isinstance(method.update, TrustRegion):
        state, seen = trust_region_update(program, method.update, state, *rows)
    else:
        state, seen = conservative_update(program, method.update, state, *rows)
    if "value" not in method.needs or "critic" not in program.trains:
        return state, seen
    critics = program._replace(method=method._replace(halt=None), trains=frozenset({"critic"}))
    state, fitted = updates(critics, state, *rows, ready.coefficients)
    return state, seen | {name: value for name, value in fitted.items() if name.startswith("critic_")}


def finish(
    program: Program, before: TrainState, state: TrainState, method: State, metrics: dict[str, Array]
) -> TrainState:
    """The state behind an iteration.

    Args:
      program: of the step.
      before: the state before the updates.
      state: the state behind them.
      method: the method's state behind the estimate.
      metrics: of the whole iteration.
    """
    state = dataclasses.replace(
        state, method=program.method.after(method, metrics), rollout=state.rollout + 1
    )
    return remember(before, state)


def compile_step(step: Step, shardings: TrainState | None = None) -> Step:
    """`jax.jit` of a step, the state donated and its shardings kept.

    Args:
      step: from `make_step`.
      shardings: of the state, from `training.sharding.state_shardings`; None on one device.
    """
    if shardings is None:
        return jax.jit(step, donate_argnums=0)
    return jax.jit(step, donate_argnums=0, in_shardings=(shardings, None), out_shardings=(shardings, None))
