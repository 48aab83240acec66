"""GRPO: a group of completions is its own baseline."""

from __future__ import annotations

from typing import Any

from gpg_jax.algorithms.compose import clip as clip_gate
from gpg_jax.algorithms.compose import compose, group_advantage
from gpg_jax.algorithms.settings import resolve
from gpg_jax.types import Method


def grpo(*, clip: float = 0.2, **options: Any) -> Method:
    """J = (1/G) Σ_i (1/|o_i|) Σ_t {min(r_t A_i, clip(r_t, 1 ± ε) A_i) − β·k3_t}, A_i = (R_i − mean)/std.

    Shao et al. 2024, "DeepSeekMath", arXiv 2402.03300, eq. 3 and 4. β = 0.04, or the convention's; the paper
    updates once a rollout and reports no ε, and says neither how std is taken nor what a group without spread
    gets: here the population's std, and 0.

    Args:
      clip: ε.
      **options: of `settings.Settings`, such as `convention`, `kl_coefficient` and `aggregation`.

    Returns:
      The method.
    """
    settings = resolve(options, name="grpo", kl_coefficient=0.04)
    return compose(
        settings, advantage=group_advantage(settings, scale=True), gate=clip_gate(settings, clip, clip)
    )
