"""GPG, the *Generalized* Policy Gradient: any units of action, from one token to the whole output."""

from __future__ import annotations

from typing import Any

from gpg_jax.algorithms.checks import count
from gpg_jax.algorithms.compose import Units, clip, compose, group_advantage
from gpg_jax.algorithms.settings import resolve
from gpg_jax.decoding.units import fixed_count_units, fixed_length_units
from gpg_jax.losses.ratios import token_ratio, unit_geometric_token_ratio, unit_product_token_ratio
from gpg_jax.types import Method

RATIOS = {
    "token": token_ratio,
    "unit_geometric": unit_geometric_token_ratio,
    "unit_product": unit_product_token_ratio,
}


def gpg(
    *,
    units: Units | None = None,
    unit_count: int | None = None,
    unit_length: int | None = None,
    ratio: str = "unit_geometric",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    **options: Any,
) -> Method:
    """J = (1/G) Σ_i (1/|o_i|) Σ_T |MA_T|·min(s_T A_i, clip(s_T, 1 − ε_low, 1 + ε_high) A_i).

    Mao, Dong and Dou 2025, arXiv 2512.10365: ∇J = E[Σ_T ∇log π(MA_T|MS_T)·Φ_T] for any cut of the output into
    macro-actions. The clipped surrogate is this library's: with s_T the geometric mean of the unit's token
    ratios it is GRPO's where a unit is a token and GSPO's where it is the whole output.

    At π_θ = π_old the three ratios have one gradient, Σ_T A_i·∇log π(MA_T|MS_T) over each row's length |o_i|.
    The theorem has no such length: the aggregation "sequence_mean_token_sum" meets it, the default does not.

    Args:
      units: `Batch` -> unit ids `int32[B, L]`.
      unit_count: K units of nearly equal length; 4 where none of the three is given.
      unit_length: tokens of a unit.
      ratio: "token", "unit_geometric" or "unit_product".
      clip_low: ε_low.
      clip_high: ε_high.
      **options: of `settings.Settings`; the aggregations "unit_mean" and "unit_sum" count units alike.

    Returns:
      The method.

    Raises:
      ValueError: more than one way to cut, a cut into no units, or an unknown ratio.
    """
    if ratio not in RATIOS:
        raise ValueError(f"no ratio {ratio!r}; there are {', '.join(RATIOS)}")
    settings = resolve(options, name="gpg")
    return compose(
        settings,
        units=_units(units, unit_count, unit_length),
        advantage=group_advantage(settings, scale=True),
        ratio=RATIOS[ratio](settings.log_ratio_range),
        gate=clip(settings, clip_low, clip_high),
    )


def _units(units: Units | None, number: int | None, length: int | None) -> Units:
    if sum(choice is not None for choice in (units, number, length)) > 1:
        raise ValueError("give one of units, unit_count and unit_length")
    if units is not None:
        return units
    if length is not None:
        count("unit_length", length)
        size = length
        return lambda batch: fixed_length_units(batch.rollout.action_mask, size)
    number = 4 if number is None else number
    count("unit_count", number)
    return lambda batch: fixed_count_units(batch.rollout.action_mask, number)
