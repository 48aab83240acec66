"""Between `ConfigDict`s, which the command line changes, and frozen dataclasses, which the code reads."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

from experiments.methods import ARGUMENTS, MethodConfig, nearest


def to_config_dict(section: Any) -> config_dict.ConfigDict:
    """Every field of a dataclass, nested, as a `ConfigDict`; optional ones can be set from the command line.

    Args:
      section: an instance of a dataclass of `experiments.config`.
    """
    if isinstance(section, MethodConfig):
        return _method_to_config_dict(section)
    result = config_dict.ConfigDict()
    hints = typing.get_type_hints(type(section))
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            result[field.name] = to_config_dict(value)
        elif isinstance(value, dict):
            result[field.name] = config_dict.ConfigDict(value)
        elif type(None) in typing.get_args(hints[field.name]):
            result[field.name] = _placeholder(_members(hints[field.name])[0], value)
        else:
            result[field.name] = value
    return result


def from_config_dict(kind: Any, given: Mapping[str, Any], path: str = "") -> Any:
    """A dataclass filled from a `ConfigDict`.

    Args:
      kind: the dataclass.
      given: its values; sections nested.
      path: of the section, for sentences.

    Raises:
      ValueError: a key that there is not, or a value of the wrong type.
    """
    if kind is MethodConfig:
        return _read_method(given)
    hints = typing.get_type_hints(kind)
    values = {}
    for name, value in given.items():
        if name not in hints:
            raise ValueError(f"there is no config key {path + name!r}; {nearest(name, hints)}")
        if dataclasses.is_dataclass(hints[name]):
            values[name] = from_config_dict(hints[name], value, f"{path}{name}.")
        else:
            values[name] = _checked(value, hints[name], path + name)
    return kind(**values)


def flatten(section: Any, path: str = "") -> dict[str, Any]:
    """Dotted key -> value, as JSON would give it back.

    Args:
      section: a dataclass, nested.
      path: before each key.
    """
    if dataclasses.is_dataclass(section):
        section = {field.name: getattr(section, field.name) for field in dataclasses.fields(section)}
    if isinstance(section, Mapping):
        parts = [flatten(item, f"{path}{name}.") for name, item in section.items()]
        return {key: value for part in parts for key, value in part.items()}
    return {path[:-1]: list(section) if isinstance(section, tuple) else section}


def _method_to_config_dict(method: MethodConfig) -> config_dict.ConfigDict:
    result = config_dict.ConfigDict({"name": method.name, "none": ""})
    for argument, kind in ARGUMENTS.items():
        result[argument] = _placeholder(kind, method.arguments.get(argument))
    return result


def _read_method(given: Mapping[str, Any]) -> MethodConfig:
    """Arguments without a value are the method's own; `none` names those that are None."""
    if "arguments" in given:  # as a run's folder has it
        return MethodConfig(name=given["name"], arguments=dict(given["arguments"]))
    for name in given:
        if name not in (*ARGUMENTS, "name", "none"):
            raise ValueError(f"there is no config key 'method.{name}'; {nearest(name, ARGUMENTS)}")
    arguments = {name: value for name, value in given.items() if name in ARGUMENTS and value is not None}
    for name in filter(None, (part.strip() for part in given.get("none", "").split(","))):
        if name not in ARGUMENTS:
            raise ValueError(f"method.none names {name!r}; {nearest(name, ARGUMENTS)}")
        arguments[name] = None
    return MethodConfig(name=given.get("name", MethodConfig.name), arguments=arguments)


def _placeholder(kind: type, value: Any) -> Any:
    reference = config_dict.placeholder(kind)
    if value is not None:
        reference.set(value)
    return reference


def _members(hint: Any) -> tuple[Any, ...]:
    """The types that a hint allows."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return tuple(kind for kind in typing.get_args(hint) if kind is not types.NoneType) if union else (hint,)


def _checked(value: Any, hint: Any, path: str) -> Any:
    if value is None and type(None) in typing.get_args(hint):
        return None
    kind = _members(hint)[0]
    if typing.get_origin(kind) is dict:
        return dict(value)
    if typing.get_origin(kind) is tuple:
        items = (value,) if isinstance(value, str) else tuple(value)
        return tuple(_checked(item, typing.get_args(kind)[0], path) for item in items)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{path} is {value!r}, of type {type(value).__name__}; it must be {kind.__name__}")
    return value
