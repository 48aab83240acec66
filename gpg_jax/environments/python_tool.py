"""A Python interpreter as a tool: each snippet in a process of its own, confined by the kernel.

See `environments.confined` for what a snippet may not do. The parent keeps what the kernel does not: the
wall-clock time and the length of the output, past which the process is killed.
"""

from __future__ import annotations

import contextlib
import os
import platform
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path

from gpg_jax.environments import confined
from gpg_jax.environments.system_calls import call_filter
from gpg_jax.environments.tools import Tool

_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "LC_ALL": "C.UTF-8",
}
# As isolated as -I, but for -E: the environment is the one above, and of it the hash seed must be heard.
_FLAGS = ("-P", "-s", "-B")


class SnippetError(Exception):
    """A snippet that failed or went over a limit; its message is for the policy to read."""


def python_tool(
    *, seconds: float = 5.0, memory_bytes: int = 512 * 2**20, output_bytes: int = 4096, name: str = "python"
) -> Tool:
    """A tool that runs a snippet and answers with what it printed, and the value of a last expression.

    Each call starts afresh: nothing is kept between calls. Hashes of strings are the same in each, so that
    sets of them print in one order; clocks, unseeded random numbers and addresses differ. There are no
    threads, processes, pipes or sockets: `asyncio`, pools and `subprocess` fail.

    Args:
      seconds: of wall-clock time, the interpreter's own start among them.
      memory_bytes: of address space.
      output_bytes: of output; a snippet that prints more is stopped.
      name: of the tag.

    Raises:
      ValueError: this machine cannot confine a snippet.
    """

    def call(snippet: str) -> str:
        return run_snippet(snippet, seconds=seconds, memory_bytes=memory_bytes, output_bytes=output_bytes)

    if sys.platform != "linux":
        raise ValueError(f"the Python tool needs Linux to confine its snippets, not {sys.platform}")
    try:
        call("pass")
    except SnippetError as error:
        raise ValueError(f"the Python tool does not work on this machine: {error}") from error
    return Tool(name, call)


def run_snippet(snippet: str, *, seconds: float, memory_bytes: int, output_bytes: int) -> str:
    """Runs a snippet; see `python_tool`.

    Raises:
      SnippetError: it raised, was stopped, or could not be confined.
    """
    process = _start(seconds, memory_bytes)
    try:
        output, reason = _read(process, snippet, seconds, output_bytes)
    finally:
        _kill(process)
    text = output[:output_bytes].decode("utf-8", "replace").strip()
    if reason:
        raise SnippetError(f"{reason}\n{text}".strip())
    if process.returncode:
        raise SnippetError(text or f"the snippet ended with status {process.returncode}")
    return text


def _start(seconds: float, memory_bytes: int) -> subprocess.Popen:
    arguments = [str(memory_bytes), str(int(seconds) + 1), call_filter(platform.machine()).hex()]
    return subprocess.Popen(
        [sys.executable, *_FLAGS, str(Path(confined.__file__)), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        env=_ENVIRONMENT,
        start_new_session=True,
    )


def _read(process: subprocess.Popen, snippet: str, seconds: float, output_bytes: int) -> tuple[bytes, str]:
    """What the process wrote, and why it was stopped, if it was."""
    assert process.stdin is not None and process.stdout is not None
    until, output = time.monotonic() + seconds, b""
    with process.stdin, process.stdout, selectors.DefaultSelector() as selector:
        # The program reads all of its input before it writes anything; where it could not start, its output
        # says why.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(snippet.encode("utf-8", "replace"))
            process.stdin.close()
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(until - time.monotonic(), 0)):
            piece = os.read(process.stdout.fileno(), 65536)
            output += piece
            if len(output) > output_bytes:
                return output, f"stopped: more than {output_bytes} bytes of output"
            if not piece:
                return output, _ended(process, until, seconds)
    return output, f"stopped after {seconds:g} s"


def _ended(process: subprocess.Popen, until: float, seconds: float) -> str:
    """A process that closed its output may still run."""
    try:
        process.wait(max(until - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:g} s"
    return ""


def _kill(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
