"""From the scalar reward of a row to rewards at its tokens, and what is added to it."""

from __future__ import annotations

import jax.numpy as jnp

from gpg_jax.types import Array


def reward_at_last_action(reward: Array, action_mask: Array) -> Array:
    """r_t = R at the row's last action, 0 elsewhere.

    Args:
      reward: `[B]`.
      action_mask: `bool[B, L]`.

    Returns:
      `[B, L]`; a row without actions earns nothing.
    """
    mask = jnp.asarray(action_mask)
    later = jnp.cumsum(mask[:, ::-1], axis=1)[:, ::-1]
    return jnp.where(mask & (later == 1), reward[:, None], 0)


def soft_overlong(
    response_length: Array, max_length: int, cache_length: int, floor: float | None = -1.0
) -> Array:
    """0 up to L_max − L_cache, then ((L_max − L_cache) − |y|)/L_cache, no lower than the floor.

    DAPO, arXiv 2503.14476, eq. 13, whose floor is −1 (beyond L_max the response is too long anyway).

    Args:
      response_length: `int32[B]`, tokens of the response.
      max_length: L_max, in tokens.
      cache_length: L_cache, in tokens, 0 < L_cache ≤ L_max.
      floor: lowest value, or None for the straight line beyond L_max.

    Returns:
      `[B]`, ≤ 0, to be added to the reward.

    Raises:
      ValueError: a cache that is not inside the length.
    """
    if not 0 < cache_length <= max_length:
        raise ValueError(
            f"overlong shaping needs 0 < cache_length <= max_length, got {cache_length} and {max_length}"
        )
    excess = float(max_length - cache_length) - jnp.asarray(response_length)
    penalty = jnp.minimum(excess / cache_length, 0)
    return penalty if floor is None else jnp.maximum(penalty, floor)


def truncated_reward(reward: Array, truncated: Array, value: float) -> Array:
    """The reward, replaced by `value` where the row was cut off.

    Args:
      reward: `[B]`.
      truncated: `bool[B]`, rows that a budget ended.
      value: the reward of a truncated row.

    Returns:
      `[B]`.
    """
    return jnp.where(truncated, value, reward)


def kl_in_reward(rewards: Array, divergence: Array, action_mask: Array, coefficient: Array | float) -> Array:
    """r_t − β·KL_t, KL_t the divergence of the sampling policy from the reference at token t.

    Ziegler et al., arXiv 1909.08593, eq. 2. With k1 the policy gradient of this reward is exactly that of
    E[R] − β·KL(π‖π_ref).

    Args:
      rewards: `[B, L]`.
      divergence: `[B, L]`, such as log π_old − log π_ref; read at actions only.
      action_mask: `bool[B, L]`.
      coefficient: β.

    Returns:
      `[B, L]`.
    """
    return rewards - coefficient * jnp.where(action_mask, divergence, 0)
