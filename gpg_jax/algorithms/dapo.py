"""DAPO: clip-higher, token-level loss, dynamic sampling and overlong shaping."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from gpg_jax.algorithms.checks import count
from gpg_jax.algorithms.compose import Outcome, clip, compose, group_advantage, scalar_outcome
from gpg_jax.algorithms.settings import Settings, resolve
from gpg_jax.environments.shaping import soft_overlong
from gpg_jax.estimators.filters import every_row, mixed_outcomes
from gpg_jax.types import Array, Batch, Method


def dapo(
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    max_response: int = 20480,
    overlong_cache: int | None = 4096,
    dynamic_sampling: bool = True,
    **options: Any,
) -> Method:
    """J = 1/Σ|o_i| Σ_i Σ_t min(r_t A_i, clip(r_t, 1 − ε_low, 1 + ε_high) A_i), over groups of mixed outcomes.

    Yu et al. 2025, "DAPO", arXiv 2503.14476, eq. 8 to 13. Groups are kept where 0 < #correct < G by what the
    verifier said, before the overlong shaping. The length of a response is the number of its actions.

    Args:
      clip_low: ε_low.
      clip_high: ε_high.
      max_response: L_max of the overlong shaping, in tokens.
      overlong_cache: L_cache, in tokens; None for no shaping.
      dynamic_sampling: whether groups without signal are dropped and replaced.
      **options: of `settings.Settings`.

    Returns:
      The method.
    """
    settings = resolve(options, name="dapo", aggregation="token_mean")
    outcome = scalar_outcome(settings)
    if overlong_cache is not None:
        outcome = _overlong(settings, outcome, max_response, overlong_cache)
    return compose(
        settings,
        advantage=group_advantage(settings, scale=True, outcome=outcome),
        gate=clip(settings, clip_low, clip_high),
        outcome=outcome,
        keep=mixed_outcomes if dynamic_sampling else every_row,
        resample=dynamic_sampling,
    )


def _overlong(settings: Settings, outcome: Outcome, max_response: int, cache: int) -> Outcome:
    count("max_response", max_response)
    count("overlong_cache", cache)
    # these two let the penalty run on beyond the limit
    floor = None if settings.convention in ("verl", "tunix") else -1.0
    soft_overlong(jnp.zeros(1), max_response, cache)  # raises here rather than in the first step

    def shaped(batch: Batch) -> Array:
        length = jnp.sum(batch.rollout.action_mask, axis=1)
        return outcome(batch) + soft_overlong(length, max_response, cache, floor)

    return shaped
