"""Sentences about values that a configuration cannot have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def at_least(key: str, value: float, least: float) -> None:
    """Raises a ValueError for a value below the least."""
    if value < least:
        raise ValueError(f"{key} is {value}; it must be at least {least}")


def one_of(key: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raises a ValueError for a value that is not allowed."""
    if value not in allowed:
        raise ValueError(f"{key} is {value!r}; it must be {' or '.join(map(repr, allowed))}")
