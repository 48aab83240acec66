"""SAPO: a smooth gate in the place of the clip."""

from __future__ import annotations

from typing import Any

from gpg_jax.algorithms.checks import within
from gpg_jax.algorithms.compose import compose, group_advantage
from gpg_jax.algorithms.settings import resolve
from gpg_jax.losses.gates import soft_gate
from gpg_jax.types import Method


def sapo(*, temperature_positive: float = 1.0, temperature_negative: float = 1.05, **options: Any) -> Method:
    """J = (1/G) Σ_i (1/|o_i|) Σ_t f(r_t)·A_i, f(r) = (4/τ)·σ(τ(r − 1)), τ by the advantage's sign.

    Gao et al. 2025, "Soft adaptive policy optimization", arXiv 2511.20347; temperatures of section 5.1.

    Args:
      temperature_positive: τ where A > 0.
      temperature_negative: τ elsewhere.
      **options: of `settings.Settings`.

    Returns:
      The method.
    """
    within("temperature_positive", temperature_positive)
    within("temperature_negative", temperature_negative)
    settings = resolve(options, frozenset({"dual_clip"}), name="sapo")
    return compose(
        settings,
        advantage=group_advantage(settings, scale=True),
        gate=soft_gate(temperature_positive, temperature_negative),
    )
