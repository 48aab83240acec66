"""REINFORCE: the score of the whole output, times what it earned above a baseline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpg_jax.algorithms.checks import within
from gpg_jax.algorithms.compose import compose, credited, whole_output
from gpg_jax.algorithms.settings import GROUP, GROUP_STD, resolve
from gpg_jax.estimators import advantages
from gpg_jax.estimators.baselines import running_start
from gpg_jax.losses.gates import no_gate
from gpg_jax.losses.ratios import no_ratio
from gpg_jax.types import Array, Batch, Method

UNREAD = frozenset({"dual_clip", "log_ratio_range"})
"""Settings of ratios and gates, which REINFORCE has none of."""


def reinforce(*, rows: advantages.RowEstimator = advantages.without_baseline, **options: Any) -> Method:
    """∇J = E[(R − b)·∇log π(o)]: the mean over rows of the sum over tokens.

    Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement
    learning", theorem 1. Here b = 0 unless `rows` says otherwise.

    Args:
      rows: from returns `[B]` to advantages `[B]`; a row estimator of `estimators.advantages`.
      **options: of `settings.Settings`.

    Returns:
      The method.
    """
    return _reinforce(rows, GROUP, options, name="reinforce")


def reinforce_constant(*, baseline: float = 0.5, **options: Any) -> Method:
    """REINFORCE with b a constant, for rewards whose level is known. See `reinforce`.

    Args:
      baseline: b.
      **options: of `settings.Settings`.
    """
    within("baseline", baseline)
    return _reinforce(advantages.minus_constant(baseline), GROUP, options)


def reinforce_running(*, decay: float = 0.9, **options: Any) -> Method:
    """REINFORCE with b the running mean of earlier rollouts (Williams 1992, section 5). See `reinforce`.

    Args:
      decay: of the mean, a rollout, in [0, 1).
      **options: of `settings.Settings`.
    """
    within("decay", decay, 0, 1, below=True)
    return _reinforce(advantages.minus_running(decay), GROUP, options, state=running_start())


def reinforce_batch(**options: Any) -> Method:
    """REINFORCE with b the mean over the batch, which shrinks the gradient by 1 − 1/B. See `reinforce`."""
    return _reinforce(advantages.minus_batch_mean, GROUP, options)


def reinforce_group(**options: Any) -> Method:
    """REINFORCE with b the mean of the prompt's group, which shrinks it by 1 − 1/G. See `reinforce`."""
    settings = resolve(options, UNREAD, name="reinforce_group")
    statistics = advantages.filters_for(settings.truncated_in_statistics)
    rows = advantages.group_centred(singleton=settings.singleton, statistics=statistics)
    return _reinforce(rows, GROUP_STD, options)


def reinforce_optimal(*, norms: Callable[[Batch], Array] = advantages.head_norms, **options: Any) -> Method:
    """REINFORCE with b* = E[R‖∇log π‖²]/E[‖∇log π‖²] over the prompt's other completions. See `reinforce`.

    Greensmith, Bartlett and Baxter 2004, "Variance reduction techniques for gradient estimates".

    Args:
      norms: `Batch` -> squared score norms `[B]`; by default those at the logits, a proxy.
      **options: of `settings.Settings`.
    """
    needs = frozenset({"old", "score_square"}) if norms is advantages.head_norms else frozenset()
    return _reinforce(advantages.minus_optimal(norms), GROUP, options, needs=needs)


def _reinforce(
    rows: advantages.RowEstimator,
    without: frozenset[str],
    options: dict[str, Any],
    name: str = "",
    **rest: Any,
) -> Method:
    settings = resolve(
        options, without | UNREAD, name=name, aggregation="sequence_mean_token_sum", kl_order="before"
    )
    return compose(
        settings,
        units=whole_output,
        advantage=credited(settings, rows),
        ratio=no_ratio,
        gate=no_gate,
        **rest,
    )
