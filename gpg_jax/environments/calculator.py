"""A calculator as a tool: arithmetic of bounded size, and nothing else of Python."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from typing import Any

from gpg_jax.environments.tools import Tool

LONGEST = 1000
"""Characters of an expression."""

DIGITS = 15
"""Digits that a number is rounded to, at most."""

LARGEST_BITS = 1024
"""Bits of an integer, or exponent of a float, that a step may come to."""


def _round(value: int | float, digits: int = 0) -> int | float:
    if not isinstance(digits, int) or abs(digits) > DIGITS:
        raise ValueError(f"a number is rounded to at most {DIGITS} digits, got {digits}")
    return round(value, digits)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sqrt": math.sqrt,
    "abs": abs,
    "round": _round,
    "min": min,
    "max": max,
    "floor": math.floor,
}
_NODES = {ast.Constant, ast.BinOp, ast.UnaryOp, ast.Call, ast.Name}
_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


def calculator(name: str = "calculator") -> Tool:
    """A tool that answers an expression, as `3 * (4 + 5)`, with its value.

    Args:
      name: of the tag.
    """
    return Tool(name, calculate)


def calculate(expression: str) -> str:
    """The value of an expression: + − * / // % ** ^ (a power), and `sqrt abs round min max floor`, `pi`, `e`.

    Args:
      expression: one, of at most `LONGEST` characters; thousands may be parted by commas.

    Returns:
      An integer where the value is one, else twelve digits.

    Raises:
      ValueError: no arithmetic, more than one expression, or a step of more than `LARGEST_BITS` bits.
      ArithmeticError: division by zero, a float that overflows.
    """
    from simpleeval import InvalidExpression, SimpleEval

    if len(expression) > LONGEST:
        raise ValueError(f"the expression has {len(expression)} characters; at most {LONGEST} are read")
    operators = {kind: _bounded(step) for kind, step in _OPERATORS.items()} | {ast.Pow: _power}
    functions = {name: _bounded(step) for name, step in _FUNCTIONS.items()}
    names = {"pi": math.pi, "e": math.e}
    evaluator = SimpleEval(operators=operators, functions=functions, names=names)
    evaluator.nodes = {kind: read for kind, read in evaluator.nodes.items() if kind in _NODES}
    try:
        # SimpleEval's own parser reads statements, and leaves out all behind the first.
        parsed = ast.parse(_plain(expression), mode="eval").body
        return _written(_number(evaluator.eval(expression, parsed)))
    except (InvalidExpression, SyntaxError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{expression.strip()!r} is not arithmetic: {error}") from error


def _plain(expression: str) -> str:
    """× ÷ − ^ as Python has them; without functions, also without the commas of thousands."""
    for written, read in {"×": "*", "÷": "/", "−": "-", "·": "*", "^": "**"}.items():
        expression = expression.replace(written, read)
    if re.search(r"[^\W\d]", expression):
        return expression.strip()
    digits = expression.split(",")
    joined = digits[0]
    for part in digits[1:]:
        thousands = (
            joined[-1:].isdigit() and part[:3].isdigit() and len(part[:3]) == 3 and not part[3:4].isdigit()
        )
        joined += part if thousands else "," + part
    return joined.strip()


def _number(value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a number")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"the value is {value}, which is not finite")
    elif value.bit_length() > LARGEST_BITS:
        raise ValueError(
            f"a number of {value.bit_length()} bits is too large; at most {LARGEST_BITS} are kept"
        )
    return value


def _bounded(step: Callable[..., object]) -> Callable[..., int | float]:
    return lambda *values: _number(step(*(_number(value) for value in values)))


def _power(base: object, exponent: object) -> int | float:
    base, exponent = _number(base), _number(exponent)
    if abs(base) > 1 and math.log2(abs(base)) * exponent > LARGEST_BITS:
        raise ValueError(f"{base} to the power of {exponent} is too large")
    result = base**exponent
    if isinstance(result, complex):
        raise ValueError(f"{base} to the power of {exponent} is not real")
    return _number(result)


def _written(value: int | float) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return str(value) if isinstance(value, int) else f"{value:.12g}"
