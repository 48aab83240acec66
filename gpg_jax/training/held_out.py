"""Prompts of a rollout that a candidate is trained on, and those held out, on which it is measured.

What has been fitted to a rollout looks better on it than it is. Whole groups stay together: completions of a
prompt share a baseline.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from gpg_jax.training.plan import Plan
from gpg_jax.types import Array


def training_prompts(plan: Plan, share: float) -> int:
    """Prompts that are left to train on.

    Args:
      plan: of the whole rollout.
      share: of its P prompts that is held out, round(share·P) of them.

    Raises:
      ValueError: no prompt to train on, or none held out.
    """
    prompts = plan.rows // plan.layout.shared
    held = round(share * prompts)
    if not 0 < held < prompts:
        raise ValueError(
            f"held_out={share} of a rollout's prompts is {held} of {prompts}, and a candidate needs one at "
            "least to be trained on and one to be measured on: take more prompts, or another share"
        )
    return prompts - held


def training_plan(plan: Plan, share: float) -> Plan:
    """The plan of the rows that are trained on: as many updates, in micro-batches of at most as many rows.

    Args:
      plan: of the whole rollout.
      share: of its prompts that is held out.

    Raises:
      ValueError: prompts that cannot be cut so.
    """
    prompts = training_prompts(plan, share)
    rows = prompts * plan.layout.shared
    if prompts % plan.minibatches:
        raise ValueError(
            f"held_out={share} leaves {prompts} prompts to train on, which cannot be cut into "
            f"{plan.minibatches} minibatches: choose minibatches that divides {prompts}, or another share"
        )
    part = rows // plan.minibatches
    if part % plan.shards:
        raise ValueError(
            f"held_out={share} leaves minibatches of {part} rows, which cannot be cut for {plan.shards} "
            f"devices: choose a share, or a number of prompts, of which {plan.shards} divides them"
        )
    return dataclasses.replace(plan, rows=rows, micro_batches=part // math.gcd(part, plan.micro_rows))


def training_rows(key: Array, plan: Plan, share: float) -> Array:
    """Rows that are trained on, `int32[training_plan(plan, share).rows]`: whole groups, drawn anew.

    Args:
      key: of the draw.
      plan: of the whole rollout.
      share: of its prompts that is held out.
    """
    group = plan.layout.shared
    order = jax.random.permutation(key, plan.rows // group)[: training_prompts(plan, share)]
    return (order[:, None] * group + jnp.arange(group)[None]).reshape(-1).astype(jnp.int32)
