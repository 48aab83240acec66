"""One picture of a run: reward, length, KL and entropy by iteration, and its tools, from its metrics."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import records

Panel = tuple[str, str, dict[str, str]]
"""Title, unit, and metric -> label."""

PANELS: tuple[Panel, ...] = (
    ("reward", "mean of a rollout", {"reward": "reward", "outcome": "correct"}),
    ("length", "tokens of a response", {"length": "mean"}),
    ("KL", "nats a token (k3)", {"kl_reference": "to the reference", "kl_old_k3": "from the sampler"}),
    ("entropy", "nats a token", {"entropy": "policy"}),
)
CRITIC_PANELS: tuple[Panel, ...] = (
    ("critic", "of the variance of its targets", {"explained_variance": "explained"}),
    ("critic's error", "mean square", {"value_error": "value and target"}),
)
"""Of runs with a critic besides."""
PREFERENCE_PANELS: tuple[Panel, ...] = (
    ("preferences", "share in the right order", {"accuracy": "training"}),
    ("loss", "nats a pair", {"loss": "training", "held_out/loss": "held out"}),
    ("margin", "chosen − rejected", {"margin": "training", "held_out/margin": "held out"}),
    ("reward", "mean of both responses", {"reward": "training", "held_out/reward": "held out"}),
)
"""Of a reward model's run."""
TOOL_PANELS: tuple[Panel, ...] = (
    (
        "tool calls",
        "in a rollout",
        {
            "tool_calls": "calls",
            "tool_failures": "failed",
            "tool_over_limit": "over the limit",
            "tool_no_room": "no room for the answer",
        },
    ),
    (
        "format errors",
        "share of the responses",
        {"marker_fault": "a tag is missing or misplaced", "truncated": "cut at the budget"},
    ),
)
"""Of runs with tools besides."""
FORK_PANELS: tuple[Panel, ...] = (
    ("forks", "of a prompt", {"forks": "rows that begin behind another's tokens"}),
    ("sharing", "rows", {"sharing": "that have a token in common, in the mean"}),
)
"""Of runs whose rows fork besides."""


def write_report(workdir: Path, title: str, phases: Mapping[str, range] | None = None) -> Path:
    """Draws `report.png` from `metrics.jsonl`; the file appears by a rename, whole.

    Args:
      workdir: of the run.
      title: of the picture.
      phases: iterations before the method's own, which are shaded, by name.

    Returns:
      The picture's path.
    """
    lines = list(records.read(workdir / "metrics.jsonl"))
    panels = PANELS
    further_panels = {"explained_variance": CRITIC_PANELS, "tool_calls": TOOL_PANELS, "forks": FORK_PANELS}
    for metric, further in further_panels.items():
        panels += further if any(metric in line for line in lines) else ()
    if any("margin" in line for line in lines):
        panels = PREFERENCE_PANELS
    height = len(panels) // 2
    figure = Figure(figsize=(10, 3.25 * height), layout="constrained")
    axes = figure.subplots(height, 2, sharex=True)
    for axis, (name, unit, metrics) in zip(axes.flat, panels, strict=True):
        _draw(axis, lines, name, unit, metrics)
    _draw_evaluations(axes.flat[0], lines)
    for axis in axes[-1]:
        axis.set_xlabel("iteration")
    for axis in axes.flat:
        for (name, numbers), shade in zip((phases or {}).items(), ("grey", "tab:blue"), strict=False):
            axis.axvspan(
                numbers.start - 0.5, numbers.stop - 0.5, color=shade, alpha=0.15, linewidth=0, label=name
            )
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8, frameon=False)
    figure.suptitle(title)
    path = workdir / "report.png"
    scratch = workdir / ".report.png"
    figure.savefig(scratch, dpi=130, format="png")
    os.replace(scratch, path)
    return path


def _draw(axis: Axes, lines: Sequence[dict[str, Any]], name: str, unit: str, metrics: dict[str, str]) -> None:
    """The curves of a panel; one that repeats another, or is 0 throughout, is left out."""
    axis.set_title(name, fontsize=11)
    axis.set_ylabel(unit, fontsize=9)
    axis.grid(alpha=0.25)
    drawn: list[list[tuple[float, float]]] = []
    for metric, label in metrics.items():
        points = [(line["step"], line[metric]) for line in lines if isinstance(line.get(metric), float | int)]
        if any(value for _, value in points) and points not in drawn:
            axis.plot(*zip(*points, strict=True), label=label, linewidth=1.6)
            drawn.append(points)
    if not drawn:
        axis.text(
            0.5, 0.5, "0, or not measured in this run", ha="center", transform=axis.transAxes, color="grey"
        )


def _draw_evaluations(axis: Axes, lines: Sequence[dict[str, Any]]) -> None:
    for kind, marker in (("sampled", "o"), ("greedy", "s"), ("pairs", "o")):
        name = f"held_out/{kind}"
        points = [(line["step"], line[name], line[f"{name}_low"], line[f"{name}_high"])
                  for line in lines if name in line]  # fmt: skip
        if points:
            steps, means, lows, highs = zip(*points, strict=True)
            below = [mean - low for mean, low in zip(means, lows, strict=True)]
            above = [high - mean for mean, high in zip(means, highs, strict=True)]
            label = f"held-out accuracy, {kind}"
            axis.errorbar(steps, means, (below, above), fmt=marker, capsize=3, markersize=4, label=label)
