"""The KL to the reference of a method: what a token is charged, in the loss or in the reward."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gpg_jax.algorithms.settings import Settings
from gpg_jax.losses import penalties
from gpg_jax.losses.penalties import Cost
from gpg_jax.losses.ratios import Ratio, token_ratio
from gpg_jax.types import Array, Batch, Scores


def kl_cost(settings: Settings, ratio: Ratio, units: Callable[[Batch], Array]) -> Cost:
    """What each token is charged: KL_t, times the ratio π_θ/π_old where the settings weight it.

    Schulman 2020, "Approximating KL divergence"; see `estimators.divergences` for the gradients.

    Args:
      settings: which estimator, what holds it, whether it is weighted and by whose ratio.
      ratio: the method's.
      units: the method's, `Batch` -> unit ids.

    Returns:
      (new `Scores`, `Batch`) -> `[B, L]`.
    """
    cost = charge(settings)
    if not settings.kl_importance_weighted:
        return cost
    if settings.kl_ratio == "token":
        ratio, units = token_ratio(settings.log_ratio_range), _one_unit

    def weighted(scores: Scores, batch: Batch) -> Array:
        unit_ids = units(batch)
        log_ratio = jnp.where(unit_ids >= 0, scores.log_prob - batch.old.log_prob, 0)
        return ratio(log_ratio, unit_ids) * cost(scores, batch)

    return weighted


def charge(settings: Settings) -> Cost:
    """KL_t itself, held where the settings say; of a "+" estimator the value is held, never the gradient.

    Args:
      settings: which estimator, what holds it.

    Returns:
      (`Scores`, `Batch`) -> `[B, L]`.
    """
    name = settings.kl_estimator
    held = penalties.kl_cost(
        name.removesuffix("+"), bounds=settings.kl_range, cost_bounds=settings.kl_cost_range
    )
    if not name.endswith("+"):
        return held
    square = penalties.kl_cost("k2")

    def straight_through(scores: Scores, batch: Batch) -> Array:
        pushes = square(scores, batch)
        return jax.lax.stop_gradient(held(scores, batch) - pushes) + pushes

    return straight_through


def _one_unit(batch: Batch) -> Array:
    """Unit ids for a ratio that does not read them."""
    return jnp.where(batch.rollout.action_mask, 0, -1)
