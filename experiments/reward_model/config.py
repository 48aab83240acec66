"""Which reward model scores the responses of a run."""

from __future__ import annotations

import dataclasses

from experiments.config_checks import at_least, check_checkpoint, check_unread

NAME = "reward_model"
"""Its key among `task.rewards`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardModelConfig:
    """A reward model of `experiments.train_reward_model`: the reward "reward_model" of `task.rewards`.

    Attributes:
      workdir: of its run; None for none.
      checkpoint: "best", by held-out accuracy, or by its loss where nothing is held out; "latest", or the
        number of an update.
      normalise: whether scores have mean 0 and standard deviation 1 on the pairs that it was trained on.
      batch: rows that are scored at once.
    """

    workdir: str | None = None
    checkpoint: str = "best"
    normalise: bool = True
    batch: int = 64

    def __post_init__(self) -> None:
        at_least("reward_model.batch", self.batch, 1)
        check_checkpoint("reward_model.checkpoint", self.checkpoint)

    def check_wanted(self, wanted: bool) -> None:
        """Raises a ValueError for a model that is not among the rewards, or the other way round.

        Args:
          wanted: whether the rewards hold it.
        """
        if wanted and self.workdir is None:
            raise ValueError(
                f"task.rewards has {NAME!r}: give reward_model.workdir, the folder of a run of "
                "experiments.train_reward_model"
            )
        if self.workdir is not None and not wanted:
            raise ValueError(
                f"reward_model.workdir is {self.workdir!r}, and nothing is scored by it: give "
                f"task.rewards.{NAME} a weight"
            )
        if not wanted:
            check_unread(self, "reward_model", f"task.rewards has no {NAME!r}, and nothing is scored")
