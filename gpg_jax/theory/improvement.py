"""What a new policy is worth by the old one's advantages: the exact identity, and the surrogate.

J(π′) − J(π) is a sum of A^π over the states that π′ visits. The surrogate takes those that π visits, which
data of π show; the distribution-shift penalty is the difference. Conservative mixtures keep it small.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from gpg_jax.losses.gates import Gate
from gpg_jax.theory.episodes import discounts, episode_states, episode_values
from gpg_jax.theory.mdp import MDP, check
from gpg_jax.theory.occupancies import state_occupancy
from gpg_jax.theory.values import evaluate, performance
from gpg_jax.types import Array


class Conservative(NamedTuple):
    """What the bound of conservative policy iteration is made of, scalars.

    Attributes:
      gain: g = L_π(π′) − J(π).
      worst: ε = max_s |E_{a~π′} A^π(s, a)|, over all states, visited or not.
    """

    gain: Array
    worst: Array


def expected_advantage(mdp: MDP, policy: Array, new: Array) -> Array:
    """E_{a~π′} A^π(s, a), `[S]`; 0 for π′ = π.

    Args:
      mdp: the MDP, γ < 1.
      policy: `[S, A]`, π.
      new: `[S, A]`, π′. It need not be absolutely continuous with respect to π; where it is, this is the
        importance-weighted E_{a~π}[π′/π · A^π].
    """
    check(mdp, policy, new)
    return jnp.sum(new * evaluate(mdp, policy).advantage, axis=1)


def performance_difference(mdp: MDP, policy: Array, new: Array) -> Array:
    """J(π′) − J(π) = 1/(1 − γ) E_{s~d_π′, a~π′} A^π(s, a) (Kakade and Langford 2002, lemma 6.1).

    Args: as in `expected_advantage`.

    Returns:
      A scalar.
    """
    return state_occupancy(mdp, new, normalise=False) @ expected_advantage(mdp, policy, new)


def surrogate(mdp: MDP, policy: Array, new: Array) -> Array:
    """L_π(π′) = J(π) + 1/(1 − γ) E_{s~d_π, a~π′} A^π(s, a) (TRPO, arXiv 1502.05477, eq. 3).

    Args: as in `expected_advantage`.

    Returns:
      A scalar, equal to J(π) and with the gradient of J at π′ = π.
    """
    return performance(mdp, policy) + conservative_terms(mdp, policy, new).gain


def shift_penalty(mdp: MDP, policy: Array, new: Array) -> Array:
    """J(π′) − L_π(π′) = 1/(1 − γ) Σ_s (d_π′(s) − d_π(s)) E_{a~π′} A^π(s, a).

    Args: as in `expected_advantage`.

    Returns:
      A scalar; negative where the surrogate promises too much.
    """
    return _shift(mdp, policy, new) @ expected_advantage(mdp, policy, new)


def shift_bound(mdp: MDP, policy: Array, new: Array) -> Array:
    """1/(1 − γ) ‖d_π′ − d_π‖₁ max_s |E_{a~π′} A^π(s, a)| ≥ |shift_penalty|, a scalar."""
    worst = conservative_terms(mdp, policy, new).worst
    return jnp.sum(jnp.abs(_shift(mdp, policy, new))) * worst


def total_variation(policy: Array, new: Array) -> Array:
    """½ Σ_a |π′(a | s) − π(a | s)|, `[S]`."""
    return jnp.sum(jnp.abs(new - policy), axis=1) / 2


def mixture(policy: Array, new: Array, alpha: Array | float) -> Array:
    """π_α = (1 − α) π + α π′ (Kakade and Langford 2002), `[S, A]`, α in [0, 1].

    Of probabilities, where a 0 is exact; of log-probabilities it is `conservative.mixture_log_prob`.
    """
    return (1 - alpha) * policy + alpha * new


def conservative_terms(mdp: MDP, policy: Array, new: Array, horizon: int | None = None) -> Conservative:
    """The gain g and the worst expected advantage ε of mixing π′ into π.

    With them, `gpg_jax.estimators.conservative` has the bound J(π_α) − J(π) ≥ αg − α²c and its best α.

    Args:
      mdp: the MDP.
      policy: `[S, A]`, π.
      new: `[S, A]`, π′.
      horizon: H, for episodes of that many steps, or None for an endless future, γ < 1.

    Returns:
      The terms.
    """
    if horizon is None:
        advantage = expected_advantage(mdp, policy, new)
        visits = state_occupancy(mdp, policy, normalise=False)
    else:
        check(mdp, policy, new)
        advantage = jnp.sum(new[None] * episode_values(mdp, policy, horizon).advantage, axis=2)
        visits = discounts(mdp, horizon)[:, None] * episode_states(mdp, policy, horizon)
    return Conservative(jnp.sum(visits * advantage), jnp.max(jnp.abs(advantage)))


def gated_surrogate(mdp: MDP, policy: Array, new: Array, gate: Gate) -> Array:
    """1/(1 − γ) E_{s,a~d_π} gate(π′/π, A^π): what PPO climbs, without a sampling error.

    Args:
      mdp: the MDP, γ < 1.
      policy: `[S, A]`, π.
      new: `[S, A]`, π′; actions that π never takes are not seen.
      gate: of `gpg_jax.losses.gates`; with `no_gate` and π′ absolutely continuous this is L_π(π′) − J(π).

    Returns:
      A scalar.
    """
    check(mdp, policy, new)
    seen = policy > 0
    ratio = jnp.where(seen, new, 1) / jnp.where(seen, policy, 1)
    expected = jnp.sum(policy * gate(ratio, evaluate(mdp, policy).advantage), axis=1)
    return state_occupancy(mdp, policy, normalise=False) @ expected


def _shift(mdp: MDP, policy: Array, new: Array) -> Array:
    """(d_π′ − d_π) / (1 − γ), `[S]`."""
    before, after = (state_occupancy(mdp, table, normalise=False) for table in (policy, new))
    return after - before
