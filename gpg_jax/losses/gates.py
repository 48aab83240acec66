"""Gates: how far the surrogate of a choice follows its ratio.

A gate is `(ratio, advantage) -> surrogate`, elementwise, to be maximised. Its derivative in the ratio is
advantage times an opening between 0 and 1; autodiff supplies it, nothing is multiplied in by hand. A choice
without an advantage has the surrogate 0 whatever its ratio, ∞ included.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gpg_jax.types import Array

Gate = Callable[[Array, Array], Array]


def _times(ratio: Array, advantage: Array) -> Array:
    """r·A, and 0 where A is, for any r."""
    return jnp.where(advantage == 0, 1, ratio) * advantage


def no_gate(ratio: Array, advantage: Array) -> Array:
    """The importance-sampled surrogate r·A (Kakade and Langford 2002; TRPO, arXiv 1502.05477, eq. 14).

    Args:
      ratio: `[B, L]`.
      advantage: `[B, L]`.

    Returns:
      `[B, L]`.
    """
    return _times(ratio, advantage)


def clip_gate(low: float, high: float) -> Gate:
    """min(r·A, clip(r, 1 − ε_low, 1 + ε_high)·A).

    PPO, arXiv 1707.06347, eq. 7 with ε_low = ε_high; DAPO, arXiv 2503.14476, eq. 8, decouples them.

    Args:
      low: ε_low ≥ 0.
      high: ε_high ≥ 0.

    Returns:
      The gate.

    Raises:
      ValueError: a negative ε.
    """
    if low < 0 or high < 0:
        raise ValueError(f"clip ranges must not be negative, got low={low}, high={high}")

    def gate(ratio: Array, advantage: Array) -> Array:
        return jnp.minimum(_times(ratio, advantage), jnp.clip(ratio, 1 - low, 1 + high) * advantage)

    return gate


def dual_clip_gate(low: float, high: float, bound: float) -> Gate:
    """max(c·A, min(r·A, clip(r, 1 − ε_low, 1 + ε_high)·A)) where A < 0, and `clip_gate` elsewhere.

    Ye et al. 2020, arXiv 1912.09729: a ratio above c no longer pushes down.

    Args:
      low: ε_low ≥ 0.
      high: ε_high ≥ 0.
      bound: c > 1 + ε_high.

    Returns:
      The gate.

    Raises:
      ValueError: a negative ε, or a bound inside the clip range.
    """
    clipped = clip_gate(low, high)
    if bound <= 1 + high:
        raise ValueError(f"the dual clip's bound must be above 1 + high = {1 + high}, got {bound}")

    def gate(ratio: Array, advantage: Array) -> Array:
        surrogate = clipped(ratio, advantage)
        return jnp.where(advantage < 0, jnp.maximum(surrogate, bound * advantage), surrogate)

    return gate


def soft_gate(temperature_positive: float, temperature_negative: float) -> Gate:
    """f(r)·A with f(r) = (4/τ)·σ(τ(r − 1)), τ = τ_pos where A > 0 and τ_neg elsewhere.

    SAPO, arXiv 2511.20347. f′(r) = sech²(τ(r − 1)/2) is 1 at r = 1, symmetric about it, and
    falls smoothly on both sides; τ → 0 is `no_gate`'s gradient.

    Args:
      temperature_positive: τ_pos ≥ 1e-3.
      temperature_negative: τ_neg ≥ 1e-3.

    Returns:
      The gate.

    Raises:
      ValueError: a temperature below 1e-3, where 4/τ·σ loses its digits; use `no_gate`.
    """
    if min(temperature_positive, temperature_negative) < 1e-3:
        raise ValueError(
            "the soft gate's temperatures must be at least 1e-3 (use no gate for the limit 0), got "
            f"{temperature_positive} and {temperature_negative}"
        )

    def gate(ratio: Array, advantage: Array) -> Array:
        temperature = jnp.where(advantage > 0, temperature_positive, temperature_negative)
        return 4 / temperature * jax.nn.sigmoid(temperature * (ratio - 1)) * advantage

    return gate
