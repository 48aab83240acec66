"""A method in a configuration: its name, and those of its arguments that are not left to the method."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from gpg_jax.algorithms import ALGORITHMS, GROUPED
from gpg_jax.algorithms.conventions import method_defaults
from gpg_jax.algorithms.settings import Settings
from gpg_jax.decoding.markers import compile_markers
from gpg_jax.types import Method


def _plain(hint: Any) -> type | None:
    """The type that a configuration can hold of an argument's, or None."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(option for option in typing.get_args(hint) if option is not types.NoneType)
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return str
    kind = hint if origin is None else origin
    return kind if kind in (bool, int, float, str, tuple) else None


def _own(name: str) -> dict[str, Any]:
    """Arguments of a constructor that a configuration can hold -> annotation."""
    hints = typing.get_type_hints(ALGORITHMS[name])
    parameters = inspect.signature(ALGORITHMS[name]).parameters.values()
    named = (parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)
    return {argument: hints[argument] for argument in named if _plain(hints[argument]) is not None}


_SHARED: dict[str, Any] = typing.get_type_hints(Settings)
_OWN = {name: _own(name) for name in ALGORITHMS}
ARGUMENTS: dict[str, type] = {
    argument: _plain(hint) or str for hints in (_SHARED, *_OWN.values()) for argument, hint in hints.items()
}
"""Every argument of every method -> the type that a configuration holds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """A method by name.

    Attributes:
      name: a key of `gpg_jax.algorithms.ALGORITHMS`.
      arguments: argument -> value; what is not here is the method's own default.
    """

    name: str = "grpo"
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in ALGORITHMS:
            raise ValueError(f"method.name is {self.name!r}; {nearest(self.name, ALGORITHMS)}")
        known = _SHARED | _OWN[self.name]
        for argument, value in self.arguments.items():
            if argument not in known:
                raise ValueError(
                    f"the method {self.name!r} has no argument {argument!r}; {nearest(argument, known)}"
                )
            if value is None and type(None) not in typing.get_args(known[argument]):
                raise ValueError(f"the argument {argument!r} of the method {self.name!r} cannot be None")

    def check_group(self, group: int) -> None:
        """Raises a ValueError if the method compares completions of a prompt and there is only one."""
        if group < 2 and self.name in GROUPED:
            raise ValueError(
                f"schedule.group is {group}, and the baseline of {self.name!r} is the other completions; "
                "take 2 or more, or a method without such a baseline, like 'reinforce_running'"
            )


def make_method(config: MethodConfig, new_tokens: int, token_bytes: Sequence[bytes] = ()) -> Method:
    """The method that a configuration names.

    Args:
      config: its part of the configuration.
      new_tokens: budget of a response.
      token_bytes: of every id of the vocabulary, where the method reads markers.

    Raises:
      ValueError: arguments that the method refuses.
    """
    try:
        arguments = budgets(config, new_tokens) | config.arguments
        if arguments.get("markers") is not None:
            arguments["markers"] = compile_markers(arguments["markers"], token_bytes)
        return ALGORITHMS[config.name](**arguments)
    except ValueError as error:
        raise ValueError(f"the method {config.name!r} refuses its arguments: {error}") from error


def budgets(config: MethodConfig, new_tokens: int) -> dict[str, Any]:
    """Lengths that a method takes from the budget of a response where the configuration gives none.

    Dr. GRPO's constant is that budget; DAPO's overlong shaping ends at it and begins a fifth before, as
    in the papers.

    Args:
      config: the method's part of the configuration.
      new_tokens: budget of a response.
    """
    given, derived = config.arguments, {}
    own = {"aggregation": "constant_length"} if config.name == "dr_grpo" else {}
    if (own | method_defaults(config.name, given) | given).get("aggregation") == "constant_length":
        derived = {"max_length": new_tokens}
    if config.name == "dapo" and not {"max_response", "overlong_cache"} & given.keys():
        derived |= {"max_response": new_tokens, "overlong_cache": max(new_tokens // 5, 1)}
    return {name: value for name, value in derived.items() if name not in given}


def nearest(name: str, known: Iterable[str]) -> str:
    """What was meant, or what there is where nothing is like it and there is little."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6 if len(names) < 20 else 0.0)
    return f"the nearest is {close[0]!r}" if close else f"there are {', '.join(names)}"
