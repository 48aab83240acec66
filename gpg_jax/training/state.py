"""Everything that an update reads and writes, as one value."""

from __future__ import annotations

from typing import Any

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
    """

    params: Params
    optimizer: Any
    method: State
    reference: Params | None
    critic: CriticState | None
    key: Array
    update: Array
    rollout: Array


def create_state(
    params: Params,
    method: Method,
    optimizer: optax.GradientTransformation,
    key: Array,
    critic: CriticState | None = None,
) -> TrainState:
    """The first state: fresh moments, and the parameters themselves as the reference if one is needed.

    Args:
      params: first parameters; the state takes them over.
      method: decides whether a reference is kept.
      optimizer: whose state is made.
      key: typed PRNG key.
      critic: from `create_critic_state`, or None.
    """
    reference = jax.tree.map(jnp.copy, params) if "reference" in method.needs else None
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
    )


def create_critic_state(params: Params, optimizer: optax.GradientTransformation) -> CriticState:
    """The first state of a critic.

    Args:
      params: from `Critic.init`; the state takes them over.
      optimizer: whose state is made.
    """
    return CriticState(params=params, optimizer=optimizer.init(params))
