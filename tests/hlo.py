"""Reads compiled programs: which operations stand inside loops."""

import contextlib
import re

import jax


@contextlib.contextmanager
def optimised():
    """Compiles as users do; the other tests switch most optimisations off to compile faster."""
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", True)


def computations(text: str) -> dict[str, str]:
    """Name -> body of every computation of an HLO module."""
    pattern = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*?\{\n(.*?)^\}", re.M | re.S)
    return {match.group(1): match.group(2) for match in pattern.finditer(text)}


def loop_lines(text: str) -> list[str]:
    """Instructions that run once an iteration of some loop, those of called computations included."""
    bodies = computations(text)
    pending = re.findall(r"body=%?([\w.\-]+)", text)
    assert pending, "a program without a loop"
    reached: set[str] = set()
    while pending:
        name = pending.pop()
        if name in reached or name not in bodies:
            continue
        reached.add(name)
        pending += re.findall(
            r"(?:calls|to_apply|body|condition|branch_computations)=\{?%?([\w.\-]+)", bodies[name]
        )
    return [line.strip() for name in reached for line in bodies[name].splitlines()]


def operations(lines: list[str], names: str) -> list[str]:
    """The instructions whose operation is one of `names`, a regular expression."""
    return [line for line in lines if re.search(rf"\s(?:{names})(?:-start)?\(", line)]
