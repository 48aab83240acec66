"""Tasks of reasoning-gym (Stojanovski et al. 2025, arXiv 2505.24760) as examples.

Its scorers have traps: a long text that contains the answer gets partial credit, wrong answers get a
little for trying, some raise on junk, and one gives its own answer 0. `environments.verifiers` judges
these examples; what it needs is in their metadata.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpg_jax.data.examples import Example


class PuzzleSource(Sequence[Example]):
    """Examples that are generated when they are asked for, the same for the same index."""

    def __init__(self, name: str, dataset: Any):
        self.name, self.dataset = name, dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"puzzle {index} of {len(self)}")
        entry = self.dataset[index]
        return Example(entry["question"], str(entry["answer"]), {"puzzle": self.name, "entry": entry})


def puzzles(name: str, *, size: int, seed: int = 0, **settings: Any) -> PuzzleSource:
    """A task of reasoning-gym.

    Args:
      name: such as "chain_sum".
      size: number of examples.
      seed: of the examples.
      **settings: of the task.

    Raises:
      ValueError: an unknown task, or settings that it refuses.
    """
    import reasoning_gym

    try:
        return PuzzleSource(name, reasoning_gym.create_dataset(name, size=size, seed=seed, **settings))
    except (ValueError, AssertionError, TypeError) as error:
        raise ValueError(f"reasoning-gym does not make {name!r} with {settings}: {error}") from error
