"""A response as what the policy wrote and what tools answered, told apart by who wrote the tokens.

Nothing here looks for tags to find out who spoke: a tool can print any text, and a policy write any tag.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Part(NamedTuple):
    """A stretch of a response by one author."""

    text: str
    by_policy: bool


class Trajectory(str):
    """What the policy wrote, as a text, with the whole response in `parts`.

    A verifier that reads it as a text does not see the results of tools, so none can print the answer for it.

    Attributes:
      parts: the response in order.
    """

    parts: tuple[Part, ...]

    def __new__(cls, parts: Sequence[Part]) -> Trajectory:
        text = super().__new__(cls, "".join(part.text for part in parts if part.by_policy))
        text.parts = tuple(parts)
        return text


def parse(ids: Sequence[int], acted: Sequence[bool], decode: Callable[[Sequence[int]], str]) -> Trajectory:
    """Cuts a response where the author changes.

    Args:
      ids: tokens of the response.
      acted: whether the policy chose the token.
      decode: ids -> text.
    """
    own = np.asarray(acted, bool)
    cuts = np.flatnonzero(np.diff(own)) + 1
    pieces = zip(np.split(np.asarray(ids), cuts), np.split(own, cuts), strict=True)
    return Trajectory(
        [Part(decode(piece.tolist()), bool(author[0])) for piece, author in pieces if len(piece)]
    )
