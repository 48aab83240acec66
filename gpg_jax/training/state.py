"""Everything that an update reads and writes, as one value."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from gpg_jax.types import Array, Conservative, Method, Params, State


@struct.dataclass
class CriticState:
    """What belongs to a critic.

    Attributes:
      params: float32 master parameters.
      optimizer: state of its own optax transformation.
    """

    params: Params
    optimizer: Any


class Networks(NamedTuple):
    """Parameters of the policy, and of the critic where there is one."""

    policy: Params
    critic: Params | None


@struct.dataclass
class TrainState:
    """The state of a run between two rollouts.

    Attributes:
      params: float32 master parameters of the policy.
      optimizer: state of the optax transformation; () where updates begin with fresh moments.
      method: the method's own state (running baseline, adaptive coefficient).
      reference: parameters of the reference policy, or None where the method has none.
      critic: parameters and moments of the critic, or None where the method has none.
      key: typed PRNG key of the run; it is folded with `rollout`, never advanced.
      update: `int32[]`, optimizer updates so far.
      rollout: `int32[]`, rollouts trained on so far.
      past: what the networks were before each of the last iterations, the newest first, without a critic
        where its past is not read; empty where nothing is made with old parameters, or where that is not to
        be repeated.
    """

    params: Params
    optimizer: Any
    method: State
    reference: Params | None
    critic: CriticState | None
    key: Array
    update: Array
    rollout: Array
    past: tuple[Networks, ...] = ()


def create_state(
    params: Params,
    method: Method,
    optimizer: optax.GradientTransformation,
    key: Array,
    critic: CriticState | None = None,
    memory: int = 0,
    critic_too: bool = True,
) -> TrainState:
    """The first state: fresh moments, and the parameters themselves as the reference if one is needed.

    Args:
      params: first parameters; the state takes them over.
      method: decides whether a reference is kept.
      optimizer: whose state is made.
      key: typed PRNG key.
      critic: from `create_critic_state`, or None.
      memory: iterations whose networks are remembered.
      critic_too: whether the critic is among them.
    """
    reference = jax.tree.map(jnp.copy, params) if "reference" in method.needs else None
    networks = Networks(params, critic.params if critic is not None and critic_too else None)
    fresh = isinstance(method.update, Conservative)
    return TrainState(
        params=params,
        optimizer=() if fresh else optimizer.init(params),
        method=jax.tree.map(jnp.asarray, method.state),
        reference=reference,
        critic=critic,
        key=key,
        update=jnp.zeros((), jnp.int32),
        rollout=jnp.zeros((), jnp.int32),
        past=tuple(jax.tree.map(jnp.copy, networks) for _ in range(memory)),
    )


def networks_of(state: TrainState) -> Networks:
    """The networks as they are."""
    return Networks(state.params, None if state.critic is None else state.critic.params)


def remember(before: TrainState, state: TrainState) -> TrainState:
    """The state behind an iteration, with what it was before at the head of its memory, if it has one."""
    if not before.past:
        return state
    networks = networks_of(before)
    if before.past[0].critic is None:
        networks = networks._replace(critic=None)
    return dataclasses.replace(state, past=(networks, *before.past[:-1]))


def create_critic_state(params: Params, optimizer: optax.GradientTransformation) -> CriticState:
    """The first state of a critic.

    Args:
      params: from `Critic.init`; the state takes them over.
      optimizer: whose state is made.
    """
    return CriticState(params=params, optimizer=optimizer.init(params))
