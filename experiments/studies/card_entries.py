"""What has a card: every method of `ALGORITHMS` by its surrogate alone, and variants that are told apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.decoding.branching import LeafWeight
from gpg_jax.theory.cards import without_penalties
from gpg_jax.types import Method

SUM = {"aggregation": "sequence_mean_token_sum"}
"""A row counts by the sum of its tokens, as the policy gradient theorem has it."""

FAMILIES = ("sequence baselines", "groups", "critics", "KL to a reference", "forked rows")
"""In the order in which they are shown."""


class Entry(NamedTuple):
    """An estimator.

    Attributes:
      name: of the method, and of the variant.
      family: one of `FAMILIES`.
      method: whose gradient is taken.
      critic: the exact value function of the behaviour policy, or one with an error in every state.
      old: whose probabilities ratios are over: those of the "behaviour" that drew the rows, or those of the
        "policy" itself, computed anew, so that the behaviour enters through correction weights alone.
      leaf_weight: of forked rows; None for independent ones.
      regularised: whether it aims at E[R] − β·KL(π‖π_ref) and not at E[R].
    """

    name: str
    family: str
    method: Method
    critic: Literal["exact", "wrong"] = "exact"
    old: Literal["behaviour", "policy"] = "behaviour"
    leaf_weight: LeafWeight | None = None
    regularised: bool = False


def entries(longest: int, coefficient: float) -> tuple[Entry, ...]:
    """Every estimator, family by family.

    Args:
      longest: tokens of the longest response, Dr. GRPO's constant.
      coefficient: β of the KL to the reference.
    """
    listed = [entry for name in ALGORITHMS for entry in _of_method(name, longest)]
    listed += [*_corrected(), *_regularised(coefficient), *_forked()]
    return tuple(sorted(listed, key=lambda entry: FAMILIES.index(entry.family)))


def _of_method(name: str, longest: int) -> list[Entry]:
    """A method as it comes, and its variants; twice where the critic is told about.

    Of a trust region and of a mixture it is the surrogate's gradient, not the step that is made of it.
    """
    fixed = {"max_length": longest} if name == "dr_grpo" else {}
    result = []
    for variant, options in {"": fixed, **VARIANTS.get(name, {})}.items():
        made = ALGORITHMS[name](**options)
        method = made if variant in WHOLE else without_penalties(made)
        label = f"{name}, {variant}" if variant else name
        result.append(Entry(label, _family(name, made), method))
        if "value" in made.needs and (not variant or "lambda_" in options):
            result.append(Entry(f"{label}; wrong critic", _family(name, made), method, critic="wrong"))
    return result


def _family(name: str, method: Method) -> str:
    if "value" in method.needs:
        return "critics"
    return "sequence baselines" if name.startswith(("reinforce", "rloo", "vanilla")) else "groups"


WHOLE = ("KL for a clip", "with likelihood")
"""Variants whose penalties are what they are about; a critic's loss has no gradient in the policy."""

VARIANTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "rloo": {
        "sequence mean": {"aggregation": "sequence_mean"},
        "token mean": {"aggregation": "token_mean"},
        "token ratio, clip": {"ratio": "token"},
        "output's ratio, no clip": {"ratio": "unit_product", "clip": math.inf},
    },
    "grpo": {
        "token sum": SUM,
        "token mean": {"aggregation": "token_mean"},
        "std of the batch": {"std_over": "batch"},
        "no clip": {"clip": math.inf},
    },
    "dapo": {"every group": {"dynamic_sampling": False}},
    "gspo": {"clip 0.2": {"clip_low": 0.2, "clip_high": 0.2}},
    "gpg": {
        "K = 1": {"unit_count": 1},
        "K = 2": {"unit_count": 2},
        "K = 2, product, token sum": {"unit_count": 2, "ratio": "unit_product", **SUM},
        "K = 1, calibrated by tokens": {"unit_count": 1, "prefix": "tokens"},
    },
    "a2c": {
        "λ = 1, token sum": {"lambda_": 1.0, **SUM},
        "λ = 0.95, token sum": {"lambda_": 0.95, **SUM},
        "λ = 0, token sum": {"lambda_": 0.0, **SUM},
    },
    "ppo": {
        "no whitening": {"whiten": False},
        "KL for a clip": {"bound": "kl"},
    },
    "vapo": {"with likelihood": {}},
}
"""Method -> variant -> options."""


def _corrected() -> list[Entry]:
    """Old samples under weights π_θ/π_behaviour, at most 2, by token or by row."""
    return [
        Entry(
            f"rloo, corrected by {kind}",
            "sequence baselines",
            ALGORITHMS["rloo"](correction=kind),
            old="policy",
        )
        for kind in ("token", "sequence")
    ]


def _regularised(coefficient: float) -> list[Entry]:
    ways: dict[str, dict[str, Any]] = {"k1 in the reward": {"kl_placement": "reward", "kl_estimator": "k1"}}
    ways |= {f"{name} in the loss": {"kl_estimator": name} for name in ("k1", "k2", "k3", "full")}
    ways["k3 in the loss, weighted"] = {"kl_estimator": "k3", "kl_importance_weighted": True}
    return [
        Entry(
            f"rloo, {name}",
            "KL to a reference",
            ALGORITHMS["rloo"](kl_coefficient=coefficient, **options),
            regularised=True,
        )
        for name, options in ways.items()
    ]


def _forked() -> list[Entry]:
    one = {"unit_count": 1}
    rows: tuple[tuple[str, Method, LeafWeight], ...] = (
        ("rloo", ALGORITHMS["rloo"](), "uniform"),
        ("rloo", ALGORITHMS["rloo"](), "forest"),
        ("rloo", ALGORITHMS["rloo"](), "tree"),
        ("gpg, soft", ALGORITHMS["gpg"](calibration="soft", **one), "uniform"),
        ("gpg, hard", ALGORITHMS["gpg"](calibration="hard", **one), "uniform"),
        ("gpg, hard", ALGORITHMS["gpg"](calibration="hard", **one), "tree"),
        ("gpg, tree", ALGORITHMS["gpg"](calibration="tree", **one), "tree"),
    )
    return [
        Entry(f"{name}; {weight} leaf weights", "forked rows", method, leaf_weight=weight)
        for name, method, weight in rows
    ]
