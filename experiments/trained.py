"""What a run has learnt: its configuration and the parameters of one of its checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.config import Experiment
from experiments.learning_config import CriticConfig
from experiments.progress import say
from experiments.reading import from_config_dict
from experiments.resuming import restored_params
from experiments.reward_model.config import NAME as REWARD_MODEL
from experiments.reward_model.config import RewardModelConfig
from experiments.setup import Setup
from experiments.workdir import read_workdir
from gpg_jax.types import Params


def trained_config(workdir: Path, mesh: Sequence[str]) -> Experiment:
    """The configuration of a run, on devices that need not be those it was trained on.

    Args:
      workdir: of the run.
      mesh: devices along `data`, `fsdp` and `tensor`.

    Raises:
      ValueError: no run there, or no mesh.
    """
    given = read_workdir(workdir)
    if "preferences" in given:
        raise ValueError(f"workdir {str(workdir)!r} is the folder of a reward model, not of a policy")
    trained = from_config_dict(Experiment, given)
    try:
        actors = dataclasses.replace(trained.actors, devices=0)
        return dataclasses.replace(trained, mesh=tuple(int(size) for size in mesh), actors=actors)
    except ValueError as error:
        raise ValueError(f"--mesh={','.join(mesh)} is not three numbers, like -1,1,1") from error


def unscored(config: Experiment) -> Experiment:
    """The configuration without reward models, which need not be there where nothing is scored or trained:
    neither the one that scores, nor the one that a critic has started as."""
    rewards = {name: weight for name, weight in config.task.rewards.items() if name != REWARD_MODEL}
    task = dataclasses.replace(config.task, rewards=rewards)
    critic = dataclasses.replace(config.critic, workdir=None, checkpoint=CriticConfig.checkpoint)
    return dataclasses.replace(config, task=task, reward_model=RewardModelConfig(), critic=critic)


def trained_params(setup: Setup, workdir: Path, checkpoint: str, console: Console) -> Params:
    """The parameters of a checkpoint.

    Args:
      setup: of the run.
      workdir: of the run.
      checkpoint: "latest", "best", or the number of an iteration.
      console: where a person reads.

    Raises:
      ValueError: no such checkpoint, or one that is damaged.
    """
    restored = restored_params(
        workdir, setup.like.params, checkpoint, lambda text: say(console, text, "bold red")
    )
    say(console, f"checkpoint of iteration {restored.step}")
    return restored.state
