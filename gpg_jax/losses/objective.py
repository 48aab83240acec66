"""The three phases of an update, and the coefficients that they come to.

    estimate   once a rollout              advantages, corrections, rows kept; held fixed
    weigh      once a global minibatch     how much each token counts; free of the parameters
    loss       a micro-batch               a plain sum

    loss = − Σ_{b,t} weights · correction · gate(ratio, advantage) + Σ_p β_p · Σ_{b,t} weights_p · cost_p

Weights are normalised before the first micro-batch, so losses, gradients and metrics of micro-batches and
devices add up to those of the whole.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from gpg_jax.estimators.masked import masked_sum
from gpg_jax.losses.metrics import Metrics, loss_metrics
from gpg_jax.types import Array, Batch, Estimate, Method, Objective, Rollout, Scores, State


def estimate(method: Method, batch: Batch, state: State) -> tuple[Estimate, State]:
    """Everything that is held fixed through the updates on a rollout; no gradient passes.

    Args:
      method: the method.
      batch: the whole rollout, groups and trees unbroken.
      state: the method's state.

    Returns:
      The estimate, and the method's next state.
    """
    objective = method.objective
    batch = hide_masked(batch)
    unit_ids = objective.units(batch)
    inside = unit_ids >= 0
    rewards = method.shape(batch, state)
    advantage, target, state = objective.advantage(batch, unit_ids, rewards, state)
    log_gap = jnp.where(inside, batch.old.log_prob - batch.rollout.behaviour_log_prob, 0)
    result = Estimate(
        unit_ids=unit_ids,
        advantage=jnp.where(inside, advantage, 0),
        correction=objective.correction(log_gap, unit_ids),
        keep=method.keep(batch.rollout),
        value_target=target,
    )
    return jax.lax.stop_gradient((result, state))


def weigh(objective: Objective, rollout: Rollout, estimate: Estimate) -> tuple[Array, tuple[Array, ...]]:
    """The weights of the surrogate and of each penalty, normalised over the rows given.

    Args:
      objective: what is differentiated.
      rollout: the rows of a global minibatch.
      estimate: of the same rows; rows that it refuses enter neither numerators nor denominators.

    Returns:
      Weights `[B, L]`, and one such array a penalty.
    """
    unit_ids = trained_units(estimate)
    penalties = tuple(penalty.weights(rollout, unit_ids) for penalty in objective.penalties)
    return jax.lax.stop_gradient((objective.weights(rollout, unit_ids), penalties))


def penalty_coefficients(objective: Objective, state: State) -> tuple[Array, ...]:
    """The coefficient of each penalty under the method's state; a number takes the dtype of the loss."""
    return tuple(jnp.asarray(penalty.coefficient(state)) for penalty in objective.penalties)


def loss(
    objective: Objective,
    scores: Scores,
    batch: Batch,
    estimate: Estimate,
    weights: Array,
    penalty_weights: tuple[Array, ...],
    coefficients: tuple[Array, ...],
) -> tuple[Array, Metrics]:
    """The sum to minimise over the rows of a micro-batch.

    L = − Σ w·c·gate(ratio(log π_θ − log π_old), A) + Σ_p β_p Σ w_p·cost_p.

    Args:
      objective: what is differentiated.
      scores: the new policy's; the only argument that gradients reach.
      batch: the rows.
      estimate: of the same rows.
      weights: `[B, L]`, from `weigh`.
      penalty_weights: `[B, L]` a penalty, from `weigh`.
      coefficients: a scalar a penalty, from `penalty_coefficients`.

    Returns:
      The scalar, and metrics that add over micro-batches (`losses.metrics`).

    Raises:
      ValueError: scores that do not fit the tokens.
    """
    if scores.log_prob.shape != batch.rollout.tokens.shape:
        shape = batch.rollout.tokens.shape
        raise ValueError(f"log-probabilities must be one a token, {shape}; got {scores.log_prob.shape}")
    batch, scores = hide_masked(batch), _hide(scores, batch.rollout.action_mask)
    unit_ids = trained_units(estimate)
    mask = unit_ids >= 0
    log_ratio = jnp.where(mask, scores.log_prob - batch.old.log_prob, 0)
    surrogate = objective.gate(objective.ratio(log_ratio, unit_ids), estimate.advantage)
    total = -masked_sum(weights * estimate.correction * surrogate, mask)
    for penalty, weight, coefficient in zip(objective.penalties, penalty_weights, coefficients, strict=True):
        total += coefficient * masked_sum(weight * penalty.cost(scores, batch, estimate), mask)
    return total, loss_metrics(objective, scores, batch, estimate, log_ratio, mask)


def coefficients(
    method: Method, batch: Batch, scores: Scores | None = None, state: State | None = None
) -> Array:
    """∂loss/∂log π_θ(y_t): what the method pushes, without a network.

    Args:
      method: the method.
      batch: a rollout, taken as one minibatch.
      scores: the new policy's; the old policy's for None, so that every ratio is 1.
      state: the method's state; its first state for None.

    Returns:
      `[B, L]`; negative entries raise the token's probability.
    """
    scores = batch.old if scores is None else scores
    state = method.state if state is None else state
    objective = method.objective
    estimated, _ = estimate(method, batch, state)
    weights, penalty_weights = weigh(objective, batch.rollout, estimated)
    scales = penalty_coefficients(objective, state)

    def of_log_prob(log_prob: Array) -> Array:
        new = scores._replace(log_prob=log_prob)
        return loss(objective, new, batch, estimated, weights, penalty_weights, scales)[0]

    return jax.grad(of_log_prob)(jnp.asarray(scores.log_prob))


def hide_masked(batch: Batch) -> Batch:
    """The batch with every log-probability and score replaced by 0 where the policy did not act."""
    mask = batch.rollout.action_mask
    behaviour = jnp.where(mask, batch.rollout.behaviour_log_prob, 0)
    return Batch(
        rollout=dataclasses.replace(batch.rollout, behaviour_log_prob=behaviour),  # type: ignore[type-var]
        old=_hide(batch.old, mask),
        reference=None if batch.reference is None else _hide(batch.reference, mask),
    )


def _hide(scores: Scores, mask: Array) -> Scores:
    per_token = {name: x for name, x in scores._asdict().items() if x is not None and name != "bootstrap"}
    return scores._replace(**{name: jnp.where(mask, x, 0) for name, x in per_token.items()})


def trained_units(estimate: Estimate) -> Array:
    """Unit ids `int32[B, L]` of the rows that are kept, -1 elsewhere."""
    return jnp.where(estimate.keep[:, None], estimate.unit_ids, -1)
