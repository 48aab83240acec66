"""Importance sampling: expectations under π from samples of another distribution."""

from __future__ import annotations

import jax.numpy as jnp

from gpg_jax.estimators.masked import masked_sum
from gpg_jax.types import Array


def importance_estimate(values: Array, log_weight: Array, mask: Array) -> Array:
    """(1/N) Σ_i w_i f(x_i), w = π/μ: unbiased.

    Args:
      values: `[N]`, f(x_i) of samples of μ.
      log_weight: `[N]`, log π(x_i) − log μ(x_i).
      mask: `bool[N]`, the samples that count.

    Returns:
      Scalar; 0 without samples.
    """
    weight = jnp.exp(jnp.where(mask, log_weight, 0))
    return masked_sum(weight * jnp.where(mask, values, 0), mask) / jnp.maximum(jnp.sum(mask), 1)


def self_normalised_estimate(values: Array, log_weight: Array, mask: Array) -> Array:
    """Σ_i w_i f(x_i) / Σ_i w_i: biased in finite samples, exact for constants, of lower variance.

    The weights may be known up to a factor. See `importance_estimate` for the arguments.
    """
    weight = _shifted_weights(log_weight, mask)
    total = jnp.sum(weight)
    return jnp.sum(weight * jnp.where(mask, values, 0)) / jnp.where(total > 0, total, 1)


def effective_sample_size(log_weight: Array, mask: Array) -> Array:
    """(Σ w)² / Σ w² (Kong 1992): the number of samples of π that the weighted samples are worth.

    Args:
      log_weight: `[N]`.
      mask: `bool[N]`, the samples that count.

    Returns:
      Scalar between 0 and N.
    """
    weight = _shifted_weights(log_weight, mask)
    square = jnp.sum(jnp.square(weight))
    return jnp.square(jnp.sum(weight)) / jnp.where(square > 0, square, 1)


def _shifted_weights(log_weight: Array, mask: Array) -> Array:
    """Weights up to a factor, the largest 1; 0 where masked."""
    log_weight = jnp.where(mask, log_weight, -jnp.inf)
    largest = jnp.max(log_weight)
    return jnp.exp(log_weight - jnp.where(jnp.isfinite(largest), largest, 0))
