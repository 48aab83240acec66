"""Terms that are added to the surrogate: coefficient · Σ weights · cost."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from gpg_jax.estimators.divergences import ESTIMATORS, bounded
from gpg_jax.types import Array, Batch, Penalty, Scores, State

Coefficient = float | Callable[[State], Array | float]
Cost = Callable[[Scores, Batch], Array]
Held = Callable[[Scores, Batch], Array]


def kl_penalty(
    estimator: str,
    coefficient: Coefficient,
    weights: Callable,
    *,
    bounds: tuple[float, float] | None = None,
    cost_bounds: tuple[float, float] | None = None,
    importance_weighted: bool = False,
) -> Penalty:
    """β · Σ w_t · KL_t(π_θ‖π_ref), KL from the sampled token or over the vocabulary.

    GRPO's term is k3 (arXiv 2402.03300, eq. 4). Of the sampled estimators k2, "k3+" and the
    importance-weighted k1 and k3 have the expected gradient of KL(π_θ‖π_ref); see `estimators.divergences`.

    Args:
      estimator: "k1", "k2", "k3", "abs", "k3+" or "full"; "full" reads `Scores.kl_ref`.
      coefficient: β, or a function of the method's state.
      weights: how tokens are weighed; see `losses.weights`.
      bounds: where log π_ref − log π_θ is held, and log π_θ − log π_old too for `importance_weighted`, or
        None; nothing passes a held difference's gradient.
      cost_bounds: where the estimate is held, before it is weighted, or None.
      importance_weighted: whether the cost is multiplied by π_θ/π_old, differentiated too; for k1 and k3.

    Returns:
      The penalty; what bounds hold is its `held`.

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
    if importance_weighted:
        cost = _importance_weighted(cost, bounds)
    held = kl_held(estimator, bounds, cost_bounds)
    return Penalty(cost=cost, weights=weights, coefficient=_of_state(coefficient), held=held)


def kl_held(
    estimator: str, bounds: tuple[float, float] | None, cost_bounds: tuple[float, float] | None
) -> Held | None:
    """Which tokens' KL does not move with the policy, because a bound holds it; None without bounds.

    Args:
      estimator: as in `kl_penalty`.
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

    return Penalty(cost=cost, weights=weights, coefficient=_of_state(coefficient))


def _of_state(coefficient: Coefficient) -> Callable[[State], Array | float]:
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
