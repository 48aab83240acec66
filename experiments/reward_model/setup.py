"""From a configuration to everything that a reward model's run is made of; nothing is compiled or written."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from rich.table import Table

from experiments.config_checks import check_length
from experiments.models import count, load_model
from experiments.optimizers import learning_rate, make_optimizer
from experiments.reward_model.data import PreferenceData, load_preferences
from experiments.reward_model.experiment import RewardModelExperiment
from experiments.tasks import load_asker
from gpg_jax.data.tokenizers import Tokenizer, check_tokenizer_fits
from gpg_jax.policies.architecture import Architecture, RopeScaling
from gpg_jax.policies.critic import Critic, trunk_critic
from gpg_jax.policies.transformer import transformer
from gpg_jax.training.checkpoints import template
from gpg_jax.training.reward_model import PreferenceProgram
from gpg_jax.training.sharding import critic_shardings, make_mesh, placed, row_shards, rows_on
from gpg_jax.training.state import CriticState, create_critic_state
from gpg_jax.types import Array, Params

MODEL = "model.json"
"""What a run's folder says of its model."""


class Model(NamedTuple):
    """What a reward model is, apart from its weights; it is kept beside them.

    Attributes:
      architecture: of its transformer.
      dtype: that it computes in.
      tokenizer: `fingerprint` of the tokenizer that it reads.
    """

    architecture: Architecture
    dtype: str
    tokenizer: str


class RewardSetup(NamedTuple):
    """What a run is made of.

    Attributes:
      config: what was asked for.
      mesh: the devices.
      preferences: what is learnt from.
      model: what learns.
      program: how it does.
      pretrained: weights of its transformer on the host, or None where it starts from scratch.
      like: shapes and places of the state.
    """

    config: RewardModelExperiment
    mesh: Mesh
    preferences: PreferenceData
    model: Model
    program: PreferenceProgram
    pretrained: Params | None
    like: CriticState


def build(config: RewardModelExperiment) -> RewardSetup:
    """Reads data and model, and checks everything that can be checked before anything compiles.

    Raises:
      ValueError: whatever is wrong, in a sentence.
    """
    mesh = make_mesh(config.mesh)
    _check_sizes(config, row_shards(mesh))
    tokenizer, ask = load_asker(config.model, config.task)
    preferences = load_preferences(config, tokenizer, ask)
    architecture, pretrained = load_model(config.model, tokenizer)
    check_tokenizer_fits(tokenizer, architecture.vocab_size)
    sizes = config.task.prompt_tokens, config.preferences.response_tokens
    keys = "task.prompt_tokens", "preferences.response_tokens"
    check_length(dict(zip(keys, sizes, strict=True)), architecture.max_length)
    model = Model(architecture, config.model.dtype, fingerprint(tokenizer))
    optimizer = optimizer_of(config)
    program = PreferenceProgram(
        critic=make_reward_model(model, remat=config.model.remat, pretrained=pretrained is not None),
        optimizer=optimizer,
        prompt_slots=config.task.prompt_tokens,
        new_slots=config.preferences.response_tokens,
        micro_batches=config.schedule.micro_batches,
        centring=config.preferences.centring,
        constrain=rows_on(mesh),
    )
    like = state_like(program.critic, optimizer, mesh)
    return RewardSetup(config, mesh, preferences, model, program, pretrained, like)


def make_reward_model(model: Model, *, remat: bool = False, pretrained: bool = False) -> Critic:
    """The network of a reward model; `pretrained` says whether `Critic.init` is given its first weights."""
    network = transformer(model.architecture, dtype=jnp.dtype(model.dtype), remat=remat)
    return trunk_critic(network, model.architecture.width, from_policy=pretrained)


def optimizer_of(config: RewardModelExperiment) -> optax.GradientTransformation:
    """What is done with a gradient."""
    return make_optimizer(config.optimizer, learning_rate(config.optimizer, config.schedule.steps))


def state_like(critic: Critic, optimizer: optax.GradientTransformation, mesh: Mesh) -> CriticState:
    """Shapes, types and places of the state of a reward model."""

    def create(key: Array) -> CriticState:
        assert critic.trunk is not None  # a reward model has one
        return create_critic_state(critic.init(key, critic.trunk.init(key)), optimizer)

    shapes = jax.eval_shape(create, jax.random.key(0))
    return template(shapes, critic_shardings(shapes, optimizer, mesh))


def first_state(setup: RewardSetup) -> CriticState:
    """The state before the first update, laid out on the mesh."""
    places = jax.tree.map(lambda leaf: leaf.sharding, setup.like)
    critic, optimizer = setup.program.critic, setup.program.optimizer
    given = setup.pretrained
    if given is not None:
        given = jax.tree.map(placed, given, places.params["trunk"])

    def create(key: Array, params: Params | None) -> CriticState:
        return create_critic_state(critic.init(key, params), optimizer)

    key = jax.random.fold_in(jax.random.key(setup.config.seed), 0)
    return jax.jit(create, out_shardings=places, donate_argnums=1)(key, given)


def fingerprint(tokenizer: Tokenizer) -> str:
    """A digest of what every id stands for: two tokenizers with the same one write the same rows."""
    roles = [tokenizer.vocab_size, tokenizer.eos_ids, tokenizer.special_tokens]
    said = [token.hex() for token in tokenizer.token_bytes]
    return hashlib.sha256(json.dumps([roles, said]).encode()).hexdigest()


def model_to_json(model: Model) -> str:
    """A `Model` as it is kept."""
    kept = {**model._asdict(), "architecture": dataclasses.asdict(model.architecture)}
    return json.dumps(kept, indent=1)


def model_from_json(text: str) -> Model:
    """What `model_to_json` gave.

    Raises:
      ValueError: anything else.
    """
    try:
        kept: dict[str, Any] = json.loads(text)
        sizes = kept["architecture"]
        scaling = sizes["rope_scaling"]
        sizes["rope_scaling"] = None if scaling is None else RopeScaling(**scaling)
        return Model(Architecture(**sizes), kept["dtype"], kept["tokenizer"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"it is not the description of a reward model ({error!r})") from error


def table(setup: RewardSetup) -> Table:
    """The run as it is printed at the start."""
    config, shape = setup.config, setup.config.schedule
    mesh = " × ".join(f"{name} {size}" for name, size in setup.mesh.shape.items())
    own = shape.pairs // shape.micro_batches
    prompt, response = config.task.prompt_tokens, config.preferences.response_tokens
    epochs = shape.steps * shape.pairs / len(setup.preferences.train)
    rows = {
        "reward model": f"{config.model.name or 'from scratch'}, {count(setup.like.params):,} parameters, "
        f"{config.model.dtype}",
        "devices": f"{setup.mesh.size} {setup.mesh.devices.flat[0].platform} ({mesh})",
        "preferences": setup.preferences.summary,
        "row": f"{prompt} + {response} = {prompt + response} tokens at most",
        "updates": f"{shape.steps:,} of {shape.pairs} pairs, {epochs:.2f} epochs",
        "micro-batches": f"{shape.micro_batches} of {own} pairs, {own // row_shards(setup.mesh)} a device",
    }
    result = Table(show_header=False, title="schedule", title_justify="left")
    for name, value in rows.items():
        result.add_row(name, value)
    return result


def _check_sizes(config: RewardModelExperiment, shards: int) -> None:
    pairs, parts = config.schedule.pairs, config.schedule.micro_batches
    if pairs % (parts * shards):
        raise ValueError(
            f"schedule.pairs is {pairs}, which cannot be cut into {parts} micro-batches on {shards} devices; "
            f"choose a multiple of {parts * shards}"
        )
    if config.evaluation.batch % shards:
        raise ValueError(
            f"evaluation.batch is {config.evaluation.batch}, and pairs are scored on {shards} devices; "
            f"choose a multiple of {shards}"
        )
