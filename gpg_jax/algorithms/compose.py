"""From settings and a method's few own choices to a `Method`.

A new method is a call of `compose`: an advantage and a gate, and whatever else is its own.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from gpg_jax.algorithms.settings import Settings
from gpg_jax.decoding.units import sequence_unit, token_units
from gpg_jax.environments.shaping import kl_in_reward, reward_at_last_action, truncated_reward
from gpg_jax.estimators import advantages, filters
from gpg_jax.estimators.advantages import Advantage, RowEstimator
from gpg_jax.estimators.divergences import ESTIMATORS, bounded
from gpg_jax.losses import corrections, gates, ratios, weights
from gpg_jax.losses.penalties import entropy_bonus, kl_penalty
from gpg_jax.types import Array, Batch, Method, Objective, Penalty, Rollout, State

Outcome = Callable[[Batch], Array]
Units = Callable[[Batch], Array]

AGGREGATIONS: dict[str, Callable[[Settings], weights.Weights]] = {
    "token_sum": lambda settings: weights.token_sum,
    "token_mean": lambda settings: weights.token_mean,
    "sequence_mean": lambda settings: weights.sequence_mean,
    "sequence_mean_token_sum": lambda settings: weights.sequence_mean_token_sum,
    "constant_length": lambda settings: weights.constant_length(settings.max_length),
    "unit_sum": lambda settings: weights.unit_sum_weights,
    "unit_mean": lambda settings: weights.unit_mean_weights,
}

CORRECTIONS: dict[str, Callable[[float], corrections.Correction]] = {
    "none": lambda cap: corrections.no_correction,
    "token": corrections.truncated_token,
    "sequence": corrections.truncated_sequence,
    "token_mask": lambda cap: corrections.masked_token(0.0, cap),
    "sequence_mask": lambda cap: corrections.masked_sequence(0.0, cap),
}


def compose(
    settings: Settings,
    *,
    advantage: Advantage,
    gate: gates.Gate,
    ratio: ratios.Ratio | None = None,
    units: Units | None = None,
    outcome: Outcome | None = None,
    keep: Callable[[Rollout], Array] = filters.every_row,
    resample: bool = False,
    state: State = (),
    needs: frozenset[str] = frozenset(),
) -> Method:
    """The method of these choices.

    Args:
      settings: what methods share.
      advantage: rewards to advantages.
      gate: ratio and advantage to surrogate.
      ratio: log-ratios to ratios; by token for None.
      units: `Batch` -> unit ids; every token for None.
      outcome: `Batch` -> `[B]`, the scalar earned at the last action; `scalar_outcome(settings)` for None.
      keep: `Rollout` -> rows that carry signal.
      resample: whether refused rows are replaced.
      state: the method's first state.
      needs: names of further scores that the method reads.

    Returns:
      The method.

    Raises:
      ValueError: an unknown aggregation, correction, estimator or placement.
    """
    if settings.kl_estimator != "full":
        _pick(ESTIMATORS, settings.kl_estimator, "KL estimator")
    aggregation = _pick(AGGREGATIONS, settings.aggregation, "aggregation")(settings)
    correction = _pick(CORRECTIONS, settings.correction, "correction")(settings.correction_cap)
    units = each_token if units is None else units
    objective = Objective(
        units=_finished_rows(units) if settings.drop_truncated else units,
        advantage=advantage,
        ratio=ratios.token_ratio(settings.log_ratio_range) if ratio is None else ratio,
        gate=gate,
        weights=aggregation,
        correction=correction,
        penalties=_penalties(settings, aggregation),
    )
    shape = _shape(settings, scalar_outcome(settings) if outcome is None else outcome)
    return Method(objective, shape, keep, state, needs=needs | _needs(settings), resample=resample)


def each_token(batch: Batch) -> Array:
    """Unit ids of tokens."""
    return token_units(batch.rollout.action_mask)


def whole_output(batch: Batch) -> Array:
    """Unit ids of whole outputs."""
    return sequence_unit(batch.rollout.action_mask)


def scalar_outcome(settings: Settings) -> Outcome:
    """`Batch` -> the reward of each row `[B]`, replaced where a truncated row's is set."""
    value = settings.truncated_reward
    if value is None:
        return lambda batch: jnp.asarray(batch.rollout.reward)
    return lambda batch: truncated_reward(batch.rollout.reward, ~filters.finished(batch.rollout), value)


def group_advantage(settings: Settings, *, scale: bool, outcome: Outcome | None = None) -> Advantage:
    """Outcomes compared within the group, A = R − mean, over the std for `scale`.

    Args:
      settings: how the std is taken, which rows enter, where the KL is placed.
      scale: whether the std divides.
      outcome: as given to `compose`.
    """
    rows = advantages.held(_group_rows(settings, scale), settings.advantage_range)
    if settings.kl_placement == "reward" and settings.kl_coefficient:
        return advantages.outcome_and_rest_advantage(rows, outcome or scalar_outcome(settings))
    return advantages.outcome_advantage(rows)


def clip(settings: Settings, low: float, high: float) -> gates.Gate:
    """PPO's clip, dual where the settings have a bound."""
    if settings.dual_clip is None:
        return gates.clip_gate(low, high)
    return gates.dual_clip_gate(low, high, settings.dual_clip)


def _pick(table: dict, name: str, what: str) -> Callable:
    if name not in table:
        raise ValueError(f"no {what} {name!r}; there are {', '.join(table)}")
    return table[name]


def _group_rows(settings: Settings, scale: bool) -> RowEstimator:
    statistics = advantages.filters_for(settings.truncated_in_statistics)
    if not scale:
        return advantages.group_centred(singleton=settings.singleton, statistics=statistics)
    return advantages.group_normalised(
        ddof=settings.ddof,
        eps=settings.eps,
        eps_placement=settings.eps_placement,
        singleton=settings.singleton,
        std_over=settings.std_over,
        statistics=statistics,
    )


def _finished_rows(units: Units) -> Units:
    return lambda batch: jnp.where(filters.finished(batch.rollout)[:, None], units(batch), -1)


def _penalties(settings: Settings, aggregation: weights.Weights) -> tuple[Penalty, ...]:
    penalties = []
    if settings.kl_coefficient and settings.kl_placement == "loss":
        penalties.append(
            kl_penalty(
                settings.kl_estimator,
                settings.kl_coefficient,
                aggregation,
                bounds=settings.kl_range,
                cost_bounds=settings.kl_cost_range,
                importance_weighted=settings.kl_importance_weighted,
            )
        )
    if settings.entropy_coefficient:
        penalties.append(entropy_bonus(settings.entropy_coefficient, aggregation))
    return tuple(penalties)


def _shape(settings: Settings, outcome: Outcome) -> Callable[[Batch, State], Array]:
    if settings.kl_placement not in ("loss", "reward"):
        raise ValueError(f'kl_placement must be "loss" or "reward", got {settings.kl_placement!r}')
    charged = settings.kl_placement == "reward" and settings.kl_coefficient
    if charged and settings.kl_estimator == "full":
        raise ValueError(
            "the KL in the reward is taken at the sampled token: use k1, k2, k3 or abs, not full"
        )

    def shape(batch: Batch, state: State) -> Array:
        del state
        mask = batch.rollout.action_mask
        rewards = reward_at_last_action(outcome(batch), mask)
        if not charged:
            return rewards
        return kl_in_reward(rewards, _old_divergence(settings, batch), mask, settings.kl_coefficient)

    return shape


def _old_divergence(settings: Settings, batch: Batch) -> Array:
    if batch.reference is None:
        raise ValueError("the KL in the reward reads Batch.reference, and there is none")
    cost = bounded(ESTIMATORS[settings.kl_estimator], settings.kl_range)(
        batch.old.log_prob, batch.reference.log_prob
    )
    return cost if settings.kl_cost_range is None else jnp.clip(cost, *settings.kl_cost_range)


def _needs(settings: Settings) -> frozenset[str]:
    """`Scores` fields, "reference", and "old" where π_old is read before the first update."""
    needs = {"entropy"} if settings.entropy_coefficient else set()
    if settings.correction != "none" or (settings.kl_placement == "reward" and settings.kl_coefficient):
        needs |= {"old"}
    if settings.kl_coefficient:
        needs |= {"reference", "kl_ref"} if settings.kl_estimator == "full" else {"reference"}
    return frozenset(needs)
