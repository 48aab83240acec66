"""GPG, the *Generalized* Policy Gradient: any units of action, from one token to the whole output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp

from gpg_jax.algorithms import checks
from gpg_jax.algorithms.checks import count
from gpg_jax.algorithms.compose import (
    Units,
    clip,
    compose,
    group_advantage,
    group_rows,
    kl_in_the_reward,
)
from gpg_jax.algorithms.settings import GROUP, Settings, resolve
from gpg_jax.decoding.markers import Markers, marked_units, marker_faults
from gpg_jax.decoding.units import (
    degraded_units,
    fixed_count_units,
    fixed_length_units,
    high_entropy_units,
)
from gpg_jax.estimators.advantages import (
    Advantage,
    Classes,
    branch_advantage,
    calibrated_advantage,
    response_mask,
    shared_by_tokens,
    shared_by_tree,
)
from gpg_jax.estimators.calibration import class_mean
from gpg_jax.estimators.filters import every_row, finished
from gpg_jax.estimators.masked import masked_sum
from gpg_jax.losses.ratios import token_ratio, unit_geometric_token_ratio, unit_product_token_ratio
from gpg_jax.types import Array, Batch, Method

RATIOS = {
    "token": token_ratio,
    "unit_geometric": unit_geometric_token_ratio,
    "unit_product": unit_product_token_ratio,
}

NONE: frozenset[str] = frozenset()
CALIBRATIONS = ("hard", "soft", "tree")
PREFIXES = {"tree": shared_by_tree, "tokens": shared_by_tokens}


def gpg(
    *,
    units: Units | None = None,
    unit_count: int | None = None,
    unit_length: int | None = None,
    markers: tuple[str, ...] | Markers | None = None,
    boundary_noise: float = 0.0,
    boundary_seed: int = 0,
    entropy_fraction: float | None = None,
    ratio: str = "unit_geometric",
    calibration: Literal["hard", "soft", "tree"] = "hard",
    prefix: Literal["tree", "tokens"] = "tree",
    inclusive: bool = True,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    **options: Any,
) -> Method:
    """J = (1/G) Σ_i (1/|o_i|) Σ_T |MA_T|·min(s_T A_i, clip(s_T, 1 − ε_low, 1 + ε_high) A_i).

    Mao, Dong and Dou 2025, arXiv 2512.10365: ∇J = E[Σ_T ∇log π(MA_T|MS_T)·Φ_T] for any cut of the output into
    macro-actions. The clipped surrogate is this library's: with s_T the geometric mean of the unit's token
    ratios it is GRPO's where a unit is a token and GSPO's where it is the whole output.

    At π_θ = π_old the three ratios have one gradient, Σ_T A_i·∇log π(MA_T|MS_T) over each row's length |o_i|.
    The theorem has no such length: the aggregation "sequence_mean_token_sum" meets it, the default does not.

    Rows that share a prefix have one advantage on it (eq. 29). By the branch tree rows share what was written
    before they forked, so that without forks every row keeps its own. `sharing`, how many rows share a token
    in the mean, is reported: near 1 the calibration averages over nothing.

    The geometric mean of a unit's ratios is nearer to 1 than its tokens' are, so that an ε made for tokens
    binds too late: a token may fall without bound while its unit's s_T stays within 1 ± ε, and the weight of
    its gradient, which the token's own ratio would take to 0, stays s_T. GSPO takes 3e-4 and 4e-4.

    Args:
      units: `Batch` -> unit ids `int32[B, L]`.
      unit_count: K units of nearly equal length; 4 where no other cut is given.
      unit_length: tokens of a unit.
      markers: tags that end a unit, from `decoding.markers.compile_markers` (a configuration gives names).
        `marker_fault`, the share of rows that are one unit for a fault, is reported, and each kind of fault
        (`marker_absent`, `marker_unclosed`, `marker_nested`, `marker_stray`).
      boundary_noise: share of the boundaries that are moved to random places, see `units.degraded_units`; 1
        cuts at random into as many units.
      boundary_seed: of those places.
      entropy_fraction: of a row's tokens that begin a unit, those of highest entropy under the old policy.
      ratio: "token", "unit_geometric" or "unit_product".
      calibration: "hard", the mean over those who share the token; "soft", each row's own; "tree", what a
        branch is worth beside its parent, an extension that knows no std.
      prefix: who shares: rows of one branch of the "tree", or rows of equal "tokens".
      inclusive: whether the token itself must be shared, or the prefix before it is enough.
      clip_low: ε_low.
      clip_high: ε_high.
      **options: of `settings.Settings`; the aggregations "unit_mean" and "unit_sum" count units alike.

    Returns:
      The method.

    Raises:
      ValueError: more than one way to cut, a cut into no units, an unknown ratio, calibration or prefix, or a
        KL in the reward that is credited apart, which has no mean over rows.
    """
    if ratio not in RATIOS:
        raise ValueError(f"no ratio {ratio!r}; there are {', '.join(RATIOS)}")
    settings = resolve(options, GROUP | {"advantage_range"} if calibration == "tree" else NONE, name="gpg")
    advantage = _advantage(settings, calibration, prefix, inclusive)
    cut = _units(units, unit_count, unit_length, markers, entropy_fraction)
    return compose(
        settings,
        units=_degraded(cut, boundary_noise, boundary_seed),
        needs=frozenset({"old", "entropy"} if entropy_fraction is not None else ()),
        watch=_watch(markers, None if calibration == "soft" else PREFIXES[prefix](inclusive)),
        advantage=advantage,
        ratio=RATIOS[ratio](settings.log_ratio_range),
        gate=clip(settings, clip_low, clip_high),
    )


def _advantage(settings: Settings, calibration: str, prefix: str, inclusive: bool) -> Advantage:
    if calibration not in CALIBRATIONS or prefix not in PREFIXES:
        raise ValueError(
            f"calibration must be one of {', '.join(CALIBRATIONS)} and prefix one of {', '.join(PREFIXES)}; "
            f"got {calibration!r} and {prefix!r}"
        )
    if calibration == "soft":
        return group_advantage(settings, scale=True)
    if kl_in_the_reward(settings) and settings.kl_order == "after":
        raise ValueError('a calibrated advantage has no place for kl_order="after"; take calibration="soft"')
    counted = finished if settings.drop_truncated else every_row
    if calibration == "tree":
        if settings.advantage_range is not None:
            raise ValueError('calibration="tree" holds no advantage: advantage_range must be None')
        if not inclusive:
            raise ValueError('calibration="tree" compares branches, which hold their tokens: inclusive=True')
        return branch_advantage(PREFIXES[prefix](True), counted)
    return calibrated_advantage(group_rows(settings, True), PREFIXES[prefix](inclusive), counted)


def _units(
    units: Units | None,
    number: int | None,
    length: int | None,
    markers: tuple[str, ...] | Markers | None,
    fraction: float | None,
) -> Units:
    if sum(choice is not None for choice in (units, number, length, markers, fraction)) > 1:
        raise ValueError("give one of units, unit_count, unit_length, markers and entropy_fraction")
    if units is not None:
        return units
    if length is not None:
        count("unit_length", length)
        size = length
        return lambda batch: fixed_length_units(batch.rollout.action_mask, size)
    if fraction is not None:
        share = fraction
        checks.within("entropy_fraction", share, 1e-6, 1)
        return lambda batch: _cut_at_entropy(batch, share)
    if markers is not None:
        compiled = _compiled(markers)
        return lambda batch: marked_units(compiled, batch.rollout.tokens, batch.rollout.action_mask).unit_ids
    number = 4 if number is None else number
    count("unit_count", number)
    return lambda batch: fixed_count_units(batch.rollout.action_mask, number)


def _cut_at_entropy(batch: Batch, fraction: float) -> Array:
    if batch.old.entropy is None:
        raise ValueError("entropy_fraction reads Scores.entropy of the old policy: name it in Method.needs")
    return high_entropy_units(batch.rollout.action_mask, batch.old.entropy, fraction)


def _compiled(markers: tuple[str, ...] | Markers) -> Markers:
    if not isinstance(markers, Markers):
        raise ValueError(
            f"markers={markers!r} are names; compile them over the vocabulary with "
            "decoding.markers.compile_markers"
        )
    return markers


def _degraded(units: Units, noise: float, seed: int) -> Units:
    checks.within("boundary_noise", noise, 0, 1)
    return (lambda batch: degraded_units(units(batch), batch.rollout.tokens, noise, seed)) if noise else units


def _watch(
    markers: tuple[str, ...] | Markers | None, classes: Classes | None
) -> Callable[[Batch, Array], dict[str, Array]]:
    """Units of a row, what kept it from being cut, and rows that its mean token is shared by."""

    def watch(batch: Batch, unit_ids: Array) -> dict[str, Array]:
        seen: dict[str, Array] = {"units": jnp.max(unit_ids, axis=1) + 1}
        if classes is not None:
            seen["sharing"] = _sharing(batch, classes)
        return seen if markers is None else {**seen, **marker_faults(_compiled(markers), batch.rollout)}

    return watch


def _sharing(batch: Batch, classes: Classes) -> Array:
    rollout = batch.rollout
    one = jnp.ones(rollout.length.shape, jnp.float32)
    _, members = class_mean(one, classes(rollout), response_mask(rollout), one)
    mask = rollout.action_mask
    return masked_sum(members, mask, axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1)
