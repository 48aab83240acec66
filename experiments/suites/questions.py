"""The questions of a suite, from local files, as the paper asks them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.config import TaskConfig
from experiments.suites.benchmarks import MATHEMATICS, Benchmark
from experiments.tasks import _fitting
from gpg_jax.data.examples import Example
from gpg_jax.data.files import read_questions
from gpg_jax.environments.arpo_prompt import asked

ENDINGS = (".jsonl", ".json", ".parquet")


class Questions(NamedTuple):
    """What is asked of a benchmark.

    Attributes:
      benchmark: whose.
      path: the file.
      examples: with chat messages as prompts.
      dropped: questions that are left out for the length of their prompts.
    """

    benchmark: Benchmark
    path: Path
    examples: Sequence[Example]
    dropped: int


def find_files(benchmarks: Sequence[Benchmark], folder: Path) -> dict[Benchmark, Path]:
    """The file of every benchmark that has one: `NAME.jsonl` or `NAME/test.jsonl`, .json or .parquet.

    Args:
      benchmarks: of the suite.
      folder: where they are looked for.

    Raises:
      ValueError: no such folder, none of the files, or two of one benchmark.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; --data names the one with the files of the suite")
    found = {}
    for benchmark in benchmarks:
        stems = (folder / benchmark.name, folder / benchmark.name / "test")
        places = [stem.with_name(stem.name + ending) for stem in stems for ending in ENDINGS]
        paths = [path for path in places if path.is_file()]
        if len(paths) > 1:
            raise ValueError(f"{benchmark.title} has two files, {paths[0]} and {paths[1]}; remove one")
        if paths:
            found[benchmark] = paths[0]
    if not found:
        names = ", ".join(benchmark.name for benchmark in benchmarks)
        raise ValueError(
            f"{folder} has no file of the suite; it may have {names}, each .jsonl, .json or .parquet"
        )
    return found


def read(
    benchmark: Benchmark,
    path: Path,
    task: TaskConfig,
    encode: Callable[[Example], list[int]],
    tools: Sequence[str],
    limit: int | None = None,
) -> Questions:
    """Reads a benchmark.

    A plain question is asked behind ARPO's system prompt, which tells of the tools that there are; chat
    messages stay as they are. Of mathematics, what stands behind `####` is the answer, as in GSM8K.

    Args:
      benchmark: which.
      path: its file, see `data.files.read_questions`.
      task: the budget of a prompt, and whether longer ones, and rows without an answer, are left out.
      encode: example -> tokens of its prompt.
      tools: names of the tools that may be called.
      limit: questions that are asked, the first so many; None for all.

    Raises:
      ValueError: a file that cannot be read, or prompts that are too long.
    """
    rows = read_questions(path, drop_unanswered=task.drop_unanswered)[:limit]
    examples = [_asked(example, benchmark, tools) for example in rows]
    try:
        kept = _fitting(examples, encode, task)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Questions(benchmark, path, kept, len(examples) - len(kept))


def _asked(example: Example, benchmark: Benchmark, tools: Sequence[str]) -> Example:
    prompt, answer = example.prompt, example.answer
    if benchmark.group == MATHEMATICS:
        answer = answer.rpartition("####")[2].strip()
    return dataclasses.replace(
        example,
        prompt=asked(prompt, tools) if isinstance(prompt, str) else prompt,
        answer=answer,
        metadata={**example.metadata, "benchmark": benchmark.name},
    )
