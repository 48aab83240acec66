"""Shuffled batches of examples without end, from a place that can be saved and gone back to.

Shuffling, sharding and the iterator's state are grain's.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import grain

from gpg_jax.data.examples import Example

T = TypeVar("T")


class Loader(Generic[T]):
    """An endless iterator over batches with a JSON-able place; see `loader`."""

    def __init__(self, iterator: grain.DatasetIterator, settings: dict[str, int]):
        self._iterator, self._settings = iterator, settings

    def __iter__(self) -> Loader[T]:
        return self

    def __next__(self) -> list[T]:
        return next(self._iterator)

    def get_state(self) -> dict[str, Any]:
        """Where the iterator stands, JSON-able."""
        return {"settings": dict(self._settings), "iterator": self._iterator.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes back to a place that `get_state` gave.

        Raises:
          ValueError: what is no place, or the place of another loader, where it means other examples.
        """
        if not isinstance(state, dict) or state.keys() != {"settings", "iterator"}:
            raise ValueError(f"{state!r} is not a place that a loader's get_state gave")
        for name, value in self._settings.items():
            if (saved := state["settings"].get(name)) != value:
                raise ValueError(
                    f"this is not a place of this loader: its {name} was {saved}, here it is {value}"
                )
        self._iterator.set_state(state["iterator"])


def asked_and_answered(example: Example) -> Any:
    """The prompt and the answer of an example, for JSON."""
    return [example.prompt, example.answer]


def loader(
    source: Sequence[T],
    *,
    batch_size: int,
    seed: int,
    shard_index: int = 0,
    shard_count: int = 1,
    words: Callable[[Any], Any] = asked_and_answered,
) -> Loader[T]:
    """Batches of examples, every epoch in an order of its own.

    A batch may reach over the end of an epoch, so that no example is left out.

    Args:
      source: the examples, of whatever kind.
      batch_size: examples of a batch of this shard.
      seed: of the shuffling, 0 ≤ seed < 2³².
      shard_index: which of the shards (hosts) this is.
      shard_count: how many there are; each has every `shard_count`-th example, and its own epochs.
      words: an example -> what it says, for JSON: a place in other words is refused.

    Raises:
      ValueError: no examples, or a size, seed or shard that is impossible.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    if not 0 <= seed < 2**32:
        raise ValueError(f"the loader's seed is {seed}; it must be from 0 to {2**32 - 1}")
    if not 0 <= shard_index < shard_count:
        raise ValueError(f"shard_index {shard_index} is not one of the {shard_count} shards")
    if len(source) < shard_count:
        raise ValueError(f"{len(source)} examples cannot be shared out among {shard_count} shards")
    dataset = grain.MapDataset.source(source)[shard_index::shard_count].shuffle(seed=seed).repeat()
    reading = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)  # rows are small: threads cost more
    settings = {
        "examples": len(source),
        "digest": _digest(source, words),
        "batch_size": batch_size,
        "seed": seed,
        "shard_index": shard_index,
        "shard_count": shard_count,
    }
    batches = dataset.to_iter_dataset(reading).batch(batch_size, batch_fn=list)
    return Loader(iter(batches), settings)


def _digest(source: Sequence[Any], words: Callable[[Any], Any]) -> int:
    """CRC-32 of what all examples say: a file that was edited between two runs is noticed."""
    digest = 0
    for index in range(len(source)):
        digest = zlib.crc32(json.dumps(words(source[index])).encode(), digest)
    return digest
