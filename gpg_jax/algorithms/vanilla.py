"""Vanilla policy gradient: each token's score times what came after it."""

from __future__ import annotations

from typing import Any

from gpg_jax.algorithms.checks import within
from gpg_jax.algorithms.compose import compose
from gpg_jax.algorithms.reinforce import UNREAD
from gpg_jax.algorithms.settings import GROUP, resolve
from gpg_jax.estimators import advantages
from gpg_jax.estimators.baselines import running_start
from gpg_jax.losses.gates import no_gate
from gpg_jax.losses.ratios import no_ratio
from gpg_jax.types import Method


def vanilla(
    *, decay: float = 0.9, discount: float = 1.0, discount_state: bool = False, **options: Any
) -> Method:
    """∇J = E[Σ_t ∇log π(y_t)·(G_t − b)], G_t = Σ_{j ≥ t} γ^(j−t) r_j, b the running mean of earlier returns.

    Sutton et al. 1999, "Policy gradient methods for reinforcement learning with function approximation".

    Args:
      decay: of the running mean, a rollout, in [0, 1).
      discount: γ in [0, 1], an action.
      discount_state: whether token t's term is multiplied by γ^t, as the discounted objective's gradient is.
      **options: of `settings.Settings`.

    Returns:
      The method.
    """
    within("decay", decay, 0, 1, below=True)
    within("discount", discount, 0, 1)
    settings = resolve(options, GROUP | UNREAD | {"kl_order"}, aggregation="sequence_mean_token_sum")
    rows, bounds = advantages.minus_running(decay), settings.advantage_range
    return compose(
        settings,
        advantage=advantages.return_advantage(rows, discount, discount_state=discount_state, bounds=bounds),
        ratio=no_ratio,
        gate=no_gate,
        state=running_start(),
    )
