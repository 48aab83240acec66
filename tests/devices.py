"""Fewer devices than the eight of the tests: what is sharded over two is sharded, and runs more quickly."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
import pytest


@contextlib.contextmanager
def first_devices(count: int) -> Iterator[None]:
    """Inside, the first so many devices are all that there are."""
    some = jax.devices()[:count]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *arguments: some)
        yield
