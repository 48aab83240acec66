"""GSPO: the ratio and the clip of whole sequences."""

from __future__ import annotations

import math
from typing import Any

from gpg_jax.algorithms.compose import clip, compose, group_advantage, whole_output
from gpg_jax.algorithms.settings import Settings, resolve
from gpg_jax.losses.ratios import Range, Ratio, unit_geometric_ratio, unit_geometric_token_ratio
from gpg_jax.types import Method


def gspo(*, clip_low: float = 3e-4, clip_high: float = 4e-4, **options: Any) -> Method:
    """J = (1/G) Σ_i min(s_i A_i, clip(s_i, 1 − ε_low, 1 + ε_high) A_i), s_i = exp(mean_t log r_t).

    Zheng et al. 2025, "Group sequence policy optimization", arXiv 2507.18071, eq. 5 to 7.

    Args:
      clip_low: ε_low.
      clip_high: ε_high.
      **options: of `settings.Settings`; the conventions "verl" and "tunix" use the form of `gspo_token`.

    Returns:
      The method.

    Raises:
      ValueError: a KL in the reward, which gives each token its own advantage.
    """
    settings = _settings(options)
    if settings.kl_placement == "reward" and settings.kl_coefficient:
        raise ValueError("the KL in the reward varies the advantage inside a sequence: use gspo_token")
    if settings.convention in ("verl", "tunix"):
        return _gspo(settings, _token_form(settings), clip_low, clip_high)
    return _gspo(settings, unit_geometric_ratio(settings.log_ratio_range), clip_low, clip_high)


def gspo_token(*, clip_low: float = 3e-4, clip_high: float = 4e-4, **options: Any) -> Method:
    """J = (1/G) Σ_i (1/|o_i|) Σ_t min(s_{i,t} A_{i,t}, clip(s_{i,t}, 1 − ε_low, 1 + ε_high) A_{i,t}).

    s_{i,t} = sg[s_i]·π_θ(y_t)/sg[π_θ(y_t)].

    Zheng et al. 2025, arXiv 2507.18071, eq. 13 and 14: GSPO's value and gradient where the advantage is one a
    sequence, and the form that allows it to vary.

    Args:
      clip_low: ε_low.
      clip_high: ε_high.
      **options: of `settings.Settings`.

    Returns:
      The method.
    """
    settings = _settings(options)
    return _gspo(settings, _token_form(settings), clip_low, clip_high)


def _settings(options: dict[str, Any]) -> Settings:
    one_sided = {"verl": (-math.inf, 10.0), "tunix": (-math.inf, 10.0), "openrlhf": None}
    method: dict[str, Any] = {"dual_clip": None}
    if options.get("convention") in one_sided:
        method["log_ratio_range"] = one_sided[options["convention"]]
    return resolve(options, **method)


def _token_form(settings: Settings) -> Ratio:
    by_token: Range | None = (-20.0, 20.0) if settings.convention == "tunix" else None
    return unit_geometric_token_ratio(settings.log_ratio_range, by_token)


def _gspo(settings: Settings, ratio: Ratio, clip_low: float, clip_high: float) -> Method:
    return compose(
        settings,
        units=whole_output,
        advantage=group_advantage(settings, scale=True),
        ratio=ratio,
        gate=clip(settings, clip_low, clip_high),
    )
