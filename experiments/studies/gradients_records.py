"""What the study of gradients has measured, looked up and averaged over policies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.studies import gradients_bias
from experiments.studies.estimators import FAMILIES, UNBIASED
from experiments.studies.findings import NOT_TOLD, GeometricInterval, Interval, geometric_interval, interval

Record = dict[str, Any]
Seeds = Sequence[dict[str, Any]]
"""What `gradients.measure_seed` gave, a seed each."""

Line = tuple[str, str, str]
"""Family, calibration, leaf weight."""


class Budget(NamedTuple):
    """How much was drawn of each policy.

    Attributes:
      rollouts: R, of each way to fork.
      reference: S, without forks, for what is aimed at.
    """

    rollouts: int
    reference: int


SAME = 1e-4
"""Relative difference below which two estimators are one."""

BIAS = "bias²"
COSINE = "mean's cosine to ∇J"
LENGTH = "mean's length"
OWN = "variance over the mean's length²"

COLUMNS: dict[str, Callable[[Record, Record], float]] = {
    "variance": lambda record, policy: record["variance"],
    "variance at equal tokens": lambda record, policy: record["variance"] * record["drawn"] / policy["drawn"],
    OWN: lambda record, policy: over(record["variance"], record["squared_mean"]),
    LENGTH: lambda record, policy: math.sqrt(over(record["squared_mean"], 1)),
    BIAS: lambda record, policy: record["bias"],
    "cosine": lambda record, policy: record["cosine"],
    COSINE: lambda record, policy: record["to_gradient"],
    "rollouts with signal": lambda record, policy: record["signal"],
    "groups with signal": lambda record, policy: record["mixed"],
    "tokens drawn": lambda record, policy: record["drawn"],
    "tokens trained": lambda record, policy: record["trained"],
}
"""Column -> its number, from a record and what was seen without forks; see `gradients._records`. Lengths are
over that of g, the family's mean without forks, and so are variances but for `OWN`."""

LOGARITHMIC = ("variance", "variance at equal tokens", OWN, LENGTH)
"""Columns of which logs are averaged: they are over a length that varies from policy to policy."""


def branchings(found: Seeds) -> list[str]:
    """Ways to fork, in the order in which they were measured."""
    return list(dict.fromkeys(row["branching"] for row in found[0]["rows"]))


def is_unforked(found: Seeds, branching: str) -> bool:
    """Whether no token was shared."""
    line = (UNBIASED, "soft", "uniform")
    return all(
        record_of(one, branching, line)["drawn"] == record_of(one, branching, line)["trained"]
        for one in found
    )


def unforked(found: Seeds) -> str:
    """The way that forks nothing, which the others are compared with; the first where all fork."""
    labels = branchings(found)
    return next((label for label in labels if is_unforked(found, label)), labels[0])


def calibrated(found: Seeds) -> list[str]:
    """Families in which calibration changes something."""
    return [
        family
        for family, kinds in FAMILIES.items()
        if {"soft", "hard"} <= kinds.keys() and largest_apart(found, family) >= SAME
    ]


def largest_apart(found: Seeds, family: str) -> float:
    """The largest ‖hard − soft‖/‖soft‖ of all that was drawn."""
    return max(
        row["apart"]
        for one in found
        for row in one["rows"]
        if (row["family"], row["calibration"]) == (family, "hard")
    )


def apart_of(found: Seeds, branching: str, line: Line) -> list[float]:
    """‖hard − soft‖/‖soft‖ of the rollout in which it is the largest, policy by policy."""
    return [record_of(one, branching, line)["apart"] for one in found]


def record_of(one: dict[str, Any], branching: str, line: Line) -> Record:
    """What a policy's rollouts, forked in one way, came to by one estimator."""
    return next(
        row
        for row in one["rows"]
        if (row["branching"], row["family"], row["calibration"], row["leaf_weight"]) == (branching, *line)
    )


def values_of(found: Seeds, column: str, branching: str, line: Line) -> list[float]:
    """A column, policy by policy."""
    return [COLUMNS[column](record_of(one, branching, line), one["policy"]) for one in found]


def noise_of(found: Seeds, budget: Budget, branching: str, line: Line) -> list[float]:
    """N of `gradients_bias`, policy by policy.

    The variance of a rollout of the reference is not kept: it is read from the rollouts without forks, which
    are others of the same estimator.
    """
    own, aimed = (values_of(found, "variance", label, line) for label in (branching, unforked(found)))
    return [one / budget.rollouts + other / budget.reference for one, other in zip(own, aimed, strict=True)]


def bias_of(found: Seeds, budget: Budget, branching: str, line: Line) -> Interval:
    """Squared bias over ‖g‖², policies weighed by what they tell of it; see `gradients_bias.weighted`."""
    none = unforked(found)
    null = [
        one / noise if noise > 0 else math.nan
        for one, noise in zip(
            values_of(found, BIAS, none, line), noise_of(found, budget, none, line), strict=True
        )
    ]
    return gradients_bias.weighted(
        values_of(found, BIAS, branching, line), noise_of(found, budget, branching, line), null
    )


def shares_of(found: Seeds, budget: Budget, branching: str, line: Line) -> np.ndarray:
    """Each policy's share `[n]` of the weight in `bias_of`; NaN where that is not told."""
    noise = np.array(noise_of(found, budget, branching, line))
    mean = bias_of(found, budget, branching, line).mean
    if math.isnan(mean):
        return np.full(len(found), math.nan)
    weight = gradients_bias.weights(noise, mean)
    return weight / weight.sum()


def number_of(found: Seeds, column: str, branching: str, line: Line) -> Interval | GeometricInterval:
    """A column over the policies, of logs where it is one of `LOGARITHMIC`; for `BIAS` see `bias_of`."""
    values = values_of(found, column, branching, line)
    return geometric_interval(values) if column in LOGARITHMIC else interval(values)


def ratio_of(
    found: Seeds, column: str, above: tuple[str, Line], below: tuple[str, Line]
) -> GeometricInterval:
    """One place of a column over another, policy by policy."""
    first, second = values_of(found, column, *above), values_of(found, column, *below)
    return geometric_interval([over(one, other) for one, other in zip(first, second, strict=True)])


def spread(values: Sequence[float]) -> str:
    """Median and range."""
    if not np.all(np.isfinite(values)):
        return NOT_TOLD
    middle = f"{np.median(values):.2g}"
    return middle if len(values) < 2 else f"{middle} ({min(values):.2g}–{max(values):.2g})"


def are_same(found: Seeds, branching: str, first: Line, second: Line) -> bool:
    """Whether two estimators came out the same."""

    def numbers(line: Line) -> list[float]:
        records = [record_of(one, branching, line) for one in found]
        return [record[name] for record in records for name in ("variance", "cosine", "to_gradient")]

    return bool(np.allclose(numbers(first), numbers(second), rtol=SAME, atol=0, equal_nan=True))


def over(above: float, below: float) -> float:
    """above/below of positive numbers, NaN where one of them is not: an estimate that is all noise."""
    return above / below if above > 0 and below > 0 else math.nan
