"""The table and the sentences of the study of gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.studies.estimators import FAMILIES, TREE, UNBIASED
from experiments.studies.findings import Cell, Interval, interval, paired
from experiments.studies.gradients_records import (
    BIAS,
    COLUMNS,
    COSINE,
    LENGTH,
    OWN,
    Budget,
    Line,
    Record,
    Seeds,
    apart_of,
    are_same,
    bias_of,
    branchings,
    calibrated,
    is_unforked,
    largest_apart,
    noise_of,
    number_of,
    ratio_of,
    shares_of,
    spread,
    unforked,
    values_of,
)

TERMS = (
    "Variance and bias² are over ‖g‖² and the mean's length over ‖g‖, g the mean of the family's estimates "
    "without forks; bias² weighs policies by what their noise lets them tell, the other numbers weigh all "
    "alike; a rollout without signal has a cosine of 0."
)
"""What the columns are."""

BY_ARITHMETIC = {
    UNBIASED: " So it must be where every token counts alike: rows that share a token push it by the sum of "
    "their advantages, which is what it was when each has their mean."
}
"""Why calibration changes nothing under a family."""


def table(found: Seeds, budget: Budget) -> list[dict[str, Cell]]:
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
                numbers: dict[str, Cell] = {
                    name: bias_of(found, budget, branching, cluster[0])
                    if name == BIAS
                    else number_of(found, name, branching, cluster[0])
                    for name in COLUMNS
                }
                rows.append({**names, **numbers})
    return rows


def tables(found: Seeds) -> dict[str, list[dict[str, Cell]]]:
    """What calibration does: a row for each way to fork and leaf weight, where it does anything."""
    rows: list[dict[str, Cell]] = []
    for label in _forked(found):
        for family in calibrated(found):
            for weight in ("uniform", "tree"):
                hard, soft = (family, "hard", weight), (family, "soft", weight)
                apart = apart_of(found, label, hard)
                cosines = [values_of(found, "cosine", label, line) for line in (hard, soft)]
                rows.append(
                    {
                        "width": label,
                        "family": family,
                        "leaf weight": weight,
                        "‖hard − soft‖/‖soft‖, median policy": float(np.median(apart)),
                        "least": min(apart),
                        "most": max(apart),
                        "variance, hard over soft": ratio_of(found, "variance", (label, hard), (label, soft)),
                        "cosine, hard less soft": paired(cosines[0], cosines[1]),
                    }
                )
    return {"Calibrated advantages beside those that are not": rows} if rows else {}


def notes(found: Seeds, budget: Budget) -> list[str]:
    """What came out, in sentences."""
    forked = _forked(found)
    if not forked:
        return [_policy(found), "No row was forked.", *_families(found), TERMS]
    return [
        _policy(found),
        *_calibration(found, budget, forked),
        *_forks(found, budget, forked),
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


def _forked(found: Seeds) -> list[str]:
    return [label for label in branchings(found) if not is_unforked(found, label)]


def _calibration(found: Seeds, budget: Budget, forked: Sequence[str]) -> list[str]:
    """What the mean over those who share a token changes."""
    result = []
    for family in [name for name, kinds in FAMILIES.items() if {"soft", "hard"} <= kinds.keys()]:
        hard, soft = (family, "hard", "uniform"), (family, "soft", "uniform")
        if family not in calibrated(found):
            result.append(
                f"Calibration changes nothing under {family}: hard and soft gradients of a rollout differ by "
                f"{largest_apart(found, family):.1g} of their length at most.{BY_ARITHMETIC.get(family, '')}"
            )
            continue
        apart = [f"{spread(apart_of(found, label, hard))} at {label}" for label in forked]
        ratios = [
            f"{ratio_of(found, 'variance', (label, hard), (label, soft))} at {label}" for label in forked
        ]
        result.append(
            f"Under {family}, uniform weights, calibration changes a gradient, in the one of a policy's "
            f"{budget.rollouts} rollouts that it changes most, by so much of its length (median of policies "
            f"and their range): {', '.join(apart)}; its variance is that of the soft form times "
            f"{', '.join(ratios)}."
        )
    return result


def _forks(found: Seeds, budget: Budget, forked: Sequence[str]) -> list[str]:
    """Whether forks leave the mean where it is, beside what chance makes of the width without any."""
    none, lines = (
        unforked(found),
        ((UNBIASED, "soft", "uniform"), (UNBIASED, "soft", "tree"), (TREE, "tree", "tree")),
    )
    result, most = [], []
    for line in lines:
        told = []
        for label in forked:
            bias = bias_of(found, budget, label, line)
            most.append(np.max(shares_of(found, budget, label, line)))
            told.append(f"{bias} at {label} ({_verdict(bias)})")
        family, _, weight = line
        result.append(
            f"The squared bias of forks over ‖g‖², with {weight} leaf weights ({family}), is "
            f"{', '.join(told)}; without forks, where there is none, it comes out as "
            f"{bias_of(found, budget, none, line)}."
        )
    noise = noise_of(found, budget, none, lines[0])
    if len(found) > 1 and np.all(np.isfinite(most)):
        result.append(
            f"Noise alone would make {spread(noise)} of that without forks ({UNBIASED}; median of policies "
            f"and range), so policies are weighed by what they tell: a single one has {100 * min(most):.0f}% "
            f"to {100 * max(most):.0f}% of the weight in what is said of bias. Each interval is by itself."
        )
    return result


def _verdict(value: Interval) -> str:
    """A square is not below 0: what comes out there is chance."""
    if value.seeds < 2:
        return "one policy"
    return "told from 0" if value.low > 0 else "not told from 0"


def _equal_tokens(found: Seeds, forked: Sequence[str]) -> list[str]:
    """Whether the tokens that forks save are worth the rows that they make alike."""
    result = []
    none = unforked(found)
    for family in [name for name, kinds in FAMILIES.items() if "soft" in kinds]:
        line = (family, "soft", "uniform")
        told = []
        for label in forked:
            same_rows = ratio_of(found, "variance", (label, line), (none, line))
            same_tokens = ratio_of(found, "variance at equal tokens", (label, line), (none, line))
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
