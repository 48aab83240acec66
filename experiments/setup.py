"""From a configuration to everything that a run is made of; nothing is compiled, nothing is written."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from experiments.config import Experiment, ModelConfig
from experiments.methods import make_method
from experiments.optimizers import make_optimizer
from experiments.schedule import Schedule, derive
from experiments.tasks import Task, load_task
from gpg_jax.data.tokenizers import Tokenizer, check_tokenizer_fits, vocabulary_bytes
from gpg_jax.decoding.automaton import Automaton, compile_automaton
from gpg_jax.decoding.sampling import Sampling
from gpg_jax.decoding.sharded import compile_decode
from gpg_jax.policies.architecture import Architecture
from gpg_jax.policies.policy import Policy
from gpg_jax.policies.pretrained import load_pretrained
from gpg_jax.policies.transformer import transformer
from gpg_jax.training.checkpoints import template
from gpg_jax.training.collect import Collector, Decode
from gpg_jax.training.sharding import ROWS, parameter_specs, state_shardings
from gpg_jax.training.state import TrainState, create_state
from gpg_jax.training.step import Program, Step, compile_step, make_step
from gpg_jax.types import Array, Method, Params, Rollout

STREAMS = {"init": 0, "step": 1, "rollout": 2, "evaluation": 3}
"""Independent streams of randomness, each folded into the run's seed."""


class Setup(NamedTuple):
    """What a run is made of.

    Attributes:
      config: what was asked for.
      schedule: what it comes to.
      task: examples, prompts and judgements.
      architecture: sizes of the network.
      policy: the network.
      pretrained: its parameters on the host, or None where it starts from scratch.
      method: what is done with a rollout.
      optimizer: what is done with a gradient.
      automaton: what stops a response.
      like: shapes and places of the state.
    """

    config: Experiment
    schedule: Schedule
    task: Task
    architecture: Architecture
    policy: Policy
    pretrained: Params | None
    method: Method
    optimizer: optax.GradientTransformation
    automaton: Automaton
    like: TrainState


def build(config: Experiment) -> Setup:
    """Reads data and model, and checks everything that can be checked before anything compiles.

    Raises:
      ValueError: whatever is wrong, in a sentence.
    """
    schedule, method = derive(config), _method(config)
    task = load_task(config)
    architecture, pretrained = _load_model(config.model, task.tokenizer)
    check_tokenizer_fits(task.tokenizer, architecture.vocab_size)
    top_k, tokens = config.sampling.top_k, architecture.vocab_size
    if top_k > tokens:
        raise ValueError(f"sampling.top_k is {top_k}, and the model has {tokens} tokens; 0 keeps all")
    _check_lengths(config, architecture)
    policy = transformer(architecture, dtype=jnp.dtype(config.model.dtype), remat=config.model.remat)
    optimizer = make_optimizer(config.optimizer, schedule.updates)
    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda key: create_state(policy.init(key), method, optimizer, key), key)
    like = template(shapes, state_shardings(shapes, optimizer, schedule.mesh))
    return Setup(
        config=config,
        schedule=schedule,
        task=task,
        architecture=architecture,
        policy=policy,
        pretrained=pretrained,
        method=method,
        optimizer=optimizer,
        automaton=_stops(config, task.tokenizer, policy.vocab_size),
        like=like,
    )


def stream(config: Experiment, name: str) -> Array:
    """The key of one of `STREAMS`."""
    return jax.random.fold_in(jax.random.key(config.seed), STREAMS[name])


def first_state(setup: Setup) -> TrainState:
    """The state before the first iteration, laid out on the mesh."""
    places = jax.tree.map(lambda leaf: leaf.sharding, setup.like)
    key = stream(setup.config, "step")

    def create(params: Params, key: Array) -> TrainState:
        return create_state(params, setup.method, setup.optimizer, key)

    if setup.pretrained is None:
        init = jax.jit(setup.policy.init, out_shardings=places.params)
        params = init(stream(setup.config, "init"))
    else:
        params = jax.tree.map(_placed, setup.pretrained, places.params)
    return jax.jit(create, out_shardings=places, donate_argnums=0)(params, key)


def _placed(array: np.ndarray, place: NamedSharding) -> jax.Array:
    """Each process puts its own part; `jax.device_put` would compare whole arrays between processes."""
    return jax.make_array_from_callback(array.shape, place, lambda index: array[index])


def compiled_step(setup: Setup) -> Step:
    """The training step on the mesh."""
    program = Program(
        policy=setup.policy,
        method=setup.method,
        optimizer=setup.optimizer,
        plan=setup.schedule.plan,
        constrain=_rows_on(setup.schedule.mesh),
    )
    return compile_step(make_step(program), jax.tree.map(lambda leaf: leaf.sharding, setup.like))


def compiled_decode(setup: Setup, sampling: Sampling | None = None) -> Decode:
    """The decoding loop on the mesh, by default as the rollouts are sampled."""
    mesh = setup.schedule.mesh
    return compile_decode(
        setup.policy,
        mesh,
        parameter_specs(setup.like.params, mesh),
        new_slots=setup.config.sampling.new_tokens,
        sampling=setup.config.sampling.distribution if sampling is None else sampling,
        automaton=setup.automaton,
    )


def make_collector(setup: Setup) -> Collector:
    """What rollouts are collected with."""
    schedule = setup.schedule
    return Collector(
        draw=lambda: next(setup.task.batches),
        encode=setup.task.encode,
        decode=compiled_decode(setup),
        judge=setup.task.judge,
        keep=setup.method.keep,
        prompt_slots=schedule.plan.layout.prompt_slots,
        group=schedule.plan.layout.shared,
        generations=schedule.generations if setup.method.resample else 1,
    )


def count(params: Params) -> int:
    """Numbers in a pytree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _method(config: Experiment) -> Method:
    """The method, with what is only watched among its needs."""
    method, output = make_method(config.method, config.sampling.new_tokens), config.output
    watched = {name for name, wanted in (("entropy", output.entropy), ("reference", output.kl)) if wanted}
    return method._replace(needs=method.needs | watched)


def _load_model(config: ModelConfig, tokenizer: Tokenizer) -> tuple[Architecture, Params | None]:
    if config.name is not None:
        return load_pretrained(config.name, config.revision)
    return Architecture(
        vocab_size=tokenizer.vocab_size,
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        mlp_width=config.mlp_width,
    ), None


def _stops(config: Experiment, tokenizer: Tokenizer, vocab_size: int) -> Automaton:
    return compile_automaton(config.sampling.stop, vocabulary_bytes(tokenizer, vocab_size), tokenizer.eos_ids)


def _check_lengths(config: Experiment, architecture: Architecture) -> None:
    length = config.task.prompt_tokens + config.sampling.new_tokens
    if length > architecture.max_length:
        raise ValueError(
            f"task.prompt_tokens + sampling.new_tokens is {length}, and the model's positions were trained "
            f"for {architecture.max_length} tokens: lower one of them"
        )


def _rows_on(mesh: Mesh) -> Callable[[Rollout], Rollout]:
    place = NamedSharding(mesh, ROWS)
    return functools.partial(jax.tree.map, lambda leaf: jax.lax.with_sharding_constraint(leaf, place))
