"""Flags, and a sentence in the place of a traceback where the user's words were wrong."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence

from absl import app, flags, logging
from ml_collections import config_dict, config_flags

from experiments.config import Experiment
from experiments.methods import nearest
from experiments.reading import from_config_dict

CONFIG = config_flags.DEFINE_config_file("config", None, "FILE.py[:argument].", lock_config=True)


def start(main: Callable[[], None]) -> None:
    """Parses the command line and runs a program."""
    logging.set_verbosity(logging.WARNING)  # orbax tells of every file
    app.run(lambda _: main(), flags_parser=_parse)


def config() -> Experiment | None:
    """The configuration that the command line gives, or None where it gives none."""
    if CONFIG.value is None:
        return None
    with sentences():
        return from_config_dict(Experiment, CONFIG.value)


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """A ValueError inside ends the program with its sentence and exit code 2."""
    try:
        yield
    except ValueError as error:
        stop(str(error))


def stop(sentence: str) -> None:
    """Ends the program: the user has to change something."""
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


def _parse(arguments: Sequence[str]) -> list[str]:
    try:
        _check_names(arguments)
        return flags.FLAGS(list(arguments))
    except flags.Error as error:
        return stop(str(error))
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        # what configuration files and `config_flags` raise for values that they cannot take
        return stop(f"{type(error).__name__} in the configuration: {error}")


def _check_names(arguments: Sequence[str]) -> None:
    """Raises a ValueError for `--config.KEY` where there is no KEY."""
    first = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", None, flag_values=first)
    first([argument for argument in arguments if not argument.startswith("--config.")], known_only=True)
    if holder.value is None:
        return
    known = list(_keys(holder.value))
    for argument in arguments:
        name = argument.removeprefix("--config.").partition("=")[0]
        if argument.startswith("--config.") and name not in known:
            stop(f"there is no config key {name!r}; {nearest(name, known)}")


def _keys(section: config_dict.ConfigDict, path: str = "") -> Iterator[str]:
    for name in section:
        value = section.get_ref(name).get() if section.get_type(name) is None else section[name]
        if isinstance(value, config_dict.ConfigDict):
            yield from _keys(value, f"{path}{name}.")
        else:
            yield path + name
