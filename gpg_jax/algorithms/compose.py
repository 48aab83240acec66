"""From settings and a method's few own choices to a `Method`.

A new method is a call of `compose`: an advantage and a gate, and whatever else is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp

from gpg_jax.algorithms import checks
from gpg_jax.algorithms.kl import charge, kl_cost
from gpg_jax.algorithms.settings import Settings
from gpg_jax.decoding.units import sequence_unit, token_units
from gpg_jax.environments.shaping import kl_in_reward, reward_at_last_action, truncated_reward
from gpg_jax.estimators import advantages, filters
from gpg_jax.estimators.advantages import Advantage, RowEstimator
from gpg_jax.losses import corrections, gates, ratios, weights
from gpg_jax.losses.penalties import Coefficient, Cost, entropy_bonus, kl_held, of_state, penalty
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

CORRECTIONS: dict[str, Callable[[float, float], corrections.Correction]] = {
    "none": lambda floor, cap: corrections.no_correction,
    "token": lambda floor, cap: _raised(corrections.truncated_token(cap), floor),
    "sequence": lambda floor, cap: _raised(corrections.truncated_sequence(cap), floor),
    "token_mask": corrections.masked_token,
    "sequence_mask": corrections.masked_sequence,
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
    penalties: Sequence[Penalty] = (),
    after: Callable[[State, dict[str, Array]], State] = lambda state, metrics: state,
    watch: Callable[[Batch, Array], dict[str, Array]] = lambda batch, unit_ids: {},
    kl_coefficient: Coefficient | None = None,
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
      penalties: further terms of the loss, such as a critic's.
      after: state, metrics -> state, once a rollout.
      watch: numbers of the rows that are reported, see `types.Method`.
      kl_coefficient: β of the KL to the reference by the method's state; the settings' for None.

    Returns:
      The method.

    Raises:
      ValueError: an unknown aggregation, correction, estimator or placement.
    """
    aggregation = _aggregation(settings, settings.aggregation)
    beta = of_state(settings.kl_coefficient if kl_coefficient is None else kl_coefficient)
    units = each_token if units is None else units
    units = _finished_rows(units) if settings.drop_truncated else units
    ratio = ratios.token_ratio(settings.log_ratio_range) if ratio is None else ratio
    objective = Objective(
        units=units,
        advantage=advantage,
        ratio=ratio,
        gate=gate,
        weights=aggregation,
        correction=_correction(settings),
        penalties=(*_penalties(settings, ratio, units, beta), *penalties),
    )
    shape = _shape(settings, scalar_outcome(settings) if outcome is None else outcome, beta)
    return Method(
        objective,
        shape,
        keep,
        state,
        after=after,
        needs=needs | _needs(settings),
        resample=resample,
        watch=watch,
        kl_in_reward=kl_in_the_reward(settings),
    )


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
    return credited(settings, _group_rows(settings, scale), outcome)


def credited(settings: Settings, rows: RowEstimator, outcome: Outcome | None = None) -> Advantage:
    """What a row is worth, to each of its actions; a KL in the reward enters before the rows are compared, or
    after it by what the token and those behind it cost.

    Args:
      settings: where the KL is placed, and its order.
      rows: from returns to advantages.
      outcome: as given to `compose`.
    """
    rows = advantages.held(rows, settings.advantage_range)
    if kl_in_the_reward(settings) and settings.kl_order == "after":
        return advantages.outcome_and_rest_advantage(rows, outcome or scalar_outcome(settings))
    return advantages.outcome_advantage(rows)


def kl_in_the_reward(settings: Settings) -> bool:
    """Whether the reward is charged for the KL."""
    return settings.kl_placement == "reward" and settings.kl_coefficient > 0


def clip(settings: Settings, low: float, high: float) -> gates.Gate:
    """PPO's clip, dual where the settings have a bound."""
    checks.clip_range(low, high)
    if settings.dual_clip is None:
        return gates.clip_gate(low, high)
    return gates.dual_clip_gate(low, high, settings.dual_clip)


def _pick(table: dict, name: str, what: str) -> Callable:
    if name not in table:
        raise ValueError(f"no {what} {name!r}; there are {', '.join(table)}")
    return table[name]


def _aggregation(settings: Settings, name: str) -> weights.Weights:
    return _pick(AGGREGATIONS, name, "aggregation")(settings)


def _correction(settings: Settings) -> corrections.Correction:
    make = _pick(CORRECTIONS, settings.correction, "correction")
    if settings.convention == "openrlhf" and settings.correction.startswith("sequence"):
        raise ValueError(
            f"OpenRLHF has no correction {settings.correction!r}: it rejects a row by its geometric mean and "
            'keeps token weights; take "token" or "token_mask", or another convention'
        )
    return make(settings.correction_floor, settings.correction_cap)


def _raised(correction: corrections.Correction, floor: float) -> corrections.Correction:
    return lambda log_gap, unit_ids: jnp.maximum(correction(log_gap, unit_ids), floor)


def group_rows(settings: Settings, scale: bool) -> RowEstimator:
    """Row advantages within the group, held where the settings have bounds. See `group_advantage`."""
    return advantages.held(_group_rows(settings, scale), settings.advantage_range)


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


def _penalties(
    settings: Settings, ratio: ratios.Ratio, units: Units, beta: Callable[[State], Array | float]
) -> tuple[Penalty, ...]:
    penalties = []
    if settings.kl_coefficient and settings.kl_placement == "loss":
        weigh = _aggregation(settings, settings.kl_aggregation or settings.aggregation)
        estimator = settings.kl_estimator.removesuffix("+")
        held = kl_held(estimator, settings.kl_range, settings.kl_cost_range)
        penalties.append(penalty(kl_cost(settings, ratio, units), beta, weigh, held))
    if settings.entropy_coefficient:
        weigh = _aggregation(settings, settings.entropy_aggregation or settings.aggregation)
        penalties.append(entropy_bonus(settings.entropy_coefficient, weigh))
    return tuple(penalties)


def _shape(
    settings: Settings, outcome: Outcome, beta: Callable[[State], Array | float]
) -> Callable[[Batch, State], Array]:
    cost: Cost | None = charge(settings) if kl_in_the_reward(settings) else None

    def shape(batch: Batch, state: State) -> Array:
        mask = batch.rollout.action_mask
        rewards = reward_at_last_action(outcome(batch), mask)
        if cost is None:
            return rewards
        return kl_in_reward(rewards, cost(batch.old, batch), mask, beta(state))

    return shape


def _needs(settings: Settings) -> frozenset[str]:
    """`Scores` fields, "reference", and "old" where π_old is read before the first update."""
    needs = {"entropy"} if settings.entropy_coefficient else set()
    if settings.correction != "none" or kl_in_the_reward(settings):
        needs |= {"old"}
    if settings.kl_coefficient:
        needs |= {"reference", "kl_ref"} if settings.kl_estimator == "full" else {"reference"}
    return frozenset(needs)
