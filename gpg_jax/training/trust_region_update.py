"""TRPO's update of a rollout: one natural gradient step of the policy on all of its rows.

The gradient, every Fisher-vector product and every measurement of the line search are sums over micro-batches
and devices, as `gradient` makes them. On a small transformer a product takes 2.7 gradients' operations and
twice a gradient's memory: micro-batches may have to be smaller than another method's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from gpg_jax.estimators.masked import masked_sum
from gpg_jax.losses import metrics as measures
from gpg_jax.losses.objective import loss, penalty_coefficients, trained_units, weigh
from gpg_jax.losses.weights import token_mean
from gpg_jax.training.gradient import gradient, over_rows
from gpg_jax.training.plan import Plan
from gpg_jax.training.program import Program, of_policy
from gpg_jax.training.scoring import score_rows
from gpg_jax.training.state import Networks, TrainState
from gpg_jax.training.trust_region import (
    Search,
    Trial,
    add_scaled,
    conjugate_gradient,
    dot,
    fisher_vector_product,
    line_search,
    relative_residual,
    step_length,
)
from gpg_jax.types import Array, Batch, Estimate, Params, TrustRegion


def trust_region_update(
    program: Program, region: TrustRegion, state: TrainState, batch: Batch, fixed: Estimate
) -> tuple[TrainState, dict[str, Array]]:
    """The policy after its step, or as it was, bit for bit, where no length of it was accepted.

    What the step improves is the method's loss without the critic's. The optimizer's state stays as it is.
    Metrics of the loss are those of the policy behind the step, and beside them

    - `trust_region_accepted`: 1, or 0 where the policy stayed as it was.
    - `trust_region_backtracks`: lengths that were refused.
    - `trust_region_kl`: KL(π_old‖π_θ) over the vocabulary, in nats an action.
    - `trust_region_gain`, `trust_region_expected`: what the surrogate gained, and β·gᵀx, to first order.
    - `trust_region_curvature`: xᵀFx; the direction was of no use where it is not positive.
    - `cg_residual`, `cg_iterations`: ‖g − (F + λI)x‖ / ‖g‖ by a product of its own, and how many came before.

    Args:
      program: what the step is made of.
      region: bounds of the step.
      state: before it.
      batch: the whole rollout.
      fixed: estimates of its rows.
    """
    own = of_policy(program)._replace(plan=_whole(program))
    coefficients = penalty_coefficients(own.method.objective, state.method)
    grads, before = gradient(own, state, batch, fixed, coefficients)
    ascent = jax.tree.map(lambda leaf: -leaf, grads.policy)
    fisher = _fisher(own, state.params, batch, fixed)
    solved = conjugate_gradient(
        lambda vector: add_scaled(fisher(vector), region.damping, vector),
        ascent,
        region.iterations,
        region.tolerance,
    )
    image = fisher(solved.x)
    curvature = dot(solved.x, image)
    search = line_search(
        _measure(own, state, batch, fixed, coefficients, before["loss"][0]),
        state.params,
        solved.x,
        step_length(region.radius, curvature),
        radius=region.radius,
        shrink=region.shrink,
        attempts=region.attempts,
    )
    told = _told(search, measures.reduce(before)) | {
        "trust_region_expected": jnp.where(search.accepted, search.scale * dot(ascent, solved.x), 0),
        "trust_region_curvature": curvature,
        "cg_residual": relative_residual(ascent, add_scaled(image, region.damping, solved.x)),
        "cg_iterations": solved.iterations.astype(jnp.float32),
        "gradient_norm": jnp.sqrt(dot(ascent, ascent)),
        "update_norm": jnp.where(search.accepted, search.scale * jnp.sqrt(dot(solved.x, solved.x)), 0),
    }
    return dataclasses.replace(state, params=search.params, update=state.update + 1), told


def _whole(program: Program) -> Plan:
    """The plan of one update on all rows, in micro-batches of the same size."""
    plan = program.plan
    return dataclasses.replace(
        plan, epochs=1, minibatches=1, micro_batches=plan.minibatches * plan.micro_batches
    )


def _fisher(program: Program, params: Params, batch: Batch, fixed: Estimate) -> Callable[[Params], Params]:
    """v -> F v of the mean KL an action."""
    units = trained_units(fixed)
    parts = batch.rollout, units >= 0, token_mean(batch.rollout, units)

    def product(vector: Params) -> Params:
        def one(part: tuple) -> tuple[Params, measures.Metrics]:
            rollout, mask, weight = part
            rows = program.constrain(rollout)

            def divergence(moving: Params) -> Array:
                scores = score_rows(program, Networks(moving, None), rows, frozenset({"kl_old"}))
                return masked_sum(weight * scores.kl_old, mask)

            return fisher_vector_product(divergence, params, vector), {}

        return over_rows(program, one, parts)[0]

    return product


def _measure(
    program: Program,
    state: TrainState,
    batch: Batch,
    fixed: Estimate,
    coefficients: tuple[Array, ...],
    loss_before: Array,
) -> Callable[[Params], Trial]:
    """Parameters -> what the loss falls by, their KL from the policy of the state, and metrics."""
    objective, needs = program.method.objective, program.method.needs
    reference = state.reference if "kl_ref" in needs else None
    share = token_mean(batch.rollout, trained_units(fixed))
    parts = batch, fixed, weigh(objective, batch.rollout, fixed), share

    def measure(params: Params) -> Trial:
        def one(part: tuple) -> tuple[tuple[Array, Array], measures.Metrics]:
            rows, kept, (weights, penalty_weights), mean = part
            rows = rows._replace(rollout=program.constrain(rows.rollout))
            wanted = needs | {"kl_old"}
            scores = score_rows(
                program, Networks(params, None), rows.rollout, wanted, reference, old=state.params
            )
            value, seen = loss(objective, scores, rows, kept, weights, penalty_weights, coefficients)
            return (value, masked_sum(mean * scores.kl_old, trained_units(kept) >= 0)), seen

        (value, divergence), seen = over_rows(program, one, parts)
        return Trial(loss_before - value, divergence, seen | {"loss": (value, jnp.float32(1))})

    return measure


def _told(search: Search, before: dict[str, Array]) -> dict[str, Array]:
    """Metrics of the policy that was accepted, or of the one before."""
    trial, accepted = search.trial, search.accepted

    def unless_refused(new: Array, old: Array | float) -> Array:
        return jnp.where(accepted, new, old)

    after = measures.reduce(trial.seen)
    return {name: unless_refused(after[name], before[name]) for name in before} | {
        "trust_region_accepted": accepted.astype(jnp.float32),
        "trust_region_backtracks": search.refused.astype(jnp.float32),
        "trust_region_kl": unless_refused(trial.divergence, 0.0),
        "trust_region_gain": unless_refused(trial.gain, 0.0),
    }
