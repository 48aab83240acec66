"""The configuration of a run: typed, frozen, checked, and made from a `ConfigDict` once.

`default_config()` has every key there is; a config file changes some, the command line others, and
`experiments.reading` turns the result into an `Experiment`, or says in a sentence what is wrong with it.
"""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

from ml_collections import config_dict

from experiments.config_checks import at_least, check_calls_heard, check_whole, one_of
from experiments.functions import FUNCTIONS
from experiments.learning_config import (
    ActorsConfig,
    ColdStartConfig,
    CriticConfig,
    OptimizerConfig,
    ScheduleConfig,
)
from experiments.methods import MethodConfig, nearest
from experiments.reading import to_config_dict
from experiments.reward_model.config import NAME as REWARD_MODEL
from experiments.reward_model.config import RewardModelConfig
from gpg_jax.data import reversal
from gpg_jax.decoding.sampling import Sampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The policy: a pretrained one by name, or one from scratch by its sizes.

    Attributes:
      name: a local folder, "smollm2", or `owner/model` on the Hugging Face hub; None for one from scratch.
      revision: branch, tag or commit on the hub.
      width, layers, heads, kv_heads, head_dim, mlp_width: sizes of a model from scratch.
      dtype: type of the products' operands, "float32" or "bfloat16"; parameters are float32 always.
      remat: whether activations are recomputed in the backward pass.
      chunk: tokens whose logits exist at once; 0 for all.
    """

    name: str | None = None
    revision: str | None = None
    width: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    mlp_width: int = 128
    dtype: str = "float32"
    remat: bool = False
    chunk: int = 0

    def __post_init__(self) -> None:
        one_of("model.dtype", self.dtype, ("float32", "bfloat16"))
        at_least("model.chunk", self.chunk, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Where examples come from, how they are asked, and what an answer is worth.

    Attributes:
      name: a key of `experiments.tasks.TASKS`.
      prompt_tokens: budget of a prompt.
      drop_long: whether longer prompts are left out; otherwise they are an error.
      drop_unanswered: of the task "files": whether rows without an answer are left out; otherwise likewise.
      chat: whether prompts that are plain text are asked as a user's message.
      date: that a chat template may write into the prompt, as YYYY-MM-DD; the same on every day of a run.
      verifier: a key of `experiments.tasks.FUNCTIONS`; gives the outcome.
      rewards: such keys, or "reward_model" (see `Experiment.reward_model`) -> weights; the outcome itself for
        none.
      seed: of the split into training and held-out examples.
      alphabet: characters that a model from scratch reads and writes.
      pieces: texts that are one token of such a model, as tags are.
      train, held_out: of the task "files": `.jsonl` (`question`, `answer`) or `.parquet` (verl's layout).
      folder: of the task "gsm8k": has `train.jsonl` and `test.jsonl`; None downloads them.
      cache: where prepared data are kept; None for the user's cache.
      puzzle, settings: of the task "puzzle": a name of reasoning-gym, and what it is made with.
      examples, held_out_examples: puzzles or calculations that are made.
      hops: of the task "hops": facts that a question asks for, one after the other.
      hasty: of the task "hops": share of its demonstrations that answer behind the first search.
      symbols: of the task "reversal": how many a prompt has.
    """

    name: str = "reversal"
    prompt_tokens: int = 8
    drop_long: bool = False
    drop_unanswered: bool = False
    chat: bool = False
    date: str = "2025-01-01"
    verifier: str = "exact"
    rewards: dict[str, float] = dataclasses.field(default_factory=dict)
    seed: int = 0
    alphabet: str = reversal.ALPHABET
    pieces: tuple[str, ...] = ()
    train: str | None = None
    held_out: str | None = None
    folder: str | None = None
    cache: str | None = None
    puzzle: str = "chain_sum"
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    examples: int = 1000
    held_out_examples: int = 100
    hops: int = 2
    hasty: float = 0.0
    symbols: int = reversal.LENGTH

    def __post_init__(self) -> None:
        for key in ("prompt_tokens", "examples", "hops", "symbols"):
            at_least(f"task.{key}", getattr(self, key), 1)
        if not 0 <= self.hasty <= 1:
            raise ValueError(f"task.hasty is {self.hasty}; it must be from 0 to 1")
        for name in (self.verifier, *(name for name in self.rewards if name != REWARD_MODEL)):
            if name not in FUNCTIONS:
                raise ValueError(f"there is no verifier or reward {name!r}; {nearest(name, FUNCTIONS)}")
        for name, weight in self.rewards.items():
            if isinstance(weight, bool) or not isinstance(weight, (int, float)):
                raise ValueError(f"task.rewards.{name} is {weight!r}; a weight is a number")
        try:
            datetime.datetime.fromisoformat(self.date)
        except ValueError as error:
            raise ValueError(f"task.date is {self.date!r}; write it as 2025-01-01") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How responses are drawn.

    Attributes:
      new_tokens: budget of a response.
      stop: strings that end a response.
      temperature: above 0.
      top_k: tokens kept, 0 for all.
      top_p: mass kept, 1 for all.
      min_p: least probability beside the largest, 0 for all.
    """

    new_tokens: int = 16
    stop: tuple[str, ...] = ()
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        at_least("sampling.new_tokens", self.new_tokens, 1)
        if "" in self.stop:
            raise ValueError("sampling.stop has an empty string, which would stop every response at once")
        if self.temperature <= 0:
            raise ValueError(
                f"sampling.temperature is {self.temperature}: a greedy rollout cannot be trained on; "
                "choose a temperature above 0 (experiments.evaluate decodes greedily besides)"
            )
        try:
            _ = self.distribution
        except ValueError as error:
            raise ValueError(f"sampling.{error}") from error

    @property
    def distribution(self) -> Sampling:
        """What the decoding loop reads of it."""
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Accuracy on the held-out examples, before, after and between.

    Attributes:
      every: iterations between two evaluations; 0 for before and after alone.
      examples: of the held-out set, the first so many; 0 for all, -1 for no evaluation.
      samples: sampled responses to each; 0 for greedy ones alone.
      greedy: whether the greedy response is judged as well.
      batch: prompts that are decoded at once.
    """

    every: int = 0
    examples: int = 0
    samples: int = 1
    greedy: bool = True
    batch: int = 64

    def __post_init__(self) -> None:
        at_least("evaluation.every", self.every, 0)
        at_least("evaluation.examples", self.examples, -1)
        at_least("evaluation.samples", self.samples, 0)
        if not self.samples and not self.greedy:
            raise ValueError("evaluation.samples is 0 and evaluation.greedy is off: there is nothing to ask")
        at_least("evaluation.batch", self.batch, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the state is saved, and what is kept.

    Attributes:
      every: iterations between two; the last one is saved always.
      keep_latest: newest ones kept.
      keep_best: best ones kept besides, by held-out accuracy where it is evaluated, else by reward.
    """

    every: int = 10
    keep_latest: int = 2
    keep_best: int = 1

    def __post_init__(self) -> None:
        at_least("checkpoint.every", self.every, 1)
        at_least("checkpoint.keep_latest", self.keep_latest, 1)
        at_least("checkpoint.keep_best", self.keep_best, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """What is written beside the checkpoints.

    Attributes:
      transcripts: rows of each rollout that are written out.
      rollouts: iterations between two rollouts that are saved whole; 0 for none.
      entropy: whether the policy's entropy is measured where the method does not need it.
      kl: whether the KL to the first policy is measured where the method does not need it; it costs a copy
        of the parameters and a forward pass a rollout.
      tags: whose faults are reported: rows in which one is absent, unclosed, nested or stray.
    """

    transcripts: int = 4
    rollouts: int = 10
    entropy: bool = True
    kl: bool = False
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        at_least("output.transcripts", self.transcripts, 0)
        at_least("output.rollouts", self.rollouts, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToolsConfig:
    """What a policy may call in the middle of a response; see `experiments.tools`.

    Attributes:
      names: keys of `experiments.tools.TOOLS`; each is called by its tag.
      boundaries: strings behind which a row may be forked though nothing answers; none may end inside the
        closing tag of a tool.
      calls: of a row; a further one ends it.
      answer_tokens: of an answer, its tags among them.
      seconds: of a call.
      retries: further attempts of a call whose failure may pass, as a lost connection's does, or a tool's
        own, if those are more; see `environments.tools.Tool`.
      workers: calls that run at once.
      abandoned: calls that may run on behind their time; one more ends the run.
      steps: tokens that the other rows draw before the host looks for answers.
      patience: tokens that are drawn after the first row has stopped.
      at_once: rows whose answers are read together.
      corpus: documents of the search: `.jsonl` with a `text` in every line, or a `.json` search cache.
      index: folder of the index that is made of them; None for one in the user's cache.
      results, characters: documents of an answer, and how much of each.
      python_seconds, python_memory: of a snippet, in seconds, fewer than those of a call, and MiB.
    """

    names: tuple[str, ...] = ()
    boundaries: tuple[str, ...] = ()
    calls: int = 3
    answer_tokens: int = 256
    seconds: float = 30.0
    retries: int = 0
    workers: int = 8
    abandoned: int = 32
    steps: int = 16
    patience: int = 4
    at_once: int = 8
    corpus: str | None = None
    index: str | None = None
    results: int = 3
    characters: int = 500
    python_seconds: float = 5.0
    python_memory: int = 512

    def __post_init__(self) -> None:
        least = {"calls": 0, "retries": 0, "patience": 0}
        for field in dataclasses.fields(self):
            if isinstance(value := getattr(self, field.name), int):
                at_least(f"tools.{field.name}", value, least.get(field.name, 1))
        for key in ("seconds", "python_seconds"):
            if getattr(self, key) <= 0:
                raise ValueError(f"tools.{key} is {getattr(self, key)}; it must be above 0")
        if "" in self.boundaries or len(set(self.names)) < len(self.names):
            raise ValueError("tools.boundaries has an empty string, or tools.names a name twice")
        check_calls_heard("tools.boundaries", self.boundaries, self.names)
        if "python" in self.names and self.python_seconds >= self.seconds:
            raise ValueError(
                f"tools.python_seconds is {self.python_seconds} and tools.seconds {self.seconds}: a snippet "
                "must be stopped before its call is given up; lower the one, or raise the other"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class BranchingConfig:
    """Where rows are forked; see `gpg_jax.decoding.branching`.

    Attributes:
      mode: "none", "arpo_paper", "arpo_release", "fixed" or "random".
      roots: N, rows of a prompt that begin at it; schedule.group is M, all of them.
      alpha, beta, threshold: of "arpo_paper"; beta is w of "arpo_release".
      tokens: k, tokens whose entropies are read.
      width: Z of "arpo_paper"; rows that a row becomes of "fixed".
      probability: of "random" and "arpo_release".
      leaf_weight: how a leaf counts as a sample, "uniform", "tree" or "forest".
    """

    mode: str = "none"
    roots: int = 1
    alpha: float = 0.5
    beta: float = 0.2
    threshold: float = 0.5
    tokens: int = 20
    width: int = 1
    probability: float = 0.5
    leaf_weight: str = "uniform"

    def __post_init__(self) -> None:
        one_of("branching.mode", self.mode, ("none", "arpo_paper", "arpo_release", "fixed", "random"))
        one_of("branching.leaf_weight", self.leaf_weight, ("uniform", "tree", "forest"))
        for key in ("roots", "tokens", "width"):
            at_least(f"branching.{key}", getattr(self, key), 1)
        if not 0 <= self.probability <= 1:
            raise ValueError(f"branching.probability is {self.probability}; it must be from 0 to 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A whole run.

    Attributes:
      seed: of everything that is random.
      mesh: devices along `data`, `fsdp` and `tensor`; one of them may be -1 for all that are left.
    """

    seed: int = 0
    mesh: tuple[int, ...] = (-1, 1, 1)
    model: ModelConfig = ModelConfig()
    task: TaskConfig = dataclasses.field(default_factory=TaskConfig)
    reward_model: RewardModelConfig = dataclasses.field(default_factory=RewardModelConfig)
    sampling: SamplingConfig = SamplingConfig()
    tools: ToolsConfig = ToolsConfig()
    branching: BranchingConfig = BranchingConfig()
    method: MethodConfig = dataclasses.field(default_factory=MethodConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    cold_start: ColdStartConfig = dataclasses.field(default_factory=ColdStartConfig)
    critic: CriticConfig = dataclasses.field(default_factory=CriticConfig)
    actors: ActorsConfig = dataclasses.field(default_factory=ActorsConfig)
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    output: OutputConfig = OutputConfig()

    def __post_init__(self) -> None:
        check_whole(self)
        check_calls_heard("sampling.stop", self.sampling.stop, self.tools.names)
        self.optimizer.check("optimizer")
        self.method.check_group(self.schedule.group)
        self.reward_model.check_wanted(REWARD_MODEL in self.task.rewards)


def default_config() -> config_dict.ConfigDict:
    """Every key with its default: what a config file begins with."""
    return to_config_dict(Experiment())
