"""The folder of a run, found to be fit before anything is downloaded or compiled, and held to the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from experiments import command_line
from experiments.workdir import check_workdir, claim
from gpg_jax.training.processes import on_first, together

T = TypeVar("T")


@contextlib.contextmanager
def claimed(workdir: Path, config: Any, build: Callable[[], T]) -> Iterator[T]:
    """Builds a run between a look at its folder and the claim on it; what is wrong ends the program.

    Args:
      workdir: its folder.
      config: whose it is to be.
      build: () -> what the run is made of.

    Yields:
      What was built; the folder is locked meanwhile.
    """
    with contextlib.ExitStack() as held:
        with command_line.sentences():
            on_first(lambda: check_workdir(workdir, config))
            setup = together(build)
            lock = on_first(lambda: claim(workdir, config))
            held.enter_context(lock or contextlib.nullcontext())
        yield setup
