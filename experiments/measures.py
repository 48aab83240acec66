"""The numbers of an iteration, as they are written."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import jax
import numpy as np

from experiments.optimizers import run_learning_rate
from experiments.setup import Setup
from experiments.tools import without_room
from gpg_jax.training.collect import Collected
from gpg_jax.training.loop import Iteration
from gpg_jax.types import Rollout

CHECKED = ("loss", "gradient_norm", "critic_gradient_norm")
"""Metrics that must be finite where they are measured."""


def measure(setup: Setup, iteration: Iteration, before: float) -> dict[str, float]:
    """Waits for the step, and adds what only the host knows.

    - `reward_failures`: rows for which a reward function raised or gave no number.
    - `generations`, `offered_groups`, `short_groups`: of dynamic sampling, see `training.collect`.
    - `calls`: calls of tools a row, and `tool_*`, what the tools did, where there are any; of these
      `tool_no_room`: rows that ended because an answer did not fit into the rest of `sampling.new_tokens`.
    - `forks`: rows of a prompt that begin behind tokens of another, where rows may and behind the cold start;
      at most `schedule.group` − `branching.roots`, and fewer where beams become narrow.
    - `staleness`, `learner_waits`: iterations that a rollout's parameters were behind, and seconds in which
      the learner had nothing to do until it came, where actors make them.
    - `learning_rate`: of the policy's last update so far, 0 before the first; left out where the optimizer
      has no part in it.
    - `new_tokens`: that the policy drew; what forked rows share was drawn once.
    - `seconds`, `new_tokens_per_second`: since the iteration before; these and `learner_waits` alone differ
      between equal runs, and `tool_seconds` and `tool_replayed` where one of them was resumed.

    Args:
      setup: of the run.
      iteration: the iteration.
      before: `time.perf_counter()` when the iteration before was measured.
    """
    metrics = {name: float(value) for name, value in sorted(jax.device_get(iteration.metrics).items())}
    seconds = time.perf_counter() - before  # once the metrics are here, the step is done
    collected = iteration.collected
    tokens = drawn_tokens(collected.rollout)
    tools = _tools(setup, collected) if setup.turns else {}
    forking = setup.config.branching.mode != "none" and iteration.step > setup.schedule.cold_steps
    forked = {"forks": forks(collected.rollout)} if forking else {}
    return (
        metrics
        | tools
        | forked
        | iteration.told
        | _rate(setup, iteration.step, int(metrics["updates"]))
        | {
            "reward_failures": float(len(collected.failures)),
            "generations": float(collected.generations),
            "offered_groups": float(collected.offered),
            "short_groups": float(collected.short),
            "new_tokens": float(tokens),
            "seconds": seconds,
            "new_tokens_per_second": tokens / seconds,
        }
    )


def _tools(setup: Setup, collected: Collected) -> dict[str, float]:
    no_room = without_room(collected.rollout.stop, collected.calls, setup.config.tools)
    return {"calls": float(collected.calls.mean()), **collected.counts, "tool_no_room": no_room}


def _rate(setup: Setup, step: int, updates: int) -> dict[str, float]:
    """The learning rate of the last of the updates that were made, which those left out do not count to."""
    if not setup.schedule.descends(step):
        return {}
    rate = run_learning_rate(setup.config, setup.schedule.updates)(updates - 1) if updates else 0.0
    return {"learning_rate": float(rate)}


def drawn_tokens(rollout: Rollout) -> int:
    """Tokens that the policy drew, those of a shared prefix once."""
    own = np.arange(rollout.tokens.shape[1]) >= np.asarray(rollout.fork)[:, None]
    return int(np.sum(np.asarray(rollout.action_mask) & own))


def forks(rollout: Rollout) -> float:
    """Rows of a prompt that begin behind tokens of another, in the mean over the prompts."""
    parent = np.asarray(rollout.parent)
    return float(np.sum(parent != np.arange(len(parent))) / len(np.unique(rollout.group)))


def broken(metrics: Mapping[str, float]) -> str | None:
    """The name of a metric that must be finite and is not, or None."""
    return next((name for name in CHECKED if not math.isfinite(metrics.get(name, 0.0))), None)


def score(
    accuracies: Mapping[str, Mapping[str, float]], step: int, metrics: Mapping[str, float], own: range
) -> float | None:
    """What the best checkpoints are chosen by: held-out accuracy at this step, or None.

    Where nothing is held out it is the reward of the method's own iterations: that of a cold start is the
    demonstrations'.

    Args:
      accuracies: iteration -> kind of evaluation -> accuracy.
      step: of the checkpoint.
      metrics: of its iteration.
      own: the method's iterations.
    """
    if not accuracies:
        return metrics["reward"] if step in own else None
    return next(iter(accuracies.get(str(step), {}).values()), None)
