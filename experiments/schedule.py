"""What a configuration comes to: numbers that are derived once, checked, and printed before a run."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import jax
from jax.sharding import Mesh
from rich.table import Table

from experiments.config import Experiment
from experiments.learning_config import ActorsConfig
from experiments.methods import budgets
from gpg_jax.policies.score import Layout
from gpg_jax.training.plan import Plan
from gpg_jax.training.sharding import make_mesh, row_shards


class Schedule(NamedTuple):
    """A run in numbers.

    Attributes:
      plan: how a rollout is cut.
      mesh: the devices.
      prompts: P.
      steps: iterations, those of the cold start and of the value pretraining among them.
      cold_steps: iterations of the cold start, which come first.
      value_steps: iterations of the value pretraining behind it, at most.
      cold_plan: how their demonstrations are cut, None without any.
      generations: batches of prompts that may be tried for one rollout.
      policy_updates: updates of the policy on a rollout, at most; fewer than the plan's where those are its
        critic's.
      own_length: whether the method's updates of the policy have a length of their own, so that the optimizer
        has no part in them.
    """

    plan: Plan
    mesh: Mesh
    prompts: int
    steps: int
    cold_steps: int
    value_steps: int
    cold_plan: Plan | None
    generations: int
    policy_updates: int
    own_length: bool = False

    @property
    def numbers(self) -> tuple[range, range, range]:
        """Iterations of the cold start, of the value pretraining, and of the method."""
        ends = (1, 1 + self.cold_steps, 1 + self.cold_steps + self.value_steps, 1 + self.steps)
        cold, value, own = (range(*pair) for pair in itertools.pairwise(ends))
        return cold, value, own

    @property
    def begins(self) -> dict[str, range]:
        """What comes before the method's own iterations, by name."""
        cold, value, _ = self.numbers
        return {name: part for name, part in (("demonstrations", cold), ("critic alone", value)) if part}

    @property
    def updates(self) -> int:
        """Updates of the policy in the run, at most."""
        return self.updates_through(self.steps)

    def updates_through(self, step: int) -> int:
        """Updates of the policy through an iteration, those that the method may have left out among them."""
        before = self.cold_steps + self.value_steps
        return min(step, self.cold_steps) + max(step - before, 0) * self.policy_updates

    def descends(self, step: int) -> bool:
        """Whether the policy's last update through an iteration was the optimizer's, or will be."""
        return not self.own_length or 0 < step <= self.cold_steps

    @property
    def critic_updates(self) -> int:
        """Updates of a critic in the run, at most."""
        return (self.steps - self.cold_steps) * self.plan.updates

    @property
    def new_tokens(self) -> int:
        """Most new tokens of a rollout."""
        return self.plan.rows * self.plan.layout.new_slots


def derive(config: Experiment, devices: list[jax.Device] | None = None) -> Schedule:
    """The schedule of a configuration.

    Args:
      config: the configuration.
      devices: defaults to all of them.

    Raises:
      ValueError: sizes that do not divide, or a mesh that the devices do not make.
    """
    sizes, mesh = config.schedule, make_mesh(config.mesh, _learners(config.actors, devices))
    shards = row_shards(mesh)
    cold = config.cold_start
    for key, count in (("schedule.prompts", sizes.prompts), ("evaluation.batch", config.evaluation.batch)):
        if count % shards:
            raise ValueError(
                f"{key} is {count}, and prompts are decoded on {shards} replicas (mesh data × fsdp); "
                f"choose a multiple of {shards}"
            )
    plan = Plan(
        layout=Layout(config.task.prompt_tokens, config.sampling.new_tokens, sizes.group),
        rows=sizes.prompts * sizes.group,
        epochs=sizes.epochs,
        minibatches=sizes.minibatches,
        micro_batches=sizes.micro_batches,
        shards=shards,
        temperature=config.sampling.temperature,
        chunk=config.model.chunk,
    )
    return Schedule(
        plan=plan,
        mesh=mesh,
        prompts=sizes.prompts,
        steps=cold.steps + config.critic.pretraining_steps + sizes.steps,
        cold_steps=cold.steps,
        value_steps=config.critic.pretraining_steps,
        cold_plan=_cold_plan(config, shards) if cold.steps else None,
        generations=sizes.generations,
        policy_updates=plan.updates,
    )


def _learners(actors: ActorsConfig, devices: list[jax.Device] | None) -> list[jax.Device]:
    """The devices that actors leave to the learner."""
    devices = jax.devices() if devices is None else devices
    taken = actors.count * actors.devices
    if taken >= len(devices):
        raise ValueError(
            f"{actors.count} actors of {actors.devices} devices leave none of the {len(devices)} to the "
            "learner: lower actors.count or actors.devices"
        )
    return devices[: len(devices) - taken]


def _cold_plan(config: Experiment, shards: int) -> Plan:
    return Plan(
        layout=Layout(config.task.prompt_tokens, config.sampling.new_tokens, 1),
        rows=config.schedule.prompts * config.cold_start.batches,
        micro_batches=config.cold_start.micro_batches,
        shards=shards,
        chunk=config.model.chunk,
    )


def table(config: Experiment, schedule: Schedule, parameters: int, demonstrations: str = "") -> Table:
    """The schedule as it is printed at the start.

    Args:
      config: the configuration.
      schedule: what it comes to.
      parameters: numbers in the policy.
      demonstrations: what a cold start learns from.
    """
    plan = schedule.plan
    mesh = " × ".join(f"{name} {size}" for name, size in schedule.mesh.shape.items())
    layout, new = plan.layout, schedule.new_tokens
    own = plan.micro_rows // plan.shards
    lengths = budgets(config.method, layout.new_slots)
    rows = {
        "method": ", ".join([config.method.name, *(f"{name} {value}" for name, value in lengths.items())]),
        "policy": f"{config.model.name or 'from scratch'}, {parameters:,} parameters, {config.model.dtype}",
        "devices": f"{schedule.mesh.size} {schedule.mesh.devices.flat[0].platform} ({mesh})",
        "cold start": f"{schedule.cold_steps:,} iterations on {schedule.prompts * config.cold_start.batches} "
        f"of {demonstrations}",
        "value pretraining": _pretraining(config),
        "steps": f"{schedule.steps:,} iterations, {schedule.updates:,} updates",
        "rollout": f"{schedule.prompts} prompts × {layout.shared} = {plan.rows} rows",
        "row": f"{layout.prompt_slots} + {layout.new_slots} = {layout.length} tokens at most",
        "tokens": f"{new:,} new ones at most an iteration, {new * schedule.steps:,} a run",
        "actors": _actors(config),
        "updates": f"{plan.epochs} epochs × {plan.minibatches} minibatches of {plan.minibatch_rows} rows"
        + (f", {schedule.policy_updates} of the policy" if schedule.policy_updates < plan.updates else ""),
        "micro-batches": f"{plan.micro_batches} of {plan.micro_rows} rows, {own} a device",
    }
    if schedule.own_length:
        rows["optimizer"] = (
            "of the cold start alone: a trust region finds the length of its step"
            if schedule.cold_steps
            else "not read: a trust region finds the length of its step"
        )
    if config.sampling.distribution.truncated:
        rows["sampling"] = (
            "truncated" if _corrected(config) else "truncated and not corrected for (method.correction)"
        )
    if not config.actors.count:
        del rows["actors"]
    if not schedule.cold_steps:
        del rows["cold start"]
    if not schedule.value_steps:
        del rows["value pretraining"]
    result = Table(show_header=False, title="schedule", title_justify="left")
    for name, value in rows.items():
        result.add_row(name, value)
    return result


def _pretraining(config: Experiment) -> str:
    critic = config.critic
    steps = f"{critic.pretraining_steps:,} iterations of the critic alone"
    if critic.explained_variance is None:
        return steps
    return f"at most {steps}, to an explained variance of {critic.explained_variance}"


def _actors(config: Experiment) -> str:
    actors = config.actors
    own = f"{actors.devices} devices each" if actors.devices else "on the learner's device"
    pace = "at their own pace"
    if actors.repeats:
        pace = f"delays {actors.delays}" if actors.delays else f"as in {actors.journal}"
    stale = f"staleness {actors.staleness} at most"
    if actors.bring == "rollouts" and actors.staleness and not _corrected(config):
        stale += ", not corrected for (method.correction)"
    return f"{actors.count}, {own}, bring {actors.bring}, {pace}, {stale}"


def _corrected(config: Experiment) -> bool:
    return config.method.arguments.get("correction", "none") != "none"
