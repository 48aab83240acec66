"""Importance sampling, exactly: the moments of trajectory weights, and of estimators from N samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpg_jax.theory.mdp import MDP, check, require_float64
from gpg_jax.types import Array

LIMIT = 1_000_000
"""The most tuples of samples that are listed."""


class Moments(NamedTuple):
    """Mean and variance of an estimator, scalars."""

    mean: Array
    variance: Array


def estimator_moments(estimator: Callable[[Array], Array], probability: Array, samples: int) -> Moments:
    """Mean and variance over N independent samples, by listing all X^N tuples.

    Args:
      estimator: outcomes `int32[N]` -> scalar in float64.
      probability: `[X]`, of the outcomes.
      samples: N ≥ 1.

    Returns:
      The moments.

    Raises:
      ValueError: no sample, more than `LIMIT` tuples, or estimates that are not in float64.
    """
    require_float64()
    outcomes = len(probability)
    if samples < 1 or outcomes**samples > LIMIT:
        raise ValueError(
            f"from 1 sample up to {LIMIT} tuples can be listed, got {samples} samples of {outcomes} outcomes"
        )

    @jax.jit
    def moments(probability: Array, tuples: Array) -> Moments:
        estimates = jax.vmap(estimator)(tuples)
        if estimates.dtype != jnp.float64:
            raise ValueError(f"moments are exact in float64 alone, the estimator returns {estimates.dtype}")
        weight = jnp.prod(probability[tuples], axis=1)
        mean = weight @ estimates
        return Moments(mean, weight @ jnp.square(estimates - mean))

    return moments(probability, np.indices((outcomes,) * samples, np.int32).reshape(samples, -1).T)


def second_moment(behaviour: Array, target: Array) -> Array:
    """E[w²] = Σ_a target(a)² / behaviour(a) = 1 + χ²(target ‖ behaviour) of the weight w = target/behaviour.

    Args:
      behaviour: `[..., A]`, probabilities that samples come from.
      target: `[..., A]`, probabilities that are asked about.

    Returns:
      `[...]`; ∞ where the target takes what the behaviour never does.
    """
    return jnp.sum(_weighted(behaviour, target), axis=-1)


def weight_variance(mdp: MDP, behaviour: Array, target: Array, horizon: int) -> Array:
    """Var w(τ) = E[w²] − 1 of the weight w(τ) = Π_{t<H} target(a_t | s_t) / behaviour(a_t | s_t).

    E[w²] = ρ₀ᵀ M^H 1 with M(s, s′) = Σ_a target(a | s)² / behaviour(a | s) · P(s′ | s, a). In one state it
    is `second_moment` to the power H: the variance grows exponentially with the horizon.

    Args:
      mdp: the MDP.
      behaviour: `[S, A]`, the policy that samples, not traced.
      target: `[S, A]`, the policy that is asked about, not traced.
      horizon: H ≥ 0.

    Returns:
      A scalar.

    Raises:
      ValueError: the target takes an action that the behaviour never does, so that no weight corrects for it.
    """
    check(mdp, behaviour, target)
    missing = np.argwhere((np.asarray(behaviour) == 0) & (np.asarray(target) > 0))
    if len(missing):
        raise ValueError(
            "importance weights need a behaviour that takes every action of the target, "
            f"it never takes (state, action) {missing.tolist()}"
        )
    step = jnp.einsum("sa,sat->st", _weighted(behaviour, target), mdp.transition)
    square = jnp.ones_like(mdp.initial)
    for _ in range(horizon):
        square = step @ square
    return mdp.initial @ square - 1


def _weighted(behaviour: Array, target: Array) -> Array:
    """target² / behaviour, and 0 where the target is 0."""
    taken = target > 0
    return jnp.where(taken, jnp.square(target) / jnp.where(taken, behaviour, 1), 0)
