"""The critic of a run: its network, its optimizer, where its weights come from, and when it is ready."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.config import Experiment
from experiments.config_checks import check_unread
from experiments.optimizers import learning_rate, make_optimizer
from experiments.reward_model.trained import Trained, find_trained, load_trained
from gpg_jax.data.tokenizers import Tokenizer
from gpg_jax.policies.architecture import Architecture
from gpg_jax.policies.critic import Critic, head_critic, trunk_critic
from gpg_jax.policies.pretrained import load_pretrained
from gpg_jax.policies.transformer import transformer
from gpg_jax.training.sharding import placed
from gpg_jax.training.state import TrainState
from gpg_jax.types import Array, Method, Params


class CriticSetup(NamedTuple):
    """What a critic is made of.

    Attributes:
      critic: the network.
      optimizer: its own.
      pretrained: weights of its trunk on the host, or None where it starts as a copy of the policy's, or
        as what `trained` has learnt.
      trained: the reward model whose trunk and head it starts as, or None.
    """

    critic: Critic
    optimizer: optax.GradientTransformation
    pretrained: Params | None = None
    trained: Trained | None = None


def make_critic(
    config: Experiment, method: Method, tokenizer: Tokenizer, architecture: Architecture, updates: int
) -> CriticSetup | None:
    """The critic that a method needs, or None.

    Args:
      config: of the run.
      method: the run's.
      tokenizer: of the policy.
      architecture: of the policy.
      updates: that the critic will have at most.

    Raises:
      ValueError: what nothing reads, one whose vocabulary is not the policy's, or no reward model that fits.
    """
    given, wanted = config.critic, "value" in method.needs
    if not wanted:
        without = f"the method {config.method.name!r} has no critic: take one that has, like 'ppo'"
        check_unread(given, "critic", without)
        return None
    optimizer = make_optimizer(given.optimizer, learning_rate(given.optimizer, updates))
    if given.trunk == "policy":
        return CriticSetup(head_critic(architecture.width), optimizer)
    own, pretrained, trained = architecture, None, None
    if given.name is not None:
        own, pretrained = load_pretrained(given.name, given.revision)
        if own.vocab_size != architecture.vocab_size:
            raise ValueError(
                f"critic.name is {given.name!r}, which reads {own.vocab_size} tokens, and the policy writes "
                f"{architecture.vocab_size}: a critic must have the policy's tokenizer"
            )
    if given.workdir is not None:
        trained = find_trained("critic", given.workdir, given.checkpoint, config, tokenizer)
        own = trained.model.architecture
    network = transformer(own, dtype=jnp.dtype(config.model.dtype), remat=config.model.remat)
    critic = trunk_critic(network, own.width, from_policy=given.copies)
    return CriticSetup(critic, optimizer, pretrained, trained)


def given_params(critic: CriticSetup, like: Params) -> Params:
    """The first parameters of a critic that are read, not made: all of them, its trunk, or none.

    Args:
      critic: from `make_critic`.
      like: shapes and places of its parameters.

    Raises:
      ValueError: no such checkpoint of a reward model, or one that is damaged.
    """
    if critic.trained is not None:
        read: Params = load_trained(critic.trained, like).state
        return read
    if critic.pretrained is not None:
        places = jax.tree.map(lambda leaf: leaf.sharding, like["trunk"])
        return {"trunk": jax.tree.map(placed, critic.pretrained, places)}
    return {}


def ready(config: Experiment) -> Callable[[dict[str, Array]], bool] | None:
    """Metrics of an iteration of the pretraining -> whether the critic explains enough; None never asks."""
    least = config.critic.explained_variance
    if least is None:
        return None
    return lambda metrics: float(metrics["explained_variance"]) >= least


def shortfall(config: Experiment, metrics: Mapping[str, float]) -> str | None:
    """What is to be said of a critic whose pretraining is through and that explains less than was asked.

    Args:
      config: of the run.
      metrics: of the last iteration that the pretraining may have.
    """
    asked = config.critic.explained_variance
    if asked is None or metrics["explained_variance"] >= asked:
        return None
    return (
        f"critic.pretraining_steps are through, and the critic explains {metrics['explained_variance']:.3f} "
        f"of the variance of the returns, where critic.explained_variance asks for {asked}: the method "
        "begins with it as it is"
    )


def from_policy(state: TrainState) -> TrainState:
    """The state with the trunk of a separate critic copied from the policy as it is now."""
    if state.critic is None or "trunk" not in state.critic.params:
        return state
    params = {**state.critic.params, "trunk": jax.tree.map(jnp.copy, network_of(state.params))}
    return dataclasses.replace(state, critic=dataclasses.replace(state.critic, params=params))


def network_of(params: Params) -> Params:
    """The parameters of a policy's one network: of a mixture, its newest member's."""
    return params["members"][0] if "members" in params else params
