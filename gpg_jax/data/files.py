"""Examples from local files: JSON lines of question and answer, and parquet in verl's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gpg_jax.data.examples import Example, Message

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
    examples = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                place = f"{path}, line {number}"
                row = _parse(line, place)
                if not (drop_unanswered and _is_empty(row.get(answer))):
                    examples.append(_example(row, question, answer, place))
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
    import pyarrow
    from pyarrow import parquet

    path = _existing(path)
    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} is not parquet: {error}") from error
    for column in ("prompt", "reward_model"):
        if column not in table.column_names:
            raise ValueError(
                f"{path} has the columns {table.column_names} and no {column!r}; verl's layout has "
                f"{', '.join(_PARQUET_COLUMNS)}"
            )
    examples = []
    for number, row in enumerate(table.to_pylist()):
        if not (drop_unanswered and _is_empty(_truth(row))):
            examples.append(_verl_example(row, f"{path}, row {number}"))
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


def _parse(line: bytes, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{place} is {type(row).__name__}, not an object with named fields")
    return row


def _example(row: dict[str, Any], question: str, answer: str, place: str) -> Example:
    for field in (question, answer):
        if _is_empty(row.get(field)):
            raise ValueError(f"{place} has no {field!r}; its fields are {sorted(row)} ({_ADVICE})")
    rest = {name: value for name, value in row.items() if name not in (question, answer)}
    return Example(_prompt(row[question], place), _answer(row[answer], place), rest)


def _verl_example(row: dict[str, Any], place: str) -> Example:
    truth = _truth(row)
    if _is_empty(truth):
        raise ValueError(f"{place} has no answer in reward_model.ground_truth ({_ADVICE})")
    if _is_empty(row["prompt"]):
        raise ValueError(f"{place} has no prompt")
    rest = {name: value for name, value in row.items() if name not in ("prompt", "reward_model")}
    several = [_answer(each, place) for each in truth] if isinstance(truth, list) else None
    answer = several[0] if several else _answer(truth, place)
    return Example(_prompt(row["prompt"], place), answer, {**rest, "answers": several} if several else rest)


def _truth(row: dict[str, Any]) -> Any:
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
