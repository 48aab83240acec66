"""Sentences about values that a configuration cannot have."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.reading import flatten


def at_least(key: str, value: float, least: float) -> None:
    """Raises a ValueError for a value below the least."""
    if value < least:
        raise ValueError(f"{key} is {value}; it must be at least {least}")


def one_of(key: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raises a ValueError for a value that is not allowed."""
    if value not in allowed:
        raise ValueError(f"{key} is {value!r}; it must be {' or '.join(map(repr, allowed))}")


def check_checkpoint(key: str, value: str) -> None:
    """Raises a ValueError for what names no checkpoint of a reward model."""
    if value not in ("best", "latest") and not value.isdecimal():
        raise ValueError(f"{key} is {value!r}; it is best, latest, or a number")


def check_calls_heard(key: str, strings: Sequence[str], names: Sequence[str]) -> None:
    """Raises a ValueError for a string at which a row may be stopped on the way to the end of a call.

    A row is stopped where the first string ends, of those that end there by the longest, and is read anew
    from there: of `</search>` nothing would be heard behind `</`, nor with `x</search>` behind an x.

    Args:
      key: of the strings.
      strings: at which a row is stopped.
      names: of the tools, each called by its tag.
    """
    for name, string in itertools.product(names, strings):
        tag = f"</{name}>"
        begun = [tag[:length] for length in range(1, len(tag))]
        cut = any(part.endswith(string) or string.endswith(part) for part in begun)
        if cut or (string != tag and string.endswith(tag)):
            raise ValueError(
                f"{key} has {string!r}, which may stop a row inside of {tag}, so that its call would not be "
                "heard; choose a string that does not end there"
            )


def check_tokens_heard(boundaries: Sequence[str], names: Sequence[str], token_bytes: Sequence[bytes]) -> None:
    """Raises a ValueError for a boundary that a token may end and go on from into a call.

    A row goes on behind the whole token and is read anew from there: where `></` ends the boundary
    `</think>`, nothing is heard of the `</search>` that it begins.

    Args:
      boundaries: behind which a row is stopped and goes on.
      names: of the tools, each called by its tag.
      token_bytes: of every id of the vocabulary.
    """
    tags = [f"</{name}>".encode() for name in names]
    for text in (text for text in token_bytes if b"<" in text[1:]):
        for end, boundary, tag in itertools.product(range(1, len(text)), boundaries, tags):
            rest, ending = text[end:], boundary.encode()
            ends = text[:end].endswith(ending) or ending.endswith(text[:end])
            begins = tag in rest or any(rest.endswith(tag[:length]) for length in range(1, len(tag)))
            if ends and begins:
                raise ValueError(
                    f"tools.boundaries has {boundary!r}, which the token {text.decode(errors='replace')!r} "
                    f"may end and go on from into {tag.decode()}, so that its call would not be heard: "
                    "choose one that ends otherwise"
                )


def check_whole(config: Any) -> None:
    """Raises a ValueError for a number that is not finite, or a seed below 0.

    Args:
      config: of a run, of a policy or of a reward model.
    """
    for key, value in flatten(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key} is {value}; it must be finite")
    at_least("seed", config.seed, 0)
    at_least("task.seed", config.task.seed, 0)


def check_length(sizes: Mapping[str, int], most: int, whose: str = "the model's positions") -> None:
    """Raises a ValueError for rows that are longer than a model has been trained for.

    Args:
      sizes: key -> tokens, which a row has together.
      most: tokens that the model was trained for.
      whose: positions these are.
    """
    length = sum(sizes.values())
    if length > most:
        raise ValueError(
            f"{' + '.join(sizes)} is {length}, and {whose} were trained for {most} tokens: lower one of them"
        )


def check_unread(section: Any, path: str, why: str, keys: Sequence[str] | None = None) -> None:
    """Raises a ValueError for what was changed in vain: keys that nothing reads.

    Args:
      section: a dataclass of defaults.
      path: its name in the configuration.
      why: nothing reads them, and what would be right.
      keys: of the section; None for all of them.
    """
    fields = [field.name for field in dataclasses.fields(section)] if keys is None else keys
    changed = [key for name in fields for key in _changed(section, path, name)]
    if changed:
        raise ValueError(f"{', '.join(changed)} would not be read: {why}")


def _changed(section: Any, path: str, name: str) -> list[str]:
    """The keys behind a field that do not have their defaults."""
    (field,) = (field for field in dataclasses.fields(section) if field.name == name)
    made = field.default_factory
    default = field.default if made is dataclasses.MISSING else made()
    found, known = (flatten(value, f"{path}.{name}.") for value in (getattr(section, name), default))
    return [key for key, value in found.items() if value != known[key]]
