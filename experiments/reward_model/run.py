"""A reward model's run from its first measurement to its last: updates, what is written, and checkpoints."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from experiments import output as out
from experiments.measures import broken
from experiments.optimizers import learning_rate
from experiments.progress import say, show_progress
from experiments.report import write_report
from experiments.resuming import due, open_kept, open_output
from experiments.reward_model.data import prompt_key
from experiments.reward_model.experiment import RewardModelExperiment
from experiments.reward_model.setup import RewardSetup, first_state
from experiments.statistics import clustered
from gpg_jax.data.preference_pairs import Pairs, Preference, lay_out_pairs
from gpg_jax.losses.metrics import reduce
from gpg_jax.losses.preferences import ordered, pair_weights, preference_loss
from gpg_jax.training.checkpoints import Checkpoints, save
from gpg_jax.training.processes import on_first
from gpg_jax.training.reward_model import (
    PreferenceStep,
    compile_pair_rewards,
    compile_preference_step,
    make_preference_step,
)
from gpg_jax.training.state import CriticState
from gpg_jax.types import Params


class Start(NamedTuple):
    """Where a run begins or goes on.

    Attributes:
      step: updates done.
      state: behind them.
      accuracies: step -> accuracy on the held-out pairs; keys as JSON has them.
      resumed: whether it goes on.
      output: the open folder.
    """

    step: int
    state: CriticState
    accuracies: dict[str, float]
    resumed: bool
    output: out.Output


class Run(NamedTuple):
    """What the parts of a run share; `accuracies` grows."""

    setup: RewardSetup
    update: PreferenceStep
    score: Callable[[Params, Pairs], Any]
    output: out.Output
    checkpoints: Checkpoints
    console: Console
    accuracies: dict[str, float]


def open_run(setup: RewardSetup, workdir: Path, console: Console) -> tuple[Checkpoints, Start]:
    """Finds out where the folder of a run is.

    Args:
      setup: what the run is made of.
      workdir: belongs to it.
      console: where a person reads.

    Returns:
      Its open checkpoints; the newest sound one, or the first state.

    Raises:
      ValueError: checkpoints that are all damaged, or of another run, or a folder that cannot be written.
    """
    checkpoints, restored = open_kept(setup.config.checkpoint, workdir, setup.like, console)
    if restored is None:
        return checkpoints, Start(0, first_state(setup), {}, False, open_output(workdir, -1))
    setup.preferences.batches.set_state(restored.host["cursor"])
    output = open_output(workdir, restored.step)
    return checkpoints, Start(restored.step, restored.state, restored.host["accuracies"], True, output)


def finish_run(
    setup: RewardSetup, workdir: Path, console: Console, checkpoints: Checkpoints, start: Start
) -> None:
    """Trains to the last update, and draws the report.

    Args:
      setup: what the run is made of.
      workdir: belongs to it.
      console: where a person reads.
      checkpoints: from `open_run`.
      start: from `open_run`.

    Raises:
      FloatingPointError: a loss or gradient that is not finite.
    """
    places = jax.tree.map(lambda leaf: leaf.sharding, setup.like)
    with checkpoints, contextlib.ExitStack() as after:
        after.callback(out.close_output, start.output)
        run = Run(
            setup=setup,
            update=compile_preference_step(make_preference_step(setup.program), places),
            score=compile_pair_rewards(setup.program, setup.mesh, places.params),
            output=start.output,
            checkpoints=checkpoints,
            console=console,
            accuracies=start.accuracies,
        )
        if not start.resumed:
            measure_held_out(run, 0, start.state.params)
        train(run, start)
    on_first(lambda: conclude(setup.config, workdir, console, start.accuracies))


def train(run: Run, start: Start) -> None:
    """The updates that are left."""
    preferences, last = run.setup.preferences, run.setup.config.schedule.steps
    state = start.state
    with show_progress(run.console, last, start.step) as advance:
        for step in range(start.step + 1, last + 1):
            before = time.perf_counter()
            pairs = _laid_out(run, next(preferences.batches), run.setup.config.schedule.pairs)
            state, found = run.update(state, pairs)
            metrics = _measured(run, step, jax.device_get(found), before)
            on_first(functools.partial(out.write_metrics, run.output, step, metrics))
            if wrong := broken(metrics):
                raise FloatingPointError(
                    f"{wrong} is {metrics[wrong]} in update {step}: lower optimizer.learning_rate, or clip "
                    "the gradient (optimizer.clip_norm)"
                )
            advance(step, metrics)
            keep(run, step, state, metrics)


def keep(run: Run, step: int, state: CriticState, metrics: dict[str, float]) -> None:
    """Measures and saves where it is time to; the last update always."""
    config = run.setup.config
    last = step == config.schedule.steps
    if last or due(step, config.evaluation.every):
        measure_held_out(run, step, state.params)
    if last or due(step, config.checkpoint.every):
        host = {
            "cursor": run.setup.preferences.batches.get_state(),
            "accuracies": run.accuracies,
            "statistics": statistics(run, state.params),
        }
        score = run.accuracies.get(str(step)) if run.setup.preferences.held_out else -metrics["loss"]
        save(run.checkpoints, step, state, host, score=score)


def measure_held_out(run: Run, step: int, params: Params) -> None:
    """Accuracy on the held-out pairs with its interval, loss and margin, where any are held out."""
    pairs = run.setup.preferences.held_out
    if not pairs:
        return
    rewards = rewards_of(run, params, pairs)
    prompts = np.array([prompt_key(pair) for pair in pairs])
    mean, low, high = clustered(np.asarray(ordered(rewards[:, 0] - rewards[:, 1])), prompts)
    margins = np.array([pair.margin for pair in pairs], np.float32)
    there = np.ones(len(pairs), bool)
    loss, seen = preference_loss(
        rewards, there, pair_weights(there), margins, run.setup.config.preferences.centring
    )
    name = "held_out/pairs"
    found = {name: mean, f"{name}_low": low, f"{name}_high": high, "held_out/loss": float(loss)}
    found |= {f"held_out/{key}": float(value) for key, value in reduce(seen).items() if key != "accuracy"}
    on_first(lambda: out.write_metrics(run.output, step, found))
    say(
        run.console,
        f"update {step}, held-out: {mean:.3f} [{low:.3f}, {high:.3f}] of {len(pairs)} pairs of "
        f"{len(set(prompts))} prompts in the right order (95%, by prompt)",
    )
    run.accuracies[str(step)] = mean


def statistics(run: Run, params: Params) -> dict[str, float]:
    """Mean and standard deviation of rewards on the training set, what scores are normalised with."""
    some = run.setup.preferences.train[: run.setup.config.evaluation.statistics or None]
    rewards = rewards_of(run, params, some)
    return {
        "mean": float(np.mean(rewards, dtype=np.float64)),
        "std": float(np.std(rewards, dtype=np.float64)),
    }


def rewards_of(run: Run, params: Params, pairs: Sequence[Preference]) -> np.ndarray:
    """r_w and r_l of every pair, `float32[N, 2]`."""
    size = run.setup.config.evaluation.batch
    batches = [_laid_out(run, pairs[begin : begin + size], size) for begin in range(0, len(pairs), size)]
    return np.concatenate([np.asarray(run.score(params, batch)) for batch in batches])[: len(pairs)]


def conclude(
    config: RewardModelExperiment, workdir: Path, console: Console, accuracies: dict[str, float]
) -> None:
    """The report, and the last line: accuracy before and after."""
    title = f"reward model of {config.preferences.train or config.task.name}, seed {config.seed}"
    say(console, f"report: {write_report(workdir, title)}")
    if accuracies:
        last = accuracies[str(config.schedule.steps)]
        say(console, f"held-out accuracy: {accuracies['0']:.3f} → {last:.3f}")


def _laid_out(run: Run, pairs: Sequence[Preference], count: int) -> Pairs:
    program, encode = run.setup.program, run.setup.preferences.encode
    return lay_out_pairs([encode(pair) for pair in pairs], program.prompt_slots, program.new_slots, count)


def _measured(run: Run, step: int, found: dict[str, Any], before: float) -> dict[str, float]:
    """The numbers of an update, with what only the host knows; only the times differ between equal runs."""
    seconds, config = time.perf_counter() - before, run.setup.config
    return {name: float(value) for name, value in sorted(found.items())} | {
        "learning_rate": float(learning_rate(config.optimizer, config.schedule.steps)(step - 1)),
        "seconds": seconds,
        "pairs_per_second": config.schedule.pairs / seconds,
    }
