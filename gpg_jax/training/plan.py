"""How a rollout is cut into epochs, minibatches and micro-batches."""

from __future__ import annotations

import dataclasses
import math

from gpg_jax.policies.score import Layout


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How a rollout of B rows is cut into updates.

    Attributes:
      layout: static shape of the rows; `layout.shared` is the group size G, and groups are contiguous.
      rows: B.
      epochs: passes over the rollout.
      minibatches: updates a pass.
      micro_batches: parts that a minibatch is summed over, to save memory.
      shards: devices that the rows of a micro-batch are split over.
      temperature: at which the rollout was sampled.
      chunk: tokens whose logits exist at once; 0 for all.

    Raises:
      ValueError: rows that cannot be cut so, or a temperature that cannot be trained on.
    """

    layout: Layout
    rows: int
    epochs: int = 1
    minibatches: int = 1
    micro_batches: int = 1
    shards: int = 1
    temperature: float = 1.0
    chunk: int = 0

    def __post_init__(self) -> None:
        group = self.layout.shared
        for name in ("rows", "epochs", "minibatches", "micro_batches", "shards"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; it must be at least 1")
        if self.temperature <= 0:
            raise ValueError(
                f"temperature={self.temperature}: a greedy rollout has no probabilities to train on; "
                "sample at a temperature above 0"
            )
        if self.rows % (self.minibatches * group):
            raise ValueError(
                f"{self.rows} rows in groups of {group} cannot be cut into {self.minibatches} minibatches of "
                f"whole groups; choose minibatches that divides {self.rows // group} prompts"
            )
        if self.minibatch_rows % (self.micro_batches * self.shards):
            raise ValueError(
                f"a minibatch of {self.minibatch_rows} rows cannot be cut into {self.micro_batches} "
                f"micro-batches on {self.shards} devices; their product must divide {self.minibatch_rows}"
            )

    @property
    def minibatch_rows(self) -> int:
        """Rows of an update."""
        return self.rows // self.minibatches

    @property
    def micro_rows(self) -> int:
        """Rows whose activations exist at once, on all devices together."""
        return self.minibatch_rows // self.micro_batches

    @property
    def updates(self) -> int:
        """Optimizer updates a rollout."""
        return self.epochs * self.minibatches

    @property
    def micro_layout(self) -> Layout:
        """The layout of a device's part of a micro-batch: neighbours that surely share a prompt."""
        own = self.micro_rows // self.shards
        return dataclasses.replace(self.layout, shared=math.gcd(own, self.layout.shared))
