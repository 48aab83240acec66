"""Examples from local files: JSON of questions and answers, and parquet in verl's layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpg_jax.data.boxes import solution_answer
from gpg_jax.data.examples import Example
from gpg_jax.data.rows import (
    Row,
    answer_text,
    existing,
    is_empty,
    json_lines,
    json_list,
    parquet_rows,
    prompt_of,
)

QUESTIONS = ("question", "problem")
"""Fields that hold the question in benchmarks."""
ANSWERS = ("answer", "golden_answers")
"""Fields that hold the gold answer, or a list of them."""
SOLUTIONS = ("solution",)
"""Fields that hold the gold answer in a box, of rows without one of `ANSWERS`, as in MATH."""
ALIASES = ("answer_aliases",)
"""Fields that hold further gold answers, as in MuSiQue."""

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
    path = existing(path)
    examples = [
        _example(row, question, answer, place)
        for row, place in json_lines(path)
        if not (drop_unanswered and is_empty(row.get(answer)))
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
    path = existing(path)
    columns, rows = parquet_rows(path)
    for column in ("prompt", "reward_model"):
        if column not in columns:
            raise ValueError(
                f"{path} has the columns {columns} and no {column!r}; verl's layout has "
                f"{', '.join(_PARQUET_COLUMNS)}"
            )
    examples = [
        _verl_example(row, place) for row, place in rows if not (drop_unanswered and is_empty(_truth(row)))
    ]
    return _some(examples, path)


def read_questions(path: str | Path, *, drop_unanswered: bool = False) -> list[Example]:
    """Reads a benchmark as it is published: rows with named fields, whatever their case, or in verl's layout.

    A row has one of `QUESTIONS` and one of `ANSWERS`, or else one of `SOLUTIONS`, the answer of which is the
    gold one (`data.boxes.solution_answer`). Of several gold answers, those of `ALIASES` among them, the first
    is the answer; all of them are in the metadata as `answers`, each once.

    Args:
      path: `.jsonl`, `.json` (a list of objects) or `.parquet`.
      drop_unanswered: leave rows without an answer out, which are errors otherwise.

    Raises:
      ValueError: no such file, another ending, no examples, or a row that lacks a question or an answer, or
        has two fields of one name that differ by case.
    """
    path = existing(path)
    match path.suffix:
        case ".jsonl":
            rows = json_lines(path)
        case ".json":
            rows = json_list(path)
        case ".parquet":
            rows = parquet_rows(path)[1]
        case _:
            raise ValueError(f"{path} is neither .jsonl nor .json nor .parquet")
    examples = [
        _question(row, place) for row, place in rows if not (drop_unanswered and is_empty(_gold(row, place)))
    ]
    return _some(examples, path)


def _some(examples: list[Example], path: Path) -> list[Example]:
    if not examples:
        raise ValueError(f"{path} holds no examples")
    return examples


def _example(row: Row, question: str, answer: str, place: str) -> Example:
    for field in (question, answer):
        if is_empty(row.get(field)):
            raise ValueError(f"{place} has no {field!r}; its fields are {sorted(row)} ({_ADVICE})")
    rest = {name: value for name, value in row.items() if name not in (question, answer)}
    return Example(prompt_of(row[question], place), answer_text(row[answer], place), rest)


def _question(row: Row, place: str) -> Example:
    """An example of a benchmark, which may have several gold answers."""
    if _is_verl(row):
        return _verl_example(row, place)
    question, answer = (_field(row, names, place) for names in (QUESTIONS, ANSWERS))
    gold = _gold(row, place)
    if is_empty(gold) and not is_empty(row.get(_field(row, SOLUTIONS, place))):
        raise ValueError(f"{place} has no {answer!r}, and its solution no \\boxed{{…}} with one ({_ADVICE})")
    if is_empty(gold) or not isinstance(gold, list):
        return _example(row if is_empty(gold) else row | {answer: gold}, question, answer, place)
    several = list(dict.fromkeys(answer_text(each, place) for each in gold))
    example = _example(row | {answer: several[0]}, question, answer, place)
    return dataclasses.replace(example, metadata={**example.metadata, "answers": several})


def _gold(row: Row, place: str) -> Any:
    """The gold answer of a row, a list of several, or what is empty where there is none."""
    if _is_verl(row):
        return _truth(row)
    gold, solution, aliases = (row.get(_field(row, names, place)) for names in (ANSWERS, SOLUTIONS, ALIASES))
    if is_empty(gold) and isinstance(solution, str):
        gold = solution_answer(solution)
    if is_empty(gold) or is_empty(aliases):
        return gold
    return [each for found in (gold, aliases) for each in (found if isinstance(found, list) else [found])]


def _is_verl(row: Row) -> bool:
    return {"prompt", "reward_model"} <= row.keys()


def _field(row: Row, names: Sequence[str], place: str) -> str:
    """The first of some fields that a row has, as the row writes it; the first name where it has none."""
    for name in names:
        found = [own for own in row if own.lower() == name and not is_empty(row[own])]
        if len(found) > 1:
            raise ValueError(
                f"{place} has {' and '.join(map(repr, found))}, which differ by case; remove one"
            )
        if found:
            return found[0]
    return names[0]


def _verl_example(row: Row, place: str) -> Example:
    truth = _truth(row)
    if is_empty(truth):
        raise ValueError(f"{place} has no answer in reward_model.ground_truth ({_ADVICE})")
    if is_empty(row["prompt"]):
        raise ValueError(f"{place} has no prompt")
    rest = {name: value for name, value in row.items() if name not in ("prompt", "reward_model")}
    several = [answer_text(each, place) for each in truth] if isinstance(truth, list) else None
    answer = several[0] if several else answer_text(truth, place)
    return Example(prompt_of(row["prompt"], place), answer, {**rest, "answers": several} if several else rest)


def _truth(row: Row) -> Any:
    judge = row["reward_model"]
    return judge.get("ground_truth") if isinstance(judge, dict) else None
