"""Tools, limits and forks of a run, from its configuration.

A tool of your own is one entry of `TOOLS`: a function of the configuration to a `Tool`, which is a name and a
function from text to text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from experiments.config import BranchingConfig, Experiment, ToolsConfig
from experiments.methods import nearest
from gpg_jax.data import hops
from gpg_jax.data.tokenizers import Tokenizer
from gpg_jax.decoding import branching, uncertainty
from gpg_jax.decoding.dialogue import Call, Turns
from gpg_jax.environments.calculator import calculator
from gpg_jax.environments.corpus import corpus_in, corpus_of
from gpg_jax.environments.python_tool import python_tool
from gpg_jax.environments.search import build_index, cached_index, search_tool
from gpg_jax.environments.toolbox import Codec, Limits, Request, Toolbox
from gpg_jax.environments.tools import Tool
from gpg_jax.policies.smollm2 import default_cache
from gpg_jax.types import STOP_TOOL_LIMIT, Array


def _python(experiment: Experiment) -> Tool:
    config = experiment.tools
    return python_tool(seconds=config.python_seconds, memory_bytes=config.python_memory * 2**20)


def _search(experiment: Experiment) -> Tool:
    config, task = experiment.tools, experiment.task
    if config.corpus is not None:
        corpus = corpus_in(config.corpus)
    elif task.name == "hops":
        corpus = corpus_of(hops.documents(hops.world(seed=task.seed)), "hops")
    else:
        raise ValueError(
            "the tool 'search' needs documents: give tools.corpus, a .jsonl file with a `text` in every "
            "line, or a .json search cache"
        )
    if config.index is not None:
        index = build_index(corpus, config.index)
    else:
        index = cached_index(corpus, Path(task.cache or default_cache()) / "search")
    return search_tool(index, results=config.results, characters=config.characters)


TOOLS: dict[str, Callable[[Experiment], Tool]] = {
    "calculator": lambda experiment: calculator(),
    "python": _python,
    "search": _search,
}
"""Tools by name."""


def make_tools(experiment: Experiment) -> tuple[Tool, ...]:
    """The tools of a run, ready.

    Raises:
      ValueError: a name that there is not, or a tool that does not work here.
    """
    config = experiment.tools
    for name in config.names:
        if name not in TOOLS:
            raise ValueError(f"tools.names has {name!r}; {nearest(name, TOOLS)}")
    own = [TOOLS[name](experiment)._replace(name=name) for name in config.names]
    return tuple(tool._replace(retries=max(tool.retries, config.retries)) for tool in own)


def make_toolbox(
    config: ToolsConfig, tools: Sequence[Tool], tokenizer: Tokenizer, journal: Path | None = None
) -> Toolbox:
    """Tools within the limits of a configuration; see `environments.toolbox.Toolbox`."""
    codec = Codec(tokenizer.encode_foreign, tokenizer.decode_all)
    limits = Limits(config.calls, config.answer_tokens, config.seconds, config.workers, config.abandoned)
    return Toolbox(tools, codec, limits, journal)


def call_patterns(config: ToolsConfig) -> tuple[str, ...]:
    """What stops a row until it is answered: closing tags of tools, then boundaries."""
    return tuple(f"</{name}>" for name in config.names) + config.boundaries


def make_turns(config: Experiment, vocab_size: int) -> Turns | None:
    """How dialogues are held, None where rows neither call nor fork.

    Raises:
      ValueError: forks without a boundary, or more roots than rows.
    """
    tools, group, forks = config.tools, config.schedule.group, config.branching
    patterns = call_patterns(tools)
    if not patterns:
        if forks.mode != "none":
            raise ValueError(
                f"branching.mode is {forks.mode!r}, and nothing is a boundary; give tools.names or "
                "tools.boundaries"
            )
        return None
    if forks.mode != "none" and forks.roots > group:
        raise ValueError(f"branching.roots is {forks.roots}, and a prompt has schedule.group={group} rows")
    return Turns(
        calls=len(patterns),
        answer_tokens=tools.answer_tokens,
        at_once=tools.at_once,
        steps=tools.steps,
        branching=make_branching(forks, group),
        vocab_size=vocab_size,
    )


def make_branching(config: BranchingConfig, group: int) -> branching.Branching:
    """How the rows of a prompt come about."""
    match config.mode:
        case "none":
            return branching.no_branching(group)
        case "arpo_paper":
            return branching.arpo_paper(
                config.roots,
                alpha=config.alpha,
                beta=config.beta,
                threshold=config.threshold,
                tokens=config.tokens,
                width=config.width,
            )
        case "arpo_release":
            return branching.arpo_release(
                config.roots, weight=config.beta, probability=config.probability, tokens=config.tokens
            )
        case "fixed":
            return branching.fixed_width(config.roots, width=config.width)
        case _:
            return branching.random_forks(config.roots, probability=config.probability)


def make_uncertainty(config: BranchingConfig) -> uncertainty.Uncertainty | None:
    """What a fork is decided by, measured at every token."""
    measures = {"arpo_paper": uncertainty.entropy, "arpo_release": uncertainty.top_entropy(10)}
    return measures.get(config.mode)


def asking(toolbox: Toolbox, config: ToolsConfig) -> Callable[[str, Call], Future[list[int] | None]]:
    """Rollout, call -> its answer; at a boundary that is no call, an empty one at once."""

    def ask(rollout: str, call: Call) -> Future[list[int] | None]:
        if call.pattern < len(config.names):
            name = config.names[call.pattern]
            return toolbox.ask(rollout, Request(call.row, call.number, name, call.ids))
        future: Future[list[int] | None] = Future()
        future.set_result([])
        return future

    return ask


def tally(toolbox: Toolbox) -> dict[str, float]:
    """What the tools did since the last time, under the names of metrics."""
    return {f"tool_{name}": float(value) for name, value in dataclasses.asdict(toolbox.count()).items()}


def without_room(stop: Array, calls: Array, config: ToolsConfig) -> float:
    """Rows that ended because an answer did not fit; what else ends a row by a call is that all are spent.

    Args:
      stop: `int32[B]`, why rows ended.
      calls: `int32[B]`, calls of theirs that were answered.
      config: has the calls of a row.
    """
    return float(np.sum((stop == STOP_TOOL_LIMIT) & (calls < config.calls)))
