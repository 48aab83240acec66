"""The state of a run before its first iteration."""

from __future__ import annotations

import jax

from experiments.critics import network_of
from experiments.setup import Setup, stream
from gpg_jax.training.sharding import placed
from gpg_jax.training.state import TrainState, create_critic_state, create_state
from gpg_jax.types import Array, Params


def first_state(setup: Setup) -> TrainState:
    """The state before the first iteration, laid out on the mesh."""
    places = jax.tree.map(lambda leaf: leaf.sharding, setup.like)
    critic, actors = setup.critic, setup.config.actors

    def create(params: Params, trunk: Params | None, key: Array) -> TrainState:
        own = None
        if critic is not None:
            values = critic.critic.init(key, network_of(params))
            values = values if trunk is None else {**values, "trunk": trunk}
            own = create_critic_state(values, critic.optimizer)
        return create_state(params, setup.method, setup.optimizer, key, own, actors.memory, actors.whole)

    if setup.pretrained is None:
        init = jax.jit(setup.policy.init, out_shardings=places.params)
        params = init(stream(setup.config, "init"))
    else:
        params = jax.tree.map(placed, setup.pretrained, places.params)
    trunk = None
    if critic is not None and critic.pretrained is not None:
        trunk = jax.tree.map(placed, critic.pretrained, places.critic.params["trunk"])
    started = jax.jit(create, out_shardings=places, donate_argnums=(0, 1))
    return started(params, trunk, stream(setup.config, "step"))
