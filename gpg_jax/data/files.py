"""Examples from local files: JSON lines of question and answer, and parquet in verl's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gpg_jax.data.examples import Example

_PARQUET_COLUMNS = ("data_source", "prompt", "ability", "reward_model", "extra_info")


def read_jsonl(path: str | Path, *, question: str = "question", answer: str = "answer") -> list[Example]:
    """Reads one example a line; the other fields become metadata.

    Args:
      path: a UTF-8 file of one JSON object a line; blank lines are passed over.
      question: field of the prompt: a text, or a list of chat messages.
      answer: field of the gold answer, a text or a number.

    Raises:
      ValueError: no such file, or a line that is no object or lacks a question or an answer.
    """
    path = _existing(path)
    examples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            examples.append(_example(_parse(line, path, number), question, answer, f"{path}, line {number}"))
    if not examples:
        raise ValueError(f"{path} holds no examples")
    return examples


def read_parquet(path: str | Path) -> list[Example]:
    """Reads verl's layout: `prompt` (messages), `reward_model.ground_truth`, and the rest as metadata.

    Args:
      path: a parquet file.

    Raises:
      ValueError: no such file, a missing column, or a row without an answer.
    """
    from pyarrow import parquet

    path = _existing(path)
    table = parquet.read_table(path)
    for column in ("prompt", "reward_model"):
        if column not in table.column_names:
            raise ValueError(
                f"{path} has the columns {table.column_names} and no {column!r}; verl's layout has "
                f"{', '.join(_PARQUET_COLUMNS)}"
            )
    return [_verl_example(row, f"{path}, row {number}") for number, row in enumerate(table.to_pylist())]


def _existing(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return path


def _parse(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{path}, line {number} is {type(row).__name__}, not an object with named fields")
    return row


def _example(row: dict[str, Any], question: str, answer: str, place: str) -> Example:
    for field in (question, answer):
        if row.get(field) in (None, "", []):
            raise ValueError(f"{place} has no {field!r}; its fields are {sorted(row)}")
    asked = row[question]
    prompt = asked if isinstance(asked, str) else tuple(asked)
    rest = {name: value for name, value in row.items() if name not in (question, answer)}
    return Example(prompt, str(row[answer]), rest)


def _verl_example(row: dict[str, Any], place: str) -> Example:
    truth = (row["reward_model"] or {}).get("ground_truth")
    if truth in (None, "", []):
        raise ValueError(f"{place} has no answer in reward_model.ground_truth")
    messages = tuple({"role": message["role"], "content": message["content"]} for message in row["prompt"])
    rest = {name: value for name, value in row.items() if name not in ("prompt", "reward_model")}
    several = truth if isinstance(truth, list) else None
    answer = str(truth[0]) if several else str(truth)
    return Example(messages, answer, {**rest, "answers": several} if several else rest)
