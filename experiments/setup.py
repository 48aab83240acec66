"""From a configuration to everything that a run is made of; nothing is compiled, nothing is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from experiments.config import Experiment
from experiments.config_checks import check_length, check_tokens_heard
from experiments.critics import CriticSetup, make_critic, network_of
from experiments.demonstrations import Demonstrations, load_demonstrations
from experiments.learning_config import ActorsConfig
from experiments.methods import make_method
from experiments.models import load_model
from experiments.optimizers import make_optimizer, run_learning_rate
from experiments.reward_model.scorer import Scorer, find_scorer, scoring
from experiments.schedule import Schedule, derive
from experiments.tasks import Task, load_task
from experiments.tools import (
    asking,
    call_patterns,
    make_toolbox,
    make_tools,
    make_turns,
    make_uncertainty,
    tally,
)
from gpg_jax.data.tokenizers import Tokenizer, vocabulary_bytes
from gpg_jax.decoding.automaton import Automaton, compile_automaton
from gpg_jax.decoding.branching import LeafWeight, no_branching
from gpg_jax.decoding.dialogue import Turns
from gpg_jax.decoding.live import live_programs
from gpg_jax.decoding.markers import compile_markers, marker_faults
from gpg_jax.decoding.replicas import compile_dialogue
from gpg_jax.decoding.sampling import Sampling
from gpg_jax.decoding.sharded import compile_decode
from gpg_jax.environments.toolbox import Toolbox
from gpg_jax.environments.tools import Tool
from gpg_jax.policies.architecture import Architecture
from gpg_jax.policies.mixture import mixture, mixture_params
from gpg_jax.policies.policy import Policy
from gpg_jax.policies.transformer import transformer
from gpg_jax.training.checkpoints import template
from gpg_jax.training.collect import Collector, Decode, Write, decoded, spoken
from gpg_jax.training.deliveries import Delivery
from gpg_jax.training.sharding import parameter_specs, state_shardings
from gpg_jax.training.state import TrainState, create_critic_state, create_state
from gpg_jax.types import Array, Batch, Conservative, Method, Params, TrustRegion

STREAMS = {"init": 0, "step": 1, "rollout": 2, "evaluation": 3}
"""Independent streams of randomness, each folded into the run's seed."""


class Setup(NamedTuple):
    """What a run is made of.

    Attributes:
      config: what was asked for.
      schedule: what it comes to.
      task: examples, prompts and judgements.
      demonstrations: of the cold start, where there is one.
      architecture: sizes of the network.
      policy: the network.
      pretrained: its parameters on the host, or None where it starts from scratch.
      method: what is done with a rollout.
      optimizer: what is done with a gradient; without a state where the method's updates are not its.
      critic: what gives values, where the method needs them.
      automaton: what stops a response.
      tools: what it may call.
      turns: how it does so, None for rows that neither call nor fork.
      like: shapes and places of the state.
      scorer: () -> the reward model that scores responses, loaded once; None where there is none.
      deliveries: what comes when, where actors are told; None where that was not read yet.
    """

    config: Experiment
    schedule: Schedule
    task: Task
    demonstrations: Demonstrations | None
    architecture: Architecture
    policy: Policy
    pretrained: Params | None
    method: Method
    optimizer: optax.GradientTransformation
    critic: CriticSetup | None
    automaton: Automaton
    tools: tuple[Tool, ...]
    turns: Turns | None
    like: TrainState
    scorer: Callable[[], Scorer] | None
    deliveries: tuple[Delivery, ...] | None = None


def build(config: Experiment) -> Setup:
    """Reads data and model, and checks everything that can be checked before anything compiles.

    Raises:
      ValueError: whatever is wrong, in a sentence.
    """
    schedule = derive(config)
    task = load_task(config)
    demonstrations = load_demonstrations(config, task)
    architecture, pretrained = load_model(config.model, task.tokenizer)
    token_bytes = vocabulary_bytes(task.tokenizer, architecture.vocab_size)
    method = _method(config, token_bytes)
    if isinstance(method.update, TrustRegion):
        _check_float32(config)
        schedule = schedule._replace(policy_updates=1, own_length=True)
    top_k, tokens = config.sampling.top_k, architecture.vocab_size
    if top_k > tokens:
        raise ValueError(f"sampling.top_k is {top_k}, and the model has {tokens} tokens; 0 keeps all")
    sizes = {
        "task.prompt_tokens": config.task.prompt_tokens,
        "sampling.new_tokens": config.sampling.new_tokens,
    }
    check_length(sizes, architecture.max_length)
    policy = transformer(architecture, dtype=jnp.dtype(config.model.dtype), remat=config.model.remat)
    policy, pretrained = _mixed(config, method, policy, pretrained)
    optimizer = optax.identity()  # where nothing descends: no moments that nothing reads
    if schedule.cold_steps or not schedule.own_length:
        optimizer = make_optimizer(config.optimizer, run_learning_rate(config, schedule.updates))
    critic = make_critic(config, method, task.tokenizer, architecture, schedule.critic_updates)
    return Setup(
        config=config,
        schedule=schedule,
        task=task,
        demonstrations=demonstrations,
        architecture=architecture,
        policy=policy,
        pretrained=pretrained,
        method=method,
        optimizer=optimizer,
        critic=critic,
        automaton=_stops(config, task.tokenizer, token_bytes),
        tools=make_tools(config),
        turns=make_turns(config, policy.vocab_size),
        like=state_like(policy, method, optimizer, critic, schedule.mesh, config.actors),
        scorer=find_scorer(config, task.tokenizer, schedule.mesh),
    )


def state_like(
    policy: Policy,
    method: Method,
    optimizer: optax.GradientTransformation,
    critic: CriticSetup | None,
    mesh: Mesh,
    actors: ActorsConfig,
) -> TrainState:
    """Shapes, types and places of the state of a run with these parts."""

    def create(key: Array) -> TrainState:
        params, own = policy.init(key), None
        if critic is not None:
            own = create_critic_state(critic.critic.init(key, network_of(params)), critic.optimizer)
        return create_state(params, method, optimizer, key, own, actors.memory, actors.whole)

    shapes = jax.eval_shape(create, jax.random.key(0))
    critic_optimizer = None if critic is None else critic.optimizer
    places = state_shardings(shapes, optimizer, mesh, critic_optimizer=critic_optimizer)
    return template(shapes, places)


def stream(config: Experiment, name: str) -> Array:
    """The key of one of `STREAMS`."""
    return jax.random.fold_in(jax.random.key(config.seed), STREAMS[name])


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


def writer(setup: Setup, toolbox: Toolbox | None, sampling: Sampling | None = None, rows: int = 0) -> Write:
    """What responds: the decoding loop, or dialogues where there are tools.

    Args:
      setup: of the run.
      toolbox: tools with their journal, where there are any.
      sampling: as of `compiled_decode`.
      rows: of a prompt where none is forked, 0 for the rollouts' own.
    """
    if setup.turns is None or toolbox is None:
        return scoring(decoded(compiled_decode(setup, sampling)), setup.scorer)
    config, mesh = setup.config, setup.schedule.mesh
    programs = live_programs(
        setup.policy,
        new_slots=config.sampling.new_tokens,
        sampling=config.sampling.distribution if sampling is None else sampling,
        automaton=setup.automaton,
        uncertainty=None if rows else make_uncertainty(config.branching),
        patience=config.tools.patience,
    )
    turns = dataclasses.replace(setup.turns, branching=no_branching(rows)) if rows else setup.turns
    specs = parameter_specs(setup.like.params, mesh)
    converse = compile_dialogue(setup.policy, mesh, specs, programs, turns)
    return scoring(spoken(converse, asking(toolbox, config.tools)), setup.scorer)


def open_toolbox(setup: Setup, journal: Path | None = None) -> Toolbox | None:
    """The tools of a run, None where it has neither tools nor boundaries; see `experiments.tools`."""
    if setup.turns is None:
        return None
    return make_toolbox(setup.config.tools, setup.tools, setup.task.tokenizer, journal)


def make_collector(setup: Setup, toolbox: Toolbox | None = None) -> Collector:
    """What rollouts are collected with.

    Args:
      setup: of the run.
      toolbox: from `open_toolbox`.
    """
    schedule = setup.schedule
    return Collector(
        draw=lambda: next(setup.task.batches),
        encode=setup.task.encode,
        write=writer(setup, toolbox),
        judge=setup.task.judge,
        keep=setup.method.keep,
        prompt_slots=schedule.plan.layout.prompt_slots,
        group=schedule.plan.layout.shared,
        generations=schedule.generations if setup.method.resample else 1,
        leaf_weight=cast(LeafWeight, setup.config.branching.leaf_weight),
        tally=dict if toolbox is None else lambda: tally(toolbox),
    )


def _method(config: Experiment, token_bytes: Sequence[bytes]) -> Method:
    """The method, with what is only watched besides."""
    method = make_method(config.method, config.sampling.new_tokens, token_bytes)
    output = config.output
    watched = {name for name, wanted in (("entropy", output.entropy), ("reference", output.kl)) if wanted}
    method = method._replace(needs=method.needs | watched)
    if not output.tags:
        return method
    markers, own = compile_markers(output.tags, token_bytes), method.watch

    def watch(batch: Batch, unit_ids: Array) -> dict[str, Array]:
        return own(batch, unit_ids) | marker_faults(markers, batch.rollout)

    return method._replace(watch=watch)


def _mixed(
    config: Experiment, method: Method, policy: Policy, pretrained: Params | None
) -> tuple[Policy, Params | None]:
    """For a conservative update as many copies as it may mix, all of the weight on the first."""
    rule = method.update
    if not isinstance(rule, Conservative):
        return policy, pretrained
    if config.sampling.temperature != 1:
        raise ValueError(
            f"sampling.temperature is {config.sampling.temperature}, and {config.method.name!r} mixes "
            "distributions at temperature 1: sample there"
        )
    if config.cold_start.steps:
        raise ValueError(
            f"cold_start.steps is {config.cold_start.steps}, and demonstrations teach one network, not the "
            f"mixture of {config.method.name!r}: begin with what another method's run has exported"
        )
    weights = [1.0] + [0.0] * (rule.capacity - 1)
    members = None if pretrained is None else mixture_params([pretrained] * rule.capacity, weights)
    return mixture([policy] * rule.capacity, weights), members


def _stops(config: Experiment, tokenizer: Tokenizer, token_bytes: Sequence[bytes]) -> Automaton:
    check_tokens_heard(config.tools.boundaries, config.tools.names, token_bytes)
    patterns = call_patterns(config.tools) + config.sampling.stop
    return compile_automaton(patterns, token_bytes, tokenizer.eos_ids)


def _check_float32(config: Experiment) -> None:
    """Fisher-vector products need a forward derivative; see `policies.precision`."""
    if jnp.dtype(config.model.dtype) != jnp.float32:
        raise ValueError(
            f"model.dtype is {config.model.dtype!r}, and {config.method.name!r} multiplies by the Fisher "
            "information, which is found in float32 alone: give model.dtype=float32"
        )
