"""Advantages from a critic, as an objective's `advantage`: a rollout's old values, and what it earned."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from gpg_jax.estimators.advantages import Advantage
from gpg_jax.estimators.filters import finished, sample_weight
from gpg_jax.estimators.generalized_advantage import generalized_advantage, value_targets
from gpg_jax.estimators.groups import EpsPlacement
from gpg_jax.estimators.temporal_difference import n_step_returns
from gpg_jax.estimators.variance import whiten
from gpg_jax.types import Array, Batch, Rollout, State


class Whitening(NamedTuple):
    """How advantages are whitened over a rollout; see `variance.whiten`.

    Attributes:
      ddof: degrees of freedom that the mean takes.
      eps: ε.
      eps_placement: "outside" or "inside" the root.
    """

    ddof: int = 1
    eps: float = 1e-8
    eps_placement: EpsPlacement = "inside"


def gae_advantage(
    lambda_: float | Callable[[Rollout], Array],
    *,
    target_lambda: float | None = None,
    discount: float,
    bootstrap_truncated: bool = False,
    whitening: Whitening | None = None,
) -> Advantage:
    """A_{b,t} = GAE(γ, λ) of the old values, and the critic's targets, λ-returns with a λ of their own.

    Args:
      lambda_: λ of the advantages, or `Rollout` -> λ `[B]`.
      target_lambda: that of the targets; the same for None, which makes them Â_t + V_t.
      discount: γ in [0, 1], an action.
      bootstrap_truncated: whether a row that its budget ended is worth V behind its last token from there on,
        and not 0.
      whitening: of the advantages, or None; targets are taken before it.
    """

    def advantage(batch: Batch, unit_ids: Array, rewards: Array, state: State) -> tuple[Array, Array, State]:
        own = lambda_(batch.rollout) if callable(lambda_) else lambda_
        rows = rewards, *old_values(batch, bootstrap_truncated), batch.rollout.action_mask
        found = generalized_advantage(*rows, own, discount)
        targets = value_targets(*rows, own if target_lambda is None else target_lambda, discount)
        return _whitened(found, batch.rollout, unit_ids >= 0, whitening), targets, state

    return advantage


def n_step_advantage(
    steps: int,
    *,
    discount: float,
    bootstrap_truncated: bool = False,
    whitening: Whitening | None = None,
) -> Advantage:
    """A_{b,t} = r_t + … + γ^(n−1) r_{t+n−1} + γ^n V_{t+n} − V_t, whose first part is the critic's target.

    A2C and A3C, arXiv 1602.01783, section 4 and algorithm S3, with windows that every token begins; the TD
    error for one step.

    Args:
      steps: n, at least 1.
      discount: γ in [0, 1], an action.
      bootstrap_truncated: as of `gae_advantage`.
      whitening: as of `gae_advantage`.
    """

    def advantage(batch: Batch, unit_ids: Array, rewards: Array, state: State) -> tuple[Array, Array, State]:
        value, bootstrap = old_values(batch, bootstrap_truncated)
        targets = n_step_returns(rewards, value, bootstrap, batch.rollout.action_mask, steps, discount)
        found = jnp.where(batch.rollout.action_mask, targets - value, 0)
        return _whitened(found, batch.rollout, unit_ids >= 0, whitening), targets, state

    return advantage


def old_values(batch: Batch, bootstrap_truncated: bool) -> tuple[Array, Array]:
    """V of the state before each token `[B, L]`, and of what is behind the row `[B]`, 0 where it had an end.

    Args:
      batch: with the old policy's scores.
      bootstrap_truncated: whether rows that a budget ended have a value behind them.

    Raises:
      ValueError: no old values.
    """
    value, behind = batch.old.value, batch.old.bootstrap
    if value is None or behind is None:
        raise ValueError('an advantage from a critic reads the old values: put "value" and "old" into needs')
    if not bootstrap_truncated:
        return value, jnp.zeros_like(behind)
    return value, jnp.where(finished(batch.rollout), 0, behind)


def _whitened(advantage: Array, rollout: Rollout, mask: Array, whitening: Whitening | None) -> Array:
    """Rows of a tree count in mean and std by their leaf weights."""
    advantage = jnp.where(mask, advantage, 0)
    if whitening is None:
        return advantage
    return whiten(advantage, mask, **whitening._asdict(), weight=sample_weight(rollout)[:, None])
