"""Lines of JSON that end as if nothing had happened: what a resumed run writes again is cut off first."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


def append(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Appends records, one a line, and hands them to the disk.

    Args:
      path: the file; created if there is none.
      records: what JSON can hold; numbers that are not finite become strings.
    """
    with path.open("a", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(_finite(record), ensure_ascii=False, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file; one that was cut off in the middle ends it.

    Args:
      path: the file; none is no records.
    """
    for _, record in _lines(path):
        yield record


def keep_through(path: Path, step: int) -> int:
    """Cuts a file behind its last record of a step that is kept.

    Args:
      path: lines of JSON with a `step`, in order; none is left alone.
      step: last step that is kept.

    Returns:
      Bytes that were cut off.
    """
    if not path.exists():
        return 0
    end = 0
    for offset, record in _lines(path):
        if record["step"] > step:
            break
        end = offset
    cut = path.stat().st_size - end
    if cut:
        os.truncate(path, end)
    return cut


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Where each whole line ends, and what it says."""
    if not path.exists():
        return
    offset = 0
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                return
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield offset, record


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
