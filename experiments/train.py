"""Trains a policy.

    python -m experiments.train --config=configs/X.py[:argument] --workdir=W [--config.key=value …]

The same command again resumes where it stopped, also after a kill. On several hosts start it on each, with
a workdir that all of them see, and `--distributed`: TPU, SLURM and the like tell the processes who they are;
elsewhere add `--coordinator=HOST:PORT --processes=N --process=I`.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags
from rich.console import Console

from experiments import command_line, distributed
from experiments.actors import check_actors, told
from experiments.claimed import claimed
from experiments.config import Experiment
from experiments.models import count
from experiments.phases import make_programs
from experiments.progress import say
from experiments.run import finish_run, open_run
from experiments.schedule import table
from experiments.setup import Setup, build
from gpg_jax.training.processes import is_first

FLAGS = flags.FLAGS


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_string("workdir", None, "Folder of the run; it is resumed where there is one.")
    distributed.define()


def main() -> None:
    """Runs the command line."""
    config = command_line.config()
    if config is None or FLAGS.workdir is None:
        command_line.stop("give --config=FILE.py and --workdir=FOLDER")
    with command_line.sentences():
        distributed.join()
    train(config, Path(FLAGS.workdir), Console(quiet=not is_first()))


def train(config: Experiment, workdir: Path, console: Console) -> None:
    """A whole run, in a folder that is found to be fit before anything is downloaded or compiled.

    Args:
      config: of the run.
      workdir: its folder.
      console: where a person reads.
    """

    def checked() -> Setup:
        setup = build(config)
        make_programs(setup)
        check_actors(setup)
        return setup._replace(deliveries=told(setup))

    with claimed(workdir, config, checked) as setup:
        shown = setup.demonstrations.summary if setup.demonstrations else ""
        console.print(table(config, setup.schedule, count(setup.like.params), shown))
        with command_line.sentences():
            if setup.scorer is not None:
                say(console, setup.scorer().summary)
            checkpoints, start = open_run(setup, workdir, console)
        setup = setup._replace(pretrained=None)  # the host's copy is not needed again
        finish_run(setup, workdir, console, checkpoints, start)


if __name__ == "__main__":
    command_line.start(main, define)
