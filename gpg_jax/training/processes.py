"""Several processes that run one program on one mesh: what the first does alone, and what all agree on.

Every process must call these in the same order; with one process none of them communicates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")


def is_first() -> bool:
    """Whether this is the process that writes files and speaks to a person."""
    return jax.process_index() == 0


def agreed(flag: bool) -> bool:
    """Whether any process says so."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def together(make: Callable[[], T]) -> T:
    """What `make` gives on each process; where it raises on one, none goes on to wait for that one.

    Args:
      make: called on every process.

    Raises:
      RuntimeError: another process has failed.
    """
    if jax.process_count() == 1:
        return make()
    try:
        value = make()
    except Exception:
        agreed(True)
        raise
    if agreed(False):
        raise RuntimeError("another process has failed; what it printed tells why")
    return value


def from_first(make: Callable[[], bytes]) -> bytes:
    """What `make` gives on the first process, handed to all.

    Args:
      make: called on the first process alone.

    Raises:
      ValueError, RuntimeError: on the other processes, where `make` raises on the first: a ValueError with
        the same sentence for a ValueError, a RuntimeError for anything else.
    """
    if jax.process_count() == 1:
        return make()
    value, error = b"", None
    if is_first():
        try:
            value = make()
        except Exception as raised:
            value, error = str(raised).encode(errors="replace"), raised
    failure = 0 if error is None else 1 if isinstance(error, ValueError) else 2
    size, failed = _broadcast(np.array([len(value), failure], np.int32)).tolist()
    value = _broadcast_bytes(value, size)
    if error is not None:
        raise error
    if failed:
        sentence = value.decode()
        raise ValueError(sentence) if failed == 1 else RuntimeError(f"the first process failed: {sentence}")
    return value


def on_first(act: Callable[[], T]) -> T | None:
    """Does something on the first process, for which the others wait; None on those.

    Args:
      act: called on the first process alone; what it raises stops all of them.
    """
    done: list[T] = []

    def make() -> bytes:
        done.append(act())
        return b""

    from_first(make)
    return done[0] if done else None


def _broadcast(array: np.ndarray) -> np.ndarray:
    return np.asarray(multihost_utils.broadcast_one_to_all(array))


def _broadcast_bytes(value: bytes, size: int) -> bytes:
    """`size` bytes of the first process; in powers of two, so that few programs are compiled."""
    padded = np.zeros(1 << max(size - 1, 1).bit_length(), np.uint8)
    if is_first():
        padded[:size] = np.frombuffer(value, np.uint8)
    return _broadcast(padded)[:size].tobytes()
