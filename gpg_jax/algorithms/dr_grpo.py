"""Dr. GRPO: GRPO without the two divisions that bias it, by the row's length and by the group's std."""

from __future__ import annotations

from typing import Any

from gpg_jax.algorithms.compose import clip as clip_gate
from gpg_jax.algorithms.compose import compose, group_advantage
from gpg_jax.algorithms.settings import GROUP_STD, resolve
from gpg_jax.types import Method


def dr_grpo(*, clip: float = 0.2, **options: Any) -> Method:
    """J = (1/G) Σ_i (1/T_max) Σ_t min(r_t A_i, clip(r_t, 1 ± ε) A_i), A_i = R_i − mean.

    Liu et al. 2025, "Understanding R1-Zero-like training", arXiv 2503.20783, section 3.2. T_max is a constant
    (`max_length`, 3000 in the paper's runs), so that a long wrong answer is not pushed down less.

    Args:
      clip: ε.
      **options: of `settings.Settings`.

    Returns:
      The method.
    """
    settings = resolve(options, GROUP_STD, name="dr_grpo", aggregation="constant_length")
    return compose(
        settings, advantage=group_advantage(settings, scale=False), gate=clip_gate(settings, clip, clip)
    )
