"""The table and the sentences of the study of gradients."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.studies.estimators import FAMILIES, TREE, UNBIASED
from experiments.studies.findings import Cell, GeometricInterval, Interval, interval, paired
from experiments.studies.gradients_records import (
    COLUMNS,
    COSINE,
    LENGTH,
    OWN,
    SAME,
    Line,
    Record,
    Seeds,
    are_same,
    branchings,
    is_unforked,
    number_of,
    ratio_of,
    record_of,
    values_of,
)

TERMS = (
    "Variance and bias² are over ‖g‖² and the mean's length over ‖g‖, g the mean of the family's estimates "
    "without forks; a rollout without signal has a cosine of 0."
)
"""What the columns are."""


def table(found: Seeds) -> list[dict[str, Cell]]:
    """A row for each way to fork and estimator; estimators that came out the same share one."""
    rows: list[dict[str, Cell]] = []
    for branching in branchings(found):
        for family in FAMILIES:
            for cluster in _clusters(found, branching, family):
                names = {
                    "width": branching,
                    "family": family,
                    "calibration": " = ".join(dict.fromkeys(line[1] for line in cluster)),
                    "leaf weight": " = ".join(dict.fromkeys(line[2] for line in cluster)),
                }
                rows.append(
                    {**names, **{name: number_of(found, name, branching, cluster[0]) for name in COLUMNS}}
                )
    return rows


def notes(found: Seeds) -> list[str]:
    """What came out, in sentences."""
    forked = [label for label in branchings(found) if not is_unforked(found, label)]
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
            record_of(one, label, (family, "hard", weight))["apart"]
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
            ratio = ratio_of(
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
            bias = number_of(found, "bias²", label, (UNBIASED, "soft", weight))
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
    unforked = next(label for label in branchings(found) if is_unforked(found, label))
    for family in [name for name, kinds in FAMILIES.items() if "soft" in kinds]:
        line = (family, "soft", "uniform")
        told = []
        for label in forked:
            same_rows = ratio_of(found, "variance", (label, line), (unforked, line))
            same_tokens = ratio_of(found, "variance at equal tokens", (label, line), (unforked, line))
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
        ratio = ratio_of(found, OWN, (label, tree), (label, soft))
        lengths = [number_of(found, LENGTH, label, line) for line in (tree, soft)]
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
    one, other = values_of(found, column, label, first), values_of(found, column, label, second)
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
    label = branchings(found)[0]
    told = [
        f"{number_of(found, COSINE, label, (family, next(iter(kinds)), 'uniform'))} ({family})"
        for family, kinds in FAMILIES.items()
    ]
    return [f"At {label} the mean estimate's cosine to ∇J is {', '.join(told)}."]


def _clusters(found: Seeds, branching: str, family: str) -> list[list[Line]]:
    clusters: list[list[Line]] = []
    for kind in FAMILIES[family]:
        for weight in ("uniform", "tree"):
            line = (family, kind, weight)
            like = next((one for one in clusters if are_same(found, branching, one[0], line)), None)
            if like is None:
                clusters.append([line])
            else:
                like.append(line)
    return clusters
