"""From rewards to advantages `[B, L]`: the shapes that an objective's `advantage` takes.

A row estimator is `(returns [B], Batch, State) -> (advantages [B], State)`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from gpg_jax.estimators import baselines, groups
from gpg_jax.estimators.calibration import calibrate, prefix_classes, tree_advantage, tree_classes
from gpg_jax.estimators.filters import every_row, finished, sample_weight
from gpg_jax.estimators.returns import reward_to_go, state_discount, total_reward
from gpg_jax.types import Array, Batch, Rollout, State

Advantage = Callable[[Batch, Array, Array, State], tuple[Array, Array | None, State]]
RowEstimator = Callable[[Array, Batch, State], tuple[Array, State]]
Rows = Callable[[Rollout], Array]
Classes = Callable[[Rollout], Array]


def outcome_advantage(rows: RowEstimator) -> Advantage:
    """A_{b,t} = A_b: every action of a row is credited with what the whole row is worth.

    Args:
      rows: from the row's total reward to its advantage.
    """

    def advantage(batch: Batch, unit_ids: Array, rewards: Array, state: State) -> tuple[Array, None, State]:
        value, state = rows(total_reward(rewards, batch.rollout.action_mask), batch, state)
        return jnp.where(unit_ids >= 0, value[:, None], 0), None, state

    return advantage


def return_advantage(
    rows: RowEstimator,
    discount: float = 1.0,
    *,
    discount_state: bool = False,
    bounds: tuple[float, float] | None = None,
) -> Advantage:
    """A_{b,t} = G_{b,t} − b_b: the reward-to-go of the token less the row's baseline.

    Args:
      rows: from the row's return at its first action to that return less the baseline; not one from `held`,
        which would shift all of the row's tokens by what its first one is over the bound.
      discount: γ in [0, 1], an action.
      discount_state: whether token t's term is multiplied by γ^(n_t); see `returns.state_discount`.
      bounds: where G_{b,t} − b_b is held, token by token, or None.
    """

    def advantage(batch: Batch, unit_ids: Array, rewards: Array, state: State) -> tuple[Array, None, State]:
        mask = jnp.asarray(batch.rollout.action_mask)
        to_go = reward_to_go(rewards, mask, discount)
        first = jnp.take_along_axis(to_go, jnp.argmax(mask, axis=1)[:, None], axis=1)[:, 0]
        above, state = rows(first, batch, state)
        difference = to_go - (first - above)[:, None]
        if bounds is not None:
            difference = jnp.clip(difference, *bounds)
        if discount_state:
            difference = difference * state_discount(mask, discount)
        return jnp.where(unit_ids >= 0, difference, 0), None, state

    return advantage


def calibrated_advantage(rows: RowEstimator, classes: Classes, counted: Rows = every_row) -> Advantage:
    """A_{b,t} = the mean of A_j over the rows that share token t (GPG, arXiv 2512.10365, eq. 29).

    The hard form of ARPO (arXiv 2507.19849, section 3.2); `outcome_advantage` is the soft one, in which rows
    that share a token push it each with its own advantage.

    Args:
      rows: from the row's total reward to its advantage.
      classes: `Rollout` -> who shares what, `shared_by_tree` or `shared_by_tokens`.
      counted: `Rollout` -> `bool[B]`, the rows of the mean: those that the loss has.
    """

    def advantage(batch: Batch, unit_ids: Array, rewards: Array, state: State) -> tuple[Array, None, State]:
        rollout = batch.rollout
        value, state = rows(total_reward(rewards, rollout.action_mask), batch, state)
        weight = sample_weight(rollout, counted)
        shared = calibrate(value, classes(rollout), response_mask(rollout), weight)
        return jnp.where(unit_ids >= 0, shared, 0), None, state

    return advantage


def branch_advantage(classes: Classes, counted: Rows = every_row) -> Advantage:
    """A_{b,t} = V̂(branch of t) − V̂(its parent); see `calibration.tree_advantage`. An extension.

    Args:
      classes: as of `calibrated_advantage`, inclusive ones.
      counted: likewise.
    """

    def advantage(batch: Batch, unit_ids: Array, rewards: Array, state: State) -> tuple[Array, None, State]:
        rollout = batch.rollout
        total = total_reward(rewards, rollout.action_mask)
        inside, weight = response_mask(rollout), sample_weight(rollout, counted)
        value = tree_advantage(total, classes(rollout), inside, weight, rollout.group)
        return jnp.where(unit_ids >= 0, value, 0), None, state

    return advantage


def shared_by_tree(inclusive: bool = True) -> Classes:
    """Rows share what was written before they forked; see `calibration.tree_classes`."""

    def classes(rollout: Rollout) -> Array:
        return tree_classes(
            rollout.parent,
            rollout.fork,
            rollout.prompt_length,
            rollout.group,
            rollout.tokens.shape[1],
            inclusive=inclusive,
        )

    return classes


def shared_by_tokens(inclusive: bool = True) -> Classes:
    """Rows share equal tokens from the first on, by chance too; see `calibration.prefix_classes`."""

    def classes(rollout: Rollout) -> Array:
        return prefix_classes(
            rollout.tokens, rollout.prompt_length, rollout.length, rollout.group, inclusive=inclusive
        )

    return classes


def response_mask(rollout: Rollout) -> Array:
    """`bool[B, L]`: tokens of the response, a tool's among them."""
    position = jnp.arange(rollout.tokens.shape[1], dtype=jnp.int32)[None]
    return (position >= rollout.prompt_length[:, None]) & (position < rollout.length[:, None])


def outcome_and_rest_advantage(rows: RowEstimator, outcome: Callable[[Batch], Array]) -> Advantage:
    """A_{b,t} = A_b + Σ_{j ≥ t} (what was added to the outcome at token j), such as −β·KL_j.

    The outcome is compared within the group; what each token was charged is credited by reward-to-go, outside
    of the normalisation, as OpenRLHF does with the KL in the reward.

    Args:
      rows: from the row's outcome to its advantage.
      outcome: `Batch` -> `[B]`, the scalar that `rewards` holds at the last action.
    """

    def advantage(batch: Batch, unit_ids: Array, rewards: Array, state: State) -> tuple[Array, None, State]:
        mask = jnp.asarray(batch.rollout.action_mask)
        scalar = outcome(batch)
        value, state = rows(scalar, batch, state)
        rest = reward_to_go(rewards, mask) - scalar[:, None]
        return jnp.where(unit_ids >= 0, value[:, None] + rest, 0), None, state

    return advantage


def filters_for(truncated: bool) -> Rows:
    """The rows that statistics are taken over: every row, or the finished ones alone."""
    return every_row if truncated else finished


def held(rows: RowEstimator, bounds: tuple[float, float] | None) -> RowEstimator:
    """The row estimator with advantages held inside `bounds`; as it is for None."""
    if bounds is None:
        return rows

    def inside(returns: Array, batch: Batch, state: State) -> tuple[Array, State]:
        value, state = rows(returns, batch, state)
        return jnp.clip(value, *bounds), state

    return inside


def without_baseline(returns: Array, batch: Batch, state: State) -> tuple[Array, State]:
    """A = R. A row estimator."""
    del batch
    return returns, state


def minus_constant(value: float) -> RowEstimator:
    """A = R − value."""
    return lambda returns, batch, state: (returns - baselines.constant(returns, value), state)


def minus_running(decay: float) -> RowEstimator:
    """A = R − the running mean of the rollouts before; the state is `baselines.Running`."""

    def rows(returns: Array, batch: Batch, state: State) -> tuple[Array, State]:
        baseline, state = baselines.running(returns, sample_weight(batch.rollout), state, decay)
        return returns - baseline, state

    return rows


def minus_batch_mean(returns: Array, batch: Batch, state: State) -> tuple[Array, State]:
    """A = R − the mean over the whole batch. A row estimator."""
    return returns - baselines.batch_mean(returns, sample_weight(batch.rollout)), state


def minus_leave_one_out(returns: Array, batch: Batch, state: State) -> tuple[Array, State]:
    """A = R − the mean of the other rollouts of the group. A row estimator; see `groups.leave_one_out`."""
    rollout = batch.rollout
    baseline = groups.leave_one_out(returns, rollout.group, rollout.parent, sample_weight(rollout))
    return returns - baseline, state


def head_norms(batch: Batch) -> Array:
    """Squared score norms of the rows `[B]` from `Batch.old.score_square`; see `baselines.head_score_norms`.

    Raises:
      ValueError: the old scores were made without `score_square`.
    """
    if batch.old.score_square is None:
        raise ValueError("the optimal baseline reads Scores.score_square: name it in Method.needs")
    return baselines.head_score_norms(batch.old.score_square, batch.rollout.action_mask)


def minus_optimal(norms: Callable[[Batch], Array] = head_norms) -> RowEstimator:
    """A = R − b*, leave-one-out; see `baselines.optimal`.

    Args:
      norms: `Batch` -> squared score norms `[B]`: exact ones where they are to be had.
    """

    def rows(returns: Array, batch: Batch, state: State) -> tuple[Array, State]:
        rollout = batch.rollout
        weight = sample_weight(rollout)
        baseline = baselines.optimal(returns, norms(batch), rollout.group, rollout.parent, weight)
        return returns - baseline, state

    return rows


def group_centred(*, singleton: groups.Singleton = "zero", statistics: Rows = every_row) -> RowEstimator:
    """A = R − mean of the group; see `groups.group_centre`.

    Args:
      singleton: what a row alone in its group gets.
      statistics: `Rollout` -> `bool[B]`, the rows that the mean is taken over.
    """

    def rows(returns: Array, batch: Batch, state: State) -> tuple[Array, State]:
        weight = sample_weight(batch.rollout, statistics)
        return groups.group_centre(returns, batch.rollout.group, weight, singleton=singleton), state

    return rows


def group_normalised(
    *,
    ddof: int = 0,
    eps: float = 0.0,
    eps_placement: groups.EpsPlacement = "outside",
    singleton: groups.Singleton = "zero",
    std_over: groups.StdOver = "group",
    statistics: Rows = every_row,
) -> RowEstimator:
    """A = (R − mean) / std of the group; see `groups.group_normalise`.

    Args:
      ddof: degrees of freedom taken by the mean, 0 or 1.
      eps: ε ≥ 0.
      eps_placement: "outside" or "inside" the root.
      singleton: what a row alone in its group gets.
      std_over: whose std divides, "group" or "batch".
      statistics: `Rollout` -> `bool[B]`, the rows that mean and std are taken over.
    """

    def rows(returns: Array, batch: Batch, state: State) -> tuple[Array, State]:
        weight = sample_weight(batch.rollout, statistics)
        normalised = groups.group_normalise(
            returns,
            batch.rollout.group,
            weight,
            ddof=ddof,
            eps=eps,
            eps_placement=eps_placement,
            singleton=singleton,
            std_over=std_over,
        )
        return normalised, state

    return rows
