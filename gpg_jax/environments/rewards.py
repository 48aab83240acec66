"""Rewards as weighted sums of functions, of which none can stop a run.

A function that raises, or returns what is no finite number, fails its row: the failure is recorded with
the function's name, the error and the row's text, the row's outcome and reward are 0, and it is flagged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from gpg_jax.data.examples import Example

RewardFunction = Callable[[str, Example], float]


class Reward(NamedTuple):
    """A term of a reward: weight · function(response, example)."""

    name: str
    function: RewardFunction
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
      parts: name -> `float32[B]`.
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
    terms: Sequence[Reward] = (),
) -> Judged:
    """Outcomes by a verifier, and rewards R = Σ_k w_k · f_k(text, example).

    Args:
      verifier: gives the outcome.
      texts: B responses.
      examples: their B examples.
      terms: of the reward; the outcome itself for none.

    Raises:
      ValueError: texts and examples that do not match, or two terms of one name.
    """
    if len(texts) != len(examples):
        raise ValueError(f"{len(texts)} texts and {len(examples)} examples; there must be one a row")
    terms = tuple(terms) or (Reward("outcome", verifier),)
    names = [term.name for term in terms]
    if len(set(names)) < len(names):
        raise ValueError(f"the rewards {names} have a name twice; give each its own")
    failures: list[Failure] = []
    outcome = _apply("verifier", verifier, texts, examples, failures)
    parts = {
        term.name: outcome if term.function is verifier else _apply(*term[:2], texts, examples, failures)
        for term in terms
    }
    failed = np.zeros(len(texts), bool)
    failed[[failure.row for failure in failures]] = True
    total = np.sum([np.float32(term.weight) * parts[term.name] for term in terms], axis=0, dtype=np.float32)
    return Judged(
        outcome=np.where(failed, np.float32(0), outcome),
        reward=np.where(failed, np.float32(0), total),
        parts=parts,
        failed=failed,
        failures=tuple(sorted(failures, key=lambda failure: failure.row)),
    )


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
            value = float(function(text, example))
            if not math.isfinite(value):
                raise ValueError(f"it returned {value}")
        except Exception as error:  # user code: whatever it does, the run goes on
            failures.append(Failure(row, name, f"{type(error).__name__}: {error}", text))
        else:
            values[row] = value
    return values
