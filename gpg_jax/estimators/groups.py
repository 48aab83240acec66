"""Group-relative advantages: what a row earned beside the other completions of its prompt.

Groups are named by ids, so rows may stand in any order. Rows count by their weight (the leaf weight; 0
leaves a row out of the statistics). Values are measured from the group's smallest, so a constant group gives
exactly 0 and a large offset costs no digits.
"""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp

from gpg_jax.estimators.masked import at_least_float32
from gpg_jax.estimators.segments import group_min, group_sum, tree_roots
from gpg_jax.types import Array

Singleton = Literal["zero", "raw"]
EpsPlacement = Literal["outside", "inside"]
StdOver = Literal["group", "batch"]


def group_centre(returns: Array, group: Array, weight: Array, *, singleton: Singleton = "zero") -> Array:
    """A_i = R_i − Σ_j w_j R_j / Σ_j w_j over the rows of i's group, itself included.

    Dr. GRPO, arXiv 2503.20783, section 3.2. Including itself shrinks the expected gradient by 1 − 1/G;
    G/(G−1)·A is the leave-one-out advantage.

    Args:
      returns: `[B]`.
      group: `int32[B]`, ids in 0 .. B-1.
      weight: `[B]`, weight of each row in the statistics, ≥ 0.
      singleton: what a row alone in its group gets: "zero", or "raw", its return.

    Returns:
      `[B]`.

    Raises:
      ValueError: an unknown `singleton`.
    """
    if singleton not in ("zero", "raw"):
        raise ValueError(f'singleton must be "zero" or "raw", got {singleton!r}')
    weight = at_least_float32(weight)
    lowest = group_min(jnp.where(weight > 0, returns, jnp.inf), group)
    shifted = jnp.where(jnp.isinf(lowest), 0, returns - lowest)
    total = group_sum(weight, group)
    mean = group_sum(jnp.where(weight > 0, weight * shifted, 0), group) / jnp.where(total > 0, total, 1)
    return jnp.where(_alone(weight, group) & (singleton == "raw"), returns, shifted - mean)


def group_normalise(
    returns: Array,
    group: Array,
    weight: Array,
    *,
    ddof: int = 0,
    eps: float = 0.0,
    eps_placement: EpsPlacement = "outside",
    singleton: Singleton = "zero",
    std_over: StdOver = "group",
) -> Array:
    """A_i = (R_i − mean_i) / std_i over the rows of i's group.

    GRPO, arXiv 2402.03300, section 4.1.2, which names neither the std's degrees of freedom nor an ε.
    std² = Σ w(R − mean)² / (Σ w − ddof); ε outside: std + ε, inside: √(std² + ε). Weights count rows, those
    of a tree add up to one; where all of them are no more than ddof the divisor is 1. Where the rows in the
    statistics are all equal there is no scale: every row of the group gets exactly 0 whatever ε, a row that
    was left out of the statistics too.

    Args:
      returns: `[B]`.
      group: `int32[B]`, ids in 0 .. B-1.
      weight: `[B]`, weight of each row in the statistics, ≥ 0.
      ddof: 0 for the population's std, 1 for the sample's.
      eps: ε ≥ 0.
      eps_placement: "outside" or "inside" the root.
      singleton: what a row alone in its group gets: "zero", or "raw", its return with 1 for the std.
      std_over: rows whose std divides, the "group" or the whole "batch" (one scale for all prompts).

    Returns:
      `[B]`.

    Raises:
      ValueError: an argument that is none of these.
    """
    if ddof not in (0, 1) or eps < 0 or eps_placement not in ("outside", "inside"):
        raise ValueError(
            'ddof must be 0 or 1, eps not negative and eps_placement "outside" or "inside"; got '
            f"ddof={ddof}, eps={eps}, eps_placement={eps_placement!r}"
        )
    if std_over not in ("group", "batch"):
        raise ValueError(f'std_over must be "group" or "batch", got {std_over!r}')
    centred = group_centre(returns, group, weight, singleton=singleton)
    scale_group = group if std_over == "group" else jnp.zeros_like(group)
    variance = _variance(returns, scale_group, weight, ddof)
    if singleton == "raw" and std_over == "group":
        variance = jnp.where(_alone(weight, group), 1, variance)
    std = jnp.sqrt(variance + eps) if eps_placement == "inside" else jnp.sqrt(variance) + eps
    spread = variance > 0
    return jnp.where(spread, centred / jnp.where(spread, std, 1), 0)


def _variance(returns: Array, group: Array, weight: Array, ddof: int) -> Array:
    centred = group_centre(returns, group, weight)
    square = group_sum(jnp.where(weight > 0, weight * jnp.square(centred), 0), group)
    freedom = group_sum(at_least_float32(weight), group) - ddof
    return square / jnp.where(freedom > 0, freedom, 1)


def leave_one_out(returns: Array, group: Array, parent: Array, weight: Array) -> Array:
    """b_i = Σ_{j: group_j = group_i, root_j ≠ root_i} w_j R_j / Σ w_j: the mean of the other rollouts.

    RLOO, Kool et al. 2019; Ahmadian et al., arXiv 2402.14740. A fork shares tokens with its tree, so
    the whole tree of a row is left out. A row with nothing else in its group has itself as the baseline.

    Args:
      returns: `[B]`.
      group: `int32[B]`, ids in 0 .. B-1.
      parent: `int32[B]`, the row each row was forked from, itself for a root.
      weight: `[B]`, weight of each row as a sample, ≥ 0.

    Returns:
      `[B]`.
    """
    return leave_one_out_ratio(returns, jnp.ones_like(returns), group, parent, weight)


def leave_one_out_ratio(values: Array, scale: Array, group: Array, parent: Array, weight: Array) -> Array:
    """Σ_{j of other trees} w_j s_j x_j / Σ_{j of other trees} w_j s_j, within i's group.

    The others are summed themselves: the group's sum less the row's own would lose the others' digits where
    its own scale is the largest.

    Args:
      values: `[B]`, x.
      scale: `[B]`, s ≥ 0.
      group: `int32[B]`, ids in 0 .. B-1.
      parent: `int32[B]`.
      weight: `[B]`, w ≥ 0.

    Returns:
      `[B]`; the row's own value where no other tree has any weight.
    """
    root, weight = tree_roots(parent), jnp.asarray(weight * scale)
    others = (group[:, None] == group[None, :]) & (root[:, None] != root[None, :]) & (weight > 0)[None, :]
    lowest = jnp.min(jnp.where(others, values[None, :], jnp.inf), axis=1)
    lowest = jnp.where(jnp.isinf(lowest), 0, lowest)
    above = jnp.where(others, values[None, :] - lowest[:, None], 0)
    total = jnp.sum(jnp.where(others, weight[None, :], 0), axis=1)
    mean = jnp.sum(jnp.where(others, weight[None, :] * above, 0), axis=1) / jnp.where(total > 0, total, 1)
    return jnp.where(total > 0, lowest + mean, values)


def _alone(weight: Array, group: Array) -> Array:
    return group_sum((weight > 0).astype(jnp.int32), group) == 1
