"""Rows of JSON and parquet files, each with its place for a sentence, and what may stand in their fields."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpg_jax.data.examples import Message

Row = dict[str, Any]


def existing(path: str | Path) -> Path:
    """The path of a file that there is.

    Raises:
      ValueError: there is none.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return path


def json_lines(path: Path) -> Iterator[tuple[Row, str]]:
    """The objects of a `.jsonl` file and their places; empty lines are passed over.

    Raises:
      ValueError: a line that is no object, and which.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                place = f"{path}, line {number}"
                yield _object(_parse(line, place), place), place


def json_list(path: Path) -> Iterator[tuple[Row, str]]:
    """The objects of a `.json` list and their places.

    Raises:
      ValueError: no list, or a row that is no object, and which.
    """
    rows = _parse(path.read_bytes(), str(path))
    if not isinstance(rows, list):
        raise ValueError(f"{path} is {type(rows).__name__}, not a list of objects")
    for number, row in enumerate(rows):
        place = f"{path}, row {number}"
        yield _object(row, place), place


def parquet_rows(path: Path) -> tuple[list[str], Iterator[tuple[Row, str]]]:
    """The names of the columns; the rows and their places.

    Raises:
      ValueError: no parquet.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} is not parquet: {error}") from error
    rows = ((row, f"{path}, row {number}") for number, row in enumerate(table.to_pylist()))
    return table.column_names, rows


def _parse(text: bytes, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{place} is not JSON: {error}") from error


def _object(row: Any, place: str) -> Row:
    if not isinstance(row, dict):
        raise ValueError(f"{place} is {type(row).__name__}, not an object with named fields")
    return row


def is_empty(value: Any) -> bool:
    """Whether a field holds nothing: None, an empty list, white space."""
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def prompt_of(asked: Any, place: str) -> str | tuple[Message, ...]:
    """A prompt from what a field holds: a text, or messages with role and content.

    Raises:
      ValueError: anything else.
    """
    if isinstance(asked, str):
        return asked
    if isinstance(asked, list) and all(_is_message(message) for message in asked):
        return tuple({"role": message["role"], "content": message["content"]} for message in asked)
    raise ValueError(
        f"{place} asks {asked!r}; a prompt is a text or a list of messages with role and content"
    )


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def answer_text(truth: Any, place: str) -> str:
    """An answer from what a field holds: a text or a number.

    Raises:
      ValueError: anything else.
    """
    if isinstance(truth, bool) or not isinstance(truth, (str, int, float)) or is_empty(truth):
        raise ValueError(f"{place} has the answer {truth!r}; an answer is a text or a number")
    return str(truth)
