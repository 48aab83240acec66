"""Divergences between the policy and a reference: estimators from the sampled token, and exact sums.

With d = log π_ref(y) − log π(y) and y drawn from π, k1 = −d, k2 = d²/2, k3 = eᵈ − d − 1 (Schulman 2020,
"Approximating KL divergence"). k1 and k3 are unbiased *values* of KL(π‖π_ref). As terms of a loss, drawn
from a fixed π_old = π, their expected gradients are 0 for k1, ∇KL(π‖π_ref) for k2 and ∇KL(π_ref‖π) for k3;
weighted by the ratio π/π_old, k1 and k3 give ∇KL(π‖π_ref). k1 in the reward gives it too.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gpg_jax.types import Array

Divergence = Callable[[Array, Array], Array]


def k1(log_prob: Array, reference_log_prob: Array) -> Array:
    """log π − log π_ref: unbiased, of either sign.

    Args:
      log_prob: any shape, log π of the sampled tokens.
      reference_log_prob: same shape, log π_ref of the same tokens.

    Returns:
      Same shape, in nats.
    """
    return log_prob - reference_log_prob


def k2(log_prob: Array, reference_log_prob: Array) -> Array:
    """½ (log π − log π_ref)²: never negative, biased by O(d³). See `k1`."""
    return 0.5 * jnp.square(log_prob - reference_log_prob)


def k3(log_prob: Array, reference_log_prob: Array) -> Array:
    """eᵈ − d − 1, d = log π_ref − log π: unbiased, never negative. GRPO, eq. 4. See `k1`."""
    difference = reference_log_prob - log_prob
    return jnp.expm1(difference) - difference


def absolute(log_prob: Array, reference_log_prob: Array) -> Array:
    """|log π − log π_ref|. See `k1`."""
    return jnp.abs(log_prob - reference_log_prob)


def k3_plus(log_prob: Array, reference_log_prob: Array) -> Array:
    """Value of k3, gradient of k2: sg[k3 − k2] + k2, whose expected gradient is ∇KL(π‖π_ref). See `k1`."""
    square = k2(log_prob, reference_log_prob)
    return jax.lax.stop_gradient(k3(log_prob, reference_log_prob) - square) + square


ESTIMATORS: dict[str, Divergence] = {"k1": k1, "k2": k2, "k3": k3, "abs": absolute, "k3+": k3_plus}
"""The estimators from the sampled token, by the names that the methods take."""


def bounded(divergence: Divergence, bounds: tuple[float, float] | None) -> Divergence:
    """The estimator with log π_ref − log π held inside `bounds`, with no gradient outside.

    Args:
      divergence: an estimator of this module.
      bounds: lowest and highest difference, or None for the estimator as it is.

    Returns:
      The estimator.
    """
    if bounds is None:
        return divergence
    low, high = bounds
    return lambda log_prob, reference: divergence(-jnp.clip(reference - log_prob, low, high), jnp.zeros(()))


def entropy(logits: Array) -> Array:
    """H(π) = −Σ_v π_v log π_v, in nats.

    Args:
      logits: `[..., V]`; −inf takes an entry out of the vocabulary.

    Returns:
      `[...]`.
    """
    log_prob = jax.nn.log_softmax(logits)
    # the inner where keeps 0·(−inf) out of the value and out of the gradient
    return -jnp.sum(jnp.exp(log_prob) * jnp.where(jnp.isneginf(logits), 0, log_prob), axis=-1)


def full_kl(logits: Array, reference_logits: Array) -> Array:
    """KL(π‖π_ref) = Σ_v π_v (log π_v − log π_ref,v), in nats, exact over the vocabulary.

    Args:
      logits: `[..., V]`.
      reference_logits: `[..., V]`, finite wherever `logits` is.

    Returns:
      `[...]`.
    """
    log_prob = jax.nn.log_softmax(logits)
    gap = log_prob - jax.nn.log_softmax(reference_logits)
    return jnp.sum(jnp.exp(log_prob) * jnp.where(jnp.isneginf(logits), 0, gap), axis=-1)
