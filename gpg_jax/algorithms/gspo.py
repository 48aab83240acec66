"""GSPO: the ratio and the clip of whole sequences."""

from __future__ import annotations

from typing import Any

import jax

from gpg_jax.algorithms.compose import clip, compose, group_advantage, kl_in_the_reward, whole_output
from gpg_jax.algorithms.settings import Settings, own_default, resolve
from gpg_jax.estimators.segments import unit_mean
from gpg_jax.losses.ratios import (
    Ratio,
    clamp,
    safe_exp,
    unit_geometric_ratio,
    unit_geometric_token_ratio,
)
from gpg_jax.types import Array, Method


def gspo(*, clip_low: float | None = None, clip_high: float | None = None, **options: Any) -> Method:
    """J = (1/G) Σ_i min(s_i A_i, clip(s_i, 1 − ε_low, 1 + ε_high) A_i), s_i = exp(mean_t log r_t).

    Zheng et al. 2025, "Group sequence policy optimization", arXiv 2507.18071, eq. 5 to 7.

    Args:
      clip_low: ε_low; for None 3e-4, the paper's, or the convention's.
      clip_high: ε_high; for None 4e-4, the paper's, or the convention's.
      **options: of `settings.Settings`; the conventions "verl" and "tunix" use the form of `gspo_token`.

    Returns:
      The method.

    Raises:
      ValueError: a KL in the reward that is charged after rows are compared, and so gives each token its own
        advantage; OpenRLHF does this, and its convention may.
    """
    settings = resolve(options, name="gspo", dual_clip=None)
    varies = kl_in_the_reward(settings) and settings.kl_order == "after"
    if varies and settings.convention != "openrlhf":
        raise ValueError(
            "the KL in the reward varies the advantage inside a sequence: use gspo_token, or "
            'kl_order="before"'
        )
    if settings.convention in ("verl", "tunix"):
        return _gspo("gspo", settings, _token_form(settings), clip_low, clip_high, options)
    ratio = unit_geometric_ratio(settings.log_ratio_range)
    return _gspo("gspo", settings, ratio, clip_low, clip_high, options)


def gspo_token(*, clip_low: float | None = None, clip_high: float | None = None, **options: Any) -> Method:
    """J = (1/G) Σ_i (1/|o_i|) Σ_t min(s_{i,t} A_{i,t}, clip(s_{i,t}, 1 − ε_low, 1 + ε_high) A_{i,t}).

    s_{i,t} = sg[s_i]·π_θ(y_t)/sg[π_θ(y_t)].

    Zheng et al. 2025, arXiv 2507.18071, eq. 13 and 14: GSPO's value and gradient where the advantage is one a
    sequence, and the form that allows it to vary.

    Args:
      clip_low: ε_low; for None 3e-4, the paper's, or the convention's.
      clip_high: ε_high; for None 4e-4, the paper's, or the convention's.
      **options: of `settings.Settings`.

    Returns:
      The method.
    """
    settings = resolve(options, name="gspo_token", dual_clip=None)
    return _gspo("gspo_token", settings, _token_form(settings), clip_low, clip_high, options)


def _token_form(settings: Settings) -> Ratio:
    if settings.convention != "tunix":
        return unit_geometric_token_ratio(settings.log_ratio_range)

    def held_tokens(log_ratio: Array, unit_ids: Array) -> Array:
        """tunix: each token is held at ±20 for the mean, not for the derivative."""
        mean = unit_mean(clamp(log_ratio, (-20.0, 20.0)), unit_ids)
        own = log_ratio + jax.lax.stop_gradient(mean - log_ratio)
        return safe_exp(clamp(own, settings.log_ratio_range))

    return held_tokens


def _gspo(
    name: str,
    settings: Settings,
    ratio: Ratio,
    clip_low: float | None,
    clip_high: float | None,
    options: dict[str, Any],
) -> Method:
    if settings.convention == "openrlhf" and settings.correction != "none":
        raise ValueError(
            "OpenRLHF's GSPO corrects by dividing by the sampler's probabilities, not by the old policy's, "
            'which no correction weight does: take correction="none", or another convention'
        )
    return compose(
        settings,
        units=whole_output,
        advantage=group_advantage(settings, scale=True),
        ratio=ratio,
        gate=clip(
            settings,
            own_default(name, "clip_low", clip_low, options, 3e-4),
            own_default(name, "clip_high", clip_high, options, 4e-4),
        ),
    )
