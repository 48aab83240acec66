"""What the study of gradients has measured, looked up and averaged over policies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.studies.estimators import UNBIASED
from experiments.studies.findings import GeometricInterval, Interval, geometric_interval, interval

Record = dict[str, Any]
Seeds = Sequence[dict[str, Any]]
"""What `gradients.measure_seed` gave, a seed each."""

Line = tuple[str, str, str]
"""Family, calibration, leaf weight."""

SAME = 1e-4
"""Relative difference below which two estimators are one."""

COSINE = "mean's cosine to ∇J"
LENGTH = "mean's length"
OWN = "variance over the mean's length²"

COLUMNS: dict[str, Callable[[Record, Record], float]] = {
    "variance": lambda record, policy: record["variance"],
    "variance at equal tokens": lambda record, policy: record["variance"] * record["drawn"] / policy["drawn"],
    OWN: lambda record, policy: over(record["variance"], record["squared_mean"]),
    LENGTH: lambda record, policy: math.sqrt(over(record["squared_mean"], 1)),
    "bias²": lambda record, policy: record["bias"],
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


def number_of(found: Seeds, column: str, branching: str, line: Line) -> Interval | GeometricInterval:
    """A column over the policies, of logs where it is one of `LOGARITHMIC`."""
    values = values_of(found, column, branching, line)
    return geometric_interval(values) if column in LOGARITHMIC else interval(values)


def ratio_of(
    found: Seeds, column: str, above: tuple[str, Line], below: tuple[str, Line]
) -> GeometricInterval:
    """One place of a column over another, policy by policy."""
    first, second = values_of(found, column, *above), values_of(found, column, *below)
    return geometric_interval([over(one, other) for one, other in zip(first, second, strict=True)])


def are_same(found: Seeds, branching: str, first: Line, second: Line) -> bool:
    """Whether two estimators came out the same."""

    def numbers(line: Line) -> list[float]:
        records = [record_of(one, branching, line) for one in found]
        return [record[name] for record in records for name in ("variance", "cosine", "to_gradient")]

    return bool(np.allclose(numbers(first), numbers(second), rtol=SAME, atol=0, equal_nan=True))


def over(above: float, below: float) -> float:
    """above/below of positive numbers, NaN where one of them is not: an estimate that is all noise."""
    return above / below if above > 0 and below > 0 else math.nan
