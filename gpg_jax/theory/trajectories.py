"""Every trajectory of an episode, so that expectations over trajectories are finite sums.

There are up to (S·A)^H of them: this is for small H. Only trajectories that some policy can produce are
listed.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpg_jax.estimators.returns import backward_recursion
from gpg_jax.theory.mdp import MDP, check
from gpg_jax.types import Array

LIMIT = 1_000_000
"""The most trajectories that are listed."""


class Trajectories(NamedTuple):
    """All N trajectories of H steps.

    Attributes:
      state: `int32[N, H]`, s_t.
      action: `int32[N, H]`, a_t.
      environment: `[N]`, ρ₀(s_0) Π_t P(s_{t+1} | s_t, a_t) over t < H − 1: the part of the probability that
        no policy changes.
      reward: `[N, H]`, r(s_t, a_t).
      to_go: `[N, H]`, G_t = Σ_{t ≤ j < H} γ^(j−t) r_j.
    """

    state: Array
    action: Array
    environment: Array
    reward: Array
    to_go: Array


def enumerate_trajectories(mdp: MDP, horizon: int) -> Trajectories:
    """Lists the trajectories of an MDP that is not traced.

    Args:
      mdp: the MDP.
      horizon: H ≥ 1.

    Returns:
      The trajectories.

    Raises:
      ValueError: no step, or more than `LIMIT` trajectories.
    """
    if horizon < 1:
        raise ValueError(f"an episode has at least one step, got a horizon of {horizon}")
    check(mdp)
    transition, legal = np.asarray(mdp.transition), np.asarray(mdp.legal)
    reached = np.asarray(mdp.initial)[None, :]
    states = actions = np.zeros((1, 0), np.int32)
    for _ in range(horizon):
        parent, state, action = np.nonzero((reached > 0)[:, :, None] & legal)
        if len(parent) > LIMIT:
            raise ValueError(f"more than {LIMIT} trajectories of {horizon} steps; take a smaller horizon")
        environment = reached[parent, state]
        states = np.concatenate([states[parent], state[:, None].astype(np.int32)], axis=1)
        actions = np.concatenate([actions[parent], action[:, None].astype(np.int32)], axis=1)
        reached = environment[:, None] * transition[state, action]
    reward = np.asarray(mdp.reward)[states, actions]
    to_go = _reward_to_go(reward, mdp.discount, np.ones(states.shape, bool), np.zeros(len(states)))
    return Trajectories(*map(jnp.asarray, (states, actions, environment, reward, to_go)))


_reward_to_go = jax.jit(backward_recursion)


@jax.jit
def trajectory_probability(trajectories: Trajectories, policy: Array) -> Array:
    """p_π(τ) = ρ₀(s_0) Π_t π(a_t | s_t) P(s_{t+1} | s_t, a_t), `[N]`."""
    chosen = policy[trajectories.state, trajectories.action]
    return trajectories.environment * jnp.prod(chosen, axis=1)


@jax.jit
def trajectory_weight(trajectories: Trajectories, behaviour: Array, target: Array) -> Array:
    """w(τ) = Π_t target(a_t | s_t) / behaviour(a_t | s_t), `[N]`.

    Of probabilities, where a 0 is exact; its logarithm is what `estimators.importance` takes for samples.

    Args:
      trajectories: of the MDP.
      behaviour: `[S, A]`, the policy that samples; a trajectory that it cannot produce has no weight, and
        gets 0.
      target: `[S, A]`, the policy that is asked about.
    """
    sampled = behaviour[trajectories.state, trajectories.action]
    wanted = target[trajectories.state, trajectories.action]
    possible = sampled > 0
    ratio = jnp.where(possible, wanted, 0) / jnp.where(possible, sampled, 1)
    return jnp.prod(ratio, axis=1)
