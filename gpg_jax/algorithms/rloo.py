"""RLOO: REINFORCE whose baseline is the mean of the prompt's other completions."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from gpg_jax.algorithms.checks import one_of
from gpg_jax.algorithms.compose import clip as clip_gate
from gpg_jax.algorithms.compose import compose, credited, whole_output
from gpg_jax.algorithms.reinforce import UNREAD
from gpg_jax.algorithms.settings import GROUP, Settings, own_default, resolve
from gpg_jax.estimators import advantages
from gpg_jax.estimators.filters import sample_weight
from gpg_jax.estimators.segments import group_sum
from gpg_jax.losses.gates import no_gate
from gpg_jax.losses.ratios import no_ratio, token_ratio, unit_product_ratio
from gpg_jax.types import Array, Batch, Method, State

UNITS_ALIKE = ("unit_mean", "unit_sum")
"""Aggregations that count a unit once: those of a ratio that is written to each of its tokens."""


def rloo(*, ratio: str | None = None, clip: float | None = None, **options: Any) -> Method:
    """∇J = E[(R_i − mean_{j ≠ i} R_j)·∇log π(o_i)]: a baseline that keeps the gradient as it is.

    Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!"; Ahmadian et al., arXiv 2402.14740.
    The papers have no ratio; TRL clips that of the whole output, verl, tunix and OpenRLHF those of tokens.

    Args:
      ratio: "none", "token" or "unit_product", that of the whole output; for None the paper's, which is none,
        or the convention's.
      clip: ε of the ratio's clip; for None 0.2, or the convention's.
      **options: of `settings.Settings`.

    Returns:
      The method.

    Raises:
      ValueError: an unknown ratio, a clip of none, or a product that an aggregation would count by tokens.
    """
    kind = own_default("rloo", "ratio", ratio, options, "none")
    one_of("ratio", kind, ("none", "token", "unit_product"))
    plain = kind == "none"
    unread = (GROUP - {"singleton"}) | (UNREAD if plain else frozenset())
    aggregation = "unit_mean" if kind == "unit_product" else "sequence_mean_token_sum"
    settings = resolve(options, unread, name="rloo", aggregation=aggregation, kl_order="before")
    if plain and clip is not None:
        raise ValueError(
            f'clip is of a ratio, and there is none: give ratio="token" too, or leave clip={clip} out'
        )
    if kind == "unit_product" and settings.aggregation not in UNITS_ALIKE:
        raise ValueError(
            f"the product over an output counts once: take {' or '.join(UNITS_ALIKE)}, "
            f"not {settings.aggregation}"
        )
    epsilon = own_default("rloo", "clip", clip, options, 0.2)
    make = unit_product_ratio if kind == "unit_product" else token_ratio
    return compose(
        settings,
        units=whole_output,
        advantage=credited(settings, _rows(settings)),
        ratio=no_ratio if plain else make(settings.log_ratio_range),
        gate=no_gate if plain else clip_gate(settings, epsilon, epsilon),
    )


def _rows(settings: Settings) -> advantages.RowEstimator:
    if settings.singleton == "zero":
        return advantages.minus_leave_one_out

    def raw_alone(returns: Array, batch: Batch, state: State) -> tuple[Array, State]:
        value, state = advantages.minus_leave_one_out(returns, batch, state)
        acts = (sample_weight(batch.rollout) > 0).astype(jnp.int32)
        return jnp.where(group_sum(acts, batch.rollout.group) == 1, returns, value), state

    return raw_alone
