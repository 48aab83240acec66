"""Estimator cards: bias, scale, variance and direction of every method's gradient, without a sample.

A language model of a few symbols is small enough that every rollout can be listed. Each method is given all
of them, at the policy that drew them and at policies further and further away, and the mean and the variance
of its gradient stand beside the exact ∇J. The rows come from aside, from a policy in a random direction, as
those of another sampler do, or from behind, down ∇J, as those do that the policy has learnt from since.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from experiments.studies import cards_figure
from experiments.studies import cards_report as report
from experiments.studies.card_entries import Entry, entries
from experiments.studies.findings import Findings
from experiments.studies.kept import every_seed
from gpg_jax.theory import responses as listed
from gpg_jax.theory.cards import Problem, card, fixed_state, gradient_moments
from gpg_jax.theory.gradients import GradientMoments
from gpg_jax.theory.responses import Responses
from gpg_jax.theory.rollouts import Rollouts, forked_rollouts, independent_rollouts
from gpg_jax.types import Array, State

PAGE = "tables.md"
"""What `notebooks/estimator_cards.md` shows, in the study's folder."""

Program = Callable[[Problem, State], GradientMoments]


def default_study() -> ConfigDict:
    """Every key of the study.

    - `symbols`, `longest`: V with the end among them, and T, of the language model.
    - `spread`: std of its logits, which are normal.
    - `prompts`, `group`: P and G of a rollout.
    - `rewards`: "graded", 0, 1 or uniform between with a third each, or "binary", 0 or 1.
    - `distances`: KL(behaviour‖π_θ) in nats a token, besides 0.
    - `critic_error`: std of a wrong critic's errors, over that of the rewards under the behaviour.
    - `kl_coefficient`, `reference_distance`: β, and KL(reference‖π_θ) in nats a token.
    - `roots`, `width`: of forked rollouts, of one prompt; rows fork behind the symbol 1 in the first place.
    - `seeds`: problems, each with logits, rewards and directions of its own.
    """
    return ConfigDict(
        {
            "study": "cards",
            "question": "",
            "symbols": 3,
            "longest": 3,
            "spread": 0.7,
            "prompts": 2,
            "group": 2,
            "rewards": "graded",
            "distances": (0.001, 0.01, 0.03, 0.1, 0.3),
            "critic_error": 0.5,
            "kl_coefficient": 0.3,
            "reference_distance": 0.3,
            "roots": 2,
            "width": 2,
            "seeds": 10,
        }
    )


class Bench(NamedTuple):
    """What all problems share.

    Attributes:
      responses: of the language model.
      entries: the estimators.
      programs: one each: problem, state -> moments.
      rollouts: how many there are with independent rows, orders aside.
    """

    responses: Responses
    entries: Sequence[Entry]
    programs: Sequence[Program]
    rollouts: int


class Problems(NamedTuple):
    """A problem at every distance.

    Attributes:
      away: direction -> a problem a distance, from 0 on, with the exact critic.
      error: `[P, S]`, of the wrong critic, in stds of the rewards.
    """

    away: dict[str, list[Problem]]
    error: Array


def cards(config: ConfigDict, workdir: Path, console: Console) -> Findings:
    """Measures the problems that are not there yet, and draws the cards.

    Args:
      config: see `default_study`.
      workdir: keeps what each problem came to, and has the tables without intervals in `tables.md`.
      console: where a person reads.

    Raises:
      ValueError: a configuration that is wrong.
    """
    _check(config)
    with jax.enable_x64(True):
        bench = open_bench(config)
        found = every_seed(config, workdir, console, lambda seed: measure_seed(config, bench, seed))
    shown = [(entry.name, entry.family) for entry in bench.entries]
    (workdir / PAGE).write_text(report.page(found, shown), encoding="utf-8")
    return Findings(
        report.table(found, shown),
        cards_figure.draw(found, shown),
        report.notes(found, shown),
        report.tables(found, shown),
    )


def open_bench(config: ConfigDict) -> Bench:
    """Lists the rollouts and prepares the programs, which compile when they are called."""
    responses = listed.list_responses(config.symbols, config.longest)
    plain = independent_rollouts(responses, config.prompts, config.group)
    found = entries(config.longest, config.kl_coefficient)
    forked = {
        kind: forked_rollouts(responses, config.roots, config.width, 1, kind)
        for kind in dict.fromkeys(entry.leaf_weight for entry in found)
        if kind is not None
    }

    def rollouts(entry: Entry) -> Rollouts:
        return plain if entry.leaf_weight is None else forked[entry.leaf_weight]

    programs = [gradient_moments(entry.method, responses, rollouts(entry)) for entry in found]
    return Bench(responses, found, programs, len(plain.response))


def measure_seed(config: ConfigDict, bench: Bench, seed: int) -> dict[str, Any]:
    """One problem.

    Returns:
      `distances`, those of `config` behind 0; `rollouts` that are listed; and `cards`: name of an estimator
      -> direction -> a card a distance.
    """
    problems = make_problems(config, bench.responses, seed)

    def measured(entry: Entry, program: Program, problem: Problem) -> dict[str, float]:
        problem = asked(config, bench.responses, entry, problem, problems.error)
        moments = program(problem, fixed_state(entry.method, bench.responses, problem))
        aim = aimed_at(bench.responses, problem, config.kl_coefficient if entry.regularised else 0.0)
        return {name: float(one) for name, one in card(moments, aim)._asdict().items()}

    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for entry, program in zip(bench.entries, bench.programs, strict=True):
        on_policy = measured(entry, program, problems.away["aside"][0])
        found[entry.name] = {
            direction: [on_policy, *(measured(entry, program, one) for one in away[1:])]
            for direction, away in problems.away.items()
        }
    return {"distances": [0.0, *config.distances], "rollouts": bench.rollouts, "cards": found}


def asked(config: ConfigDict, responses: Responses, entry: Entry, problem: Problem, error: Array) -> Problem:
    """The problem as an estimator meets it: its critic and π_old, and for forked rows the first prompt."""
    if entry.critic == "wrong":
        size = config.critic_error * reward_spread(responses, problem.behaviour, problem.reward)
        problem = problem._replace(critic=problem.critic + size * error)
    if entry.old == "policy":
        problem = problem._replace(old=problem.policy)
    return problem if entry.leaf_weight is None else Problem(*(table[:1] for table in problem))


def aimed_at(responses: Responses, problem: Problem, coefficient: float) -> Array:
    """∇(E[R] − β·KL(π‖π_ref)), with the KL of whole responses."""
    return _gradient(responses, problem.policy, problem.reward, problem.reference, coefficient)


def make_problems(config: ConfigDict, responses: Responses, seed: int) -> Problems:
    """What a seed draws: logits, rewards, a direction aside, a reference, errors of a critic."""
    draw = np.random.default_rng(seed)
    shape = config.prompts, 1 + int(responses.prefix.max()), config.symbols
    policy = config.spread * jnp.asarray(draw.normal(size=shape))
    aside, other = (jnp.asarray(draw.normal(size=shape)) for _ in range(2))
    reward = jnp.asarray(draw_rewards(draw, config.rewards, (config.prompts, len(responses.token))))
    reference = listed.moved(responses, policy, other, config.reference_distance)

    def problem(behaviour: Array) -> Problem:
        value = listed.prefix_values(responses, behaviour, reward)
        return Problem(reward, policy, behaviour, behaviour, reference, value)

    ways = {"aside": aside, "behind": -_gradient(responses, policy, reward, reference, 0.0)}
    away = {
        name: [problem(listed.moved(responses, policy, way, nats)) for nats in (0.0, *config.distances)]
        for name, way in ways.items()
    }
    return Problems(away, jnp.asarray(draw.normal(size=shape[:2])))


def draw_rewards(draw: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Rewards of every response to every prompt; see `default_study`."""
    if kind == "binary":
        return draw.integers(0, 2, shape).astype(np.float64)
    return np.clip(draw.uniform(-1, 2, shape), 0, 1)


def reward_spread(responses: Responses, logits: Array, reward: Array) -> Array:
    """The std of the reward within a prompt, as a root mean square over prompts."""
    probability = listed.probabilities(responses, logits)
    mean = jnp.sum(probability * reward, axis=1, keepdims=True)
    return jnp.sqrt(jnp.mean(jnp.sum(probability * jnp.square(reward - mean), axis=1)))


@jax.jit
def _gradient(
    responses: Responses, logits: Array, reward: Array, reference: Array, coefficient: float
) -> Array:
    def worth(logits: Array) -> Array:
        cost = listed.divergence(responses, logits, reference)
        return listed.expected_reward(responses, logits, reward) - coefficient * cost

    return jax.grad(worth)(logits)


def _check(config: ConfigDict) -> None:
    if config.rewards not in ("graded", "binary"):
        raise ValueError(f'rewards is {config.rewards!r}; it must be "graded" or "binary"')
    distances = tuple(config.distances)
    if any(one <= 0 for one in distances) or list(distances) != sorted(set(distances)):
        raise ValueError(f"distances are above 0 and rise, got {distances}")
