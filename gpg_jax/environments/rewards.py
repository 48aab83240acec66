"""Rewards as weighted sums of functions, of which no row can stop a run.

A function that raises, or returns what is no finite number, fails its row: the failure is recorded with
the function's name, the error and the row's text, the row's outcome and reward are 0, and it is flagged.
(A rollout of which no row can be judged does end a run.)
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from gpg_jax.data.examples import Example

RewardFunction = Callable[[str, Example], float]

_LARGEST = float(np.finfo(np.float32).max)


class Reward(NamedTuple):
    """A term of a reward: weight · function(response, example)."""

    name: str
    function: RewardFunction
    weight: float = 1.0


class Scored(NamedTuple):
    """A term of a reward that is known of all rows at once, as a reward model's scores are: weight · values.

    Attributes:
      name: of the term.
      values: `[B]`.
      weight: of the term.
    """

    name: str
    values: np.ndarray
    weight: float = 1.0


class Failure(NamedTuple):
    """What a reward function did not survive."""

    row: int
    name: str
    error: str
    text: str

    def __str__(self) -> str:
        return f"reward {self.name!r} failed on row {self.row}: {self.error}; its text: {self.text!r}"


class Judged(NamedTuple):
    """Rewards of B rows.

    Attributes:
      outcome: `float32[B]`, the verifier's word, 0 where the row failed.
      reward: `float32[B]`, Σ weight · part, 0 where the row failed.
      parts: name -> `float32[B]`, 0 where that function failed.
      failed: `bool[B]`.
      failures: what failed, in the order of rows and terms.
    """

    outcome: np.ndarray
    reward: np.ndarray
    parts: dict[str, np.ndarray]
    failed: np.ndarray
    failures: tuple[Failure, ...]


def judge(
    verifier: RewardFunction,
    texts: Sequence[str],
    examples: Sequence[Example],
    terms: Sequence[Reward | Scored] = (),
) -> Judged:
    """Outcomes by a verifier, and rewards R = Σ_k w_k · f_k(text, example).

    Args:
      verifier: gives the outcome.
      texts: B responses.
      examples: their B examples.
      terms: of the reward; the outcome itself for none.

    Raises:
      ValueError: texts, examples and scores that do not match, two terms of one name, or a weight that is
        not finite.
    """
    if len(texts) != len(examples):
        raise ValueError(f"{len(texts)} texts and {len(examples)} examples; there must be one a row")
    terms = tuple(terms) or (Reward("outcome", verifier),)
    _check_terms(terms, len(texts))
    failures: list[Failure] = []
    outcome = _apply("verifier", verifier, texts, examples, failures)
    parts = {term.name: _part(term, verifier, outcome, texts, examples, failures) for term in terms}
    total = _weighted_sum(terms, parts, texts, failures)
    failed = np.zeros(len(texts), bool)
    failed[[failure.row for failure in failures]] = True
    return Judged(
        outcome=np.where(failed, np.float32(0), outcome),
        reward=np.where(failed, np.float32(0), total),
        parts=parts,
        failed=failed,
        failures=tuple(sorted(failures, key=lambda failure: failure.row)),
    )


def _part(
    term: Reward | Scored,
    verifier: RewardFunction,
    outcome: np.ndarray,
    texts: Sequence[str],
    examples: Sequence[Example],
    failures: list[Failure],
) -> np.ndarray:
    """What a term says of the rows."""
    if isinstance(term, Reward):
        if term.function is verifier:
            return outcome
        return _apply(term.name, term.function, texts, examples, failures)
    values = iter(term.values)
    return _apply(term.name, lambda text, example: next(values), texts, examples, failures)


def _check_terms(terms: Sequence[Reward | Scored], rows: int) -> None:
    names = [term.name for term in terms]
    if len(set(names)) < len(names):
        raise ValueError(f"the rewards {names} have a name twice; give each its own")
    for term in terms:
        if not abs(term.weight) <= _LARGEST:
            raise ValueError(f"the weight of reward {term.name!r} is {term.weight}; it must be finite")
        if isinstance(term, Scored) and len(term.values) != rows:
            raise ValueError(f"the reward {term.name!r} has {len(term.values)} values for {rows} rows")


def _apply(
    name: str,
    function: RewardFunction,
    texts: Sequence[str],
    examples: Sequence[Example],
    failures: list[Failure],
) -> np.ndarray:
    values = np.zeros(len(texts), np.float32)
    for row, (text, example) in enumerate(zip(texts, examples, strict=True)):
        try:
            values[row] = _number(function(text, example))
        except (Exception, SystemExit) as error:  # user code: whatever it does, the run goes on
            failures.append(Failure(row, name, _sentence(error), text))
    return values


def _number(value: object) -> float:
    """A finite number as a float: `float` alone would read texts, and arrays of one entry."""
    if isinstance(value, (str, bytes)) or np.ndim(value):  # type: ignore[arg-type]
        raise TypeError(f"it returned {value!r}, which is not a number")
    number = float(value)  # type: ignore[arg-type]
    if not abs(number) <= _LARGEST:
        raise ValueError(f"it returned {number}, which is not a finite float32")
    return number


def _weighted_sum(
    terms: Sequence[Reward | Scored],
    parts: dict[str, np.ndarray],
    texts: Sequence[str],
    failures: list[Failure],
) -> np.ndarray:
    weighted = [term.weight * parts[term.name].astype(np.float64) for term in terms]
    total = np.sum(weighted, axis=0)
    for row, value in enumerate(total):
        if abs(value) > _LARGEST:
            failures.append(Failure(row, "sum", f"the weighted sum is {value}", texts[row]))
    return np.where(np.abs(total) > _LARGEST, 0, total).astype(np.float32)


def _sentence(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip()
