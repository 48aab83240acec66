"""Estimators of a policy gradient from one rollout of forked rows, and the gradients that they come to.

At π_θ = π_old a method's gradient is its coefficients ∂loss/∂log π `[B, L]`, which need no network, pulled
back through the network once: the estimators of a rollout share its forward pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpg_jax.algorithms.compose import compose
from gpg_jax.algorithms.gpg import gpg
from gpg_jax.algorithms.settings import resolve
from gpg_jax.decoding.branching import LeafWeight
from gpg_jax.estimators.advantages import (
    branch_advantage,
    calibrated_advantage,
    minus_leave_one_out,
    outcome_advantage,
    shared_by_tree,
)
from gpg_jax.losses.gates import no_gate
from gpg_jax.losses.objective import coefficients
from gpg_jax.losses.ratios import no_ratio
from gpg_jax.policies.policy import Policy
from gpg_jax.policies.score import Layout, score
from gpg_jax.types import Array, Batch, Method, Params, Rollout, Scores

WEIGHTS: tuple[LeafWeight, ...] = ("uniform", "tree")


class Estimator(NamedTuple):
    """A gradient estimate from one rollout.

    Attributes:
      family: what is compared with what and how tokens count; on rows that are not forked the members of a
        family are one estimator, which is what they aim at.
      calibration: "soft", "hard" or "tree", see `gpg`.
      leaf_weight: how a leaf counts, see `branching.leaf_weights`.
      method: whose coefficients it is.
    """

    family: str
    calibration: str
    leaf_weight: LeafWeight
    method: Method


UNBIASED = "leave-one-out, token sum"
"""The family that aims at ∇J itself."""

TREE = "group mean, token sum"
"""The family of tree advantages."""


def _leave_one_out(hard: bool) -> Method:
    """∇J's own: the whole tree of a row left out of its baseline, rows counted by the sum of their tokens."""
    advantage = (
        calibrated_advantage(minus_leave_one_out, shared_by_tree())
        if hard
        else outcome_advantage(minus_leave_one_out)
    )
    return _composed(advantage)


def _composed(advantage) -> Method:
    settings = resolve({}, aggregation="sequence_mean_token_sum")
    return compose(settings, advantage=advantage, ratio=no_ratio, gate=no_gate)


FAMILIES: dict[str, dict[str, Method]] = {
    "mean/std, sequence mean": {name: gpg(unit_count=1, calibration=name) for name in ("soft", "hard")},
    "mean/std, token mean": {"soft": gpg(unit_count=1, calibration="soft", aggregation="token_mean")},
    UNBIASED: {"soft": _leave_one_out(False), "hard": _leave_one_out(True)},
    TREE: {"tree": _composed(branch_advantage(shared_by_tree()))},
}
"""Family -> calibration -> method. The first is GPG's own objective, the second that of ARPO's released code,
in which hard and soft are one."""

ESTIMATORS = tuple(
    Estimator(family, calibration, weight, method)
    for family, members in FAMILIES.items()
    for calibration, method in members.items()
    for weight in WEIGHTS
)

METHODS = tuple(method for members in FAMILIES.values() for method in members.values())
"""Those of `ESTIMATORS`, each once."""

AIMS = tuple(next(iter(members.values())) for members in FAMILIES.values())
"""The method of each family whose mean over rows that are not forked the family aims at."""

AIM_OF = np.array([list(FAMILIES).index(estimator.family) for estimator in ESTIMATORS])
"""Index into `AIMS` of each estimator."""


def compile_gradients(
    policy: Policy,
    layout: Layout,
    temperature: float,
    methods: Sequence[Method],
    kinds: Sequence[LeafWeight] = WEIGHTS,
) -> Callable[[Params, Rollout], np.ndarray]:
    """The gradients of a rollout by several methods and leaf weights, the sampling policy's own.

    Args:
      policy: the network.
      layout: of the rows.
      temperature: at which they were sampled.
      methods: whose gradients.
      kinds: of leaf weights, each of which every method is given: "uniform", or the rollout's own as "tree".

    Returns:
      parameters, rollout -> `float32[E, D]`, the gradient of J (not of the loss), all parameters in a line; E
      counts the methods, and for each of them the leaf weights.
    """

    @jax.jit
    def pulled(params: Params, rollout: Rollout, weights: Array) -> Array:
        def log_prob(params: Params) -> Array:
            rows = rollout.tokens, rollout.prompt_length, rollout.length
            return score(policy, params, *rows, layout, temperature=temperature).log_prob

        value, pull = jax.vjp(log_prob, params)
        scores = Scores(jax.lax.stop_gradient(value))

        def push(method: Method) -> Array:
            return jax.vmap(lambda weight: -coefficients(method, Batch(_weighted(rollout, weight), scores)))(
                weights
            )

        # One at a time: XLA's CPU backend (jaxlib 0.10.2) gets the batched pullback of a norm wrong
        # from about a thousand tokens on.
        (gradients,) = jax.lax.map(pull, jnp.concatenate([push(method) for method in methods]))
        lines = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(gradients)]
        return jnp.concatenate(lines, axis=1)

    def gradients(params: Params, rollout: Rollout) -> np.ndarray:
        own = np.asarray(rollout.leaf_weight)
        weights = {"uniform": np.ones_like(own), "tree": own}
        return np.asarray(pulled(params, rollout, np.stack([weights[kind] for kind in kinds])))

    return gradients


def _weighted(rollout: Rollout, weight: Array) -> Rollout:
    return dataclasses.replace(rollout, leaf_weight=weight)  # type: ignore[type-var]
