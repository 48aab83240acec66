"""Conservative policy iteration's update of a rollout: a candidate is trained, then mixed in by a share α.

    π′ ≈ argmax E_{s,a~π}[π′/π · Â],   π ← (1 − α)·π + α·π′

Kakade and Langford 2002, "Approximately optimal approximate reinforcement learning", section 4.2. The policy
is a mixture (`policies.mixture`) of as many members as there is room for. They stand newest first, each
trained from the one behind it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gpg_jax.estimators.conservative import (
    discounted_shift_cost,
    horizon_shift_cost,
    improvement_bound,
    step_size,
)
from gpg_jax.estimators.masked import masked_max, masked_sum
from gpg_jax.estimators.returns import state_discount
from gpg_jax.losses.objective import penalty_coefficients, trained_units
from gpg_jax.losses.weights import sequence_mean_token_sum
from gpg_jax.training.program import Program, of_policy
from gpg_jax.training.scoring import score_all
from gpg_jax.training.state import Networks, TrainState
from gpg_jax.training.updates import updates
from gpg_jax.types import Array, Batch, Conservative, Estimate, Objective, Params


class Gain(NamedTuple):
    """What a rollout says of a candidate.

    Attributes:
      gain: g = Σ_t E_{s_t~π, a~π′} Â, a response.
      worst: ε = max_s |E_{a~π′} Â(s, a)|.
    """

    gain: Array
    worst: Array


class Mixed(NamedTuple):
    """A mixture with a candidate in it.

    Attributes:
      params: of the mixture.
      dropped: weight that the member in whose place it stands would have had.
    """

    params: Params
    dropped: Array


def conservative_update(
    program: Program, rule: Conservative, state: TrainState, batch: Batch, fixed: Estimate
) -> tuple[TrainState, dict[str, Array]]:
    """The mixture with a candidate in it, or as it was, bit for bit, where the candidate is no better.

    The candidate begins at the newest member, with fresh moments, and is trained by the plan's epochs and
    minibatches; what they report is of the candidate. Beside it

    - `cpi_gain`, `cpi_worst`: g and ε, see `gain_of`.
    - `cpi_alpha`, `cpi_alpha_star`: α as it was chosen, and where the bound is highest.
    - `cpi_bound`: α·g − α²·c ≤ J(π_α) − J(π), as far as g and ε are known.
    - `mixture_members`: policies of positive weight.
    - `mixture_dropped`: weight that the member who had to make room would have had. No state's distribution
      is moved by more, in total variation, by its going.

    Args:
      program: what the update is made of; its policy is a mixture.
      rule: how α is chosen.
      state: before it.
      batch: the whole rollout.
      fixed: estimates of its rows.
    """
    own = of_policy(program)._replace(policy=program.policy.members[0])
    newest = state.params["members"][0]
    first = dataclasses.replace(
        state, params=newest, optimizer=fresh_moments(own.optimizer, newest, state.update)
    )
    coefficients = penalty_coefficients(own.method.objective, state.method)
    trained, seen = updates(own, first, batch, fixed, coefficients)
    new = score_all(own, Networks(trained.params, None), batch.rollout, frozenset()).log_prob
    discount = rule.discount if rule.step == "discounted" else 1.0
    found = gain_of(own.method.objective, new, batch, fixed, discount)
    cost = shift_cost(rule, found.worst, program.plan.layout.new_slots)
    best = _or_nothing(step_size(found.gain, cost))
    alpha = jnp.where(found.gain > 0, rule.alpha, 0) if rule.step == "fixed" else best
    mixed = mix_in(state.params, trained.params, alpha)
    told = {
        "cpi_gain": found.gain,
        "cpi_worst": found.worst,
        "cpi_alpha": alpha,
        "cpi_alpha_star": best,
        "cpi_bound": improvement_bound(alpha, found.gain, cost),
        "mixture_members": jnp.sum(mixed.params["weights"] > 0, dtype=jnp.float32),
        "mixture_dropped": mixed.dropped,
    }
    return dataclasses.replace(state, params=mixed.params, update=trained.update), seen | told


def gain_of(
    objective: Objective, log_prob: Array, batch: Batch, fixed: Estimate, discount: float = 1.0
) -> Gain:
    """g and ε of a candidate, from the mixture's own rollout: both are of (π′/π − 1)·Â.

    E_{a~π}[(π′/π − 1)·Â] is E_{a~π′} A^π for an advantage from any baseline of the state, V(s_t) or not, and
    is 0 for π′ = π without noise. g sums it over a response's actions. ε is the largest single one, or
    max Â − min Â where that is less: E_{a~π′} A^π is the difference of two averages of Â. The largest of
    noisy numbers is, in expectation, no smaller than the largest expectation, so that among the states that
    were visited ε errs towards smaller steps; of those that were not, a rollout knows nothing.

    Args:
      objective: whose ratio it is.
      log_prob: `[B, L]`, the candidate's.
      batch: the rollout, with the mixture's scores.
      fixed: advantages and corrections.
      discount: γ, an action; g counts action t of a response by γᵗ.
    """
    rollout, units = batch.rollout, trained_units(fixed)
    mask = units >= 0
    log_ratio = jnp.where(mask, log_prob - batch.old.log_prob, 0)
    excess = fixed.correction * (objective.ratio(log_ratio, units) - 1) * fixed.advantage
    weights = sequence_mean_token_sum(rollout, units) * state_discount(rollout.action_mask, discount)
    spread = masked_max(fixed.advantage, mask) + masked_max(-fixed.advantage, mask)
    worst = jnp.minimum(masked_max(jnp.abs(excess), mask), spread)
    return Gain(masked_sum(weights * excess, mask), worst)


def shift_cost(rule: Conservative, worst: Array, horizon: int) -> Array:
    """c of the bound αg − α²c: of a discounted task, or of responses of at most so many actions."""
    if rule.step == "discounted":
        return discounted_shift_cost(worst, rule.discount)
    return horizon_shift_cost(worst, horizon)


def mix_in(params: Params, candidate: Params, alpha: Array) -> Mixed:
    """(1 − α)·π + α·π′, newest member first, in place of a member of weight 0 or else of the lightest.

    A member that has to go leaves its weight to the one that was trained from it, which is nearest to it.
    Shared out among all it would go back to the oldest: of steps that are small, the newest are the lightest,
    and nothing would ever come of them.

    Args:
      params: of the mixture, K ≥ 2 members of one network.
      candidate: parameters of π′.
      alpha: α in [0, 1]; where it is 0 nothing changes.
    """
    weights = params["weights"]
    slot = jnp.argmin(weights)
    lost = weights[slot]
    slots = jnp.arange(weights.shape[0])
    rest = (1 - alpha) * weights
    # Those before the slot move up by one, so that in it there is now the one trained from the member it had.
    shares = jnp.where(slots <= slot, jnp.roll(rest, 1), rest).at[0].set(alpha).at[slot].add(rest[slot])
    members = params["members"]

    def moved(k: int) -> Params:
        before = candidate if k == 0 else members[k - 1]
        inside = (alpha > 0) & (k <= slot)
        return jax.tree.map(lambda new, old: jnp.where(inside, new, old), before, members[k])

    new = {
        "members": tuple(moved(k) for k in range(len(members))),
        "weights": jnp.where(alpha > 0, shares / jnp.sum(shares), weights),
    }
    return Mixed(new, jnp.where(alpha > 0, (1 - alpha) * lost, 0))


def fresh_moments(optimizer: optax.GradientTransformation, params: Params, updates: Array) -> Any:
    """A first state of the optimizer whose schedules are where the run is.

    Args:
      optimizer: whose state.
      params: to be trained.
      updates: `int32[]`, updates of the run so far.
    """

    def schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    def placed(node: Any) -> Any:
        return node._replace(count=jnp.asarray(updates, node.count.dtype)) if schedule(node) else node

    return jax.tree.map(placed, optimizer.init(params), is_leaf=schedule)


def _or_nothing(alpha: Array) -> Array:
    """α, and 0 where it could not be known."""
    return jnp.where(alpha > 0, alpha, 0)
