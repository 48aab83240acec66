"""The picture of a run shows what there is to see of it."""

from __future__ import annotations

import json

import pytest
from matplotlib.figure import Figure

from experiments import report

ALWAYS = {"reward": 0.2, "outcome": 0.3, "length": 7.0, "kl_old_k3": 0.01, "entropy": 1.5}
CALLS = {"tool_calls": 20.0, "tool_failures": 2.0, "tool_no_room": 1.0, "tool_over_limit": 0.0}
FAULTS = {"marker_fault": 0.1, "truncated": 0.05}
OF_TOOLS = {
    "tool calls": ["calls", "failed", "no room for the answer"],
    "format errors": ["a tag is missing or misplaced", "cut at the budget"],
}
OF_FORKS = {
    "forks": ["rows that begin behind another's tokens"],
    "sharing": ["that have a token in common, in the mean"],
}


@pytest.mark.parametrize(
    ("metrics", "panels"),
    [
        ({}, {}),
        (CALLS | FAULTS, OF_TOOLS),
        (CALLS | FAULTS | {"forks": 3.0, "sharing": 1.4}, OF_TOOLS | OF_FORKS),
    ],
)
def test_tools_and_forks_have_panels_of_their_own(tmp_path, monkeypatch, metrics, panels):
    figures = []

    class Kept(Figure):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            figures.append(self)

    monkeypatch.setattr(report, "Figure", Kept)
    lines = [
        {"step": step} | {name: value * step for name, value in (ALWAYS | metrics).items()} for step in (1, 2)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = report.write_report(tmp_path, "a run")
    assert path.stat().st_size > 10_000
    shown = {axis.get_title(): axis.get_legend_handles_labels()[1] for axis in figures[0].axes}
    assert set(shown) - set(panels) == {"reward", "length", "KL", "entropy"}
    assert {name: shown[name] for name in panels} == panels  # a curve that is 0 throughout is left out
    for name in panels:
        (axis,) = (axis for axis in figures[0].axes if axis.get_title() == name)
        assert all(list(line.get_xdata()) == [1, 2] for line in axis.lines)
