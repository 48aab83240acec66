"""Advantage actor-critic: each token's score times what a critic says that it brought."""

from __future__ import annotations

from typing import Any

from gpg_jax.algorithms import checks
from gpg_jax.algorithms.compose import AGGREGATIONS, compose
from gpg_jax.algorithms.settings import GROUP, Settings, resolve
from gpg_jax.estimators.actor_critic import gae_advantage, n_step_advantage
from gpg_jax.estimators.advantages import Advantage
from gpg_jax.losses.gates import no_gate
from gpg_jax.losses.penalties import value_penalty
from gpg_jax.losses.ratios import no_ratio
from gpg_jax.types import Method, Penalty

NEEDS = frozenset({"old", "value"})
"""What every method with a critic reads: the values that advantages are made with."""

UNREAD = GROUP | {"advantage_range", "log_ratio_range", "dual_clip", "kl_order"}
"""Settings that have no place here: rows are not compared, and nothing has a ratio."""


def a2c(
    *,
    steps: int | None = None,
    lambda_: float | None = None,
    discount: float = 1.0,
    bootstrap_truncated: bool = False,
    value_coefficient: float = 0.5,
    **options: Any,
) -> Method:
    """∇J ≈ E[Σ_t ∇log π(y_t)·Â_t], Â from a critic that is fitted to (V − G)² beside it.

    Mnih et al. 2016, arXiv 1602.01783, section 4: n-step returns, one optimizer, an entropy bonus. The paper
    has n = 5 (t_max) and γ = .99; the default here, for a reward at a response's end, is its Monte-Carlo
    return, λ = 1 and γ = 1. Updates by workers with parameters of their own make it A3C; see
    `training.asynchronous`.

    Args:
      steps: n of the returns (1 is the TD error); None takes λ-returns.
      lambda_: λ where `steps` is None; 1, which None is, is the Monte-Carlo return less V.
      discount: γ in [0, 1], an action.
      bootstrap_truncated: whether a row that its budget ended is worth V behind its last token.
      value_coefficient: c of the critic's loss c·E[(V − G)²].
      **options: of `settings.Settings`; the aggregation is "token_mean" and the entropy's coefficient 0.01
        unless given, as in the paper.

    Returns:
      The method.

    Raises:
      ValueError: a setting without effect, or out of its range.
    """
    settings = resolve(options, UNREAD, name="a2c", aggregation="token_mean", entropy_coefficient=0.01)
    check_returns(settings, discount, bootstrap_truncated)
    checks.read_only(steps is None, "where steps is None", lambda_=lambda_)
    if steps is None:
        own = 1.0 if lambda_ is None else lambda_
        checks.within("lambda_", own, 0, 1)
        advantage: Advantage = gae_advantage(own, discount=discount, bootstrap_truncated=bootstrap_truncated)
    else:
        checks.count("steps", steps)
        advantage = n_step_advantage(steps, discount=discount, bootstrap_truncated=bootstrap_truncated)
    return compose(
        settings,
        advantage=advantage,
        ratio=no_ratio,
        gate=no_gate,
        needs=NEEDS,
        penalties=(critic_loss(settings, value_coefficient, None),),
    )


def check_returns(settings: Settings, discount: float, bootstrap_truncated: bool) -> None:
    """Raises ValueError for a γ outside [0, 1], or a bootstrap of rows that are dropped."""
    checks.within("discount", discount, 0, 1)
    checks.one_of("bootstrap_truncated", bootstrap_truncated, (False, True))
    if bootstrap_truncated and settings.drop_truncated:
        raise ValueError(
            "drop_truncated leaves out the rows that bootstrap_truncated is about: give one of them"
        )


def critic_loss(settings: Settings, coefficient: float, clip: float | None) -> Penalty:
    """c·E[(V − G)²] over the tokens as the surrogate counts them.

    Args:
      settings: whose aggregation it takes.
      coefficient: c > 0.
      clip: κ of the clipped form, or None.

    Raises:
      ValueError: a coefficient or a κ that is not positive and finite.
    """
    checks.positive("value_coefficient", coefficient)
    if clip is not None:
        checks.positive("value_clip", clip)
    return value_penalty(coefficient, AGGREGATIONS[settings.aggregation](settings), clip=clip)
