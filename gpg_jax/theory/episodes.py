"""Episodes of H steps: values by backward recursion, state distributions by forward recursion.

The policy is stationary and what follows the H-th action counts for nothing, so values depend on the time.
Here γ = 1 is allowed. `unroll` makes the same episodes an MDP with an endless future.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gpg_jax.estimators.returns import state_discount
from gpg_jax.theory.mdp import MDP, check, make_mdp
from gpg_jax.theory.values import Values, backup, state_transition, with_advantage
from gpg_jax.types import Array


@functools.partial(jax.jit, static_argnames="horizon")
def episode_values(mdp: MDP, policy: Array, horizon: int) -> Values:
    """V_t = Σ_a π(a | ·) Q_t(·, a) with Q_t = r + γ P V_{t+1} and V_H = 0 (Bellman 1957).

    Args:
      mdp: the MDP.
      policy: `[S, A]`.
      horizon: H ≥ 1.

    Returns:
      The values at the times 0 .. H−1: `[H, S]` and `[H, S, A]`.

    Raises:
      ValueError: no step.
    """
    _check_horizon(horizon)
    check(mdp, policy)

    def backward(following: jax.Array, _: None) -> tuple[jax.Array, Values]:
        action = backup(mdp, following)
        value = jnp.sum(policy * action, axis=1)
        return value, with_advantage(mdp, value, action)

    return jax.lax.scan(backward, jnp.zeros_like(mdp.initial), None, horizon, reverse=True)[1]


@functools.partial(jax.jit, static_argnames="horizon")
def episode_states(mdp: MDP, policy: Array, horizon: int) -> Array:
    """P(s_t = s) at the times 0 .. H−1, `[H, S]`.

    Raises:
      ValueError: no step.
    """
    _check_horizon(horizon)
    chain = state_transition(mdp, policy)
    return jax.lax.scan(lambda now, _: (now @ chain, now), mdp.initial, None, horizon)[1]


def episode_performance(mdp: MDP, policy: Array, horizon: int) -> Array:
    """J_H(π) = E[Σ_{t<H} γ^t r(s_t, a_t)], a scalar."""
    return mdp.initial @ episode_values(mdp, policy, horizon).state[0]


def discounts(mdp: MDP, horizon: int) -> Array:
    """γ^t at the times 0 .. H−1, `[H]`: `returns.state_discount` of a row that acts at every time."""
    return state_discount(jnp.ones((1, horizon), bool), mdp.discount)[0]


def unroll(mdp: MDP, horizon: int) -> MDP:
    """The MDP whose states are (time, state), t = 0 .. H−1, and an end that pays nothing for ever.

    Its performance is `episode_performance`, and a policy of it may depend on the time. State s at time t is
    row t·S + s, the end is the last row.

    Args:
      mdp: the MDP, not traced.
      horizon: H ≥ 1.

    Returns:
      An MDP of H·S + 1 states.

    Raises:
      ValueError: no step.
    """
    _check_horizon(horizon)
    states, actions = mdp.legal.shape
    end = horizon * states
    transition = np.zeros((end + 1, actions, end + 1))
    for time in range(horizon - 1):
        now, then = time * states, (time + 1) * states
        transition[now:then, :, then : then + states] = mdp.transition
    transition[end - states :, :, end] = 1
    return make_mdp(
        transition,
        np.concatenate([np.tile(mdp.reward, (horizon, 1)), np.zeros((1, actions))]),
        np.concatenate([mdp.initial, np.zeros(end + 1 - states)]),
        float(mdp.discount),
        np.concatenate([np.tile(mdp.legal, (horizon, 1)), np.ones((1, actions), bool)]),
    )


def _check_horizon(horizon: int) -> None:
    if horizon < 1:
        raise ValueError(f"an episode has at least one step, got a horizon of {horizon}")
