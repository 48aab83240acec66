"""Returns: what was earned from a token on, and in a whole row.

Time is counted in actions. Prompt, tool result and padding neither earn nor discount.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gpg_jax.estimators.masked import masked_sum, masked_values
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


def state_discount(action_mask: Array, discount: Array | float) -> Array:
    """γ^(n_t), where n_t counts the actions before t: the weight of a state in the discounted objective.

    Sutton et al. 1999. Common practice leaves it out, and then Σ ∇log π_t·G_t is not the gradient of
    E[Σ γ^t r_t]; with it, it is.

    Args:
      action_mask: `bool[B, L]`.
      discount: γ in [0, 1], an action.

    Returns:
      `[B, L]`, weakly typed for a plain number γ: what it multiplies keeps its dtype.
    """
    before = jnp.cumsum(action_mask, axis=1) - action_mask
    return discount ** (1.0 * before)


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
    check_discount(discount)
    rewards = masked_values(rewards, action_mask)
    return backward_recursion(rewards, discount, action_mask, jnp.zeros(rewards.shape[0]))


def backward_recursion(added: Array, factor: Array | float, action_mask: Array, start: Array) -> Array:
    """x_t = c_t + f·x_{t+1} over the actions of a row, last one first; other tokens are skipped.

    A sequential scan: the order of its sums is that of the actions, so neither padding nor a tool's tokens
    move a bit of the result, and a rollout took as many steps of a whole network.

    Args:
      added: `[B, L]`, c; read at actions only.
      factor: f, scalar or `[B]`.
      action_mask: `bool[B, L]`.
      start: `[B]`, x behind the last action.

    Returns:
      `[B, L]`, 0 where the policy did not act.
    """
    action_mask = jnp.asarray(action_mask)

    def backward(later: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        term, acts = step
        value = jnp.where(acts, term + factor * later, later)
        return value, value

    added = masked_values(added, action_mask)
    start = jnp.asarray(start, added.dtype)
    sums = jax.lax.scan(backward, start, (added.T, action_mask.T), reverse=True)[1].T
    return jnp.where(action_mask, sums, 0)


def check_discount(discount: Array | float) -> None:
    """Raises ValueError unless the discount lies in [0, 1]; one that is traced cannot be read."""
    if not isinstance(discount, jax.core.Tracer) and not 0 <= discount <= 1:
        raise ValueError(f"the discount must lie in [0, 1], got {discount}")
