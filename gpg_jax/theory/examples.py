"""Small decision problems whose numbers can be had by hand."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from gpg_jax.theory.mdp import MDP, make_mdp, policy_table
from gpg_jax.theory.updates import LogLinear
from gpg_jax.types import Array


class Pathology(NamedTuple):
    """A problem on which the surrogate promises what the new policy does not keep.

    Attributes:
      mdp: the MDP.
      policy: `[S, A]`, the old policy π.
      candidate: `[S, A]`, the new policy π′.
      family: policies from the one to the other: w = 0 is π, w → ∞ is π′, w → −∞ its opposite.
    """

    mdp: MDP
    policy: Array
    candidate: Array
    family: LogLinear


def bandit(rewards: Array) -> MDP:
    """One choice, and its reward: one state, γ = 0, so that J(π) = Σ_a π(a) R(a).

    Args:
      rewards: `[A]`.
    """
    return contextual_bandit(np.ones(1), np.asarray(rewards)[None])


def contextual_bandit(contexts: Array, rewards: Array) -> MDP:
    """A context s ~ d, one choice, and its reward: γ = 0, so that J(π) = E_{s~d} Σ_a π(a | s) r(s, a).

    Args:
      contexts: `[S]`, d.
      rewards: `[S, A]`.
    """
    states, actions = np.shape(rewards)
    stay = np.broadcast_to(np.eye(states)[:, None], (states, actions, states))
    return make_mdp(stay, rewards, contexts, 0.0)


def walk(rewards: Array, discount: float) -> MDP:
    """States in a row without a choice: state i pays rewards[i] and leads to the next, the last pays 0.

    Args:
      rewards: `[S − 1]`.
      discount: γ.
    """
    length = len(rewards) + 1
    following = np.minimum(np.arange(length) + 1, length - 1)
    reward = np.append(rewards, 0)[:, None]
    return make_mdp(np.eye(length)[following][:, None], reward, np.eye(length)[0], discount)


def distribution_shift(
    discount: float = 0.9, penalty: float = 100.0, enter: float = 1e-4, slip: float = 1e-3
) -> Pathology:
    """A door that π hardly ever takes, behind which it behaves well and π′ does not.

    Start (state 0): stay outside (action 0, reward 0, over) or enter (1). Room (state 1): 1 for being good
    (0), −M for being bad (1), over. The end (state 2) pays 0 for ever. π′ enters and is bad. The one feature
    ties both: what makes entering likelier makes being bad likelier.

    Args:
      discount: γ.
      penalty: M.
      enter: η = π(enter | start), in (0, 1).
      slip: η₂ = π(bad | room), in (0, 1).
    """
    legal = np.array([[True, True], [True, True], [True, False]])
    transition = np.zeros((3, 2, 3))
    transition[:, :, 2] = 1
    transition[0, 1] = [0, 1, 0]
    reward = np.array([[0, 0], [1, -penalty], [0, 0]])
    mdp = make_mdp(transition, reward, np.eye(3)[0], discount, legal)
    policy = np.array([[1 - enter, enter], [1 - slip, slip], [1, 0]])
    candidate = np.array([[0.0, 1], [0, 1], [1, 0]])
    features = jnp.asarray(candidate * [[1], [1], [0]])[:, :, None]
    offset = jnp.log(jnp.where(legal, policy, 1))
    return Pathology(
        mdp, policy_table(mdp, policy), policy_table(mdp, candidate), LogLinear(features, offset)
    )


def bernoulli_chain(horizon: int, discount: float) -> MDP:
    """H choices that change nothing, then a reward of 1, once: G_0 = γ^H whatever the policy.

    The reward is paid on leaving state H for the end. (Paid at an absorbing state, for ever, it would make
    G_0 = γ^H / (1 − γ).) States 0 .. H−1 choose between the actions 0 and 1, the others have action 0.

    Args:
      horizon: H ≥ 1.
      discount: γ.

    Returns:
      An MDP of H + 2 states.
    """
    states = horizon + 2
    transition = np.zeros((states, 2, states))
    transition[np.arange(states), :, np.minimum(np.arange(states) + 1, states - 1)] = 1
    reward = np.zeros((states, 2))
    reward[horizon, 0] = 1
    legal = np.ones((states, 2), bool)
    legal[horizon:, 1] = False
    return make_mdp(transition, reward, np.eye(states)[0], discount, legal)


def bernoulli_policy(mdp: MDP, probability: float) -> Array:
    """π(1 | s) = probability in every state of two actions, `[S, 2]`."""
    two = np.asarray(mdp.legal[:, 1])
    one = np.where(two, probability, 0)
    return policy_table(mdp, np.stack([1 - one, one], axis=1))


def random_mdp(seed: int, states: int, actions: int, discount: float) -> MDP:
    """Transitions and initial distribution from a flat Dirichlet, normal rewards.

    Args:
      seed: of NumPy's default generator.
      states: S.
      actions: A.
      discount: γ.
    """
    draw = np.random.default_rng(seed)
    transition = draw.dirichlet(np.ones(states), size=(states, actions))
    return make_mdp(
        transition, draw.normal(size=(states, actions)), draw.dirichlet(np.ones(states)), discount
    )
