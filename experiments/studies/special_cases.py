"""GPG's special cases on a real model: what K = 1 and K = |o| are equal to, what not, and how precisely.

Two methods are given the same rollout, on-policy and after the parameters were moved, and their losses and
the gradients of all parameters are compared. A gradient is ∂loss/∂log π pulled back through the network by
one program that all methods share, so that what differs is the methods.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from experiments.config import Experiment
from experiments.first_state import first_state
from experiments.reading import from_config_dict
from experiments.setup import Setup, build, make_collector, stream
from experiments.studies import special_cases_report as report
from experiments.studies.findings import Findings
from experiments.studies.identities import METHODS, PAIRS
from experiments.studies.kept import every_seed
from experiments.studies.policies import with_seed
from gpg_jax.estimators.filters import mixed_outcomes
from gpg_jax.losses.metrics import reduce
from gpg_jax.losses.objective import estimate, loss, weigh
from gpg_jax.policies.score import score
from gpg_jax.training.collect import collect
from gpg_jax.types import Array, Batch, Method, Params, Rollout, Scores


def default_study() -> ConfigDict:
    """Every key of the study.

    - `base`: the experiment whose model, task and sampling it is; groups without signal are drawn anew.
    - `move`: how far the parameters are moved off-policy: by Gaussian noise of so many times the root mean
      square of each array.
    - `seeds`: rollouts and moves.
    """
    return ConfigDict(
        {"study": "special_cases", "question": "", "base": ConfigDict(), "move": 0.02, "seeds": 3}
    )


class Case(NamedTuple):
    """A rollout and the policy that is trained on it."""

    params: Params
    batch: Batch
    scores: Scores


class Push(NamedTuple):
    """A method's loss, ∂loss/∂log π `[B, L]`, and its reduced metrics."""

    loss: Array
    coefficients: Array
    metrics: dict[str, Array]


class Programs(NamedTuple):
    """What is compiled.

    Attributes:
      score: parameters, rollout -> `Scores`.
      push: batch, scores -> name of a method -> `Push`; no network.
      pull: parameters, rollout, ∂loss/∂log π `[B, L]` -> gradient of the parameters.
    """

    score: Callable[[Params, Rollout], Scores]
    push: Callable[[Batch, Scores], dict[str, Push]]
    pull: Callable[[Params, Rollout, Array], Params]


class Outcome(NamedTuple):
    """A method's loss, and its gradient, an array a parameter."""

    loss: float
    gradient: list[np.ndarray]


def special_cases(config: ConfigDict, workdir: Path, console: Console) -> Findings:
    """Measures the seeds that are not there yet, and compares.

    Args:
      config: see `default_study`.
      workdir: keeps what each seed came to.
      console: where a person reads.

    Raises:
      ValueError: a configuration that is wrong, or prompts without signal.
    """
    setup = build(from_config_dict(Experiment, config.base))
    programs = compile_programs(setup)
    found = every_seed(
        config, workdir, console, lambda seed: measure_seed(config, with_seed(setup, seed), programs)
    )
    return Findings(report.table(found), report.draw(found), report.notes(found))


def compile_programs(setup: Setup) -> Programs:
    """The programs of a setup."""
    plan = setup.schedule.plan

    def scored(params: Params, rollout: Rollout) -> Scores:
        rows = rollout.tokens, rollout.prompt_length, rollout.length
        return score(setup.policy, params, *rows, plan.layout, temperature=plan.temperature, chunk=plan.chunk)

    def pull(params: Params, rollout: Rollout, coefficients: Array) -> Params:
        return jax.vjp(lambda params: scored(params, rollout).log_prob, params)[1](coefficients)[0]

    def pushes(batch: Batch, scores: Scores) -> dict[str, Push]:
        return {name: push(method, batch, scores) for name, method in METHODS.items()}

    return Programs(jax.jit(scored), jax.jit(pushes), jax.jit(pull))


def measure_seed(config: ConfigDict, setup: Setup, programs: Programs) -> dict[str, Any]:
    """One rollout and one move.

    Returns:
      `pairs`: a record each, see `compare`; `rollout`: its lengths, and ratios and clips off-policy.
    """
    params = first_state(setup).params
    rollout = mixed_rollout(setup, params)
    batch = Batch(rollout=rollout, old=programs.score(params, rollout))
    pairs = measure_pairs("on", Case(params, batch, batch.old), programs)
    params = moved(params, stream(setup.config, "evaluation"), config.move)
    off = Case(params, batch, programs.score(params, rollout))
    return {"pairs": pairs + measure_pairs("off", off, programs), "rollout": _described(off, programs)}


def mixed_rollout(setup: Setup, params: Params) -> Rollout:
    """A rollout whose groups all have different outcomes.

    Raises:
      ValueError: prompts of which too few are answered differently.
    """
    generations = setup.schedule.generations
    collector = make_collector(setup)._replace(keep=mixed_outcomes, generations=generations)
    collected = collect(collector, params, stream(setup.config, "rollout"), 0)
    if collected.short:
        raise ValueError(
            f"{collected.short} groups of {collected.offered} that were drawn are without signal: raise "
            "base.schedule.generations or base.schedule.group"
        )
    return collected.rollout


@functools.partial(jax.jit, donate_argnums=0)
def moved(params: Params, key: Array, size: float) -> Params:
    """Parameters with noise of `size` times the root mean square of each array."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))

    def move(leaf: Array, key: Array) -> Array:
        scale = size * jnp.sqrt(jnp.mean(jnp.square(leaf)))
        return leaf + scale * jax.random.normal(key, leaf.shape, leaf.dtype)

    return jax.tree.unflatten(tree, [move(leaf, key) for leaf, key in zip(leaves, keys, strict=True)])


def measure_pairs(policy: str, case: Case, programs: Programs) -> list[dict[str, Any]]:
    """A record a pair of one policy: its names, and `compare`."""
    pushes = programs.push(case.batch, case.scores)

    @functools.lru_cache(maxsize=3)
    def outcome(name: str) -> Outcome:
        gradient = programs.pull(case.params, case.batch.rollout, pushes[name].coefficients)
        return Outcome(float(pushes[name].loss), [np.asarray(leaf) for leaf in jax.tree.leaves(gradient)])

    return [
        {**pair._asdict(), **compare(outcome(pair.first), outcome(pair.second))}
        for pair in PAIRS
        if pair.policy == policy
    ]


def push(method: Method, batch: Batch, scores: Scores) -> Push:
    """What a method pushes on a rollout that is one minibatch; no penalties."""
    fixed, _ = estimate(method, batch, method.state)
    weights, _ = weigh(method.objective, batch.rollout, fixed)

    def of_log_prob(log_prob: Array) -> tuple[Array, Any]:
        new = scores._replace(log_prob=log_prob)
        return loss(method.objective, new, batch, fixed, weights, (), ())

    gradient = jax.value_and_grad(of_log_prob, has_aux=True)
    (value, seen), coefficients = gradient(jnp.asarray(scores.log_prob))
    return Push(value, coefficients, reduce(seen))


def compare(first: Outcome, second: Outcome) -> dict[str, float]:
    """How far apart two methods are.

    Returns:
      `gradient`: ‖g₁ − g₂‖/‖g₂‖ over all parameters; `largest`: max |g₁ − g₂|/max |g₂|; `cosine` of g₁ and
      g₂; `loss`: |L₁ − L₂|.
    """
    sums = np.zeros(4)
    largest = np.zeros(2)
    for one, two in zip(first.gradient, second.gradient, strict=True):
        one, two = one.astype(np.float64).ravel(), two.astype(np.float64).ravel()
        apart = one - two
        sums += [apart @ apart, one @ one, two @ two, one @ two]
        largest = np.maximum(largest, [np.abs(apart).max(), np.abs(two).max()])
    square, own, other, along = sums
    return {
        "gradient": float(np.sqrt(square / other)),
        "largest": float(largest[0] / largest[1]),
        "cosine": float(along / np.sqrt(own * other)),
        "loss": abs(first.loss - second.loss),
    }


def _described(off: Case, programs: Programs) -> dict[str, float]:
    rollout, mask = off.batch.rollout, np.asarray(off.batch.rollout.action_mask)
    gap = (np.asarray(off.scores.log_prob) - np.asarray(off.batch.old.log_prob))[mask]
    pushes = programs.push(off.batch, off.scores)
    lengths = (rollout.length - rollout.prompt_length).astype(float)
    return {
        "tokens": float(lengths.mean()),
        "spread": float(lengths.std()),
        "log_ratio": float(gap.std()),
        **{f"clipped by {name}": float(pushes[name].metrics["clip_fraction"]) for name in ("GRPO", "GSPO")},
    }
