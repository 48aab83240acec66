"""The gradient of a loss over a global minibatch: the sum over micro-batches and devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gpg_jax.losses import metrics as measures
from gpg_jax.losses.objective import loss, weigh
from gpg_jax.training.accumulate import summed
from gpg_jax.training.program import Program
from gpg_jax.training.scoring import own_rows, score_rows
from gpg_jax.training.state import Networks, TrainState, networks_of
from gpg_jax.types import Array, Batch, Estimate


def trained(program: Program, networks: Networks) -> Networks:
    """What an update changes; None for what it leaves as it is."""
    valued = "critic" in program.trains and "value" in program.method.needs
    return Networks(
        networks.policy if "policy" in program.trains else None, networks.critic if valued else None
    )


def gradient(
    program: Program, state: TrainState, batch: Batch, fixed: Estimate, coefficients: tuple[Array, ...]
) -> tuple[Networks, measures.Metrics]:
    """The gradient of the loss over a global minibatch: the sum over its micro-batches."""
    objective = program.method.objective
    reference = state.reference if "kl_ref" in program.method.needs else None
    whole_networks = networks_of(state)

    def part_loss(moving: Networks, part):
        rows, kept, (weights, penalty_weights) = part
        rows = rows._replace(rollout=program.constrain(rows.rollout))
        networks = Networks(
            *(own if mine is None else mine for mine, own in zip(moving, whole_networks, strict=True))
        )
        scores = score_rows(program, networks, rows.rollout, program.method.needs, reference)
        if program.fresh:
            rows = rows._replace(old=jax.lax.stop_gradient(scores))
        return loss(objective, scores, rows, kept, weights, penalty_weights, coefficients)

    def one(part) -> tuple[Networks, measures.Metrics]:
        slope = jax.value_and_grad(part_loss, has_aux=True)
        (value, seen), grads = slope(trained(program, whole_networks), part)
        return grads, {**seen, "loss": (value, jnp.float32(0))}

    grads, seen = over_rows(program, one, (batch, fixed, weigh(objective, batch.rollout, fixed)))
    # The loss is a sum over micro-batches and devices, and a mean over updates alone.
    return grads, {**seen, "loss": (seen["loss"][0], jnp.float32(1))}


def over_rows(
    program: Program, one: Callable[[Any], tuple[Any, measures.Metrics]], whole: Any
) -> tuple[Any, measures.Metrics]:
    """Sums over the micro-batches and devices of a global minibatch.

    Args:
      program: whose plan cuts the rows.
      one: rows of a micro-batch -> a pytree of sums over them, and metrics.
      whole: arrays of all rows, split along their first axis.

    Returns:
      The pytree and the metrics of all rows.
    """
    total = summed(lambda part: one(own_rows(part, program)), whole, program.plan.micro_batches)
    return _sum_over_devices(*total, program.axis_name)


def _sum_over_devices(sums: Any, metrics: measures.Metrics, axis_name: str | None) -> tuple[Any, Any]:
    if axis_name is None:
        return sums, metrics
    summed: measures.Metrics = {
        name: jax.lax.psum(x, axis_name) if isinstance(x, tuple) else jax.lax.pmax(x, axis_name)
        for name, x in metrics.items()
    }
    return jax.lax.psum(sums, axis_name), summed
