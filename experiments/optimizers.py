"""The optimizer of a run: clipping, AdamW, and a learning rate with warm-up and decay."""

from __future__ import annotations

from typing import Any

import jax
import optax

from experiments.config import Experiment, OptimizerConfig


def run_learning_rate(config: Experiment, updates: int) -> optax.Schedule:
    """Update -> learning rate: constant in the cold start, then as the optimizer's part says.

    Args:
      config: of the run.
      updates: updates of the whole run, those of the cold start among them.
    """
    cold = config.cold_start
    own = learning_rate(config.optimizer, updates - cold.steps)
    if not cold.steps:
        return own
    rate = config.optimizer.learning_rate if cold.learning_rate is None else cold.learning_rate
    return optax.join_schedules([optax.constant_schedule(rate), own], [cold.steps])


def learning_rate(config: OptimizerConfig, updates: int) -> optax.Schedule:
    """Update -> learning rate: a linear warm-up that begins above 0, then constant, linear or cosine.

    Args:
      config: the optimizer's part of the configuration.
      updates: where the decay ends.
    """
    peak, warm_up = config.learning_rate, config.warm_up
    rest, end = max(updates - warm_up, 1), config.learning_rate * config.final_fraction
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, end, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest, config.final_fraction),
    }[config.decay]
    if not warm_up:
        return after
    rise = optax.linear_schedule(peak / warm_up, peak, max(warm_up - 1, 1))
    return optax.join_schedules([rise, after], [warm_up])


def make_optimizer(config: OptimizerConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    """Clipping by the global norm, then AdamW; norms and biases are not decayed.

    Loshchilov and Hutter 2019, "Decoupled weight decay regularization", arXiv 1711.05101, algorithm 2.

    Args:
      config: the optimizer's part of the configuration.
      rate: update -> learning rate.
    """
    adamw = optax.adamw(
        rate,
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=_is_matrix,
    )
    if config.clip_norm is None:
        return adamw
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)


def _is_matrix(params: Any) -> Any:
    def matrix(path: tuple[Any, ...], leaf: Any) -> bool:
        del leaf
        return not str(getattr(path[-1], "key", path[-1])).endswith(("norm", "bias"))

    return jax.tree_util.tree_map_with_path(matrix, params)
