"""The table, the picture and the sentences of the study of special cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from experiments.studies.findings import Cell, interval
from experiments.studies.identities import APART, PAIRS, TOLERANCE, Pair, verdict

WHY = {
    ("GRPO", "Σ A ∇log π"): "the objective's 1/|o|, which the theorem does not have",
    ("GPG K=1", "Σ A ∇log π"): "the same 1/|o|, whatever K",
    ("GPG K=4, product", "GPG K=4"): "a unit's product against its geometric mean",
    ("GPG K=4", "GPG K=1"): "units",
    ("GPG K=4", "GRPO"): "units",
    ("GPG K=1", "GRPO"): "units, as GSPO and GRPO differ at one clip",
    ("GPG K=1", "GSPO"): "the clip alone",
    ("GPG K=1, token sum", "Σ A ∇log π"): "the ratio, of which the theorem's form has none",
}
"""What parts two methods that are not one."""


def table(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Cell]]:
    """A row a pair."""
    rows: list[dict[str, Cell]] = []
    for index, pair in enumerate(PAIRS):
        records = [one["pairs"][index] for one in found]
        columns = {
            "gradients apart": "gradient",
            "largest entry apart": "largest",
            "cosine": "cosine",
            "losses apart": "loss",
        }
        rows.append(
            {
                "first": pair.first,
                "second": pair.second,
                "policy": pair.policy,
                "should be": _expected(pair),
                "is": verdict(records),
                **{name: interval([record[key] for record in records]) for name, key in columns.items()},
            }
        )
    return rows


def draw(found: Sequence[Mapping[str, Any]]) -> Figure:
    """How far apart the gradients of each pair are, a dot a seed, on a log axis."""
    figure = Figure(figsize=(9.5, 6.2), layout="constrained")
    axis = figure.subplots()
    for place, pair in enumerate(PAIRS):
        values = [one["pairs"][place]["gradient"] for one in found]
        colour, marker = "C0" if pair.equal else "C3", "o" if pair.policy == "on" else "D"
        axis.plot(values, [place] * len(values), marker, color=colour, markersize=6, alpha=0.7)
    axis.set_xscale("symlog", linthresh=1e-9)
    axis.set_xlim(left=-2e-10)
    for bound in (TOLERANCE, APART):
        axis.axvline(bound, color="grey", linestyle=":", linewidth=1)
    axis.set_yticks(range(len(PAIRS)), [f"{one.first} — {one.second} ({one.policy}-policy)" for one in PAIRS])
    axis.invert_yaxis()
    axis.grid(alpha=0.25)
    axis.set_xlabel("‖g₁ − g₂‖ / ‖g₂‖ over all parameters")
    for colour, label in (("C0", "should be equal"), ("C3", "should differ")):
        axis.plot([], [], "s", color=colour, label=label)
    for marker, label in (("o", "on-policy"), ("D", "off-policy")):
        axis.plot([], [], marker, color="grey", label=label)
    axis.legend(fontsize=8, loc="center")
    axis.set_title(f"rollouts: {len(found)}, a dot each", fontsize=10)
    return figure


def notes(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What came out, in sentences."""
    records = {pair: [one["pairs"][index] for one in found] for index, pair in enumerate(PAIRS)}
    odd = [pair for pair in PAIRS if verdict(records[pair]) != _expected(pair)]
    apart = {
        equal: [record["gradient"] for pair in PAIRS if pair.equal == equal for record in records[pair]]
        for equal in (True, False)
    }
    rollouts = [one["rollout"] for one in found]
    seen = {name: interval([rollout[name] for rollout in rollouts]) for name in rollouts[0]}
    return [
        f"{len(PAIRS) - len(odd)} of {len(PAIRS)} pairs are as they should be"
        + "".join(f"; {_odd(pair, verdict(records[pair]))}" for pair in odd)
        + ".",
        f"Gradients that should be equal are {max(apart[True]):.1g} apart at most, the others "
        f"{min(apart[False]):.1g} at least.",
        f"Responses have {seen['tokens']} tokens, with a standard deviation of {seen['spread']}.",
        f"Off-policy is a policy whose parameters were given noise, not updates: log-ratios of tokens have a "
        f"standard deviation of {seen['log_ratio']}; GRPO's clip of 0.2 binds on "
        f"{seen['clipped by GRPO']} of the tokens, GSPO's on {seen['clipped by GSPO']}.",
        *[_told(pair, records[pair]) for pair in PAIRS if not pair.equal],
    ]


def _expected(pair: Pair) -> str:
    return "equal" if pair.equal else "different"


def _odd(pair: Pair, found: str) -> str:
    """What a pair is that is not what it should be."""
    kind = "neither equal nor different" if found == "neither" else found
    return f"{pair.first} and {pair.second}, {pair.policy}-policy, are {kind} and should be {_expected(pair)}"


def _told(pair: Pair, records: Sequence[Mapping[str, float]]) -> str:
    cosine = interval([record["cosine"] for record in records])
    apart = interval([record["gradient"] for record in records])
    why = f" ({WHY[pair.first, pair.second]})" if verdict(records) == "different" else ""
    return f"{pair.first} and {pair.second}, {pair.policy}-policy: cosine {cosine}, {apart} apart{why}."
