"""How a policy and its critic learn: the sections of a configuration about updates."""

from __future__ import annotations

import dataclasses

from experiments.config_checks import at_least, check_checkpoint, check_unread, one_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its learning rate.

    Attributes:
      learning_rate: at its peak.
      warm_up: updates of the linear rise.
      decay: "constant", "linear" or "cosine", to the end of the run.
      final_fraction: of the peak, at the end of the decay.
      clip_norm: largest global norm of a gradient, or None.
      weight_decay: of matrices.
      b1, b2, eps: AdamW's.
    """

    learning_rate: float = 1e-3
    warm_up: int = 0
    decay: str = "constant"
    final_fraction: float = 0.0
    clip_norm: float | None = 1.0
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def check(self, path: str) -> None:
        """Raises a ValueError for values that no optimizer can have.

        Args:
          path: of the section that it is.
        """
        one_of(f"{path}.decay", self.decay, ("constant", "linear", "cosine"))
        at_least(f"{path}.warm_up", self.warm_up, 0)
        if self.learning_rate <= 0:
            raise ValueError(f"{path}.learning_rate is {self.learning_rate}; it must be above 0")
        for key in ("b1", "b2"):
            if not 0 <= getattr(self, key) < 1:
                raise ValueError(f"{path}.{key} is {getattr(self, key)}; it must be from 0 to below 1")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"{path}.clip_norm is {self.clip_norm}; it must be above 0, or None")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """What an iteration is, and how many there are.

    Attributes:
      steps: iterations: a rollout and the updates on it.
      prompts: P, prompts of a rollout.
      group: G, responses to each.
      epochs: passes over a rollout.
      minibatches: updates of a pass.
      micro_batches: parts that a minibatch is summed over.
      generations: batches of prompts that dynamic sampling may try for one rollout.
    """

    steps: int = 20
    prompts: int = 8
    group: int = 8
    epochs: int = 1
    minibatches: int = 1
    micro_batches: int = 1
    generations: int = 10

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            at_least(f"schedule.{field.name}", getattr(self, field.name), 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColdStartConfig:
    """Supervised fine-tuning on demonstrations before the method begins.

    Attributes:
      steps: iterations, an update each; 0 for none.
      batches: of schedule.prompts demonstrations each, in an iteration.
      micro_batches: that an iteration's demonstrations are cut into, one after the other.
      learning_rate: constant throughout; the optimizer's for None. Its warm-up and decay come behind.
      data: a file of demonstrations, see `gpg_jax.data.demonstrations`; the task's own for None.
      drop_unfit: whether those of the file that are malformed or too long are left out; otherwise an error.
    """

    steps: int = 0
    batches: int = 1
    micro_batches: int = 1
    learning_rate: float | None = None
    data: str | None = None
    drop_unfit: bool = False

    def __post_init__(self) -> None:
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise ValueError(f"cold_start.learning_rate is {self.learning_rate}; it must be above 0, or None")
        at_least("cold_start.steps", self.steps, 0)
        at_least("cold_start.batches", self.batches, 1)
        at_least("cold_start.micro_batches", self.micro_batches, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CriticConfig:
    """What gives values, for the methods that need them; others have none.

    Attributes:
      trunk: whose hidden states it reads: the "policy"'s own, which its loss then shapes too, or those of a
        "separate" transformer.
      name: of a model whose weights that transformer starts from, as `model.name`; None for a copy of the
        policy's.
      revision: branch, tag or commit on the hub.
      workdir: of a run of `experiments.train_reward_model`, whose transformer and head it starts as, so that
        its first values are rewards as that model gives them, not normalised (VAPO, arXiv 2504.05118; Ouyang
        et al. 2022, arXiv 2203.02155); None for none.
      checkpoint: of that run, as `reward_model.checkpoint`.
      pretraining_steps: iterations before the method begins, in which the critic alone learns, from the whole
        returns of the first policy; 0 for none.
      explained_variance: at which the pretraining is over, if it comes to that before its last iteration;
        None goes through all of them.
      optimizer: of its own.
    """

    trunk: str = "policy"
    name: str | None = None
    revision: str | None = None
    workdir: str | None = None
    checkpoint: str = "best"
    pretraining_steps: int = 0
    explained_variance: float | None = None
    optimizer: OptimizerConfig = OptimizerConfig()

    def __post_init__(self) -> None:
        self.optimizer.check("critic.optimizer")
        one_of("critic.trunk", self.trunk, ("policy", "separate"))
        at_least("critic.pretraining_steps", self.pretraining_steps, 0)
        for key in ("name", "workdir"):
            if getattr(self, key) is not None and self.trunk == "policy":
                raise ValueError(
                    f"critic.{key} is {getattr(self, key)!r} and critic.trunk is 'policy': a critic on the "
                    "policy's own hidden states has no weights to start from; take critic.trunk='separate'"
                )
        if self.name is not None and self.workdir is not None:
            raise ValueError(
                "critic.name and critic.workdir both say what the critic starts from: give one of them"
            )
        if self.name is None:
            check_unread(self, "critic", "it is of critic.name, which is not given", ["revision"])
        if self.workdir is None:
            check_unread(self, "critic", "it is of critic.workdir, which is not given", ["checkpoint"])
        check_checkpoint("critic.checkpoint", self.checkpoint)
        if self.explained_variance is not None:
            if not self.explained_variance < 1:
                raise ValueError(f"critic.explained_variance is {self.explained_variance}; it is below 1")
            if not self.pretraining_steps:
                raise ValueError(
                    "critic.explained_variance ends a pretraining: give critic.pretraining_steps"
                )

    @property
    def copies(self) -> bool:
        """Whether the trunk of a separate critic starts as a copy of the policy's."""
        return self.name is None and self.workdir is None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActorsConfig:
    """Who makes rollouts while the learner learns; see `gpg_jax.training.asynchronous`.

    Each device of an actor holds the whole policy in float32, 4 bytes a parameter, besides what decoding
    takes; where actors bring gradients also the reference and the critic, and the gradients of policy and
    critic. With `journal` or `delays` the learner keeps `staleness` more copies of its networks.

    Attributes:
      count: actors, each a thread; 0 for a learner that makes each rollout itself.
      devices: of each actor, taken from the end of the list; 0 for all at the learner's one device.
      bring: "rollouts", which any method learns from, or "gradients", found with the actor's own parameters
        (A3C).
      staleness: most iterations that parameters may be behind.
      delays: simulated staleness, one iteration after the other, again and again, in one thread; empty for
        actors at their own pace.
      journal: folder of a run whose deliveries are repeated; None for a run of its own.
    """

    count: int = 0
    devices: int = 0
    bring: str = "rollouts"
    staleness: int = 1
    delays: tuple[int, ...] = ()
    journal: str | None = None

    def __post_init__(self) -> None:
        for key in ("count", "devices", "staleness"):
            at_least(f"actors.{key}", getattr(self, key), 0)
        one_of("actors.bring", self.bring, ("rollouts", "gradients"))
        if not self.count:
            check_unread(self, "actors", "actors.count is 0, and there are no actors")
            return
        if self.delays and self.journal:
            raise ValueError("actors.delays and actors.journal both say what comes when: give one of them")
        for delay in self.delays:
            at_least("actors.delays", delay, 0)
            if delay > self.staleness:
                raise ValueError(f"actors.delays has {delay}, above actors.staleness={self.staleness}")
        if not self.repeats and self.count > self.staleness + 1:
            raise ValueError(
                f"actors.count is {self.count}, and with actors.staleness={self.staleness} no more than "
                f"{self.staleness + 1} rollouts can be under way: lower the one or raise the other"
            )

    @property
    def repeats(self) -> bool:
        """Whether what comes when is given."""
        return bool(self.delays) or self.journal is not None

    @property
    def whole(self) -> bool:
        """Whether they need all networks: a rollout needs the policy alone."""
        return self.bring == "gradients"

    @property
    def memory(self) -> int:
        """Iterations whose networks the state has to remember."""
        return self.staleness if self.count and self.repeats else 0
