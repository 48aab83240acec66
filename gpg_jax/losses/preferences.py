"""Which of two responses is better: the likelihood of preferences under scalar rewards.

    P(y_w ≻ y_l | x) = σ(r(x, y_w) − r(x, y_l))

Bradley and Terry 1952, "Rank analysis of incomplete block designs". Rewards stand as `[N, 2]`, N pairs, the
chosen response's before the rejected one's.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gpg_jax.estimators.masked import masked_sum
from gpg_jax.losses.metrics import Metrics
from gpg_jax.types import Array


def bradley_terry(difference: Array, margin: Array | float = 0.0) -> Array:
    """−log σ(r_w − r_l − m), elementwise.

    Ouyang et al. 2022, arXiv 2203.02155, eq. 1, which is Ziegler et al. 2019, arXiv 1909.08593, eq. 1, for
    two answers; with the margin of Touvron et al. 2023, arXiv 2307.09288, eq. 2.

    Args:
      difference: r_w − r_l.
      margin: m ≥ 0, what the chosen response is to be better by.
    """
    return -jax.nn.log_sigmoid(jnp.asarray(difference, jnp.float32) - margin)


def pair_weights(mask: Array) -> Array:
    """One over the number of pairs, 0 where there is none: weights of the mean over the pairs given.

    Args:
      mask: `bool[N]`, pairs that there are.

    Returns:
      `float32[N]`.
    """
    mask = jnp.asarray(mask, bool)
    return mask / jnp.maximum(jnp.sum(mask, dtype=jnp.float32), 1)


def ordered(difference: Array) -> Array:
    """1 where r_w − r_l is above 0, ½ where it is 0, else 0."""
    return jnp.heaviside(difference, 0.5)


def preference_loss(
    rewards: Array, mask: Array, weights: Array, margin: Array | float = 0.0, centring: float = 0.0
) -> tuple[Array, Metrics]:
    """Σ_i w_i·(−log σ(r_w − r_l − m) + c·(r_w + r_l)²)_i.

    Preferences leave the rewards of a prompt open by a constant; c draws it to where a pair's mean is 0
    (Eisenstein et al. 2023, arXiv 2312.09244).

    The metrics are over the pairs that there are:

    - `accuracy`: fraction whose chosen response has the larger reward, half of those whose rewards are equal.
    - `margin`: r_w − r_l.
    - `reward`: of both responses.

    Args:
      rewards: `[N, 2]`, r_w and r_l.
      mask: `bool[N]`, pairs that there are.
      weights: `[N]`, from `pair_weights` of the global minibatch.
      margin: m, `[N]` or one for all.
      centring: c.

    Returns:
      The loss, `float32[]`; metrics, see `losses.metrics`.
    """
    mask = jnp.asarray(mask, bool)
    chosen, rejected = jnp.where(mask[:, None], jnp.asarray(rewards, jnp.float32), 0).T
    difference = chosen - rejected
    cost = bradley_terry(difference, margin) + centring * jnp.square(chosen + rejected)
    count = jnp.sum(mask, dtype=jnp.float32)
    metrics: Metrics = {
        "accuracy": (masked_sum(ordered(difference), mask), count),
        "margin": (masked_sum(difference, mask), count),
        "reward": (masked_sum((chosen + rejected) / 2, mask), count),
    }
    return masked_sum(weights * cost, mask), jax.lax.stop_gradient(metrics)
