"""A scalar on a transformer: the value of a state, or what a whole response is worth.

    V_φ(s_t) = w·h_t + b,   h_t the hidden state behind the last token of s_t

The states h are the policy's own, or those of a trunk that the critic has for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpg_jax.policies.policy import Policy
from gpg_jax.types import Array, Params


class Critic(NamedTuple):
    """A scalar function of states.

    Attributes:
      trunk: the network whose hidden states are read, None for the policy's.
      width: D, of those hidden states.
      init: key, parameters of the policy -> parameters `{"weight" [D], "bias" [][, "trunk"]}`.
    """

    trunk: Policy | None
    width: int
    init: Callable[[Array, Params], Params]


def head_critic(width: int) -> Critic:
    """A critic on the policy's own hidden states, which it shapes with its loss; 0 everywhere at first.

    Args:
      width: D, of the policy.
    """
    return Critic(None, width, lambda key, params: _zero_head(width))


def trunk_critic(trunk: Policy, width: int, *, from_policy: bool = True) -> Critic:
    """A critic with a transformer of its own; 0 everywhere at first.

    Args:
      trunk: its network; its head, where it has one, is not read.
      width: D, of the trunk.
      from_policy: whether the trunk starts from a copy of the policy's parameters, whose architecture it
        must then have, and not from `trunk.init`.
    """

    def init(key: Array, params: Params) -> Params:
        start = jax.tree.map(jnp.copy, params) if from_policy else trunk.init(key)
        return {**_zero_head(width), "trunk": start}

    return Critic(trunk, width, init)


def value(params: Params, hidden: Array) -> Array:
    """w·h + b in float32.

    Args:
      params: of the critic.
      hidden: `[..., D]`.

    Returns:
      `float32[...]`.
    """
    states, weight = hidden.astype(jnp.float32), params["weight"].astype(jnp.float32)
    return jnp.dot(states, weight, precision=jax.lax.Precision.HIGHEST) + params["bias"]


def _zero_head(width: int) -> Params:
    return {"weight": jnp.zeros((width,), jnp.float32), "bias": jnp.zeros((), jnp.float32)}
