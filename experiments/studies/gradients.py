"""How good a gradient one rollout gives: forks, calibration and leaf weights against a large-sample gradient.

A policy is taken out of the middle of its training, and its prompts are held fixed. Each way to fork spends
the same budget of rows, again and again; what its estimates scatter by, and what they miss on average, is
measured against the mean of many rollouts without forks. Every family of estimators aims at its own such
mean, so that what the forks do is told apart from what std and lengths do to any rollout. Where forks change
an estimate's length too, as they do that of tree advantages, its variance is read over that length.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from experiments.config import Experiment
from experiments.phases import make_phases
from experiments.reading import from_config_dict
from experiments.setup import Setup, build, open_toolbox, stream
from experiments.studies import gradients_report as report
from experiments.studies import moments
from experiments.studies.estimators import (
    AIM_OF,
    AIMS,
    ESTIMATORS,
    FAMILIES,
    METHODS,
    UNBIASED,
    compile_gradients,
)
from experiments.studies.findings import Findings
from experiments.studies.gradients_figure import draw
from experiments.studies.gradients_records import Budget
from experiments.studies.kept import every_seed
from experiments.studies.moments import Moments
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
from gpg_jax.environments.toolbox import Toolbox
from gpg_jax.training.collect import Collected, Collector, collect
from gpg_jax.training.loop import Phase
from gpg_jax.types import Array, Params, Rollout

Gradients = Callable[[Params, Rollout], np.ndarray]


def default_study() -> ConfigDict:
    """Every key of the study.

    - `base`: the experiment whose policy and task it is; `schedule.group` is M, the rows of a prompt.
    - `iterations`: that the policy has behind it, those of the cold start among them.
    - `prompts`: of a rollout, the same in all of a seed's: those of a batch of `base` whose rewards differed
      the most in a first rollout. `together` rollouts are drawn at once.
    - `widths`: rows that a row becomes at every boundary, M/width of them beginning at the prompt.
    - `paper_roots`: N of one more way to fork, ARPO's by entropy, with k = 1; 0 for none.
    - `rollouts`: R, of each way to fork; `reference`: S, without forks, for what is aimed at.
    - `seeds`: policies, each with prompts and rollouts of its own.
    """
    return ConfigDict(
        {
            "study": "gradients",
            "question": "",
            "base": ConfigDict(),
            "iterations": 0,
            "prompts": 2,
            "together": 8,
            "widths": (1, 2, 4, 8),
            "paper_roots": 8,
            "rollouts": 24,
            "reference": 96,
            "seeds": 5,
        }
    )


class Lab(NamedTuple):
    """What all seeds share; programs are compiled once."""

    config: ConfigDict
    setup: Setup
    toolbox: Toolbox
    phases: tuple[Phase, ...]
    programs: LivePrograms
    branchings: Mapping[str, Branching]
    of_all: Gradients
    of_aims: Gradients


def gradients(config: ConfigDict, workdir: Path, console: Console) -> Findings:
    """Measures the seeds that are not there yet, and compares.

    Args:
      config: see `default_study`.
      workdir: keeps what each seed came to.
      console: where a person reads.

    Raises:
      ValueError: a configuration that is wrong, or a large-sample gradient that is all noise.
    """
    lab = functools.cache(lambda: open_lab(config))
    found = every_seed(config, workdir, console, lambda seed: measure_seed(lab(), seed))
    budget = Budget(config.rollouts, config.reference)
    return Findings(
        report.table(found, budget), draw(found, budget), report.notes(found, budget), report.tables(found)
    )


def open_lab(config: ConfigDict) -> Lab:
    """Reads the configuration and prepares the programs."""
    setup = build(from_config_dict(Experiment, config.base))
    programs, toolbox = dialogue_programs(setup, entropy), open_toolbox(setup)
    assert toolbox is not None  # `dialogue_programs` has seen to it
    layout, temperature = setup.schedule.plan.layout, setup.schedule.plan.temperature
    _check(config, setup)
    return Lab(
        config=config,
        setup=setup,
        toolbox=toolbox,
        phases=make_phases(setup, toolbox),
        programs=programs,
        branchings=branchings(tuple(config.widths), config.paper_roots, layout.shared),
        of_all=compile_gradients(setup.policy, layout, temperature, METHODS),
        of_aims=compile_gradients(setup.policy, layout, temperature, AIMS, ("uniform",)),
    )


def branchings(widths: Sequence[int], paper_roots: int, group: int) -> dict[str, Branching]:
    """Ways to spend M rows of a prompt, by name.

    Args:
      widths: of the fixed ones.
      paper_roots: N of the paper's, 0 for none.
      group: M.

    Raises:
      ValueError: a width that does not cut M rows into two trees or more, or more roots than rows.
    """
    if paper_roots > group:
        raise ValueError(f"paper_roots is {paper_roots}, and base.schedule.group={group} rows begin no more")
    paper = {f"ARPO, N={paper_roots}": arpo_paper(paper_roots, tokens=1)} if paper_roots else {}
    return fixed_widths(widths, group) | paper


def measure_seed(lab: Lab, seed: int) -> dict[str, Any]:
    """One policy: what each way to fork and each estimator came to.

    Returns:
      `batch` and `policy`: mean reward, and the share of groups whose rewards differ, without forks, of the
      batch that the prompts were taken from and of the prompts taken; `rows`: a record for each way to fork
      and estimator, see `_records`.
    """
    config, setup = lab.config, with_seed(lab.setup, seed)
    params = policy_after(setup, lab.phases, config.iterations)
    key, group = stream(setup.config, "evaluation"), lab.setup.schedule.plan.layout.shared

    def collector(branching: Branching, examples: Sequence[Example]) -> Collector:
        found = forked_collector(setup, lab.toolbox, lab.programs, branching, examples, group)
        return found._replace(leaf_weight="tree")

    first = collect(collector(no_branching(group), next(setup.task.batches)), params, key, 0)
    examples = telling(first, config.prompts) * config.together

    def drawn(name: int, branching: Branching, count: int) -> Iterator[Rollout]:
        own = jax.random.fold_in(key, name)
        return _rollouts(collector(branching, examples), params, own, count, config.prompts)

    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    target, seen = moments.no_moments(len(AIMS), size), []
    for rollout in drawn(0, no_branching(group), config.reference):
        target = moments.add(target, lab.of_aims(params, rollout))
        seen.append(_described(rollout))
    _check_target(target, config.reference)
    rows = []
    for name, (label, branching) in enumerate(lab.branchings.items(), 1):
        rollouts = drawn(name, branching, config.rollouts)
        rows += _records(label, rollouts, lambda rollout: lab.of_all(params, rollout), target)
    return {"batch": _described(first.rollout), "policy": _averaged(seen), "rows": rows}


def telling(collected: Collected, count: int) -> list[Example]:
    """The examples whose rewards differ the most, of which a rollout tells the most."""
    spread = np.var(collected.rollout.reward.reshape(len(collected.examples), -1), axis=1)
    return [collected.examples[index] for index in np.argsort(-spread, kind="stable")[:count]]


def _records(
    label: str, rollouts: Iterator[Rollout], gradient: Callable[[Rollout], np.ndarray], target: Moments
) -> list[dict[str, Any]]:
    """What the rollouts of one way to fork come to, a record an estimator.

    - `variance`, `bias`: tr Cov and squared bias over ‖g‖², g what the family aims at.
    - `squared_mean`: ‖E[x]‖² over ‖g‖², without bias, so below 0 at times.
    - `cosine`: mean over rollouts of that between the estimate and g, 0 where the estimate is 0.
    - `to_gradient`: cosine between the mean estimate and ∇J.
    - `apart`: ‖hard − soft‖/‖soft‖ of the same rollout, family and leaf weight, the largest of all rollouts.
    - what `_described` says of a rollout, in the mean.
    """
    aims = moments.chosen(target, AIM_OF)
    whole = moments.chosen(target, np.full(len(ESTIMATORS), list(FAMILIES).index(UNBIASED)))
    total, cosines, apart, seen = moments.no_moments(len(ESTIMATORS), target.total.shape[1]), [], [], []
    for rollout in rollouts:
        estimate = gradient(rollout)
        total = moments.add(total, estimate)
        cosines.append(moments.cosine(estimate, aims))
        apart.append(_apart(estimate))
        seen.append(_described(rollout))
    norm = moments.squared_norm(aims)
    columns = {
        "variance": moments.variance(total) / norm,
        "bias": moments.squared_bias(total, aims) / norm,
        "squared_mean": moments.squared_norm(total) / norm,
        "cosine": np.mean(cosines, axis=0),
        "to_gradient": moments.cosine_of_means(total, whole),
        "apart": np.max(apart, axis=0),
    }
    return [
        {
            "branching": label,
            "family": estimator.family,
            "calibration": estimator.calibration,
            "leaf_weight": estimator.leaf_weight,
            **{name: float(values[index]) for name, values in columns.items()},
            **_averaged(seen),
        }
        for index, estimator in enumerate(ESTIMATORS)
    ]


def _apart(estimate: np.ndarray) -> np.ndarray:
    """‖x − soft‖/‖soft‖ `[E]`, soft being of the same family and leaf weight; 0 for a family without one."""
    place = {(one.family, one.calibration, one.leaf_weight): index for index, one in enumerate(ESTIMATORS)}
    result = np.zeros(len(ESTIMATORS))
    for index, one in enumerate(ESTIMATORS):
        soft = place.get((one.family, "soft", one.leaf_weight), index)
        length = np.linalg.norm(estimate[soft])
        result[index] = np.linalg.norm(estimate[index] - estimate[soft]) / length if length else 0.0
    return result


def _rollouts(
    collector: Collector, params: Params, key: Array, count: int, prompts: int
) -> Iterator[Rollout]:
    """Independent rollouts of the first prompts, several of which are drawn at once."""
    rows = prompts * collector.group
    for number in range(-(-count * prompts // len(collector.draw()))):
        whole = collect(collector, params, jax.random.fold_in(key, number), 0).rollout
        for first in range(0, len(whole.reward), rows):
            part = jax.tree.map(lambda leaf, first=first: leaf[first : first + rows], whole)
            yield part.replace(group=part.group - part.group[0], parent=part.parent - first)


def _described(rollout: Rollout) -> dict[str, float]:
    """What a rollout cost, and whether it says anything.

    - `drawn`, `trained`, `trees`: see `policies.described`.
    - `reward`: mean of the rows.
    - `mixed`: share of the groups whose rewards differ; `signal`: whether there is one, 0 or 1.
    """
    rewards = rollout.reward.reshape(rollout.group.max() + 1, -1)
    mixed = float(np.mean(np.ptp(rewards, axis=1) > 0))
    reward = float(rollout.reward.mean())
    return {**described(rollout), "reward": reward, "mixed": mixed, "signal": float(mixed > 0)}


def _averaged(seen: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in seen])) for name in seen[0]}


def _check(config: ConfigDict, setup: Setup) -> None:
    schedule = setup.schedule
    for name in ("rollouts", "reference"):
        if config[name] < 2 or config[name] % config.together:
            raise ValueError(
                f"{name} is {config[name]}; it must be a multiple of together={config.together}, 2 at least"
            )
    if 1 not in config.widths:
        raise ValueError(
            f"widths are {tuple(config.widths)}; the width 1 is what the others are compared with"
        )
    if tuple(config.widths) == (1,) and not config.paper_roots:
        raise ValueError("widths are (1,) and paper_roots 0: no rows are forked; give another width")
    if not 1 <= config.prompts <= schedule.prompts:
        raise ValueError(f"prompts is {config.prompts}; base.schedule.prompts={schedule.prompts} are at hand")
    if not 0 <= config.iterations <= schedule.steps:
        raise ValueError(f"iterations is {config.iterations}, and the run of base has {schedule.steps}")


def _check_target(target: Moments, count: int) -> None:
    if not np.all(moments.squared_norm(target) > 0):
        raise ValueError(
            f"the mean of {count} rollouts is all noise: raise `reference`, or take a policy whose groups "
            "have different rewards (`iterations`)"
        )
