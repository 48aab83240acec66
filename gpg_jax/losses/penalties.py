"""Terms that are added to the surrogate: coefficient · Σ weights · cost."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from gpg_jax.estimators.divergences import ESTIMATORS, bounded
from gpg_jax.types import Array, Batch, Estimate, Penalty, Rollout, Scores, State

Coefficient = float | Callable[[State], Array | float]
Cost = Callable[[Scores, Batch], Array]
"""What a token costs, by what networks say of it alone."""
Held = Callable[[Scores, Batch], Array]


def kl_cost(
    estimator: str,
    *,
    bounds: tuple[float, float] | None = None,
    cost_bounds: tuple[float, float] | None = None,
    importance_weighted: bool = False,
) -> Cost:
    """KL_t(π_θ‖π_ref), from the sampled token or over the vocabulary.

    GRPO's is k3 (arXiv 2402.03300, eq. 4). Of the sampled estimators k2, "k3+" and the
    importance-weighted k1 and k3 have the expected gradient of KL(π_θ‖π_ref); see `estimators.divergences`.

    Args:
      estimator: "k1", "k2", "k3", "abs", "k3+" or "full"; "full" reads `Scores.kl_ref`.
      bounds: where log π_ref − log π_θ is held, and log π_θ − log π_old too for `importance_weighted`, or
        None; nothing passes a held difference's gradient.
      cost_bounds: where the estimate is held, before it is weighted, or None.
      importance_weighted: whether the cost is multiplied by π_θ/π_old, differentiated too; for k1 and k3.

    Returns:
      (new `Scores`, `Batch`) -> `[B, L]`.

    Raises:
      ValueError: an unknown estimator, or one whose gradient the weight would make wrong.
    """
    if importance_weighted and estimator not in ("k1", "k3"):
        raise ValueError(
            "an importance-weighted KL has the gradient of KL(π_θ‖π_ref) for k1 and k3 alone, got "
            f"{estimator!r}: leave importance_weighted out, or take k1 or k3"
        )
    cost = _full_kl if estimator == "full" else _sampled_kl(estimator, bounds)
    if cost_bounds is not None:
        cost = _held(cost, cost_bounds)
    return _importance_weighted(cost, bounds) if importance_weighted else cost


def penalty(cost: Cost, coefficient: Coefficient, weights: Callable, held: Held | None = None) -> Penalty:
    """A penalty whose cost reads no estimate.

    Args:
      cost: what a token costs.
      coefficient: β, or a function of the method's state.
      weights: how tokens are weighed; see `losses.weights`.
      held: tokens whose cost a bound holds, or None.
    """
    return Penalty(
        cost=lambda scores, batch, estimate: cost(scores, batch),
        weights=weights,
        coefficient=of_state(coefficient),
        held=held,
    )


def kl_penalty(
    estimator: str,
    coefficient: Coefficient,
    weights: Callable,
    *,
    bounds: tuple[float, float] | None = None,
    cost_bounds: tuple[float, float] | None = None,
    importance_weighted: bool = False,
) -> Penalty:
    """β · Σ w_t · KL_t(π_θ‖π_ref); see `kl_cost`.

    Args:
      estimator: as in `kl_cost`.
      coefficient: β, or a function of the method's state.
      weights: how tokens are weighed; see `losses.weights`.
      bounds: as in `kl_cost`.
      cost_bounds: as in `kl_cost`.
      importance_weighted: as in `kl_cost`.

    Returns:
      The penalty; what bounds hold is its `held`.

    Raises:
      ValueError: see `kl_cost`.
    """
    cost = kl_cost(estimator, bounds=bounds, cost_bounds=cost_bounds, importance_weighted=importance_weighted)
    return penalty(cost, coefficient, weights, kl_held(estimator, bounds, cost_bounds))


def old_kl_penalty(
    estimator: str,
    coefficient: Coefficient,
    weights: Callable,
    *,
    bounds: tuple[float, float] | None = None,
) -> Penalty:
    """β · Σ w_t · KL_t(π_old‖π_θ), from tokens that π_old drew.

    PPO's penalised surrogate, arXiv 1707.06347, eq. 8. The expected gradient of k1 = log π_old − log π_θ and
    of k3 = r − 1 − log r, r = π_θ/π_old, is that of the divergence; k3 is never negative and varies less.

    Args:
      estimator: "k1" or "k3".
      coefficient: β, or a function of the method's state.
      weights: how tokens are weighed; see `losses.weights`.
      bounds: where log π_θ − log π_old is held, or None; nothing passes a held difference's gradient.

    Returns:
      The penalty; what bounds hold is its `held`.

    Raises:
      ValueError: another estimator.
    """
    if estimator not in ("k1", "k3"):
        raise ValueError(f"the KL to the old policy is estimated by 'k1' or 'k3', got {estimator!r}")

    divergence = bounded(ESTIMATORS[estimator], bounds)

    def cost(scores: Scores, batch: Batch) -> Array:
        return divergence(batch.old.log_prob, scores.log_prob)

    def held(scores: Scores, batch: Batch) -> Array:
        assert bounds is not None  # without them there is no such function
        return _outside(scores.log_prob - batch.old.log_prob, bounds)

    return penalty(cost, coefficient, weights, None if bounds is None else held)


def kl_held(
    estimator: str, bounds: tuple[float, float] | None, cost_bounds: tuple[float, float] | None
) -> Held | None:
    """Which tokens' KL does not move with the policy, because a bound holds it; None without bounds.

    Args:
      estimator: as in `kl_cost`.
      bounds: where log π_ref − log π_θ is held, or None; not read by "full".
      cost_bounds: where the estimate is held, or None.

    Returns:
      (new `Scores`, `Batch`) -> `bool[B, L]`.
    """
    if bounds is None and cost_bounds is None:
        return None
    estimate = _full_kl if estimator == "full" else _sampled_kl(estimator, bounds)

    def held(scores: Scores, batch: Batch) -> Array:
        outside = jnp.zeros(scores.log_prob.shape, bool)
        if bounds is not None and estimator != "full" and batch.reference is not None:
            outside |= _outside(batch.reference.log_prob - scores.log_prob, bounds)
        if cost_bounds is not None:
            outside |= _outside(estimate(scores, batch), cost_bounds)
        return outside

    return held


def value_penalty(coefficient: Coefficient, weights: Callable, *, clip: float | None = None) -> Penalty:
    """c · Σ w_t · (V_φ(s_t) − G_t)², or the larger of it and (clip(V_φ, V_old ± κ) − G_t)².

    Schulman et al. 2017, arXiv 1707.06347, eq. 9, whose term has no ½; the clipped form is their code's, not
    the paper's. G is fixed: with a bootstrapped one the gradient is a semi-gradient.

    Args:
      coefficient: c, or a function of the method's state.
      weights: how tokens are weighed; see `losses.weights`.
      clip: κ, or None for the plain square. Where the clipped square is the larger, no gradient passes if V_φ
        is outside of its range.

    Returns:
      The penalty; it reads `Scores.value`, the value targets of the estimate, and for `clip` the old values.
    """

    def cost(scores: Scores, batch: Batch, estimate: Estimate) -> Array:
        if scores.value is None or estimate.value_target is None:
            raise ValueError(
                'a value loss reads Scores.value and Estimate.value_target: put "value" into Method.needs, '
                "and take an advantage that gives targets"
            )
        plain = jnp.square(scores.value - estimate.value_target)
        if clip is None:
            return plain
        if batch.old.value is None:
            raise ValueError('a clipped value loss reads the old values: put "old" into Method.needs')
        near = jnp.clip(scores.value, batch.old.value - clip, batch.old.value + clip)
        return jnp.maximum(plain, jnp.square(near - estimate.value_target))

    return Penalty(cost=cost, weights=weights, coefficient=of_state(coefficient), of_critic=True)


def likelihood_penalty(coefficient: Coefficient, weights: Callable, *, correct: float = 1.0) -> Penalty:
    """−c · Σ w_t · log π_θ(y_t) over rows whose outcome is at least `correct` (VAPO, arXiv 2504.05118).

    Args:
      coefficient: μ, or a function of the method's state.
      weights: how tokens are weighed, normalised over the correct rows alone; nothing where there are none.
      correct: least outcome of a correct row.

    Returns:
      The penalty.
    """

    def of_correct(rollout: Rollout, unit_ids: Array) -> Array:
        right = jnp.asarray(rollout.outcome) >= correct
        return weights(rollout, jnp.where(right[:, None], unit_ids, -1))

    return penalty(lambda scores, batch: -scores.log_prob, coefficient, of_correct)


def entropy_bonus(coefficient: Coefficient, weights: Callable) -> Penalty:
    """−c · Σ w_t · H(π_θ(·|y_<t)) (Williams and Peng 1991; A3C, arXiv 1602.01783, section 4).

    Args:
      coefficient: c, or a function of the method's state; positive spreads the policy.
      weights: how tokens are weighed; see `losses.weights`.

    Returns:
      The penalty.
    """

    def cost(scores: Scores, batch: Batch) -> Array:
        del batch
        if scores.entropy is None:
            raise ValueError('the entropy bonus reads Scores.entropy: put "entropy" into Method.needs')
        return -scores.entropy

    return penalty(cost, coefficient, weights)


def of_state(coefficient: Coefficient) -> Callable[[State], Array | float]:
    """A coefficient as a function of the method's state."""
    return coefficient if callable(coefficient) else lambda state: coefficient


def _full_kl(scores: Scores, batch: Batch) -> Array:
    del batch
    if scores.kl_ref is None:
        raise ValueError('the full KL reads Scores.kl_ref: put "kl_ref" and "reference" into Method.needs')
    return scores.kl_ref


def _sampled_kl(estimator: str, bounds: tuple[float, float] | None) -> Cost:
    if estimator not in ESTIMATORS:
        raise ValueError(f"no KL estimator {estimator!r}; there are {', '.join(ESTIMATORS)} and full")
    divergence = bounded(ESTIMATORS[estimator], bounds)

    def cost(scores: Scores, batch: Batch) -> Array:
        if batch.reference is None:
            raise ValueError('a KL penalty reads Batch.reference: put "reference" into Method.needs')
        return divergence(scores.log_prob, batch.reference.log_prob)

    return cost


def _outside(values: Array, bounds: tuple[float, float]) -> Array:
    return (values < bounds[0]) | (values > bounds[1])


def _held(cost: Cost, bounds: tuple[float, float]) -> Cost:
    return lambda scores, batch: jnp.clip(cost(scores, batch), *bounds)


def _importance_weighted(cost: Cost, bounds: tuple[float, float] | None) -> Cost:
    def weighted(scores: Scores, batch: Batch) -> Array:
        log_ratio = scores.log_prob - batch.old.log_prob
        held = log_ratio if bounds is None else jnp.clip(log_ratio, *bounds)
        return jnp.exp(held) * cost(scores, batch)

    return weighted
