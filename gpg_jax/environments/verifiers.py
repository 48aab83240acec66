"""What a response is worth, before any shaping: text and example to an outcome in [0, 1]."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from gpg_jax.data.examples import Example

Verifier = Callable[[str, Example], float]

MATH_SECONDS = 5
"""Seconds that math-verify may take to parse, and to compare."""

_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)")
_FINAL = re.compile(r"####\s*\$?\s*(-?\$?[\d,]*\.?\d+)")


def exact_match(text: str, example: Example) -> float:
    """1 where the whole text is the answer, white space at both ends aside."""
    return float(text.strip() == example.answer.strip())


def first_line_match(text: str, example: Example) -> float:
    """1 where the text up to its first newline is the answer, white space at both ends aside."""
    return float(text.split("\n", 1)[0].strip() == example.answer.strip())


def last_number_match(text: str, example: Example) -> float:
    """1 where the last number of the text equals the last number of the answer."""
    return float(_equal(_last_number(text), _last_number(example.answer)))


def gsm8k_strict(text: str, example: Example) -> float:
    """1 where the number behind the text's last `####` equals the one in the answer (verl's "strict")."""
    return float(_equal(_final_number(text), _final_number(example.answer)))


def gsm8k_flexible(text: str, example: Example) -> float:
    """1 where the last number of the text equals the answer's number behind `####`."""
    return float(_equal(_last_number(text), _final_number(example.answer)))


def math_match(text: str, example: Example) -> float:
    """1 where math-verify finds the text's last expression equivalent to the answer.

    Parsing and comparing may take `MATH_SECONDS` each, past which the response is wrong. The limits use
    signals, which only the main thread has.

    Raises:
      RuntimeError: outside the main thread, where a hostile response could not be stopped.
    """
    from math_verify import parse, verify

    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("math_match keeps its time limits by signals: call it in the main thread")
    gold = parse(_as_latex(example.answer), parsing_timeout=MATH_SECONDS)
    found = parse(text, parsing_timeout=MATH_SECONDS)
    return float(bool(gold) and bool(found) and bool(verify(gold, found, timeout_seconds=MATH_SECONDS)))


def puzzle_match(extract: Callable[[str], str] = str.strip) -> Verifier:
    """Judges examples of `data.puzzles`: all or nothing.

    The answer is extracted first and a partial score is 0: a scorer's credit for an answer that stands
    somewhere in the text, or for trying, is not earned. The gold answer itself is always right, and a
    scorer that raises on an answer has refused it.

    Args:
      extract: response -> the answer in it.
    """

    def verify(text: str, example: Example) -> float:
        import reasoning_gym

        answer = extract(text)
        if answer == example.answer:
            return 1.0
        score = reasoning_gym.get_score_answer_fn(example.metadata["puzzle"])
        try:
            return float(score(answer, example.metadata["entry"]) >= 1.0)
        except (ValueError, TypeError, KeyError, IndexError, ZeroDivisionError, OverflowError):
            return 0.0

    return verify


VERIFIERS: dict[str, Verifier] = {
    "exact": exact_match,
    "first_line": first_line_match,
    "last_number": last_number_match,
    "gsm8k_strict": gsm8k_strict,
    "gsm8k_flexible": gsm8k_flexible,
    "math": math_match,
}
"""Verifiers by name."""


def _value(number: str) -> Fraction | None:
    try:
        return Fraction(number.replace(",", "").replace("$", ""))
    except (ValueError, ZeroDivisionError):
        return None


def _last_number(text: str) -> Fraction | None:
    found = _NUMBER.findall(text)
    return _value(found[-1]) if found else None


def _final_number(text: str) -> Fraction | None:
    found = _FINAL.findall(text)
    return _value(found[-1]) if found else None


def _equal(one: Any, other: Any) -> bool:
    return one is not None and one == other


def _as_latex(answer: str) -> str:
    return answer if "$" in answer or "\\boxed" in answer else f"${answer}$"
