"""A task in which a tool matters: arithmetic beyond a small model, and within a calculator."""

from __future__ import annotations

import random
from collections.abc import Sequence

from gpg_jax.data.examples import Example

DIGITS = 2


def calculations(size: int, seed: int = 0, digits: int = DIGITS) -> list[Example]:
    """Different expressions `a*b+c` of numbers with so many digits, in an order drawn from the seed.

    Args:
      size: how many.
      seed: of the draw.
      digits: of every number, at least 1.

    Raises:
      ValueError: more than there are, or none.
    """
    low, high = 10 ** (digits - 1), 10**digits
    if digits < 1 or not 1 <= size <= (high - low) ** 3:
        raise ValueError(
            f"there are {(high - low) ** 3} expressions of {digits} digits, and {size} are wanted"
        )
    picked = random.Random(seed).sample(range((high - low) ** 3), size)
    examples = []
    for number in picked:
        rest, c = divmod(number, high - low)
        a, b = (low + part for part in divmod(rest, high - low))
        c += low
        examples.append(Example(f"{a}*{b}+{c}=", str(a * b + c), {"call": f"{a}*{b}+{c}"}))
    return examples


def demonstration(example: Example, tool: str = "calculator") -> Sequence[tuple[str, str]]:
    """What a skilled policy writes, and what it is answered: (author, text), by "policy" or "tool"."""
    return (
        ("policy", f"<{tool}>{example.metadata['call']}</{tool}>"),
        ("tool", f" <result>\n{example.answer}\n</result>"),
        ("policy", f"<answer>{example.answer}</answer>"),
    )
