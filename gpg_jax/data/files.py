"""Examples from local files: JSON of questions and answers, and parquet in verl's layout."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpg_jax.data.examples import Example, Message

QUESTIONS = ("question", "problem")
"""Fields that hold the question in benchmarks."""
ANSWERS = ("answer", "golden_answers")
"""Fields that hold the gold answer, or a list of them."""

Row = dict[str, Any]
_PARQUET_COLUMNS = ("data_source", "prompt", "ability", "reward_model", "extra_info")
_ADVICE = "task.drop_unanswered, or drop_unanswered=True, leaves such rows out"


def read_jsonl(
    path: str | Path, *, question: str = "question", answer: str = "answer", drop_unanswered: bool = False
) -> list[Example]:
    """Reads one example a line; the other fields become metadata.

    Args:
      path: a UTF-8 file of one JSON object a line; blank lines are passed over.
      question: field of the prompt: a text, or a list of chat messages.
      answer: field of the gold answer, a text or a number.
      drop_unanswered: leave rows without an answer out, which are errors otherwise.

    Raises:
      ValueError: no such file, no examples, or a line that is no object or lacks a question or an answer.
    """
    path = _existing(path)
    examples = [
        _example(row, question, answer, place)
        for row, place in _json_lines(path)
        if not (drop_unanswered and _is_empty(row.get(answer)))
    ]
    return _some(examples, path)


def read_parquet(path: str | Path, *, drop_unanswered: bool = False) -> list[Example]:
    """Reads verl's layout: `prompt` (messages), `reward_model.ground_truth`, and the rest as metadata.

    Of several ground truths the first is the answer; all of them are in the metadata as `answers`.

    Args:
      path: a parquet file.
      drop_unanswered: leave rows without an answer out, which are errors otherwise.

    Raises:
      ValueError: no such file, no examples, a missing column, or a row without a prompt or an answer.
    """
    path = _existing(path)
    columns, rows = _parquet(path)
    for column in ("prompt", "reward_model"):
        if column not in columns:
            raise ValueError(
                f"{path} has the columns {columns} and no {column!r}; verl's layout has "
                f"{', '.join(_PARQUET_COLUMNS)}"
            )
    examples = [
        _verl_example(row, place) for row, place in rows if not (drop_unanswered and _is_empty(_truth(row)))
    ]
    return _some(examples, path)


def read_questions(path: str | Path, *, drop_unanswered: bool = False) -> list[Example]:
    """Reads a benchmark: rows with one of `QUESTIONS` and one of `ANSWERS`, or in verl's layout.

    Of several gold answers the first is the answer; all of them are in the metadata as `answers`.

    Args:
      path: `.jsonl`, `.json` (a list of objects) or `.parquet`.
      drop_unanswered: leave rows without an answer out, which are errors otherwise.

    Raises:
      ValueError: no such file, another ending, no examples, or a row that lacks a question or an answer.
    """
    path = _existing(path)
    match path.suffix:
        case ".jsonl":
            rows = _json_lines(path)
        case ".json":
            rows = _json_list(path)
        case ".parquet":
            rows = _parquet(path)[1]
        case _:
            raise ValueError(f"{path} is neither .jsonl nor .json nor .parquet")
    examples = [
        _question(row, place) for row, place in rows if not (drop_unanswered and _is_empty(_gold(row)))
    ]
    return _some(examples, path)


def _existing(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return path


def _some(examples: list[Example], path: Path) -> list[Example]:
    if not examples:
        raise ValueError(f"{path} holds no examples")
    return examples


def _json_lines(path: Path) -> Iterator[tuple[Row, str]]:
    """Rows and their places."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                place = f"{path}, line {number}"
                yield _object(_parse(line, place), place), place


def _json_list(path: Path) -> Iterator[tuple[Row, str]]:
    """Rows and their places."""
    rows = _parse(path.read_bytes(), str(path))
    if not isinstance(rows, list):
        raise ValueError(f"{path} is {type(rows).__name__}, not a list of objects")
    for number, row in enumerate(rows):
        place = f"{path}, row {number}"
        yield _object(row, place), place


def _parquet(path: Path) -> tuple[list[str], Iterator[tuple[Row, str]]]:
    """Names of the columns; rows and their places."""
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


def _example(row: Row, question: str, answer: str, place: str) -> Example:
    for field in (question, answer):
        if _is_empty(row.get(field)):
            raise ValueError(f"{place} has no {field!r}; its fields are {sorted(row)} ({_ADVICE})")
    rest = {name: value for name, value in row.items() if name not in (question, answer)}
    return Example(_prompt(row[question], place), _answer(row[answer], place), rest)


def _question(row: Row, place: str) -> Example:
    """An example of a benchmark, which may have several gold answers."""
    if _is_verl(row):
        return _verl_example(row, place)
    question, answer = _field(row, QUESTIONS), _field(row, ANSWERS)
    gold = row.get(answer)
    if not isinstance(gold, list) or _is_empty(gold):
        return _example(row, question, answer, place)
    several = [_answer(each, place) for each in gold]
    example = _example(row | {answer: several[0]}, question, answer, place)
    return dataclasses.replace(example, metadata={**example.metadata, "answers": several})


def _gold(row: Row) -> Any:
    return _truth(row) if _is_verl(row) else row.get(_field(row, ANSWERS))


def _is_verl(row: Row) -> bool:
    return {"prompt", "reward_model"} <= row.keys()


def _field(row: Row, names: Sequence[str]) -> str:
    """The first of some fields that a row has, the first of all where it has none."""
    return next((name for name in names if not _is_empty(row.get(name))), names[0])


def _verl_example(row: Row, place: str) -> Example:
    truth = _truth(row)
    if _is_empty(truth):
        raise ValueError(f"{place} has no answer in reward_model.ground_truth ({_ADVICE})")
    if _is_empty(row["prompt"]):
        raise ValueError(f"{place} has no prompt")
    rest = {name: value for name, value in row.items() if name not in ("prompt", "reward_model")}
    several = [_answer(each, place) for each in truth] if isinstance(truth, list) else None
    answer = several[0] if several else _answer(truth, place)
    return Example(_prompt(row["prompt"], place), answer, {**rest, "answers": several} if several else rest)


def _truth(row: Row) -> Any:
    judge = row["reward_model"]
    return judge.get("ground_truth") if isinstance(judge, dict) else None


def _is_empty(value: Any) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def _prompt(asked: Any, place: str) -> str | tuple[Message, ...]:
    if isinstance(asked, str):
        return asked
    if isinstance(asked, list) and all(_is_message(message) for message in asked):
        return tuple({"role": message["role"], "content": message["content"]} for message in asked)
    raise ValueError(
        f"{place} asks {asked!r}; a prompt is a text or a list of messages with role and content"
    )


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def _answer(truth: Any, place: str) -> str:
    if isinstance(truth, bool) or not isinstance(truth, (str, int, float)) or _is_empty(truth):
        raise ValueError(f"{place} has the answer {truth!r}; an answer is a text or a number")
    return str(truth)
