"""What a researcher watches, as sums that micro-batches and devices can add.

A metric is a pair `(numerator, denominator)`, or a lone array for a largest value.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gpg_jax.estimators.divergences import k1, k3
from gpg_jax.estimators.filters import sample_weight
from gpg_jax.estimators.masked import masked_max, masked_sum
from gpg_jax.estimators.segments import group_max, group_min
from gpg_jax.estimators.variance import explained_variance
from gpg_jax.types import STOP_EOS, Array, Batch, Estimate, Objective, Rollout, Scores, State

Metric = tuple[Array, Array] | Array
Metrics = dict[str, Metric]


def merge(first: Metrics, second: Metrics) -> Metrics:
    """The metrics of two sets of rows together: pairs are added, largest values compared."""

    def both(one: Metric, other: Metric) -> Metric:
        if isinstance(one, tuple) and isinstance(other, tuple):
            return one[0] + other[0], one[1] + other[1]
        return jnp.maximum(jnp.asarray(one), jnp.asarray(other))

    return {name: both(first[name], second[name]) for name in first}


def empty(metrics: Metrics) -> Metrics:
    """The metrics of no rows, of the same names: what `merge` leaves everything as it is with."""

    def one(metric: Metric) -> Metric:
        if isinstance(metric, tuple):
            return jnp.zeros_like(metric[0]), jnp.zeros_like(metric[1])
        return jnp.full_like(metric, -jnp.inf)

    return {name: one(metric) for name, metric in metrics.items()}


def reduce(metrics: Metrics) -> dict[str, Array]:
    """Numerator over denominator (0 over 0 is 0), or the largest value: name -> scalar."""

    def one(metric: Metric) -> Array:
        if isinstance(metric, tuple):
            return metric[0] / jnp.where(metric[1] == 0, 1, metric[1])
        return metric

    return {name: one(metric) for name, metric in metrics.items()}


def loss_metrics(
    objective: Objective, scores: Scores, batch: Batch, estimate: Estimate, log_ratio: Array, mask: Array
) -> Metrics:
    """What an update does, over the action tokens that are trained on.

    - `ratio_mean`, `ratio_max`: the ratio that the gate reads.
    - `log_ratio_clamped`: fraction of tokens whose ratio does not move with their own log-probability.
    - `clip_fraction`: fraction of tokens of nonzero advantage whose ∂surrogate/∂ratio is 0.
    - `gate`: mean of (∂surrogate/∂ratio)/advantage over tokens of nonzero advantage: 1 is wide open.
    - `kl_old_k1`, `kl_old_k3`: KL(π_old‖π_θ) by k1 and k3, in nats a token.
    - `sampler_gap`, `sampler_gap_max`: |log π_old − log π_behaviour|, in nats a token.
    - `entropy`: mean entropy, in nats, where the method asks for it.
    - `kl_reference`: k3 of KL(π_θ‖π_ref), in nats a token, where there is a reference.
    - `reference_gap_max`: largest |log π_θ − log π_ref|, in nats, where there is a reference: a KL in the
      reward is held where it passes the bounds.
    - `kl_clamped`: fraction of tokens whose penalty a bound holds, where penalties have bounds.

    Divergences and entropy estimate means under the policy: there actions count by their row's leaf weight,
    and those without weight do not enter. The rest counts what is trained on.

    Args:
      objective: what is differentiated.
      scores: the new policy's, finite everywhere.
      batch: the rows, finite everywhere.
      estimate: of the rows.
      log_ratio: `[B, L]`, 0 outside the mask.
      mask: `bool[B, L]`, tokens trained on.

    Returns:
      Metrics; see `merge` and `reduce`.
    """
    scores, log_ratio = jax.lax.stop_gradient((scores, log_ratio))
    ratio, pull_ratio = jax.vjp(lambda x: objective.ratio(x, estimate.unit_ids), log_ratio)
    _, pull_gate = jax.vjp(lambda x: objective.gate(x, estimate.advantage), ratio)
    slope, opening = pull_ratio(jnp.ones_like(ratio))[0], pull_gate(jnp.ones_like(ratio))[0]
    signal = mask & (estimate.advantage != 0)
    gate = opening / jnp.where(signal, estimate.advantage, 1)
    count, signals = masked_sum(jnp.ones_like(ratio), mask), masked_sum(jnp.ones_like(ratio), signal)
    weight = _action_weight(batch.rollout, mask)
    drawn = weight > 0
    samples = masked_sum(weight, drawn)
    zeros = jnp.zeros_like(log_ratio)
    gap = jnp.abs(batch.old.log_prob - batch.rollout.behaviour_log_prob)
    metrics: Metrics = {
        "ratio_mean": (masked_sum(ratio, mask), count),
        "ratio_max": masked_max(ratio, mask),
        "log_ratio_clamped": (masked_sum(slope == 0, mask), count),
        "clip_fraction": (masked_sum(opening == 0, signal), signals),
        "gate": (masked_sum(gate, signal), signals),
        "kl_old_k1": (masked_sum(weight * k1(zeros, log_ratio), drawn), samples),
        "kl_old_k3": (masked_sum(weight * k3(zeros, log_ratio), drawn), samples),
        "sampler_gap": (masked_sum(gap, mask), count),
        "sampler_gap_max": masked_max(gap, mask),
    }
    if scores.entropy is not None:
        metrics["entropy"] = (masked_sum(weight * scores.entropy, drawn), samples)
    if batch.reference is not None:
        distance = k3(scores.log_prob, batch.reference.log_prob)
        metrics["kl_reference"] = (masked_sum(weight * distance, drawn), samples)
        metrics["reference_gap_max"] = masked_max(jnp.abs(scores.log_prob - batch.reference.log_prob), mask)
    held = [penalty.held(scores, batch) for penalty in objective.penalties if penalty.held is not None]
    if held:
        metrics["kl_clamped"] = (masked_sum(jnp.any(jnp.stack(held), axis=0), mask), count)
    return metrics


def row_metrics(values: dict[str, Array], rollout: Rollout) -> Metrics:
    """Means over rows, each by its weight as a sample of the policy: a fork's leaves count as their tree.

    Args:
      values: name -> `[B]`.
      rollout: the rows; those without actions or without weight do not enter.

    Returns:
      Metrics; see `merge` and `reduce`.
    """
    weight = sample_weight(rollout)
    total = jnp.sum(weight, dtype=jnp.float32)
    return {name: (masked_sum(weight * row, weight > 0), total) for name, row in values.items()}


def rollout_metrics(batch: Batch, estimate: Estimate) -> Metrics:
    """What a rollout brought, over all of its rows, kept or not.

    - `reward`, `outcome`, `length` (actions a row), `truncated`, `kept`: means over rows.
    - `signal_groups`: fraction of rows whose group's rewards differ; a group's advantage is 0 in the others.
    - `advantage_mean`, `advantage_square`, `advantage_max` (of |A|), `correction`: over actions trained on.

    Args:
      batch: the whole rollout, before it is split: groups are compared.
      estimate: of the same rows.

    Returns:
      Metrics; see `merge` and `reduce`.
    """
    rollout = batch.rollout
    actions = jnp.asarray(rollout.action_mask)
    mask = (estimate.unit_ids >= 0) & estimate.keep[:, None]
    rows, count = jnp.float32(actions.shape[0]), jnp.sum(mask, dtype=jnp.float32)
    differ = group_max(rollout.reward, rollout.group) != group_min(rollout.reward, rollout.group)
    return {
        "reward": (jnp.sum(rollout.reward), rows),
        "outcome": (jnp.sum(rollout.outcome), rows),
        "length": (jnp.sum(actions, dtype=jnp.float32), rows),
        "truncated": (jnp.sum(rollout.stop != STOP_EOS, dtype=jnp.float32), rows),
        "kept": (jnp.sum(estimate.keep, dtype=jnp.float32), rows),
        "signal_groups": (jnp.sum(differ, dtype=jnp.float32), rows),
        "advantage_mean": (masked_sum(estimate.advantage, mask), count),
        "advantage_square": (masked_sum(jnp.square(estimate.advantage), mask), count),
        "advantage_max": masked_max(jnp.abs(estimate.advantage), mask),
        "correction": (masked_sum(estimate.correction, mask), count),
    }


def critic_metrics(batch: Batch, estimate: Estimate) -> dict[str, Array]:
    """How good the values are that a rollout's advantages were made with, over actions trained on.

    Actions count by their row's weight as a sample of the policy, as where advantages are whitened.

    - `explained_variance`: 1 − Var(G − V)/Var(G), G the targets of the critic.
    - `value_mean`, `value_error`: means of V and of (V − G)².

    Args:
      batch: the whole rollout, with the old values.
      estimate: of the same rows.

    Returns:
      Name -> scalar; empty without a critic.
    """
    value, target = batch.old.value, estimate.value_target
    if value is None or target is None:
        return {}
    mask, weight = _weighed(batch.rollout, estimate)
    return {
        "explained_variance": explained_variance(value, target, mask, weight=weight),
        "value_mean": _mean(value, mask, weight),
        "value_error": _mean(jnp.square(value - target), mask, weight),
    }


def state_metrics(state: State) -> dict[str, Array]:
    """The scalars of a method's state before a rollout, such as coefficients that are steered.

    Args:
      state: the method's.

    Returns:
      `state`, or `state/FIELD` -> scalar.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    return {f"state/{name}".rstrip("/"): leaf for name, leaf in named.items() if jnp.ndim(leaf) == 0}


def kl_after(scores: Scores, batch: Batch, estimate: Estimate) -> Array:
    """KL(π_old‖π_θ) by k3, the mean over actions trained on: how far a rollout's updates moved the policy.

    Actions count by their row's weight as a sample of the policy.

    Args:
      scores: the new policy's, after the updates.
      batch: the whole rollout.
      estimate: of the same rows.
    """
    mask, weight = _weighed(batch.rollout, estimate)
    old, new = (jnp.where(mask, one.log_prob, 0) for one in (batch.old, scores))
    return _mean(k3(old, new), mask, weight)


def _weighed(rollout: Rollout, estimate: Estimate) -> tuple[Array, Array]:
    """Actions trained on `bool[B, L]`, and how much each counts `[B, L]`."""
    mask = (estimate.unit_ids >= 0) & estimate.keep[:, None]
    return mask, _action_weight(rollout, mask)


def _action_weight(rollout: Rollout, mask: Array) -> Array:
    """Weight of each action of the mask as a sample of the policy, `[B, L]`."""
    return jnp.where(mask, sample_weight(rollout)[:, None], 0)


def _mean(values: Array, mask: Array, weight: Array) -> Array:
    """Weighted mean under the mask; 0 without weight."""
    total = jnp.sum(weight, dtype=jnp.float32)
    return masked_sum(weight * values, mask & (weight > 0)) / jnp.where(total > 0, total, 1)
