"""What was measured for a seed is kept: a study that is started again measures only what is not there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console

from experiments.progress import say

FREE = ("seeds", "question")
"""Keys that may change when a study is taken up again."""


def every_seed(
    config: ConfigDict, workdir: Path, console: Console, measure: Callable[[int], Any]
) -> list[Any]:
    """What `measure(seed)` gave for each of the study's seeds, now or before.

    Args:
      config: of the study.
      workdir: has a file `seed_N.json` a seed.
      console: where a person reads.
      measure: seed -> what JSON can hold.

    Raises:
      ValueError: a file that cannot be read, or that was measured with another configuration.
    """

    def told(seed: int) -> Any:
        found = measure(seed)
        say(console, f"seed {seed}, {seed + 1} of {config.seeds}")
        return found

    return [_kept(config, workdir, seed, told) for seed in range(config.seeds)]


def _kept(config: ConfigDict, workdir: Path, seed: int, measure: Callable[[int], Any]) -> Any:
    path, settings = workdir / f"seed_{seed}.json", _settings(config)
    if path.is_file():
        return _found(path, settings)
    record = json.dumps({"config": settings, "found": measure(seed)})
    scratch = path.with_suffix(".part")
    scratch.write_text(record, encoding="utf-8")
    os.replace(scratch, path)
    return json.loads(record)["found"]


def _settings(config: ConfigDict) -> dict[str, Any]:
    """The configuration as JSON would give it back."""
    plain = {name: value for name, value in config.to_dict().items() if name not in FREE}
    return json.loads(json.dumps(plain))


def _found(path: Path, settings: dict[str, Any]) -> Any:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        measured, found = record["config"], record["found"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not what a study has measured: {error}; remove it") from error
    if measured != settings:
        raise ValueError(
            f"{path} was measured with another configuration; give another --workdir, or remove the file"
        )
    return found
