"""Trains every method on the same task with the same budget: one table, one figure.

    python -m experiments.compare --methods=all [--workdir=runs/compare] [--seeds=5] [--jobs=2]

`--methods` takes names too, with commas between. `--task` is a file whose `get_config(METHOD)` gives the
experiment of a method, `configs/smoke.py` unless given. The same command goes on where it was stopped.
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
from experiments.studies.findings import markdown, write
from gpg_jax.algorithms import ALGORITHMS

FLAGS = flags.FLAGS
TASK = Path(__file__).parents[1] / "configs" / "smoke.py"
METHODS = (*ALGORITHMS, "a3c")
"""Those of the library, and A2C with actors that do not wait."""


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_list("methods", ["all"], "Names of methods, or all.")
    flags.DEFINE_string("task", str(TASK), "File whose get_config(METHOD) gives an experiment.")
    flags.DEFINE_string("workdir", "runs/compare", "Folder of the comparison.")
    flags.DEFINE_integer("seeds", 5, "Runs of each method.", lower_bound=1)
    flags.DEFINE_integer("jobs", 2, "Runs at once.", lower_bound=1)


def main() -> None:
    """Runs the command line."""
    console, workdir = Console(), Path(FLAGS.workdir)
    with command_line.sentences():
        config = comparison(FLAGS.methods, Path(FLAGS.task))
        config.seeds, config.jobs = FLAGS.seeds, FLAGS.jobs
        workdir.mkdir(parents=True, exist_ok=True)
        findings = methods(config, workdir, console)
    path = write(
        findings, workdir, config.question, " ".join(["python -m experiments.compare", *sys.argv[1:]])
    )
    console.print(markdown(findings.rows), *findings.notes, sep="\n", markup=False, highlight=False)
    console.print(f"findings: {path}", markup=False, highlight=False)


def comparison(names: list[str], task: Path) -> ConfigDict:
    """The study of some methods on a task.

    Args:
      names: of methods, or "all" alone.
      task: a file with `get_config(METHOD)`.

    Raises:
      ValueError: a method or a file that there is not.
    """
    names = list(METHODS) if names == ["all"] else names
    for name in names:
        if name not in METHODS:
            raise ValueError(f"--methods has {name!r}; {nearest(name, METHODS)}")
    if not task.exists():
        raise ValueError(f"--task={task}: there is no such file")
    get_config = runpy.run_path(str(task))["get_config"]
    return methods_study({name: get_config(name) for name in names})


if __name__ == "__main__":
    command_line.start(main, define)
