"""Trains a policy.

    python -m experiments.train --config=configs/X.py[:argument] --workdir=W [--config.key=value …]

The same command again resumes where it stopped, also after a kill.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags
from rich.console import Console

from experiments import command_line
from experiments.run import finish_run, open_run
from experiments.schedule import table
from experiments.setup import build, count
from experiments.workdir import check_workdir, claim

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; it is resumed where there is one.")


def main() -> None:
    """Runs the command line."""
    console = Console()
    config = command_line.config()
    if config is None or WORKDIR.value is None:
        command_line.stop("give --config=FILE.py and --workdir=FOLDER")
    workdir = Path(WORKDIR.value)
    with command_line.sentences():
        setup = build(config)
        check_workdir(workdir, config)
    console.print(table(config, setup.schedule, count(setup.like.params)))
    claim(workdir, config)
    with command_line.sentences():
        checkpoints, start = open_run(setup, workdir, console)
    finish_run(setup, workdir, console, checkpoints, start)


if __name__ == "__main__":
    command_line.start(main)
