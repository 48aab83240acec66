"""What a response is worth, before any shaping: text and example to an outcome in [0, 1]."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from fractions import Fraction

from gpg_jax.data.examples import Example
from gpg_jax.data.puzzles import is_right

Verifier = Callable[[str, Example], float]

MATH_SECONDS = 5
"""Seconds that math-verify may take to parse, and to compare."""

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
_NUMBER = re.compile(rf"((?<![\w)])[-−])?\$?({_DIGITS})")
_ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_FINAL = re.compile(rf"####\s*+\$?\s*+([-−])?\s*+\$?({_DIGITS})")


def exact_match(text: str, example: Example) -> float:
    """1 where the whole text is the answer, white space at both ends aside."""
    return float(text.strip() == example.answer.strip())


def first_line_match(text: str, example: Example) -> float:
    """1 where the text up to its first newline is the answer, white space at both ends aside."""
    return float(text.split("\n", 1)[0].strip() == example.answer.strip())


def answer_tag_match(text: str, example: Example) -> float:
    """1 where what stands in the last `<answer>…</answer>` is the answer, white space at both ends aside."""
    found = _ANSWER_TAG.findall(text)
    return float(bool(found) and found[-1].strip() == example.answer.strip())


def last_number_match(text: str, example: Example) -> float:
    """1 where the last number of the text equals the last number of the answer.

    A minus behind a digit, letter or bracket is a difference or a range, no sign.
    """
    return float(_equal(_last_number(text), _last_number(example.answer)))


def gsm8k_strict(text: str, example: Example) -> float:
    """1 where the text's last number behind a `####` equals the gold one (verl's "strict").

    The gold number stands behind `####`, as in GSM8K's files, or is the whole answer, as in verl's.
    """
    return float(_equal(_final_number(text), _gold_number(example.answer)))


def gsm8k_flexible(text: str, example: Example) -> float:
    """1 where the last number of the text equals the gold one, which is found as by `gsm8k_strict`."""
    return float(_equal(_last_number(text), _gold_number(example.answer)))


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
    somewhere in the text, or for trying, is not earned (`data.puzzles.is_right`).

    Args:
      extract: response -> the answer in it.
    """

    def verify(text: str, example: Example) -> float:
        return float(is_right(extract(text), example))

    return verify


VERIFIERS: dict[str, Verifier] = {
    "exact": exact_match,
    "first_line": first_line_match,
    "answer_tag": answer_tag_match,
    "last_number": last_number_match,
    "gsm8k_strict": gsm8k_strict,
    "gsm8k_flexible": gsm8k_flexible,
    "math": math_match,
}
"""Verifiers by name."""


def _last_number(text: str, pattern: re.Pattern[str] = _NUMBER) -> Fraction | None:
    found = pattern.findall(text)
    if not found:
        return None
    sign, digits = found[-1]
    try:
        value = Fraction(digits.replace(",", ""))
    except ValueError:  # more digits than Python reads
        return None
    return -value if sign else value


def _final_number(text: str) -> Fraction | None:
    return _last_number(text, _FINAL)


def _gold_number(answer: str) -> Fraction | None:
    return _last_number(answer, _NUMBER if _NUMBER.fullmatch(answer.strip()) else _FINAL)


def _equal(one: Fraction | None, other: Fraction | None) -> bool:
    return one is not None and one == other


def _as_latex(answer: str) -> str:
    return answer if "$" in answer or "\\boxed" in answer else f"${answer}$"
