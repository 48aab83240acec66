"""Trains a reward model on preferences of responses.

    python -m experiments.train_reward_model --config=configs/X.py --workdir=W [--config.key=value …]

Preferences are made of a task's examples, or read from a file (`--config.preferences.train=FILE.jsonl`, an
object of `prompt`, `chosen` and `rejected` a line). A policy is trained on what the model says by

    python -m experiments.train --config=configs/rlhf.py --workdir=V --config.reward_model.workdir=W

The same command again resumes where it stopped, also after a kill. On several hosts it is started as
`experiments.train` is.
"""

from __future__ import annotations

import os
from pathlib import Path

from absl import flags
from rich.console import Console

from experiments import command_line, distributed
from experiments.claimed import claimed
from experiments.reward_model.experiment import RewardModelExperiment
from experiments.reward_model.run import finish_run, open_run
from experiments.reward_model.setup import MODEL, build, model_to_json, table
from experiments.workdir import refusals
from gpg_jax.training.processes import is_first, on_first

FLAGS = flags.FLAGS


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_string("workdir", None, "Folder of the run; it is resumed where there is one.")
    distributed.define()


def main() -> None:
    """Runs the command line."""
    config = command_line.config(RewardModelExperiment)
    if config is None or FLAGS.workdir is None:
        command_line.stop("give --config=FILE.py and --workdir=FOLDER")
    with command_line.sentences():
        distributed.join()
    train(config, Path(FLAGS.workdir), Console(quiet=not is_first()))


def train(config: RewardModelExperiment, workdir: Path, console: Console) -> None:
    """A whole run.

    Args:
      config: of the run.
      workdir: its folder.
      console: where a person reads.
    """
    with claimed(workdir, config, lambda: build(config)) as setup:
        console.print(table(setup))
        with command_line.sentences():
            on_first(lambda: _describe(workdir, model_to_json(setup.model)))
            checkpoints, start = open_run(setup, workdir, console)
        setup = setup._replace(pretrained=None)  # the host's copy is not needed again
        finish_run(setup, workdir, console, checkpoints, start)


def _describe(workdir: Path, text: str) -> None:
    """What the model is, beside its checkpoints; the file appears by a rename."""
    with refusals(workdir):
        scratch = workdir / f".{MODEL}"
        scratch.write_text(text, encoding="utf-8")
        os.replace(scratch, workdir / MODEL)


if __name__ == "__main__":
    command_line.start(main, define)
