"""The table, the picture and the sentences of the study of gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.studies.estimators import FAMILIES, TREE, UNBIASED
from experiments.studies.findings import (
    Cell,
    GeometricInterval,
    Interval,
    geometric_interval,
    interval,
    paired,
)

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
    OWN: lambda record, policy: _over(record["variance"], record["squared_mean"]),
    LENGTH: lambda record, policy: math.sqrt(_over(record["squared_mean"], 1)),
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

TERMS = (
    "Variance and bias² are over ‖g‖² and the mean's length over ‖g‖, g the mean of the family's estimates "
    "without forks; a rollout without signal has a cosine of 0."
)
"""What the columns are."""

LOGARITHMIC = ("variance", "variance at equal tokens", OWN, LENGTH)
"""Columns of which logs are averaged: they are over a length that varies from policy to policy."""

PANELS = {
    "variance": "tr Cov / ‖g‖² of one rollout",
    "variance at equal tokens": "the same, per token drawn without forks",
    "bias²": "‖E[x] − g‖² / ‖g‖², g the family's without forks",
    "cosine": "of one rollout's gradient to g",
}


def table(found: Seeds) -> list[dict[str, Cell]]:
    """A row for each way to fork and estimator; estimators that came out the same share one."""
    rows: list[dict[str, Cell]] = []
    for branching in _branchings(found):
        for family in FAMILIES:
            for cluster in _clusters(found, branching, family):
                names = {
                    "width": branching,
                    "family": family,
                    "calibration": " = ".join(dict.fromkeys(line[1] for line in cluster)),
                    "leaf weight": " = ".join(dict.fromkeys(line[2] for line in cluster)),
                }
                rows.append(
                    {**names, **{name: _number(found, name, branching, cluster[0]) for name in COLUMNS}}
                )
    return rows


def draw(found: Seeds) -> Figure:
    """Variance, variance at equal tokens, bias and cosine against the way to fork."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = list(figure.subplots(2, 2).flat)
    labels = _branchings(found)
    lines = [
        (family, kind, weight)
        for family, kinds in FAMILIES.items()
        for kind in kinds
        for weight in ("uniform", "tree")
    ]
    shown = [line for line in lines if not _is_repeated(found, line)]
    for axis, (column, unit) in zip(axes, PANELS.items(), strict=True):
        for place, line in enumerate(shown):
            _curve(axis, found, column, labels, line, (place - len(shown) / 2) * 0.5 / len(shown))
        axis.set_title(column, fontsize=11)
        axis.set_ylabel(unit, fontsize=9)
        axis.set_xticks(range(len(labels)), labels)
        axis.set_xlabel("beam width")
        axis.grid(alpha=0.25)
    for axis in axes[:2]:
        axis.set_yscale("log")
    axes[2].axhline(0, color="grey", linewidth=0.8)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    seeds = len(found)
    over = f"means over {seeds} policies, of logs where the axis is so, and 95% intervals"
    figure.suptitle(over if seeds > 1 else "one policy", fontsize=10)
    return figure


def notes(found: Seeds) -> list[str]:
    """What came out, in sentences."""
    forked = [label for label in _branchings(found) if not _unforked(found, label)]
    if not forked:
        return [_policy(found), "No row was forked.", *_families(found), TERMS]
    return [
        _policy(found),
        *_calibration(found, forked),
        *_forks(found, forked),
        *_equal_tokens(found, forked),
        *_tree(found, forked),
        *_families(found),
        TERMS,
    ]


def _policy(found: Seeds) -> str:
    """What it earns: on prompts as they come, and on those that were taken for their differences."""
    batch, taken = ([one[name] for one in found] for name in ("batch", "policy"))

    def told(seen: Sequence[Record]) -> tuple[Interval, str]:
        reward, mixed = (interval([one[name] for one in seen]) for name in ("reward", "mixed"))
        return reward, f"{100 * mixed.mean:.0f}%"

    (reward, mixed), (own, differing) = told(batch), told(taken)
    return (
        f"Without forks the policy earns {reward} on a batch of prompts, and {mixed} of its groups have "
        f"different rewards; on the prompts taken, those of the batch whose rewards differed the most, it "
        f"earns {own}, and {differing} have."
    )


def _calibration(found: Seeds, forked: Sequence[str]) -> list[str]:
    """What the mean over those who share a token changes."""
    result = []
    for family in [name for name, kinds in FAMILIES.items() if {"soft", "hard"} <= kinds.keys()]:
        apart = max(
            _record(one, label, (family, "hard", weight))["apart"]
            for one in found
            for label in forked
            for weight in ("uniform", "tree")
        )
        if apart < SAME:
            result.append(
                f"Calibration changes nothing under {family}: hard and soft gradients of a rollout differ by "
                f"{apart:.1g} of their length at most."
            )
            continue
        ratios = []
        for label in forked:
            ratio = _ratio(
                found, "variance", (label, (family, "hard", "uniform")), (label, (family, "soft", "uniform"))
            )
            ratios.append(f"{ratio} at {label}")
        result.append(
            f"Under {family} calibration changes a gradient by up to {apart:.2g} of its length; with uniform "
            f"weights its variance is that of the soft form times {', '.join(ratios)}."
        )
    return result


def _forks(found: Seeds, forked: Sequence[str]) -> list[str]:
    """Whether forks leave the mean where it is."""
    result = []
    for weight in ("uniform", "tree"):
        told = []
        for label in forked:
            bias = _number(found, "bias²", label, (UNBIASED, "soft", weight))
            told.append(f"{bias} at {label} ({_verdict(bias)})")
        result.append(
            f"The squared bias of forks over ‖g‖², with {weight} leaf weights ({UNBIASED}), is "
            f"{', '.join(told)}."
        )
    return result


def _verdict(value: Interval | GeometricInterval) -> str:
    if value.low > 0 or value.high < 0:
        return "told from 0"
    return "not told from 0" if value.seeds > 1 else "one policy"


def _equal_tokens(found: Seeds, forked: Sequence[str]) -> list[str]:
    """Whether the tokens that forks save are worth the rows that they make alike."""
    result = []
    unforked = next(label for label in _branchings(found) if _unforked(found, label))
    for family in [name for name, kinds in FAMILIES.items() if "soft" in kinds]:
        line = (family, "soft", "uniform")
        told = []
        for label in forked:
            same_rows = _ratio(found, "variance", (label, line), (unforked, line))
            same_tokens = _ratio(found, "variance at equal tokens", (label, line), (unforked, line))
            told.append(f"{label}: {same_rows} at equal rows, {same_tokens} at equal tokens")
        result.append(
            f"Variance over that without forks ({family}, soft, uniform weights): {'; '.join(told)}."
        )
    return result


def _tree(found: Seeds, forked: Sequence[str]) -> list[str]:
    """What the difference of branch and parent does beside leave-one-out."""
    tree, soft = (TREE, "tree", "tree"), (UNBIASED, "soft", "tree")
    told = []
    for label in forked:
        ratio = _ratio(found, OWN, (label, tree), (label, soft))
        lengths = [_number(found, LENGTH, label, line) for line in (tree, soft)]
        told.append(
            f"{ratio} at {label}, where their means are {lengths[0]} and {lengths[1]} times as long as "
            f"without forks, and the cosine of a rollout's gradient to ∇J is "
            f"{_beside(found, 'cosine', label, tree, soft)}"
        )
    return [
        "Over the squared length of each one's own mean the variance of tree advantages is that of "
        f"leave-one-out times {'; '.join(told)}."
    ]


def _beside(found: Seeds, column: str, label: str, first: Line, second: Line) -> str:
    """A column of two estimators, and which of them is higher, policy by policy."""
    one, other = _values(found, column, label, first), _values(found, column, label, second)
    apart = paired(one, other)
    if apart.low > 0:
        word = "higher than"
    elif apart.high < 0:
        word = "lower than"
    else:
        word = "not told from" if apart.seeds > 1 else "beside"
    return f"{interval(one)}, {word} {interval(other)}"


def _families(found: Seeds) -> list[str]:
    """What std and lengths do to any rollout."""
    label = _branchings(found)[0]
    told = [
        f"{_number(found, COSINE, label, (family, next(iter(kinds)), 'uniform'))} ({family})"
        for family, kinds in FAMILIES.items()
    ]
    return [f"At {label} the mean estimate's cosine to ∇J is {', '.join(told)}."]


def _curve(axis: Axes, found: Seeds, column: str, labels: Sequence[str], line: Line, shift: float) -> None:
    family, kind, weight = line
    spread = [_number(found, column, label, line) for label in labels]
    axis.errorbar(
        np.arange(len(labels)) + shift,
        [one.mean for one in spread],
        [[one.mean - one.low for one in spread], [one.high - one.mean for one in spread]],
        color=f"C{list(FAMILIES).index(family)}",
        linestyle="-" if weight == "uniform" else "--",
        marker={"soft": "o", "hard": "s", "tree": "^"}[kind],
        markersize=4,
        linewidth=1.2,
        capsize=2,
        label=f"{family}; {kind}; {weight} weights",
    )


def _is_repeated(found: Seeds, line: Line) -> bool:
    """Whether a hard form came out as the soft one wherever rows were forked."""
    family, kind, weight = line
    soft = (family, "soft", weight)
    if kind != "hard":
        return False
    return all(_are_same(found, label, line, soft) for label in _branchings(found))


def _clusters(found: Seeds, branching: str, family: str) -> list[list[Line]]:
    clusters: list[list[Line]] = []
    for kind in FAMILIES[family]:
        for weight in ("uniform", "tree"):
            line = (family, kind, weight)
            like = next((one for one in clusters if _are_same(found, branching, one[0], line)), None)
            if like is None:
                clusters.append([line])
            else:
                like.append(line)
    return clusters


def _are_same(found: Seeds, branching: str, first: Line, second: Line) -> bool:
    def numbers(line: Line) -> list[float]:
        records = [_record(one, branching, line) for one in found]
        return [record[name] for record in records for name in ("variance", "cosine", "to_gradient")]

    return bool(np.allclose(numbers(first), numbers(second), rtol=SAME, atol=0, equal_nan=True))


def _values(found: Seeds, column: str, branching: str, line: Line) -> list[float]:
    return [COLUMNS[column](_record(one, branching, line), one["policy"]) for one in found]


def _number(found: Seeds, column: str, branching: str, line: Line) -> Interval | GeometricInterval:
    values = _values(found, column, branching, line)
    return geometric_interval(values) if column in LOGARITHMIC else interval(values)


def _ratio(found: Seeds, column: str, above: tuple[str, Line], below: tuple[str, Line]) -> GeometricInterval:
    """Of a column, seed by seed."""
    first, second = _values(found, column, *above), _values(found, column, *below)
    return geometric_interval([_over(one, other) for one, other in zip(first, second, strict=True)])


def _over(above: float, below: float) -> float:
    """above/below of positive numbers, NaN where one of them is not: an estimate that is all noise."""
    return above / below if above > 0 and below > 0 else math.nan


def _record(one: dict[str, Any], branching: str, line: Line) -> Record:
    return next(
        row
        for row in one["rows"]
        if (row["branching"], row["family"], row["calibration"], row["leaf_weight"]) == (branching, *line)
    )


def _branchings(found: Seeds) -> list[str]:
    return list(dict.fromkeys(row["branching"] for row in found[0]["rows"]))


def _unforked(found: Seeds, branching: str) -> bool:
    """Whether no token was shared."""
    line = (UNBIASED, "soft", "uniform")
    return all(
        _record(one, branching, line)["drawn"] == _record(one, branching, line)["trained"] for one in found
    )
