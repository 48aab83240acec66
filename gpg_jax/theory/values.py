"""What states and actions are worth under a policy, exactly, by a linear solve.

The value function solves V = r_π + γ P_π V; the rest follows from it. TD(0) in expectation has the same
fixed point.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpg_jax.estimators.temporal_difference import td_errors
from gpg_jax.theory.mdp import MDP, check, check_discounted
from gpg_jax.types import Array


class Values(NamedTuple):
    """The value functions of a policy; those of episodes have a leading axis of time.

    Attributes:
      state: `[S]`, V^π(s) = E[G_t | s_t = s].
      action: `[S, A]`, Q^π(s, a) = E[G_t | s_t = s, a_t = a].
      advantage: `[S, A]`, A^π = Q^π − V^π. Both are 0 where an action is not legal.
    """

    state: Array
    action: Array
    advantage: Array


def state_transition(mdp: MDP, policy: Array) -> Array:
    """P_π(s′ | s) = Σ_a π(a | s) P(s′ | s, a), `[S, S]`."""
    check(mdp, policy)
    return jnp.einsum("sa,sat->st", policy, mdp.transition)


def state_reward(mdp: MDP, policy: Array) -> Array:
    """r_π(s) = Σ_a π(a | s) r(s, a), `[S]`."""
    check(mdp, policy)
    return jnp.sum(policy * mdp.reward, axis=1)


def backup(mdp: MDP, value: Array) -> Array:
    """r(s, a) + γ E[value(s′)], `[S, A]`: Q^π where `value` is V^π (Bellman 1957)."""
    return mdp.reward + mdp.discount * (mdp.transition @ value)


def evaluate(mdp: MDP, policy: Array) -> Values:
    """V^π = (I − γ P_π)⁻¹ r_π, Q^π = r + γ P V^π, A^π = Q^π − V^π (Bellman 1957).

    Args:
      mdp: the MDP, γ < 1.
      policy: `[S, A]`.

    Returns:
      The values.

    Raises:
      ValueError: γ = 1.
    """
    check_discounted(mdp)
    return _evaluate(mdp, policy)


def with_advantage(mdp: MDP, state: Array, action: Array) -> Values:
    """The values of states `[S]` and actions `[S, A]` with A = Q − V, 0 where an action is not legal."""
    return Values(state, action, jnp.where(mdp.legal, action - state[:, None], 0))


@jax.jit
def _evaluate(mdp: MDP, policy: Array) -> Values:
    chain = jnp.eye(len(mdp.initial)) - mdp.discount * state_transition(mdp, policy)
    value = jnp.linalg.solve(chain, state_reward(mdp, policy))
    return with_advantage(mdp, value, backup(mdp, value))


def performance(mdp: MDP, policy: Array) -> Array:
    """J(π) = E[Σ_t γ^t r(s_t, a_t)] = Σ_s ρ₀(s) V^π(s), a scalar."""
    return mdp.initial @ evaluate(mdp, policy).state


def td_error(mdp: MDP, policy: Array, value: Array) -> Array:
    """E[δ_t | s_t = s] with δ_t = r(s_t, a_t) + γ V(s_{t+1}) − V(s_t) (Sutton 1988).

    δ is that of `td_errors`, of every transition (s, a, s′) as a row of one action; its target is held there.

    Args:
      mdp: the MDP.
      policy: `[S, A]`.
      value: `[S]`, V, any estimate; the error is 0 everywhere for V^π alone.

    Returns:
      `[S]`.
    """
    check(mdp, policy)
    every = mdp.transition.shape
    reward, before, after = (
        jnp.broadcast_to(table, every).reshape(-1)
        for table in (mdp.reward[:, :, None], value[:, None, None], value)
    )
    acts = jnp.ones((len(after), 1), bool)
    error = td_errors(reward[:, None], before[:, None], after, acts, mdp.discount)
    return jnp.einsum("sa,sat,sat->s", policy, mdp.transition, error.reshape(every))


def td_update(mdp: MDP, policy: Array, value: Array, step_size: float, visits: Array) -> Array:
    """V(s) + η d(s) E[δ | s]: what one step of TD(0) does in expectation (Sutton 1988).

    Args:
      mdp: the MDP.
      policy: `[S, A]`.
      value: `[S]`, V.
      step_size: η.
      visits: `[S]`, d, how often each state is updated.

    Returns:
      `[S]`.
    """
    return value + step_size * visits * td_error(mdp, policy, value)
