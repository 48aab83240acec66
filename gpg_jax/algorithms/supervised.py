"""Supervised fine-tuning on demonstrations, as a method: what comes before reinforcement learning."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from gpg_jax.algorithms.compose import AGGREGATIONS, compose
from gpg_jax.algorithms.settings import resolve
from gpg_jax.losses.gates import no_gate
from gpg_jax.losses.ratios import no_ratio
from gpg_jax.types import Array, Batch, Method, Penalty, Scores, State


def supervised(*, state: State = (), **options: Any) -> Method:
    """L = −(1/Σ|o_i|) Σ_i Σ_t log π_θ(y_t), over the tokens that the demonstrator chose.

    A tool's results are read and not learnt. The rewards of the rows are not looked at.

    Args:
      state: of the method that follows, which is handed on as it is.
      **options: of `settings.Settings`; the aggregation is "token_mean" unless one is given.

    Returns:
      The method.
    """
    settings = resolve(options, aggregation="token_mean")
    method = compose(settings, advantage=_nothing, gate=no_gate, ratio=no_ratio, state=state)
    weigh = AGGREGATIONS[settings.aggregation](settings)
    likelihood = Penalty(_surprise, weigh, lambda state: 1.0)
    objective = method.objective._replace(penalties=(*method.objective.penalties, likelihood))
    return method._replace(objective=objective)


def _nothing(batch: Batch, unit_ids: Array, rewards: Array, state: State) -> tuple[Array, None, State]:
    return jnp.zeros(unit_ids.shape, jnp.float32), None, state


def _surprise(scores: Scores, batch: Batch) -> Array:
    return -scores.log_prob
