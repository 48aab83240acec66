"""The rows of one prompt, and what of them is decided next: forks at boundaries, roots for rows left over.

Boundaries are decided in one order, by their number in the row and then by row, and a row that has not come
to its own is waited for. So the rows that come about do not depend on which row was faster.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np


class Segment(NamedTuple):
    """What a row writes between two boundaries.

    Attributes:
      begin: its first token.
      since: end of the newest answer that had tokens, 0 without one.
      calls: answers with tokens that came before it.
    """

    begin: int
    since: int
    calls: int


@dataclasses.dataclass
class Row:
    """What the host knows of a row.

    Attributes:
      parent: number within the prompt, its own for a root.
      late: whether it is of a tree that was begun for rows left over.
      segments: those that have begun, its parent's up to the fork among them.
      ends: where segments ended.
      first: index of the first segment that it writes itself.
      stop: one of the `STOP_*` reasons, None while it lives.
    """

    parent: int
    late: bool = False
    segments: list[Segment] = dataclasses.field(default_factory=lambda: [Segment(0, 0, 0)])
    ends: list[int] = dataclasses.field(default_factory=list)
    first: int = 0
    stop: int | None = None

    @property
    def fork(self) -> int:
        """Index of its first own token."""
        return self.segments[self.first].begin

    def crossed(self, boundary: int) -> bool:
        """Whether it goes on behind a boundary."""
        return len(self.segments) > boundary + 1

    def answer(self, length: int, tokens: int) -> None:
        """Begins a segment behind an answer of so many tokens; one of none is no call's."""
        newest, end = self.segments[-1], length + tokens
        self.segments.append(Segment(end, end, newest.calls + 1) if tokens else newest._replace(begin=end))

    def child(self, number: int, boundary: int) -> Row:
        """A row forked from this one, whose number is given, behind a boundary."""
        return Row(number, self.late, self.segments[: boundary + 2], self.ends[: boundary + 1], boundary + 1)


class Due(NamedTuple):
    """What can be decided.

    Attributes:
      crossings: rows and their boundaries, in the order in which they are to be decided.
      head: the row that is waited for, None where all have ended.
      missing: tokens that it must write first if it does not end; 0 where it has to come to its boundary.
    """

    crossings: list[tuple[int, int]]
    head: int | None
    missing: int


class Family:
    """The rows of one prompt in the order in which they were begun."""

    def __init__(self, roots: int, width: int):
        """Begins.

        Args:
          roots: rows that begin at the prompt at the start.
          width: M, rows that there will be.
        """
        self.rows = [Row(number) for number in range(roots)]
        self._width, self._oldest, self._decided = width, 0, (0, -1)

    @property
    def left(self) -> int:
        """Rows that have not begun."""
        return self._width - len(self.rows)

    @property
    def ended(self) -> bool:
        """Whether all rows have."""
        return not self.left and all(row.stop is not None for row in self.rows)

    def due(self, length: np.ndarray, after: int) -> Due:
        """What can be decided now.

        Args:
          length: `int[M]`, tokens of each row.
          after: tokens behind the boundary that a decision reads, or as many as the segment has.
        """
        crossings: list[tuple[int, int]] = []
        for number, boundary in self._undecided():
            row = self.rows[number]
            if row.crossed(boundary):
                missing = after - (int(length[number]) - row.segments[boundary + 1].begin)
                if missing > 0 and len(row.ends) <= boundary + 1:
                    return Due(crossings, number, missing)
                crossings.append((number, boundary))
            elif row.stop is None:
                return Due(crossings, number, 0)
        return Due(crossings, None, 0)

    def fork(self, number: int, boundary: int, wanted: int) -> list[int]:
        """Decides a crossing; the numbers of the rows that begin there, while some are left."""
        self._decided = boundary, number
        first = len(self.rows)
        self.rows += [self.rows[number].child(number, boundary) for _ in range(min(wanted, self.left))]
        return list(range(first, len(self.rows)))

    def begin_anew(self, refill: Literal["all", "one"]) -> list[int]:
        """The numbers of new roots, whose boundaries are counted anew; all older rows have ended."""
        self._oldest, self._decided = len(self.rows), (0, -1)
        count = self.left if refill == "all" else 1
        self.rows += [Row(self._oldest + place, late=True) for place in range(count)]
        return list(range(self._oldest, len(self.rows)))

    def _undecided(self) -> Iterator[tuple[int, int]]:
        """Rows and boundaries in the order of decisions, up to the last boundary that a row has crossed."""
        boundary, newest = self._decided
        living = range(self._oldest, len(self.rows))
        while True:
            yield from (
                (number, boundary)
                for number in living
                if number > newest and self.rows[number].first <= boundary
            )
            if not any(self.rows[number].crossed(boundary) for number in living):
                return
            boundary, newest = boundary + 1, -1
