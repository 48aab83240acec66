"""Flags, and a sentence in the place of a traceback where the user's words were wrong."""

from __future__ import annotations

import contextlib
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_dict, config_flags

from experiments.config import Experiment
from experiments.methods import nearest
from experiments.reading import from_config_dict

CONFIG = config_flags.DEFINE_config_file("config", None, "FILE.py[:argument].", lock_config=True)


def start(main: Callable[[], None], define: Callable[[], None] = lambda: None) -> None:
    """Parses the command line and runs a program.

    Args:
      main: the program.
      define: defines its flags; called here, so that programs can be imported together.
    """
    define()
    logging.set_verbosity(logging.WARNING)  # orbax tells of every file
    app.run(lambda _: main(), flags_parser=_parse)


def config(kind: Any = Experiment) -> Any:
    """The configuration that the command line gives, or None where it gives none.

    Args:
      kind: the dataclass that it is.
    """
    if CONFIG.value is None:
        return None
    with sentences():
        return from_config_dict(kind, CONFIG.value)


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """A ValueError inside ends the program with its sentence and exit code 2."""
    try:
        yield
    except ValueError as error:
        stop(str(error))


def stop(sentence: str) -> NoReturn:
    """Ends the program: the user has to change something."""
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


def _parse(arguments: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(list(arguments))
    except flags.Error as error:
        stop(str(error))
    except (AttributeError, KeyError) as error:
        _name_the_unknown(arguments)
        raise error
    except (ValueError, TypeError, OSError) as error:  # of a configuration file, or a value that it refuses
        stop(" ".join(str(error).split()))


def _name_the_unknown(arguments: Sequence[str]) -> None:
    """Stops at the first `--config.KEY` for which there is no KEY."""
    location = _location(arguments)
    if location is None:
        return
    path, _, argument = location.partition(":")
    known = list(_keys(runpy.run_path(path)["get_config"](*filter(None, [argument]))))
    for text in arguments:
        flag, _, name = text.partition("=")[0].partition("config.")
        if flag in ("-", "--") and name and name not in known:
            stop(f"there is no config key {name!r}; {nearest(name, known)}")


def _location(arguments: Sequence[str]) -> str | None:
    """What the command line gives as `--config=FILE` or `--config FILE`; the last one counts."""
    found = None
    for text, following in zip(arguments, [*arguments[1:], None], strict=True):
        flag, given, value = text.partition("=")
        if flag in ("-config", "--config"):
            found = value if given else following
    return found


def _keys(section: config_dict.ConfigDict, path: str = "") -> Iterator[str]:
    for name in section:
        value = section[name]
        if isinstance(value, config_dict.ConfigDict):
            yield from _keys(value, f"{path}{name}.")
        else:
            yield path + name
