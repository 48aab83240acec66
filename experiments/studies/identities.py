"""What GPG should be equal to, and what not: pairs of methods, and whether they came out so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gpg_jax.algorithms.compose import compose, each_token, group_advantage
from gpg_jax.algorithms.gpg import gpg
from gpg_jax.algorithms.grpo import grpo
from gpg_jax.algorithms.gspo import gspo
from gpg_jax.algorithms.rloo import rloo
from gpg_jax.algorithms.settings import resolve
from gpg_jax.decoding.units import fixed_count_units
from gpg_jax.estimators.advantages import minus_leave_one_out, outcome_advantage
from gpg_jax.losses.gates import no_gate
from gpg_jax.losses.ratios import no_ratio, unit_product_token_ratio
from gpg_jax.types import Method

TOLERANCE = 1e-5
"""Relative difference of gradients, and difference of losses, up to which float32 counts as equal."""

APART = 1e-3
"""Relative difference of gradients from which on two methods are different: far from what rounding does."""

SUM = "sequence_mean_token_sum"


def theorem_form() -> Method:
    """Σ A ∇log π, the theorem's form: (1/B) Σ_i A_i Σ_t ∇log π(y_t), without a ratio and without lengths.

    The advantage is GRPO's, so that it is not ∇J: mean and std have the row's own reward in them.
    """
    settings = resolve({}, aggregation=SUM)
    advantage = group_advantage(settings, scale=True)
    return compose(settings, advantage=advantage, ratio=no_ratio, gate=no_gate)


def theorem_over_units() -> Method:
    """The theorem over K = 4 macro-actions, (1/B) Σ_i (R_i − the others' mean) Σ_T ∇log π(MA_T|MS_T).

    No baseline reads its own row: at π_θ = π_old it is an unbiased estimate of ∇J.
    """
    settings = resolve({}, aggregation=SUM)
    return compose(
        settings,
        units=lambda batch: fixed_count_units(batch.rollout.action_mask, 4),
        advantage=outcome_advantage(minus_leave_one_out),
        ratio=unit_product_token_ratio(),
        gate=no_gate,
    )


METHODS: dict[str, Method] = {
    "GRPO": grpo(kl_coefficient=0.0),
    "GSPO": gspo(),
    "Σ A ∇log π": theorem_form(),
    "Σ A ∇log π, K=4, leave-one-out": theorem_over_units(),
    "RLOO": rloo(),
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
    Pair("GRPO", "Σ A ∇log π", "on", False),
    Pair("GPG K=1", "Σ A ∇log π", "on", False),
    Pair("GPG K=1, token sum", "Σ A ∇log π", "on", True),
    Pair("Σ A ∇log π, K=4, leave-one-out", "RLOO", "on", True),
    Pair("GPG K=4, product", "GPG K=4", "off", False),
    Pair("GPG K=4", "GPG K=1", "off", False),
    Pair("GPG K=4", "GRPO", "off", False),
    Pair("GPG K=1", "GRPO", "off", False),
    Pair("GPG K=|o|", "GRPO", "off", True),
    Pair("GPG K=1", "GSPO", "off", False),
    Pair("GPG K=1, GSPO's clip", "GSPO", "off", True),
    Pair("GPG K=1, token sum", "Σ A ∇log π", "off", False),
)
"""In an order in which the last three gradients serve the next pair. GPG at K = 1 and GSPO differ by their
clips alone. RLOO is an unbiased estimator of ∇J, and so is what is equal to it."""


def verdict(records: Sequence[Mapping[str, float]]) -> str:
    """What two methods came out as.

    Returns:
      "equal" where loss and gradient are the same in every seed, up to `TOLERANCE`; "different" where the
      gradients are `APART` in every seed; "neither" else.
    """
    if all(record["gradient"] <= TOLERANCE and record["loss"] <= TOLERANCE for record in records):
        return "equal"
    return "different" if all(record["gradient"] >= APART for record in records) else "neither"
