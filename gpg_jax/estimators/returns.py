"""Returns: what was earned from a token on, and in a whole row.

Time is counted in actions. Prompt, tool result and padding neither earn nor discount.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gpg_jax.estimators.masked import masked_sum
from gpg_jax.types import Array


def total_reward(rewards: Array, action_mask: Array) -> Array:
    """R = Σ_t r_t over the actions of a row.

    Args:
      rewards: `[B, L]`.
      action_mask: `bool[B, L]`.

    Returns:
      `[B]`.
    """
    return masked_sum(rewards, action_mask, axis=1)


def state_discount(action_mask: Array, discount: float) -> Array:
    """γ^(n_t), where n_t counts the actions before t: the weight of a state in the discounted objective.

    Sutton et al. 1999. Common practice leaves it out, and then Σ ∇log π_t·G_t is not the gradient of
    E[Σ γ^t r_t]; with it, it is.

    Args:
      action_mask: `bool[B, L]`.
      discount: γ in [0, 1], an action.

    Returns:
      `[B, L]`.
    """
    before = jnp.cumsum(action_mask, axis=1) - action_mask
    return jnp.float32(discount) ** before.astype(jnp.float32)


def reward_to_go(rewards: Array, action_mask: Array, discount: float = 1.0) -> Array:
    """G_t = Σ_{j ≥ t} γ^(n_j − n_t) r_j, where n_t counts the actions before t.

    Sutton and Barto 2018, eq. 3.8. A tool's tokens between two actions do not discount.

    Args:
      rewards: `[B, L]`; read at actions only.
      action_mask: `bool[B, L]`.
      discount: γ in [0, 1], an action.

    Returns:
      `[B, L]`, 0 where the policy did not act.

    Raises:
      ValueError: a discount outside [0, 1].
    """
    if not 0 <= discount <= 1:
        raise ValueError(f"the discount must lie in [0, 1], got {discount}")
    action_mask = jnp.asarray(action_mask)
    earned = jnp.where(action_mask, rewards, 0)
    earned = earned.astype(jnp.promote_types(earned.dtype, jnp.float32))

    def backward(later: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        reward, acts = step
        value = jnp.where(acts, reward + discount * later, later)
        return value, value

    start = jnp.zeros(earned.shape[0], earned.dtype)
    returns = jax.lax.scan(backward, start, (earned.T, action_mask.T), reverse=True)[1].T
    return jnp.where(action_mask, returns, 0)
