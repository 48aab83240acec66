"""What a study compares: sums over its arms, taken seed by seed and told in families that hold together."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from experiments.studies.findings import Interval, interval

Values = Mapping[str, Sequence[Mapping[str, float]]]
"""Arm -> column -> its number, of each of the arm's runs by seed."""

Family = tuple["Contrast", ...]
"""Contrasts whose intervals hold together with 95%."""


class Contrast(NamedTuple):
    """Σ_arm w_arm·x_arm of each seed, Σ_arm w_arm = 0.

    Attributes:
      column: of the table, x.
      weights: arm -> w.
      text: what the sum is.
    """

    column: str
    weights: Mapping[str, float]
    text: str


def difference(column: str, one: str, other: str) -> Contrast:
    """The first arm less the second."""
    return Contrast(column, _summed((one, 1.0), (other, -1.0)), f"{one} less {other}")


def growth(column: str, before: Sequence[str], behind: Sequence[str]) -> Contrast:
    """The difference of one pair of arms less that of another.

    Args:
      column: of the table.
      before: the pair whose difference is taken away.
      behind: the other one.
    """
    (one, other), (first, second) = behind, before
    weights = _summed((one, 1.0), (other, -1.0), (first, -1.0), (second, 1.0))
    return Contrast(column, weights, f"({one} less {other}) less ({first} less {second})")


def rise(column: str, arms: Sequence[str]) -> Contrast:
    """How far a line rises from the first arm to the last, fitted by least squares at equal steps.

    With x_n = n/(N−1) its weights are (x_n − x̄) / Σ_m (x_m − x̄)².

    Raises:
      ValueError: fewer than two arms, or one of them twice.
    """
    if len(arms) < 2 or len(set(arms)) < len(arms):
        raise ValueError(f"a trend needs two different arms at least, each once; got {', '.join(arms)}")
    steps = np.linspace(0, 1, len(arms)) - 0.5
    weights = zip(arms, (steps / np.sum(steps**2)).tolist(), strict=True)
    return Contrast(column, _summed(*weights), f"a line from {arms[0]} to {arms[-1]} rises")


def _summed(*terms: tuple[str, float]) -> dict[str, float]:
    """The weights of arms, of which one may be named more than once."""
    weights: dict[str, float] = {}
    for arm, weight in terms:
        weights[arm] = weights.get(arm, 0.0) + weight
    return weights


def contrasts(config: ConfigDict, columns: Collection[str]) -> tuple[Family, Family]:
    """What the study was made to tell, and what it tells besides.

    Args:
      config: see `training.default_study`.
      columns: of the table.

    Raises:
      ValueError: an arm or a column that there is not, or an arm that is compared with itself.
    """
    first, *others = config.arms
    asked = (
        *(difference(column, one, other) for one, other, column in config.asked),
        *(growth(column, before, behind) for before, behind, column in config.growth),
        *(rise(column, config.trend) for column in config.compared if config.trend),
    )
    pairs = tuple(config.pairs) or tuple((first, other) for other in others)
    every = (difference(column, *pair) for column, pair in itertools.product(config.compared, pairs))
    besides = tuple(one for one in every if one not in asked)
    if alone := ", ".join(one.text for one in (*asked, *besides) if not any(one.weights.values())):
        raise ValueError(f"asked, growth or pairs compare what is the same: {alone}")
    named = {arm for one in (*asked, *besides) for arm in one.weights}
    if strangers := ", ".join(sorted(named - set(config.arms))):
        raise ValueError(
            f"asked, growth, pairs or trend name {strangers}; the arms are {', '.join(config.arms)}"
        )
    if unknown := ", ".join(sorted({one.column for one in (*asked, *besides)} - set(columns))):
        raise ValueError(
            f"compared, asked or growth name {unknown}, which is no column; there are {', '.join(columns)}"
        )
    return asked, besides


def told(values: Values, asked: Family, besides: Family) -> list[str]:
    """A sentence a contrast; the intervals of a family hold together.

    Args:
      values: what the table says of each run.
      asked, besides: from `contrasts`.
    """
    sentences = []
    for name, family in (("asked", asked), ("besides", besides)):
        for one in family:
            found = measured(values, one, len(family))
            verdict = f"{one.column}: {one.text}: {found} ({_verdict(found)})"
            sentences.append(f"{name}, 1 of {len(family)}: {verdict}")
    return sentences


def measured(values: Values, contrast: Contrast, comparisons: int = 1) -> Interval:
    """A contrast over seeds, with an interval that holds together with others'; see `findings.interval`.

    Args:
      values: what the table says of each run.
      contrast: what is summed.
      comparisons: of its family.
    """
    terms = [
        weight * np.array([run[contrast.column] for run in values[arm]])
        for arm, weight in contrast.weights.items()
    ]
    return interval(np.sum(terms, axis=0).tolist(), comparisons)


def _verdict(apart: Interval) -> str:
    if apart.seeds < 2:
        return "one seed"
    return "told from 0" if apart.low > 0 or apart.high < 0 else "not told from 0"
