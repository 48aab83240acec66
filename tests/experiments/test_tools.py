"""Tools from a configuration: each run searches in its own documents, and reports what its tools did."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from experiments.config import BranchingConfig, Experiment, TaskConfig, ToolsConfig
from experiments.tools import (
    TOOLS,
    make_branching,
    make_toolbox,
    make_tools,
    make_uncertainty,
    tally,
    without_room,
)
from gpg_jax.data.tokenizers import character_tokenizer
from gpg_jax.decoding.branching import Crossing
from gpg_jax.environments import python_tool
from gpg_jax.environments.toolbox import Request
from gpg_jax.environments.tools import Tool, call
from gpg_jax.types import STOP_EOS, STOP_LENGTH, STOP_TOOL_LIMIT

CROSSINGS = [
    Crossing(*draw.gamma(2, 1, (4, 6)).astype(np.float32), vocab_size=50, uniform=draw.uniform())
    for draw in map(np.random.default_rng, range(60))
]
FORKING = dict(roots=3, alpha=0.3, beta=0.7, threshold=0.45, tokens=2, width=3, probability=0.4)


def paper(crossing: Crossing) -> int:
    change = crossing.after[:2].mean() - crossing.first[:2].mean()
    return 3 if 0.3 + 0.7 * change / np.log(50) > 0.45 else 0


def release(crossing: Crossing) -> int:
    change = crossing.before[:2].sum() - crossing.own[:2].sum()
    return int(np.clip(crossing.uniform - 0.7 * change / np.log(50), 0, 1) <= 0.4)


@pytest.mark.parametrize(
    ("mode", "decide", "rest", "measured"),
    [
        ("none", lambda crossing: 0, (8, "all", 0), None),
        ("arpo_paper", paper, (3, "all", 2), "entropy"),
        ("arpo_release", release, (3, "one", 0), "top"),
        ("fixed", lambda crossing: 2, (3, "all", 0), None),
        ("random", lambda crossing: int(crossing.uniform < 0.4), (3, "all", 0), None),
    ],
)
def test_a_run_forks_as_its_configuration_says(mode, decide, rest, measured):
    config = BranchingConfig(mode=mode, **FORKING)
    made, uncertainty = make_branching(config, group=8), make_uncertainty(config)
    assert (made.roots, made.refill, made.after) == rest
    wanted = [decide(crossing) for crossing in CROSSINGS]
    assert [made.decide(crossing) for crossing in CROSSINGS] == wanted
    assert mode in ("none", "fixed") or 10 < np.count_nonzero(wanted) < 50
    # Of 40 alike tokens all have the entropy log 40; ten of them and the one drawn have 11/40 of it.
    expected = {"entropy": np.log(40), "top": 11 / 40 * np.log(40)}.get(measured)
    found = uncertainty and float(uncertainty(np.zeros((1, 40), np.float32), 1.0, np.array([39]))[0])
    assert found == (expected if expected is None else pytest.approx(expected, rel=1e-5))


def corpus(folder, text):
    folder.mkdir()
    (folder / "corpus.jsonl").write_text(json.dumps({"text": text}) + "\n")
    return str(folder / "corpus.jsonl")


def search(tmp_path, path, **changes):
    tools = ToolsConfig(names=("search",), corpus=path, **changes)
    (tool,) = make_tools(Experiment(task=TaskConfig(cache=str(tmp_path / "cache")), tools=tools))
    return tool


def test_files_of_one_name_have_indexes_of_their_own(tmp_path):
    one, two = corpus(tmp_path / "a", "zebras have stripes"), corpus(tmp_path / "b", "lions have manes")
    first, second = search(tmp_path, one), search(tmp_path, two)
    assert "stripes" in first.call("zebras") and "manes" in second.call("lions")
    assert "nothing" in second.call("zebras") and "stripes" in search(tmp_path, one).call("zebras")
    own = str(tmp_path / "own")
    search(tmp_path, one, index=own)
    with pytest.raises(ValueError, match="has the index of other documents"):
        search(tmp_path, two, index=own)


def retried(name: str, query: str, **changes) -> int:
    """How often a call that fails is made again."""
    (tool,) = make_tools(Experiment(tools=ToolsConfig(names=(name,), retries=3, **changes)))
    pauses = []
    assert call(tool, query, sleep=pauses.append).failure == "raised"
    return len(pauses)


@pytest.mark.parametrize(
    ("error", "times"),
    [
        (ConnectionResetError("by peer"), 3),
        (TimeoutError("no answer"), 3),
        (json.JSONDecodeError("no page", "<html>", 0), 0),
        (ZeroDivisionError("1 / 0"), 0),
        (SystemExit(2), 0),
    ],
)
def test_what_may_pass_is_tried_again_and_what_the_policy_did_is_not(monkeypatch, error, times):
    def fails(query: str) -> str:
        raise error

    monkeypatch.setitem(TOOLS, "own", lambda experiment: Tool("own", fails))
    assert retried("own", "x") == times


@pytest.mark.parametrize(("own", "configured", "times"), [(2, 0, 2), (2, 3, 3), (3, 2, 3)])
def test_a_tool_is_tried_again_as_often_as_it_says_itself(monkeypatch, own, configured, times):
    def fails(query: str) -> str:
        raise ConnectionResetError("by peer")

    monkeypatch.setitem(TOOLS, "own", lambda experiment: Tool("anything", fails, retries=own))
    (tool,) = make_tools(Experiment(tools=ToolsConfig(names=("own",), retries=configured)))
    assert (tool.name, tool.retries) == ("own", times)


@pytest.mark.parametrize("expression", ["1 / 0", "1 +"])
def test_what_is_no_calculation_is_calculated_once(expression):
    assert retried("calculator", expression) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the Python tool needs Linux")
@pytest.mark.parametrize("snippet", ["1 / 0", "while True: pass", "raise OSError", "print('x' * 10**6)"])
def test_a_snippet_that_fails_is_run_once(monkeypatch, snippet):
    started, start = [], python_tool._start
    monkeypatch.setattr(python_tool, "_start", lambda *limits: started.append(limits) or start(*limits))
    assert retried("python", snippet, python_seconds=1.0) == 0
    assert len(started) == 2  # the first to see whether this machine has what it takes


def test_the_tally_has_all_counters():
    tokenizer = character_tokenizer("".join(map(chr, range(32, 127))) + "\n")
    config = ToolsConfig(names=("calculator",))
    toolbox = make_toolbox(config, make_tools(Experiment(tools=config)), tokenizer)
    request = Request(0, 0, "calculator", tokenizer.encode("<calculator>1+1</calculator>"))
    answer = toolbox.ask("r", request).result(timeout=10)
    assert tokenizer.decode(answer) == " <result>\n2\n</result>"
    counted = tally(toolbox)
    assert counted.pop("tool_seconds") >= 0 and counted.pop("tool_calls") == 1
    assert counted == {
        f"tool_{name}": 0.0
        for name in (
            "failures", "malformed", "over_limit", "timed_out", "abandoned", "cut", "mended", "replayed",
        )
    }  # fmt: skip
    toolbox.close()


def test_rows_whose_answer_had_no_room_are_told_from_those_that_called_too_often():
    stop = np.array([STOP_EOS, STOP_LENGTH, STOP_TOOL_LIMIT, STOP_TOOL_LIMIT, STOP_TOOL_LIMIT])
    assert without_room(stop, np.array([0, 1, 0, 1, 2]), ToolsConfig(calls=2)) == 2.0
