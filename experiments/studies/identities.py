"""What GPG should be equal to, and what not: pairs of methods, and whether they came out so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gpg_jax.algorithms.compose import compose, each_token, group_advantage
from gpg_jax.algorithms.gpg import gpg
from gpg_jax.algorithms.grpo import grpo
from gpg_jax.algorithms.gspo import gspo
from gpg_jax.algorithms.settings import resolve
from gpg_jax.losses.gates import no_gate
from gpg_jax.losses.ratios import no_ratio
from gpg_jax.types import Method

TOLERANCE = 1e-5
"""Relative difference of gradients, and difference of losses, up to which float32 counts as equal."""

SUM = "sequence_mean_token_sum"


def policy_gradient() -> Method:
    """∇J of the GPG theorem with GRPO's advantage, (1/B) Σ_i A_i Σ_t ∇log π(y_t): no ratio, no lengths."""
    settings = resolve({}, aggregation=SUM)
    advantage = group_advantage(settings, scale=True)
    return compose(settings, advantage=advantage, ratio=no_ratio, gate=no_gate)


METHODS: dict[str, Method] = {
    "GRPO": grpo(kl_coefficient=0.0),
    "GSPO": gspo(),
    "policy gradient": policy_gradient(),
    "GPG K=|o|": gpg(units=each_token),
    "GPG K=4": gpg(unit_count=4),
    "GPG K=4, product": gpg(unit_count=4, ratio="unit_product"),
    "GPG K=1": gpg(unit_count=1),
    "GPG K=1, GSPO's clip": gpg(unit_count=1, clip_low=3e-4, clip_high=4e-4),
    "GPG K=1, token sum": gpg(unit_count=1, aggregation=SUM),
}
"""Clips are ±0.2 but GSPO's own, −3e-4 and +4e-4."""


class Pair(NamedTuple):
    """Two methods.

    Attributes:
      first, second: keys of `METHODS`.
      policy: "on", where π_θ sampled the rollout, or "off", where it was moved since.
      equal: whether loss and gradient should be the same.
    """

    first: str
    second: str
    policy: str
    equal: bool


PAIRS = (
    Pair("GPG K=4, product", "GPG K=4", "on", True),
    Pair("GPG K=4", "GRPO", "on", True),
    Pair("GPG K=|o|", "GRPO", "on", True),
    Pair("GSPO", "GRPO", "on", True),
    Pair("GPG K=1, GSPO's clip", "GSPO", "on", True),
    Pair("GRPO", "policy gradient", "on", False),
    Pair("GPG K=1", "policy gradient", "on", False),
    Pair("GPG K=1, token sum", "policy gradient", "on", True),
    Pair("GPG K=4, product", "GPG K=4", "off", False),
    Pair("GPG K=4", "GPG K=1", "off", False),
    Pair("GPG K=4", "GRPO", "off", False),
    Pair("GPG K=1", "GRPO", "off", False),
    Pair("GPG K=|o|", "GRPO", "off", True),
    Pair("GPG K=1", "GSPO", "off", False),
    Pair("GPG K=1, GSPO's clip", "GSPO", "off", True),
    Pair("GPG K=1, token sum", "policy gradient", "off", False),
)
"""In an order in which the last three gradients serve the next pair. GPG at K = 1 and GSPO differ by their
clips alone."""


def is_equal(records: Sequence[Mapping[str, float]]) -> bool:
    """Whether loss and gradient are the same in every seed, up to `TOLERANCE`."""
    return all(record["gradient"] <= TOLERANCE and record["loss"] <= TOLERANCE for record in records)
