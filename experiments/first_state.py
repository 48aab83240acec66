"""The state of a run before its first iteration."""

from __future__ import annotations

import jax

from experiments.critics import given_params, network_of
from experiments.setup import Setup, stream
from gpg_jax.training.sharding import placed
from gpg_jax.training.state import TrainState, create_critic_state, create_state
from gpg_jax.types import Array, Params


def first_state(setup: Setup) -> TrainState:
    """The state before the first iteration, laid out on the mesh.

    Raises:
      ValueError: a critic that starts as a checkpoint of a reward model which is not there, or is damaged.
    """
    places = jax.tree.map(lambda leaf: leaf.sharding, setup.like)
    critic, actors = setup.critic, setup.config.actors

    def create(params: Params, given: Params, key: Array) -> TrainState:
        own = None
        if critic is not None:
            values = critic.critic.init(key, network_of(params))
            own = create_critic_state({**values, **given}, critic.optimizer)
        return create_state(params, setup.method, setup.optimizer, key, own, actors.memory, actors.whole)

    if setup.pretrained is None:
        init = jax.jit(setup.policy.init, out_shardings=places.params)
        params = init(stream(setup.config, "init"))
    else:
        params = jax.tree.map(placed, setup.pretrained, places.params)
    like = setup.like.critic
    given = {} if critic is None or like is None else given_params(critic, like.params)
    started = jax.jit(create, out_shardings=places, donate_argnums=(0, 1))
    return started(params, given, stream(setup.config, "step"))
