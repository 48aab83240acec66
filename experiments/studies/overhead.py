"""What forked rollouts cost: seconds, tokens and operations beside GRPO's at the same budget of rows.

All ways draw M rows a prompt and make one update on them, by turns in an order that is rotated; each way's
first rounds, in which programs compile, are not counted. The programs of a dialogue are waited for one by
one, so that their seconds add up; entropy is measured where forks are decided by it, and nowhere else.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from experiments.benchmark import timed
from experiments.config import Experiment
from experiments.methods import MethodConfig, make_method
from experiments.phases import compiled_step, make_phases
from experiments.reading import from_config_dict
from experiments.setup import Setup, build, open_toolbox, stream
from experiments.studies import flops
from experiments.studies import overhead_report as report
from experiments.studies.findings import Findings
from experiments.studies.kept import every_seed
from experiments.studies.policies import (
    described,
    dialogue_programs,
    fixed_widths,
    forked_collector,
    policy_after,
    with_seed,
)
from gpg_jax.data.examples import Example
from gpg_jax.decoding.branching import Branching, arpo_paper, no_branching
from gpg_jax.decoding.live import LivePrograms
from gpg_jax.decoding.uncertainty import entropy
from gpg_jax.training.collect import Collector, collect
from gpg_jax.training.program import Program
from gpg_jax.training.state import create_state
from gpg_jax.training.step import Step, make_step
from gpg_jax.types import Array, Method, Params, Rollout


def default_study() -> ConfigDict:
    """Every key of the study.

    - `base`: the experiment whose policy, task and method it is; `schedule.group` is M.
    - `iterations`: that the policy has behind it, those of the cold start among them; 0 for a random policy.
    - `widths`: rows that a row becomes at every boundary, M/width of them beginning at the prompt.
    - `paper_roots`: N of one more way to fork, ARPO's by entropy, with k = 1; 0 for none.
    - `warm_up`: rounds that are not counted.
    - `seeds`: rounds that are; each has a rollout of every way.
    """
    return ConfigDict(
        {
            "study": "overhead",
            "question": "",
            "base": ConfigDict(),
            "iterations": 0,
            "widths": (1, 2, 4, 8),
            "paper_roots": 8,
            "warm_up": 1,
            "seeds": 10,
        }
    )


class Clock:
    """Since `reset`: seconds in the programs of a dialogue, steps of its loop, shapes of answers read."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begins anew."""
        self.seconds = dict.fromkeys(LivePrograms._fields, 0.0)
        self.steps = 0
        self.answers: list[tuple[int, int]] = []

    def watch(self, programs: LivePrograms) -> LivePrograms:
        """The programs, each waited for and timed."""
        return LivePrograms(*(self._watched(name, getattr(programs, name)) for name in LivePrograms._fields))

    def _watched(self, name: str, program: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            # A step draws one token of each running row: the longest gain is the number of steps.
            before = np.asarray(arguments[2].length) if name == "advance" else None
            started = time.perf_counter()
            result = jax.block_until_ready(program(*arguments))
            self.seconds[name] += time.perf_counter() - started
            if before is not None:
                self.steps += int(np.max(np.asarray(result.length) - before))
            if name == "append":
                self.answers.append(arguments[4].shape)
            return result

        return run


class Way(NamedTuple):
    """A way to make an iteration.

    Attributes:
      collector: draws the rollout; its examples are given a round.
      clock: of the collector's programs.
      step: the update.
      method: whose it is.
    """

    collector: Collector
    clock: Clock
    step: Step
    method: Method


class Bench(NamedTuple):
    """The ways by name, the policy that all of them begin with, and XLA's count of each one's update."""

    setup: Setup
    params: Params
    ways: dict[str, Way]
    counted: dict[str, float]


def overhead(config: ConfigDict, workdir: Path, console: Console) -> Findings:
    """Measures the rounds that are not there yet, and compares.

    Args:
      config: see `default_study`.
      workdir: keeps what each round came to.
      console: where a person reads.

    Raises:
      ValueError: a configuration that is wrong.
    """
    setup = build(from_config_dict(Experiment, config.base))
    bench = functools.cache(lambda: open_bench(config, setup))
    found = every_seed(config, workdir, console, lambda seed: measure_round(bench(), seed))
    parameters = flops.block_entries(setup.architecture)
    return Findings(report.table(found), report.draw(found), report.notes(found, parameters))


def open_bench(config: ConfigDict, setup: Setup) -> Bench:
    """Trains the policy, prepares every way, and runs the rounds that are not counted."""
    ways = make_ways(config, setup)
    params = policy_after(setup, make_phases(setup, open_toolbox(setup)), config.iterations)
    bench = Bench(setup, params, ways, {})
    for number in range(config.warm_up):
        measure_round(bench, _UNCOUNTED + number)
    kinds = {id(way.method): way.method for way in ways.values()}
    counted = {kind: _counted(setup, method) for kind, method in kinds.items()}
    return bench._replace(counted={name: counted[id(way.method)] for name, way in ways.items()})


_UNCOUNTED = 2**31
"""Seeds from here on are those of rounds that are not counted."""


def make_ways(config: ConfigDict, setup: Setup) -> dict[str, Way]:
    """GRPO without forks, and the method of `base` at every width and with ARPO's forks."""
    if setup.schedule.plan.shards > 1:
        raise ValueError(
            f"seconds are those of one replica, and base.mesh makes {setup.schedule.plan.shards}: set it to "
            "(1, 1, -1)"
        )
    watched, plain = (dialogue_programs(setup, measured) for measured in (entropy, None))
    toolbox = open_toolbox(setup)
    assert toolbox is not None  # `dialogue_programs` has seen to it
    group, leaf_weight = setup.schedule.plan.layout.shared, setup.config.branching.leaf_weight
    steps = {"GRPO": grpo_like(setup), "own": setup.method}
    compiled = {name: compiled_step(setup, method) for name, method in steps.items()}

    def way(branching: Branching, name: str, weight: Any, programs: LivePrograms = plain) -> Way:
        clock = Clock()
        collector = forked_collector(setup, toolbox, clock.watch(programs), branching, (), group)
        return Way(collector._replace(leaf_weight=weight), clock, compiled[name], steps[name])

    widths = fixed_widths(tuple(config.widths), group)
    return {
        "GRPO": way(no_branching(group), "GRPO", "uniform"),
        **{f"width {width}": way(branching, "own", leaf_weight) for width, branching in widths.items()},
        **{
            name: way(branching, "own", leaf_weight, watched)
            for name, branching in _paper(config.paper_roots, group).items()
        },
    }


def _paper(roots: int, group: int) -> dict[str, Branching]:
    """ARPO's forks by name, where they are asked for."""
    if not 0 <= roots <= group:
        raise ValueError(f"paper_roots is {roots}, and a prompt has base.schedule.group={group} rows")
    return {f"ARPO, N={roots}": arpo_paper(roots, tokens=1)} if roots else {}


def grpo_like(setup: Setup) -> Method:
    """GRPO without a KL, its entropy measured and rewarded where the run's own method does so."""
    given = setup.config.method.arguments
    shared = {name: given[name] for name in ("entropy_coefficient",) if name in given}
    arguments = {"kl_coefficient": 0.0, **shared}
    method = make_method(MethodConfig(name="grpo", arguments=arguments), setup.config.sampling.new_tokens)
    return method._replace(needs=method.needs | ({"entropy"} & setup.method.needs))


def measure_round(bench: Bench, seed: int) -> dict[str, dict[str, float]]:
    """One iteration of every way, in an order that is rotated by the round: name -> `measure_way`."""
    setup = with_seed(bench.setup, seed)
    examples = next(setup.task.batches)
    key = jax.random.fold_in(stream(bench.setup.config, "evaluation"), seed)
    names = list(bench.ways)
    first = seed % len(names)
    found = {name: measure_way(bench, name, examples, key) for name in names[first:] + names[:first]}
    return {name: found[name] for name in names}


def measure_way(bench: Bench, name: str, examples: Sequence[Example], key: Array) -> dict[str, float]:
    """One iteration.

    - `begin`, `advance`, `append`, `fork`: seconds in the programs of the dialogue; `host`, the rest of
      collecting the rollout, tools and judgements among it; `update`: of the step.
    - `steps` of the decoding loop.
    - `drawn`, `trained`: tokens that the policy drew, a prefix once, and tokens trained on; `rows` of the
      rollout, and `trees`.
    - `decode_flops`, `train_flops` by formula, `program_flops` of the programs that drew, and
      `counted_flops` of the update by XLA.
    - `others`: cores that other processes used.
    """
    way, setup = bench.ways[name], bench.setup
    collected: list[Rollout] = []
    way.clock.reset()
    collector = way.collector._replace(draw=lambda: examples)
    drawing = timed(lambda: collected.append(collect(collector, bench.params, key, 0).rollout), 1, 0)
    (rollout,) = collected
    params = jax.tree.map(jnp.copy, bench.params)
    state = jax.block_until_ready(
        create_state(params, way.method, setup.optimizer, stream(setup.config, "step"))
    )
    updating = timed(lambda: jax.block_until_ready(way.step(state, rollout)), 1, 0)
    seconds, architecture, layout = way.clock.seconds, setup.architecture, setup.schedule.plan.layout
    run = len(examples), way.clock.steps, way.clock.answers
    return {
        **seconds,
        "host": drawing["seconds"] - sum(seconds.values()),
        "update": updating["seconds"],
        "steps": float(way.clock.steps),
        "rows": float(len(rollout.reward)),
        **described(rollout),
        "decode_flops": flops.decode_flops(architecture, rollout),
        "program_flops": flops.program_flops(architecture, layout, *run),
        "train_flops": flops.train_flops(architecture, rollout),
        "counted_flops": bench.counted.get(name, 0.0),
        "others": max(drawing["others_busy_mean"], updating["others_busy_mean"]),
    }


def _counted(setup: Setup, method: Method) -> float:
    """XLA's count of an update, on shapes alone."""
    plan = setup.schedule.plan
    step = make_step(Program(setup.policy, method, setup.optimizer, dataclasses.replace(plan, shards=1)))
    return flops.xla_flops(step, setup.like, rollout_shapes(plan.rows, plan.layout.length))


def rollout_shapes(rows: int, length: int) -> Rollout:
    """A rollout of shapes without numbers."""
    kinds = {"tokens": np.int32, "action_mask": np.bool_, "behaviour_log_prob": np.float32}
    floats = ("leaf_weight", "outcome", "reward")
    of_rows: dict[str, Any] = {
        field.name: jax.ShapeDtypeStruct((rows,), np.float32 if field.name in floats else np.int32)
        for field in dataclasses.fields(Rollout)
    }
    of_tokens = {name: jax.ShapeDtypeStruct((rows, length), kind) for name, kind in kinds.items()}
    return Rollout(**of_rows | of_tokens)
