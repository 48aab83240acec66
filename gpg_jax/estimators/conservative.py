"""Conservative policy iteration: how far to mix the policy with an improved one.

The mixture π_α = (1 − α)·π + α·π′ is worth J(π_α) − J(π) ≥ α·g − α²·c, where g is what π′ gains on the states
that π visits and c what the states may shift (Kakade and Langford 2002, "Approximately optimal approximate
reinforcement learning"). c is `discounted_shift_cost` or `horizon_shift_cost`; the rest is one parabola.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gpg_jax.types import Array


def discounted_shift_cost(epsilon: Array | float, discount: float) -> Array:
    """c = 2γε / (1 − γ)², of a discounted task without end.

    Args:
      epsilon: ε = max_s |E_{a~π′} A^π(s, a)|, ≥ 0.
      discount: γ in [0, 1).

    Returns:
      Scalar.

    Raises:
      ValueError: a discount outside [0, 1).
    """
    if not 0 <= discount < 1:
        raise ValueError(
            f"the discount must lie in [0, 1), got {discount}: without one take horizon_shift_cost"
        )
    return jnp.asarray(epsilon) * (2 * discount / (1 - discount) ** 2)


def horizon_shift_cost(epsilon: Array | float, horizon: int) -> Array:
    """c = ε·H·(H − 1), of an undiscounted task of at most H actions, such as a response.

    At γ = 1 the discounted cost is ∞ and no step would ever be taken. The argument is the same: after h
    actions the two policies' states are apart by no more than 2αh, and Σ_{h<H} 2h = H(H − 1).

    Args:
      epsilon: ε = max_s |E_{a~π′} A^π(s, a)|, ≥ 0.
      horizon: H ≥ 1, actions.

    Returns:
      Scalar.

    Raises:
      ValueError: a horizon below 1.
    """
    if horizon < 1:
        raise ValueError(f"the horizon must be at least one action, got {horizon}")
    return jnp.asarray(epsilon) * (float(horizon) * (horizon - 1))


def improvement_bound(alpha: Array | float, gain: Array | float, shift_cost: Array | float) -> Array:
    """α·g − α²·c ≤ J(π_α) − J(π).

    Args:
      alpha: α in [0, 1], share of the new policy.
      gain: g = L_π(π′) − J(π): E_{a~π′} A^π(s, a) summed over the steps of π's episodes, discounted if the
        task is (over the normalised state distribution, 1/(1 − γ) times its mean).
      shift_cost: c ≥ 0.

    Returns:
      Of the arguments' shape.
    """
    return jnp.asarray(alpha * gain - jnp.square(alpha) * shift_cost)


def step_size(gain: Array | float, shift_cost: Array | float) -> Array:
    """α* = min{1, g / 2c}, where the bound is highest.

    That is (1 − γ)²g / 4γε with the discounted cost and g / 2εH(H − 1) with a horizon. Without a gain there
    is no step, α* = 0; with a gain that costs nothing it is whole, α* = 1.

    Args:
      gain, shift_cost: as in `improvement_bound`.

    Returns:
      Of the arguments' shape, in [0, 1].
    """
    free = jnp.asarray(shift_cost) == 0
    best = jnp.where(free, 1, jnp.minimum(gain / jnp.where(free, 1, 2 * shift_cost), 1))
    return jnp.where(jnp.asarray(gain) > 0, best, 0)


def mixture_log_prob(log_probs: Sequence[Array], weights: Array | Sequence[float]) -> Array:
    """log Σ_k w_k·π_k(a|s), the log-probability of a choice under a mixture of policies.

    Of two policies with the weights 1 − α and α it is that of π_α. The mixture is drawn anew at every choice.

    Args:
      log_probs: K arrays of one shape, log π_k of the same choices; −∞ where a policy excludes one.
      weights: `[K]`, w ≥ 0, adding up to 1.

    Returns:
      Of the log-probs' shape; −∞, with the gradient 0, where every policy excludes the choice. A policy of
      weight 0 is not there, whatever it says.

    Raises:
      ValueError: not one weight for each policy, or none.
    """
    weights = jnp.asarray(weights)
    if not log_probs or weights.shape != (len(log_probs),):
        raise ValueError(
            f"a mixture needs one weight for each policy, got {len(log_probs)} and weights {weights.shape}"
        )
    stacked = jnp.stack([jnp.asarray(log_prob) for log_prob in log_probs])
    weights = jnp.expand_dims(weights, tuple(range(1, stacked.ndim)))
    return jax.nn.logsumexp(stacked, axis=0, b=weights, where=stacked != -jnp.inf)
