"""Which rows are trained on."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from gpg_jax.estimators.segments import group_max, group_min
from gpg_jax.types import STOP_EOS, Array, Rollout


def every_row(rollout: Rollout) -> Array:
    """True for every row `bool[B]`."""
    return jnp.ones(rollout.reward.shape, bool)


def mixed_outcomes(rollout: Rollout) -> Array:
    """True for the rows of groups whose raw outcomes differ, `bool[B]`.

    DAPO's dynamic sampling, 0 < #correct < G (arXiv 2503.14476, eq. 11), on what the verifier said and not on
    the shaped reward, whose shaping would hide a group without signal. A group of equal outcomes is refused
    whatever their value, and so is a group of one. Rows without actions say nothing.
    """
    acted = jnp.any(rollout.action_mask, axis=1)
    largest = group_max(jnp.where(acted, rollout.outcome, -jnp.inf), rollout.group)
    return largest > group_min(jnp.where(acted, rollout.outcome, jnp.inf), rollout.group)


def sample_weight(rollout: Rollout, rows: Callable[[Rollout], Array] = every_row) -> Array:
    """Weight of each row in a baseline's statistics `[B]`: its leaf weight, 0 where the policy did not act.

    Args:
      rollout: the rows.
      rows: `Rollout` -> `bool[B]`, the rows that enter.
    """
    enters = rows(rollout) & jnp.any(rollout.action_mask, axis=1)
    return jnp.where(enters, rollout.leaf_weight, 0)


def finished(rollout: Rollout) -> Array:
    """True for the rows that the policy ended itself, `bool[B]`; false for truncated ones."""
    return jnp.asarray(rollout.stop) == STOP_EOS
