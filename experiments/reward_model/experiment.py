"""The configuration of a reward model's run, made as that of a policy's is (`experiments.config`)."""

from __future__ import annotations

import dataclasses

from ml_collections import config_dict

from experiments.config import CheckpointConfig, ModelConfig, OptimizerConfig, TaskConfig
from experiments.config_checks import at_least, check_unread, check_whole, one_of
from experiments.reading import to_config_dict


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferencesConfig:
    """Which responses are compared, and what is learnt of it.

    Attributes:
      train, held_out: files, see `gpg_jax.data.preference_pairs`. Without `train` pairs are made of the
        examples of task.name, see `gpg_jax.data.corruptions`, and task.verifier says which response is
        better.
      pairs: that are made, those held out besides.
      held_out_pairs: that are held out where no file has them.
      held_out_by: what is held out of them: whole "prompts", of which no pair is trained on, or single
        "pairs", where the policy will be asked the same prompts.
      response_tokens: budget of a response, its end included.
      end: text that ends a response, where `sampling.stop` ends the policy's; None for the end-of-sequence
        token.
      drop_unfit: whether pairs that are equal or longer than the budgets are left out; otherwise an error.
      centring: weight of (r_w + r_l)², which draws rewards to 0.
    """

    train: str | None = None
    held_out: str | None = None
    pairs: int = 2000
    held_out_pairs: int = 200
    held_out_by: str = "prompts"
    response_tokens: int = 16
    end: str | None = None
    drop_unfit: bool = False
    centring: float = 0.0

    def __post_init__(self) -> None:
        at_least("preferences.pairs", self.pairs, 1)
        at_least("preferences.held_out_pairs", self.held_out_pairs, 0)
        at_least("preferences.response_tokens", self.response_tokens, 2)
        at_least("preferences.centring", self.centring, 0)
        one_of("preferences.held_out_by", self.held_out_by, ("prompts", "pairs"))
        if self.held_out is not None and self.train is None:
            raise ValueError("preferences.held_out is a file: give preferences.train, a file too")
        if self.train is not None:
            check_unread(self, "preferences", "preferences.train has the pairs", ["pairs"])
        if self.held_out is not None:
            kept = "preferences.held_out has the pairs that are held out"
            check_unread(self, "preferences", kept, ["held_out_pairs", "held_out_by"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdatesConfig:
    """What an update is, and how many there are.

    Attributes:
      steps: updates.
      pairs: of an update.
      micro_batches: parts that they are summed over.
    """

    steps: int = 200
    pairs: int = 64
    micro_batches: int = 1

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            at_least(f"schedule.{field.name}", getattr(self, field.name), 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HoldOutConfig:
    """How the model is measured.

    Attributes:
      every: updates between two measurements of the held-out pairs; 0 for before and after alone.
      batch: pairs that are scored at once.
      statistics: pairs of the training set, the first ones, whose rewards give the mean and the standard
        deviation that scores are normalised with; 0 for all.
    """

    every: int = 50
    batch: int = 64
    statistics: int = 512

    def __post_init__(self) -> None:
        at_least("evaluation.every", self.every, 0)
        at_least("evaluation.batch", self.batch, 1)
        at_least("evaluation.statistics", self.statistics, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardModelExperiment:
    """A whole run.

    Attributes:
      seed: of everything that is random.
      mesh: devices along `data`, `fsdp` and `tensor`; one of them may be -1 for all that are left.
      model: what the reward model begins as; a policy's folder for its tokenizer and weights.
      task: how prompts are asked, and of what preferences are made where they are.
    """

    seed: int = 0
    mesh: tuple[int, ...] = (-1, 1, 1)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    task: TaskConfig = dataclasses.field(default_factory=TaskConfig)
    preferences: PreferencesConfig = dataclasses.field(default_factory=PreferencesConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    schedule: UpdatesConfig = dataclasses.field(default_factory=UpdatesConfig)
    evaluation: HoldOutConfig = dataclasses.field(default_factory=HoldOutConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)

    def __post_init__(self) -> None:
        check_whole(self)
        self.optimizer.check("optimizer")
        check_unread(self.model, "model", "a reward model has no logits to be cut", ["chunk"])
        if self.task.rewards:
            raise ValueError("task.rewards is of policies: preferences are made by task.verifier")


def default_config() -> config_dict.ConfigDict:
    """Every key with its default: what a config file begins with."""
    return to_config_dict(RewardModelExperiment())
