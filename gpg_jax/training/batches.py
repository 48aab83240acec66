"""Batches of prompts by number: none is lost, doubled or skipped, whoever takes them in whatever order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from gpg_jax.data.examples import Example


class TrainingSet(NamedTuple):
    """The training set as a sequence with a place.

    Attributes:
      draw: () -> the next P examples.
      place: () -> where it stands, as JSON holds it.
      go_to: goes back to what `place` gave.
    """

    draw: Callable[[], Sequence[Example]]
    place: Callable[[], Any]
    go_to: Callable[[Any], None]


class Batches:
    """Batches of a source, numbered from 0; those that were taken are kept until they are done with.

    Not safe to call from several threads at once.
    """

    def __init__(self, source: TrainingSet, saved: dict[str, Any] | None = None):
        """Begins where the source stands, or where `cursor` was.

        Args:
          source: of examples; nobody else may draw from it.
          saved: from `cursor`.
        """
        self._source, self._next = source, 0
        self._kept: dict[int, tuple[Any, Sequence[Example]]] = {}
        self._spare: list[int] = []
        if saved is None:
            return
        for number, place in saved["open"]:
            source.go_to(place)
            self._kept[number] = (place, source.draw())
        source.go_to(saved["place"])
        self._next, self._spare = saved["next"], list(saved["spare"])

    def take(self) -> int:
        """The number of a batch: of one that was given back, else of the next one of the source."""
        return self._spare.pop(0) if self._spare else self._draw()

    def give_back(self, numbers: Iterable[int]) -> None:
        """Batches that were taken and not used; they are taken again before any other."""
        self._spare.extend(numbers)

    def examples(self, number: int) -> Sequence[Example]:
        """The examples of a batch, drawn with all before it if need be.

        Raises:
          ValueError: a batch that was done with.
        """
        while number >= self._next:
            self._draw()
        if number not in self._kept:
            raise ValueError(f"batch {number} has been used before")
        return self._kept[number][1]

    def done(self, numbers: Iterable[int]) -> None:
        """Forgets batches that a rollout was made of."""
        for number in numbers:
            del self._kept[number]

    def cursor(self) -> dict[str, Any]:
        """Where this stands, as JSON holds it: what is open is drawn again from its place."""
        opened = [[number, place] for number, (place, _) in sorted(self._kept.items())]
        return {"place": self._source.place(), "next": self._next, "open": opened, "spare": [*self._spare]}

    def _draw(self) -> int:
        place = self._source.place()
        self._kept[self._next] = (place, self._source.draw())
        self._next += 1
        return self._next - 1
