"""Trains a policy.

    python -m experiments.train --config=configs/X.py[:argument] --workdir=W [--config.key=value …]

The same command again resumes where it stopped, also after a kill. On several hosts start it on each, with
a workdir that all of them see, and `--distributed`: TPU, SLURM and the like tell the processes who they are;
elsewhere add `--coordinator=HOST:PORT --processes=N --process=I`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import jax
from absl import flags
from rich.console import Console

from experiments import command_line
from experiments.actors import check_actors
from experiments.config import Experiment
from experiments.run import finish_run, open_run
from experiments.schedule import table
from experiments.setup import build, count
from experiments.workdir import check_workdir, claim
from gpg_jax.training.processes import is_first, on_first, together

FLAGS = flags.FLAGS


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_string("workdir", None, "Folder of the run; it is resumed where there is one.")
    flags.DEFINE_bool("distributed", False, "Whether this is one of several processes of the run.")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where the cluster does not tell.")
    flags.DEFINE_integer("processes", None, "How many there are, likewise.", lower_bound=1)
    flags.DEFINE_integer("process", None, "Number of this one, from 0, likewise.", lower_bound=0)


def main() -> None:
    """Runs the command line."""
    config = command_line.config()
    if config is None or FLAGS.workdir is None:
        command_line.stop("give --config=FILE.py and --workdir=FOLDER")
    with command_line.sentences():
        _join()
    train(config, Path(FLAGS.workdir), Console(quiet=not is_first()))


def train(config: Experiment, workdir: Path, console: Console) -> None:
    """A whole run, in a folder that is found to be fit before anything is downloaded or compiled.

    Args:
      config: of the run.
      workdir: its folder.
      console: where a person reads.
    """
    with contextlib.ExitStack() as held:
        with command_line.sentences():
            on_first(lambda: check_workdir(workdir, config))
            setup = together(lambda: build(config))
            check_actors(setup)
            lock = on_first(lambda: claim(workdir, config))
            held.enter_context(lock or contextlib.nullcontext())
        shown = setup.demonstrations.summary if setup.demonstrations else ""
        console.print(table(config, setup.schedule, count(setup.like.params), shown))
        with command_line.sentences():
            checkpoints, start = open_run(setup, workdir, console)
        setup = setup._replace(pretrained=None)  # the host's copy is not needed again
        finish_run(setup, workdir, console, checkpoints, start)


def _join() -> None:
    """Makes this one of several processes, before anything touches a device."""
    told = {
        "coordinator_address": FLAGS.coordinator,
        "num_processes": FLAGS.processes,
        "process_id": FLAGS.process,
    }
    if FLAGS.distributed:
        try:
            jax.distributed.initialize(**told)
        except ValueError as error:
            raise ValueError(
                f"the cluster does not tell who this process is ({error}): "
                "give --coordinator=HOST:PORT, --processes=N and --process=I"
            ) from error
    elif any(value is not None for value in told.values()):
        raise ValueError("--coordinator, --processes and --process need --distributed")


if __name__ == "__main__":
    command_line.start(main, define)
