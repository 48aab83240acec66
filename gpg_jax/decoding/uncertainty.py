"""How uncertain the policy is about its next token, from the logits that it is drawn from."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gpg_jax.types import Array

Uncertainty = Callable[[Array, float], Array]
"""Logits `float32[B, V]`, temperature -> `float32[B]` in nats."""


def entropy(logits: Array, temperature: float) -> Array:
    """H = −Σ_v p_v log p_v over the full vocabulary, p ∝ exp(logits / temperature), whatever truncation.

    Args:
      logits: `float32[B, V]`; a token of −inf adds nothing.
      temperature: above 0.

    Returns:
      `float32[B]`, in nats.
    """
    log_p = jax.nn.log_softmax(logits / temperature, axis=-1)
    return -jnp.sum(jnp.where(jnp.isneginf(log_p), 0, jnp.exp(log_p) * log_p), axis=-1)


def top_entropy(count: int = 10) -> Uncertainty:
    """−Σ p_v log p_v over the `count` most probable tokens alone, whose mass is not 1.

    What ARPO's released code computes, from the ten log-probabilities that its server returns. Where the
    token drawn is not among them its server returns that one too, and it is counted there and not here.

    Args:
      count: tokens, at least 1; a smaller vocabulary is taken whole.

    Raises:
      ValueError: a count below 1.
    """
    if count < 1:
        raise ValueError(f"the entropy needs at least 1 token, got count={count}")

    def measure(logits: Array, temperature: float) -> Array:
        log_p = jax.nn.log_softmax(logits / temperature, axis=-1)
        top = jax.lax.top_k(log_p, min(count, logits.shape[-1]))[0]
        return -jnp.sum(jnp.where(jnp.isneginf(top), 0, jnp.exp(top) * top), axis=-1)

    return measure
