"""What a training step is made of, and whether it can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import optax

from gpg_jax.policies.critic import Critic
from gpg_jax.policies.policy import Policy
from gpg_jax.training.plan import Plan
from gpg_jax.types import Method, Rollout

OF_NETWORK = frozenset({"entropy", "score_square", "kl_ref"})
"""Needs that the policy's own forward pass meets."""
_NEEDS = OF_NETWORK | {"old", "reference", "value", "after"}
BOTH = frozenset({"policy", "critic"})
"""What an update may change."""


class Program(NamedTuple):
    """What a step is made of; nothing in it is traced.

    Attributes:
      policy: the network.
      method: what to do with a rollout.
      optimizer: applied to the gradient of the loss once a minibatch.
      plan: how the rollout is cut.
      critic: what gives values, where the method needs them, and its optimizer; or None.
      trains: what updates change, of "policy" and "critic".
      axis_name: the mapped axis of `plan.shards` devices under `pmap` or `shard_map`, where every
        device is given the whole rollout and works on its share of each micro-batch; None elsewhere.
      constrain: places the rows of a micro-batch on the mesh under `jax.jit`.
    """

    policy: Policy
    method: Method
    optimizer: optax.GradientTransformation
    plan: Plan
    critic: tuple[Critic, optax.GradientTransformation] | None = None
    trains: frozenset[str] = BOTH
    axis_name: str | None = None
    constrain: Callable[[Rollout], Rollout] = lambda rows: rows

    @property
    def fresh(self) -> bool:
        """Whether the old policy is the new one: one update, and nothing reads it before that."""
        return self.plan.updates == 1 and "old" not in self.method.needs


def check_needs(program: Program) -> None:
    needs = program.method.needs
    if unknown := needs - _NEEDS:
        raise ValueError(
            f"a step cannot meet the needs {', '.join(sorted(unknown))}; Method.needs may hold "
            f"{', '.join(sorted(_NEEDS))}"
        )
    if "kl_ref" in needs and "reference" not in needs:
        raise ValueError('"kl_ref" compares with the reference: Method.needs must hold "reference" too')
    if needs & {"value", "after"} and "old" not in needs:
        raise ValueError('"value" and "after" are read beside old scores: Method.needs must hold "old" too')
    if "value" in needs and program.critic is None:
        raise ValueError('the method needs "value", and there is no critic: give Program.critic')
    if not program.trains or program.trains - BOTH:
        raise ValueError(f"trains is {sorted(program.trains)}; it may hold policy and critic, one at least")


def check_shape(plan: Plan, rollout: Rollout) -> None:
    expected = (plan.rows, plan.layout.length)
    if rollout.tokens.shape != expected:
        raise ValueError(
            f"the rollout's tokens have the shape {rollout.tokens.shape}; the plan needs {expected}"
        )
