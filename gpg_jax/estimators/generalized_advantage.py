"""Generalised advantage estimation: the policy's advantages and the critic's targets, each with its own λ."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gpg_jax.estimators.masked import masked_values
from gpg_jax.estimators.temporal_difference import lambda_returns
from gpg_jax.types import Array


def generalized_advantage(
    rewards: Array,
    values: Array,
    bootstrap: Array,
    action_mask: Array,
    lambda_: Array | float,
    discount: float = 1.0,
) -> Array:
    """Â_t = Σ_l (γλ)^l δ_{t+l} = G^λ_t − V_t, the generalised advantage estimate.

    GAE, arXiv 1506.02438, eq. 16. λ = 0 is the TD(0) error, λ = 1 the Monte-Carlo return less V. Under a
    stop-gradient.

    Args:
      rewards, values, bootstrap, action_mask, lambda_, discount: as in `lambda_returns`.

    Returns:
      `[B, L]`, 0 where the policy did not act.

    Raises:
      ValueError: as `lambda_returns`.
    """
    returns = lambda_returns(rewards, values, bootstrap, action_mask, lambda_, discount)
    return jax.lax.stop_gradient(returns - masked_values(values, action_mask))


def value_targets(
    rewards: Array,
    values: Array,
    bootstrap: Array,
    action_mask: Array,
    lambda_: Array | float = 1.0,
    discount: float = 1.0,
) -> Array:
    """What the critic is fitted to: the λ-return with a λ of its own.

    Decoupled GAE (VAPO, arXiv 2504.05118): λ = 1 for the critic, whose targets are then the returns that were
    earned and nothing of V, beside a smaller λ for the policy. PPO takes one λ for both, Â_t + V_t.

    Args, Returns, Raises: as `lambda_returns`.
    """
    return lambda_returns(rewards, values, bootstrap, action_mask, lambda_, discount)


def length_adaptive_lambda(
    action_mask: Array, alpha: float = 0.05, bounds: tuple[float, float] = (0.0, 1.0)
) -> tuple[Array, Array]:
    """λ = 1 − 1/(α·l), so that Σ_k λ^k = α·l grows with the length l of the response.

    VAPO, arXiv 2504.05118, with α = 0.05. As it stands λ is negative for l < 1/α, below 20 tokens there, so
    it is held inside bounds and says where. l counts actions: a tool's tokens are not among them.

    Args:
      action_mask: `bool[B, L]`.
      alpha: α > 0, a token.
      bounds: lowest and highest λ, in [0, 1].

    Returns:
      λ `[B]`, and `bool[B]`, the rows with actions whose λ is a bound instead of the formula's. A row without
      actions has the lowest λ.

    Raises:
      ValueError: an α that is not positive, bounds that are none.
    """
    low, high = bounds
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, 0.05 for one, got {alpha}")
    if not 0 <= low <= high <= 1:
        raise ValueError(f"the bounds of lambda must be a low and a high in [0, 1], got {bounds}")
    length = jnp.sum(action_mask, axis=1)
    acts = length > 0
    formula = 1 - 1 / (alpha * jnp.where(acts, length, 1))
    held = acts & ((formula < low) | (formula > high))
    return jnp.where(acts, jnp.clip(formula, low, high), low), held
