"""What a training step is made of, and whether it can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import optax

from gpg_jax.policies.critic import Critic
from gpg_jax.policies.policy import Policy
from gpg_jax.training.held_out import training_plan
from gpg_jax.training.plan import Plan
from gpg_jax.types import Conservative, Method, Rollout, TrustRegion

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
        method = self.method
        return self.plan.updates == 1 and "old" not in method.needs and method.update is None


def of_policy(program: Program) -> Program:
    """The policy's part of a program: what its own update improves, with the old policy's scores at hand."""
    method = program.method
    penalties = tuple(penalty for penalty in method.objective.penalties if not penalty.of_critic)
    alone = method._replace(
        objective=method.objective._replace(penalties=penalties),
        needs=(method.needs - {"value"}) | {"old"},
        update=None,
    )
    return program._replace(method=alone, critic=None, trains=frozenset({"policy"}))


def check_needs(program: Program) -> None:
    """Raises a ValueError if the method needs what a step with these parts cannot give it."""
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
    if isinstance(program.method.update, TrustRegion):
        _check_trust_region(program)
    if isinstance(program.method.update, Conservative):
        _check_conservative(program, program.method.update)


def _check_trust_region(program: Program) -> None:
    method, plan = program.method, program.plan
    if plan.updates > 1 and "value" not in method.needs:
        raise ValueError(
            f"a trust region takes one step on a rollout: {plan.epochs} epochs of {plan.minibatches} "
            "minibatches are a critic's, and the method has none; take one of each, and micro_batches"
        )
    if method.halt is not None:
        raise ValueError("halt leaves out minibatches, and a trust region has none: its radius bounds the KL")


def _check_conservative(program: Program, rule: Conservative) -> None:
    training_plan(program.plan, rule.held_out)
    members = program.policy.members
    if len(members) != rule.capacity or any(member is not members[0] for member in members):
        raise ValueError(
            f"a conservative update mixes {rule.capacity} policies of one network, and the program's policy "
            f"has {len(members)} members: take mixture((policy,) * {rule.capacity}, weights)"
        )
    if program.plan.temperature != 1:
        raise ValueError(
            f"temperature={program.plan.temperature}: a mixture is one of distributions at temperature 1; "
            "sample a conservative update's rollouts there"
        )
    if "kl_ref" in program.method.needs:
        raise ValueError('a candidate has no full KL to a mixture: take a KL estimator other than "full"')
    if program.critic is not None and program.critic[0].trunk is None:
        raise ValueError("members change places, and a critic on their states would not: give it a trunk")


def check_shape(plan: Plan, rollout: Rollout) -> None:
    """Raises a ValueError if the rollout has other rows or slots than the plan."""
    expected = (plan.rows, plan.layout.length)
    if rollout.tokens.shape != expected:
        raise ValueError(
            f"the rollout's tokens have the shape {rollout.tokens.shape}; the plan needs {expected}"
        )
