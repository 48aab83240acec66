"""Mistakes in what a method is given, found where it is given.

Each is a `ValueError` that says what would be right.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from gpg_jax.estimators.divergences import ESTIMATORS

SAMPLED = (*(name for name in ESTIMATORS if not name.endswith("+")), "k1+", "k2+", "k3+", "abs+")
"""Estimators from the sampled token; "+" is the value of one with the gradient of k2."""

_KL = (
    "kl_estimator",
    "kl_placement",
    "kl_order",
    "kl_importance_weighted",
    "kl_ratio",
    "kl_range",
    "kl_cost_range",
    "kl_aggregation",
)

_WORDS: dict[str, Collection[Any]] = {
    "ddof": (0, 1),
    "eps_placement": ("outside", "inside"),
    "singleton": ("zero", "raw"),
    "std_over": ("group", "batch"),
    "kl_placement": ("loss", "reward"),
    "kl_order": ("before", "after"),
    "kl_ratio": ("token", "unit"),
    "kl_importance_weighted": (False, True),
    "drop_truncated": (False, True),
    "truncated_in_statistics": (False, True),
}
_NOT_NEGATIVE = ("eps", "kl_coefficient", "entropy_coefficient", "correction_floor")
_RANGES = ("advantage_range", "log_ratio_range", "kl_range", "kl_cost_range")


def one_of(name: str, value: Any, known: Collection[Any]) -> None:
    """Raises ValueError unless the value is one of those known."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")


def within(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, below: bool = False
) -> None:
    """Raises ValueError unless the value is a finite number in [low, high], or in [low, high) for `below`."""
    number = float(value) if isinstance(value, Real) else math.nan
    if math.isfinite(number) and low <= number <= high and not (below and number == high):
        return
    if math.isfinite(number) and (low, high) == (0, math.inf):
        raise ValueError(f"{name} must not be negative, got {value!r}")
    place = "" if (low, high) == (-math.inf, math.inf) else f" in [{low}, {high}{')' if below else ']'}"
    raise ValueError(f"{name} must be a finite number{place}, got {value!r}")


def positive(name: str, value: Any) -> None:
    """Raises ValueError unless the value is a finite number above 0."""
    within(name, value, 0)
    if not value > 0:
        raise ValueError(f"{name} must be above 0, got {value!r}")


def ordered(name: str, bounds: Any, least: float = -math.inf, most: float = math.inf) -> None:
    """Raises ValueError unless `bounds` are a low and a high, finite numbers of [least, most]."""
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise ValueError(f"{name} must be a low and a high, got {bounds!r}")
    for bound in bounds:
        within(name, bound, least, most)
    if bounds[0] > bounds[1]:
        raise ValueError(f"{name} must be a low and a high, in this order, got {bounds!r}")


def read_only(reads: bool, reader: str, **given: Any) -> None:
    """Raises ValueError where an argument was given, and is not None, that nothing reads.

    Args:
      reads: whether they are read.
      reader: by what, or where.
      **given: argument -> value; None where it was left out.
    """
    for name, value in given.items():
        if value is not None and not reads:
            raise ValueError(f"{name} is read only {reader}: here it would do nothing, leave it out")


def count(name: str, value: Any) -> None:
    """Raises ValueError unless the value is a whole number of at least 1."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def clip_range(low: Any, high: Any) -> None:
    """Raises ValueError unless both are numbers that are not negative; ∞ leaves the upper side open."""
    sizes = [float(epsilon) if isinstance(epsilon, Real) else math.nan for epsilon in (low, high)]
    if not all(size >= 0 for size in sizes):
        raise ValueError(f"clip ranges must not be negative, nor nan, got low={low}, high={high}")


def holding_zero(name: str, bounds: Any) -> None:
    """Raises ValueError unless `bounds` is None or a low and a high around 0, such as (-10.0, 10.0)."""
    if bounds is None:
        return
    pair = isinstance(bounds, tuple | list) and len(bounds) == 2
    if not pair or not bounds[0] <= 0 <= bounds[1] or bounds[0] == bounds[1]:
        raise ValueError(f"{name} must hold 0 between a low and a high, as (-10.0, 10.0) does; got {bounds}")


def check_values(settings: Mapping[str, Any]) -> None:
    """Raises ValueError where a setting's value is none that it could have.

    Args:
      settings: every setting -> value.
    """
    for name, known in _WORDS.items():
        one_of(name, settings[name], known)
    for name in _NOT_NEGATIVE:
        within(name, settings[name], 0)
    for name in _RANGES:
        holding_zero(name, settings[name])
    for name in ("dual_clip", "truncated_reward"):
        if settings[name] is not None:
            within(name, settings[name])
    if settings["kl_estimator"] not in (*SAMPLED, "full"):
        known = ", ".join(SAMPLED)
        raise ValueError(f"no KL estimator {settings['kl_estimator']!r}; there are {known} and full")
    within("max_length", settings["max_length"], 1)
    within("correction_cap", settings["correction_cap"])
    if not settings["correction_floor"] < settings["correction_cap"]:
        floor, cap = settings["correction_floor"], settings["correction_cap"]
        raise ValueError(f"correction_cap must be positive and above correction_floor, got {cap} and {floor}")


def check_combination(settings: Mapping[str, Any], given: Collection[str], others: Sequence[str]) -> None:
    """Raises ValueError where a setting that was given would do nothing, or not what its name says.

    Args:
      settings: every setting -> value.
      given: names of the settings that the caller gave.
      others: the method's conventions under which the reward may be charged with another KL than k1.
    """
    charged, estimator = settings["kl_coefficient"] > 0, settings["kl_estimator"]
    in_loss, weighted = settings["kl_placement"] == "loss", settings["kl_importance_weighted"]
    for reads, names, reader in (
        (
            settings["aggregation"] == "constant_length",
            ("max_length",),
            'by the aggregation "constant_length"',
        ),
        (settings["correction"] != "none", ("correction_cap", "correction_floor"), "by a correction"),
        (settings["eps"] > 0, ("eps_placement",), "where eps is positive"),
        (settings["entropy_coefficient"] > 0, ("entropy_aggregation",), "by an entropy bonus"),
        (charged, _KL, "where kl_coefficient is positive"),
        (not in_loss, ("kl_order",), "by a KL in the reward"),
        (in_loss, ("kl_importance_weighted", "kl_ratio", "kl_aggregation"), "by a KL in the loss"),
        (weighted, ("kl_ratio",), "by an importance-weighted KL"),
        (estimator != "full", ("kl_range",), "by a KL at the sampled token"),
    ):
        read_only(reads, reader, **{name: name for name in names if name in given})
    if charged and in_loss and weighted and estimator not in ("k1", "k3"):
        raise ValueError(
            "an importance-weighted KL has the gradient of KL(π‖π_ref) for k1 and k3 alone: with "
            f"{estimator!r} take kl_importance_weighted=False"
        )
    if charged and not in_loss and estimator == "full":
        raise ValueError(
            "the KL in the reward is taken at the sampled token: use k1, k2, k3 or abs, not full"
        )
    if charged and not in_loss and estimator != "k1" and settings["convention"] not in others:
        systems = f", or the convention of a system that charges it, {', '.join(others)}" if others else ""
        raise ValueError(
            f"{estimator!r} in the reward has another gradient than KL(π‖π_ref), next to none near the "
            f"reference: take k1{systems}"
        )
