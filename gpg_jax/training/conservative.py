"""Conservative policy iteration's update of a rollout: a candidate is trained, then mixed in by a share α.

    π′ ≈ argmax E_{s,a~π}[π′/π · Â],   π ← (1 − α)·π + α·π′

Kakade and Langford 2002, "Approximately optimal approximate reinforcement learning", section 4.2. What the
candidate gains is measured, as there, on samples that it was not made from: prompts that were held out. The
policy is a mixture (`policies.mixture`) of as many members as there is room for. They stand newest first,
each trained from the one behind it.
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
from gpg_jax.policies.mixture import mixture_weights
from gpg_jax.training.held_out import training_plan, training_rows
from gpg_jax.training.program import Program, of_policy
from gpg_jax.training.scoring import score_all
from gpg_jax.training.state import Networks, TrainState
from gpg_jax.training.updates import renumbered, updates
from gpg_jax.types import Array, Batch, Conservative, Estimate, Objective, Params


class Gain(NamedTuple):
    """What rows say of a candidate.

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
    minibatches on some of the prompts; what they report is of the candidate. On the others are measured

    - `cpi_gain`, `cpi_worst`: g and ε, see `gain_of`.
    - `cpi_alpha`, `cpi_alpha_star`: α as it was chosen, and where the bound is highest.
    - `cpi_guaranteed`: 1 where the new policy is π_α, or the old one, and 0 where a member had to make room:
      of that policy the bound says nothing. With a KL in the reward it is 0 always, see `algorithms.cpi`.
    - `cpi_bound`: α·g − α²·c ≤ J(π_α) − J(π), as far as g and ε are known; 0 where `cpi_guaranteed` is.
    - `mixture_members`: policies of positive weight.
    - `mixture_dropped`: weight that the member who had to make room would have had. No state's distribution
      is moved by more, in total variation, by its going.

    g has no bias, but α is chosen by it: a step is taken where chance was kind, and promises a little more.

    Args:
      program: what the update is made of; its policy is a mixture.
      rule: how α is chosen.
      state: before it.
      batch: the whole rollout.
      fixed: estimates of its rows.
    """
    own, plan = of_policy(program)._replace(policy=program.policy.members[0]), program.plan
    # Epochs are numbered from 0, so that this number is none of theirs.
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.rollout), plan.epochs)
    learns = training_rows(key, plan, rule.held_out)
    trained, seen = _candidate(own, rule, state, (batch, fixed), learns)
    new = score_all(own, Networks(trained.params, None), batch.rollout, frozenset()).log_prob
    held = fixed._replace(keep=jnp.asarray(fixed.keep).at[learns].set(False))
    found = gain_of(own.method.objective, new, batch, held, _discount(rule))
    cost = shift_cost(rule, found.worst, plan.layout.new_slots)
    best = _or_nothing(step_size(found.gain, cost))
    alpha = jnp.where(found.gain > 0, rule.alpha, 0) if rule.step == "fixed" else best
    mixed = mix_in(state.params, trained.params, alpha)
    guaranteed = (mixed.dropped == 0) & (not program.method.kl_in_reward)
    promised = guaranteed & (alpha > 0)
    told = {
        "cpi_gain": found.gain,
        "cpi_worst": found.worst,
        "cpi_alpha": alpha,
        "cpi_alpha_star": best,
        "cpi_guaranteed": guaranteed.astype(jnp.float32),
        "cpi_bound": jnp.where(promised, improvement_bound(alpha, found.gain, cost), 0),
        "mixture_members": jnp.sum(mixed.params["weights"] > 0, dtype=jnp.float32),
        "mixture_dropped": mixed.dropped,
    }
    return dataclasses.replace(state, params=mixed.params, update=trained.update), seen | told


def _candidate(
    program: Program, rule: Conservative, state: TrainState, whole: tuple[Batch, Estimate], learns: Array
) -> tuple[TrainState, dict[str, Array]]:
    """The state whose parameters are the candidate's, and what its updates on the rows `learns` report."""
    newest = state.params["members"][0]
    moments = fresh_moments(program.optimizer, newest, state.update)
    first = dataclasses.replace(state, params=newest, optimizer=moments)
    part = program._replace(plan=training_plan(program.plan, rule.held_out))
    batch, fixed = jax.tree.map(lambda leaf: jnp.take(leaf, learns, axis=0), whole)
    batch = batch._replace(rollout=renumbered(batch.rollout, learns))
    coefficients = penalty_coefficients(program.method.objective, state.method)
    return updates(part, first, batch, fixed, coefficients)


def gain_of(
    objective: Objective, log_prob: Array, batch: Batch, fixed: Estimate, discount: float = 1.0
) -> Gain:
    """g and ε of a candidate, from rows of the mixture that it was not trained on: of (π′/π − 1)·Â both.

    E_{a~π}[(π′/π − 1)·Â] is E_{a~π′} A^π for an advantage from any baseline of the state, V(s_t) or not, and
    is 0 for π′ = π without noise. g sums it over a response's actions, and has no bias where Â has none. ε is
    the largest single one: the largest of noisy numbers is, in expectation, no smaller than the largest
    expectation, so that among the states that were visited ε errs towards smaller steps; of those that were
    not, rows know nothing. The spread of Â is no bound of it: it is of what was sampled, and E_{a~π′} A^π of
    every action. ε is 0 only where g is.

    Args:
      objective: whose ratio it is.
      log_prob: `[B, L]`, the candidate's.
      batch: the rollout, with the mixture's scores.
      fixed: advantages and corrections; `keep` says which rows are measured.
      discount: γ, an action, of the advantages; g counts action t of a response by γᵗ.
    """
    rollout, units = batch.rollout, trained_units(fixed)
    mask = units >= 0
    log_ratio = jnp.where(mask, log_prob - batch.old.log_prob, 0)
    excess = fixed.correction * (objective.ratio(log_ratio, units) - 1) * fixed.advantage
    weights = sequence_mean_token_sum(rollout, units) * state_discount(rollout.action_mask, discount)
    return Gain(masked_sum(weights * excess, mask), masked_max(jnp.abs(excess), mask))


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
    weights = mixture_weights(params)
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
        "weights": jnp.where(alpha > 0, shares / jnp.sum(shares), params["weights"]),
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


def _discount(rule: Conservative) -> float:
    return rule.discount if rule.step == "discounted" else 1.0


def _or_nothing(alpha: Array) -> Array:
    """α, and 0 where it could not be known."""
    return jnp.where(alpha > 0, alpha, 0)
