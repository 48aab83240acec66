"""From a configuration to everything that a run is made of; nothing is compiled, nothing is written."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from experiments.config import Experiment
from experiments.demonstrations import Demonstrations, load_demonstrations
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
from gpg_jax.algorithms.supervised import supervised
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
from gpg_jax.estimators.filters import every_row
from gpg_jax.policies.architecture import Architecture
from gpg_jax.policies.policy import Policy
from gpg_jax.policies.transformer import transformer
from gpg_jax.training.checkpoints import template
from gpg_jax.training.collect import Collector, Decode, Write, decoded, demonstrated, spoken
from gpg_jax.training.loop import Phase
from gpg_jax.training.plan import Plan
from gpg_jax.training.program import Program
from gpg_jax.training.sharding import ROWS, parameter_specs, state_shardings
from gpg_jax.training.state import TrainState, create_state
from gpg_jax.training.step import Step, compile_step, make_step
from gpg_jax.types import Array, Batch, Method, Params, Rollout

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
      optimizer: what is done with a gradient.
      automaton: what stops a response.
      tools: what it may call.
      turns: how it does so, None for rows that neither call nor fork.
      like: shapes and places of the state.
      scorer: () -> the reward model that scores responses, loaded once; None where there is none.
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
    automaton: Automaton
    tools: tuple[Tool, ...]
    turns: Turns | None
    like: TrainState
    scorer: Callable[[], Scorer] | None


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
    top_k, tokens = config.sampling.top_k, architecture.vocab_size
    if top_k > tokens:
        raise ValueError(f"sampling.top_k is {top_k}, and the model has {tokens} tokens; 0 keeps all")
    _check_lengths(config, architecture)
    policy = transformer(architecture, dtype=jnp.dtype(config.model.dtype), remat=config.model.remat)
    optimizer = make_optimizer(config.optimizer, run_learning_rate(config, schedule.updates))
    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda key: create_state(policy.init(key), method, optimizer, key), key)
    like = template(shapes, state_shardings(shapes, optimizer, schedule.mesh))
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
        automaton=_stops(config, task.tokenizer, token_bytes),
        tools=make_tools(config),
        turns=make_turns(config, policy.vocab_size),
        like=like,
        scorer=find_scorer(config, task.tokenizer, schedule.mesh),
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


def make_phases(setup: Setup, toolbox: Toolbox | None = None) -> tuple[Phase, ...]:
    """The cold start, where there is one, and the method's own iterations.

    Args:
      setup: of the run.
      toolbox: from `open_toolbox`.
    """
    schedule = setup.schedule

    def version(number: int) -> int:
        return schedule.updates_through(number - 1)

    cold, own = range(1, schedule.cold_steps + 1), range(schedule.cold_steps + 1, schedule.steps + 1)
    main = Phase(own, make_collector(setup, toolbox), compiled_step(setup), version)
    if schedule.cold_plan is None:
        return (main,)
    method = supervised(state=setup.method.state)
    method = method._replace(needs=method.needs | ({"entropy"} & setup.method.needs))
    step = compiled_step(setup, method, schedule.cold_plan)
    return (
        Phase(cold, _demonstrations(setup, schedule.cold_plan), step, version),
        main._replace(begin=_take_reference),
    )


def _demonstrations(setup: Setup, plan: Plan) -> Collector:
    """What a cold start is collected with: demonstrations in the place of responses."""
    task, demonstrations = setup.task, setup.demonstrations
    assert demonstrations is not None  # a schedule with a cold plan has them
    return Collector(
        draw=lambda: [
            example
            for _ in range(setup.config.cold_start.batches)
            for example in next(demonstrations.batches)
        ],
        encode=task.encode,
        write=scoring(demonstrated(demonstrations.rows, plan.layout.new_slots), setup.scorer),
        judge=task.judge,
        keep=every_row,
        prompt_slots=plan.layout.prompt_slots,
        group=1,
    )


@functools.partial(jax.jit, donate_argnums=0)
def _take_reference(state: TrainState) -> TrainState:
    """The policy that the cold start has made is the reference of what follows."""
    if state.reference is None:
        return state
    return dataclasses.replace(state, reference=jax.tree.map(jnp.copy, state.params))


def compiled_step(setup: Setup, method: Method | None = None, plan: Plan | None = None) -> Step:
    """The training step on the mesh.

    Args:
      setup: of the run.
      method: another one than the run's, with a state of the same form.
      plan: another one than the run's.
    """
    program = Program(
        policy=setup.policy,
        method=setup.method if method is None else method,
        optimizer=setup.optimizer,
        plan=setup.schedule.plan if plan is None else plan,
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


def _stops(config: Experiment, tokenizer: Tokenizer, token_bytes: Sequence[bytes]) -> Automaton:
    patterns = call_patterns(config.tools) + config.sampling.stop
    return compile_automaton(patterns, token_bytes, tokenizer.eos_ids)


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
