"""Trains every method on the same task with the same budget: one table, one figure.

    python -m experiments.compare --methods=all [--workdir=runs/compare] [--seeds=5] [--jobs=2]

The budget is iterations × prompts × responses to a prompt. A method may use what it has drawn several times,
and one that resamples draws more: the table has updates, and the responses that were drawn in all.

`--methods` takes names too, with commas between. `--task` is a file whose `get_config(METHOD)` gives the
experiment of a method, `configs/smoke.py` unless given; all methods are its `METHODS`, or the library's where
it has none. For another file give `--start` and `--threshold`, rewards of its task: what a policy earns that
has not learnt it, and one that has. The same command goes on where it was stopped.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from experiments import command_line
from experiments.methods import nearest
from experiments.studies.all_methods import methods, methods_study
from experiments.studies.findings import Asked, check_folder, markdown, write
from gpg_jax.algorithms import ALGORITHMS

FLAGS = flags.FLAGS
TASK = Path(__file__).parents[1] / "configs" / "smoke.py"
START, THRESHOLD = 0.3, 0.9
"""Of that file's task, where a policy that does not read the prompt earns 0.2, and the best one 1."""


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_list("methods", ["all"], "Names of methods, or all.")
    flags.DEFINE_string("task", str(TASK), "File whose get_config(METHOD) gives an experiment.")
    flags.DEFINE_float("start", None, "Reward that a method has to begin at or below.")
    flags.DEFINE_float("threshold", None, "Reward at which a method has learnt the task.")
    flags.DEFINE_string("workdir", "runs/compare", "Folder of the comparison.")
    flags.DEFINE_integer("seeds", 5, "Runs of each method.", lower_bound=1)
    flags.DEFINE_integer("jobs", 2, "Runs at once.", lower_bound=1)


def main() -> None:
    """Runs the command line."""
    console, workdir = Console(), Path(FLAGS.workdir)
    with command_line.sentences():
        config = comparison(FLAGS.methods, Path(FLAGS.task), FLAGS.start, FLAGS.threshold)
        config.seeds, config.jobs = FLAGS.seeds, FLAGS.jobs
        command = " ".join(["python -m experiments.compare", *sys.argv[1:]])
        asked = Asked(config.question, command, config.seeds, tuple(config.arms))
        check_folder(workdir, asked)
        workdir.mkdir(parents=True, exist_ok=True)
        findings = methods(config, workdir, console)
    path = write(findings, workdir, asked)
    console.print(markdown(findings.rows), *findings.notes, sep="\n", markup=False, highlight=False)
    console.print(f"findings: {path}", markup=False, highlight=False)


def comparison(
    names: list[str], task: Path, start: float | None = None, threshold: float | None = None
) -> ConfigDict:
    """The study of some methods on a task.

    Args:
      names: of methods, or "all" alone.
      task: a file with `get_config(METHOD)`.
      start: reward that a method has to begin at or below.
      threshold: reward at which it has learnt the task.

    Raises:
      ValueError: a method or a file that there is not, or another task without its rewards.
    """
    if not task.exists():
        raise ValueError(f"--task={task}: there is no such file")
    if task.resolve() == TASK.resolve():
        start, threshold = START if start is None else start, THRESHOLD if threshold is None else threshold
    if start is None or threshold is None:
        raise ValueError(f"--task={task}: give --start and --threshold, rewards of that task")
    given = runpy.run_path(str(task))
    known = given.get("METHODS", tuple(ALGORITHMS))
    names = list(known) if names == ["all"] else names
    for name in names:
        if name not in known:
            raise ValueError(f"--methods has {name!r}; {nearest(name, known)}")
    return methods_study({name: given["get_config"](name) for name in names}, start, threshold)


if __name__ == "__main__":
    command_line.start(main, define)
