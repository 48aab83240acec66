"""How uncertain the policy is about a token, from the logits that it is drawn from."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gpg_jax.types import Array

Uncertainty = Callable[[Array, float, Array], Array]
"""Logits `float32[B, V]`, temperature, the tokens drawn from them `int32[B]` -> `float32[B]` in nats."""


def entropy(logits: Array, temperature: float, drawn: Array | None = None) -> Array:
    """H = −Σ_v p_v log p_v over the full vocabulary, p ∝ exp(logits / temperature), whatever truncation.

    Args:
      logits: `float32[B, V]`; a token of −inf adds nothing.
      temperature: above 0.
      drawn: changes nothing here.

    Returns:
      `float32[B]`, in nats.
    """
    del drawn
    log_p = jax.nn.log_softmax(logits / temperature, axis=-1)
    return jnp.sum(_term(log_p), axis=-1)


def top_entropy(count: int = 10) -> Uncertainty:
    """−Σ p_v log p_v over the `count` most probable tokens and the one drawn, whose mass is not 1.

    What ARPO's released code computes, from the log-probabilities that its server returns: of the ten most
    probable tokens, and of the one drawn where that is another.

    Args:
      count: tokens, at least 1; a smaller vocabulary is taken whole.

    Raises:
      ValueError: a count below 1.
    """
    if count < 1:
        raise ValueError(f"the entropy needs at least 1 token, got count={count}")

    def measure(logits: Array, temperature: float, drawn: Array) -> Array:
        log_p = jax.nn.log_softmax(logits / temperature, axis=-1)
        top, token = jax.lax.top_k(log_p, min(count, logits.shape[-1]))
        other = ~jnp.any(token == drawn[:, None], axis=-1)
        own = jnp.take_along_axis(log_p, drawn[:, None], axis=-1)[:, 0]
        return jnp.sum(_term(top), axis=-1) + jnp.where(other, _term(own), 0)

    return measure


def _term(log_p: Array) -> Array:
    """−p log p, 0 for a token that cannot be."""
    return -jnp.where(jnp.isneginf(log_p), 0, jnp.exp(log_p) * log_p)
