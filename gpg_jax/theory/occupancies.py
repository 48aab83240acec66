"""How often a policy is in each state, discounted.

Two normalisations are in use: as a measure, Σ_t γ^t P(s_t = s) has the mass 1/(1 − γ); as a distribution,
(1 − γ) Σ_t γ^t P(s_t = s) has the mass 1. Every formula with the one carries a factor 1/(1 − γ) over the
same formula with the other, so that no function here has a default.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gpg_jax.theory.mdp import MDP, check_discounted
from gpg_jax.theory.values import state_transition
from gpg_jax.types import Array


def state_occupancy(mdp: MDP, policy: Array, *, normalise: bool) -> Array:
    """d_π = (I − γ P_πᵀ)⁻¹ ρ₀, times 1 − γ where it is normalised (Sutton et al. 1999).

    Args:
      mdp: the MDP, γ < 1.
      policy: `[S, A]`.
      normalise: whether the mass is 1, or 1/(1 − γ).

    Returns:
      `[S]`.

    Raises:
      ValueError: γ = 1.
    """
    check_discounted(mdp)
    measure = _measure(mdp, policy)
    return (1 - mdp.discount) * measure if normalise else measure


def occupancy(mdp: MDP, policy: Array, *, normalise: bool) -> Array:
    """d_π(s, a) = d_π(s) π(a | s), `[S, A]`; see `state_occupancy`."""
    return state_occupancy(mdp, policy, normalise=normalise)[:, None] * policy


@jax.jit
def _measure(mdp: MDP, policy: Array) -> Array:
    chain = jnp.eye(len(mdp.initial)) - mdp.discount * state_transition(mdp, policy).T
    return jnp.linalg.solve(chain, mdp.initial)
