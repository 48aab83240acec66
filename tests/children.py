"""The commands of `experiments` in processes of their own, forked from one that has imported them already."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path
from typing import NamedTuple

import pytest
from commands import one_device

ROOT = Path(__file__).parents[1]
PROGRAMS = ("train", "evaluate", "export")


class Child(NamedTuple):
    """A process, and the file that its output goes to."""

    process: multiprocessing.process.BaseProcess
    said: Path


def start(program: str, *arguments: str, cache: str = "", without: str = "") -> Child:
    """`python -m experiments.PROGRAM` on one device, but for the time that importing takes.

    Args:
      program: one of `PROGRAMS`.
      *arguments: of its command line.
      cache: folder that programs compiled before are taken from.
      without: a variable of the environment that it does not see.
    """
    handle, said = tempfile.mkstemp(prefix="said-")
    os.close(handle)
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload([f"experiments.{name}" for name in PROGRAMS])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        forkserver.ensure_running()
    process = forks.Process(target=_run, args=(program, arguments, said, cache, without))
    process.start()
    return Child(process, Path(said))


def ended(child: Child) -> tuple[int | None, str]:
    """Waits for the end: the exit code, negative where a signal killed it, and what was said."""
    child.process.join()
    said = child.said.read_text()
    child.said.unlink()
    return child.process.exitcode, said


def _run(program: str, arguments: tuple[str, ...], said: str, cache: str, without: str) -> None:
    with open(said, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.environ.update(one_device())
    os.environ.pop(without, None)
    os.chdir(ROOT)
    sys.argv = [f"experiments/{program}.py", *arguments]

    import jax

    from experiments import command_line

    jax.config.update("jax_disable_most_optimizations", True)
    if cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    module = importlib.import_module(f"experiments.{program}")
    command_line.start(module.main, module.define)
