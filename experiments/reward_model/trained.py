"""What a reward model's run has learnt: found and checked before anything compiles, loaded when needed."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from experiments.config import Experiment
from experiments.config_checks import check_length
from experiments.reading import from_config_dict
from experiments.resuming import restored_params
from experiments.reward_model.experiment import RewardModelExperiment
from experiments.reward_model.setup import MODEL, Model, fingerprint, model_from_json
from experiments.workdir import read_workdir, refusals
from gpg_jax.data.tokenizers import Tokenizer
from gpg_jax.training.checkpoints import Restored
from gpg_jax.types import Params


class Trained(NamedTuple):
    """A reward model that was found.

    Attributes:
      folder: of its run.
      config: of its run.
      model: what it is.
      checkpoint: that is asked for: "best", "latest" or the number of an update.
    """

    folder: Path
    config: RewardModelExperiment
    model: Model
    checkpoint: str


def find_trained(
    section: str, workdir: str, checkpoint: str, config: Experiment, tokenizer: Tokenizer
) -> Trained:
    """The reward model in a folder, which reads a policy's rows.

    Args:
      section: of the configuration, whose keys `workdir` and `checkpoint` ask for it.
      workdir: of its run.
      checkpoint: "best", "latest" or the number of an update.
      config: of the policy's run.
      tokenizer: of the policy.

    Raises:
      ValueError: no reward model there, one that is not trained to its end, or one that does not fit.
    """
    folder = Path(workdir)
    given = read_workdir(folder)
    if "preferences" not in given or not (folder / MODEL).is_file():
        raise ValueError(
            f"{section}.workdir {workdir!r} is not the folder of a reward model; "
            "experiments.train_reward_model makes one"
        )
    trained = from_config_dict(RewardModelExperiment, given)
    with refusals(folder):
        model = model_from_json((folder / MODEL).read_text(encoding="utf-8"))
    _check_fit(config, tokenizer, folder, model)
    if not checkpoint.isdecimal():
        _check_finished(section, folder, trained.schedule.steps)
    return Trained(folder, trained, model, checkpoint)


def load_trained(trained: Trained, like: Params) -> Restored:
    """Its checkpoint, with the parameters alone as the state.

    Args:
      trained: from `find_trained`.
      like: shapes and places of its parameters, `{"weight", "bias", "trunk"}`.

    Raises:
      ValueError: no such checkpoint, or one that is damaged.
    """
    # The newest one is that of the last update, and no older one in its place where it is damaged.
    newest = str(trained.config.schedule.steps)
    wanted = newest if trained.checkpoint == "latest" else trained.checkpoint
    return restored_params(trained.folder, like, wanted, lambda text: None)


def _check_fit(config: Experiment, tokenizer: Tokenizer, folder: Path, model: Model) -> None:
    if model.tokenizer != fingerprint(tokenizer):
        raise ValueError(
            f"the reward model in {folder} reads other tokens than the policy writes: train it with the "
            "tokenizer of the policy's model.name, or with its task.alphabet and task.pieces"
        )
    sizes = {
        "task.prompt_tokens": config.task.prompt_tokens,
        "sampling.new_tokens": config.sampling.new_tokens,
    }
    check_length(sizes, model.architecture.max_length, f"the positions of the reward model in {folder}")


def _check_finished(section: str, folder: Path, steps: int) -> None:
    """What is still trained has another best checkpoint tomorrow: a run could not be resumed with it.

    Folders are counted here as they lie on the disk, where a checkpoint gets its number once it is whole:
    orbax, of several processes, waits for all of them, and one may have found another mistake.
    """
    with refusals(folder):
        found = [path.name for path in (folder / "checkpoints").glob("*") if path.name.isdecimal()]
    newest = max(map(int, found), default=0)
    if newest < steps:
        raise ValueError(
            f"the reward model in {folder} has been trained for {newest} of its {steps} updates: let it "
            f"finish (its command again), or name one of its checkpoints by {section}.checkpoint"
        )
