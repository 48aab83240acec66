"""Which rows are trained on."""

from __future__ import annotations

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
    whatever their value, and so is a group of one.
    """
    return group_max(rollout.outcome, rollout.group) > group_min(rollout.outcome, rollout.group)


def finished(rollout: Rollout) -> Array:
    """True for the rows that the policy ended itself, `bool[B]`; false for truncated ones."""
    return jnp.asarray(rollout.stop) == STOP_EOS
