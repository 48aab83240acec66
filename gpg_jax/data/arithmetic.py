"""One-digit products by few-shot prompting, some *unordered* pairs held out.

2·7 and 7·2 are one fact: both are trained on or neither. The factors are 2 to 9: products with 0 and 1
are rules, not facts, and with 0 a constant answer would be right a fifth of the time.
"""

from __future__ import annotations

import itertools
import random

from gpg_jax.data.examples import Example

FACTORS = range(2, 10)
SHOTS = ((3, 4), (8, 2), (9, 9))
"""The pairs shown in every prompt; they are neither trained on nor held out."""


def prompt(left: int, right: int) -> str:
    """Three shots and the question: `Q: 3*4\\nA: 12\\n … Q: a*b\\nA:`."""
    shots = "".join(f"Q: {a}*{b}\nA: {a * b}\n" for a, b in SHOTS)
    return f"{shots}Q: {left}*{right}\nA:"


def split_pairs(seed: int = 0, fraction: float = 0.25) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Unordered pairs for training and held out; the shots are in neither.

    Args:
      seed: of the draw.
      fraction: of all 36 pairs that is held out, rounded.

    Raises:
      ValueError: a fraction that leaves one side empty.
    """
    shown = {tuple(sorted(pair)) for pair in SHOTS}
    table = list(itertools.combinations_with_replacement(FACTORS, 2))
    pairs = [pair for pair in table if pair not in shown]
    random.Random(seed).shuffle(pairs)
    count = round(fraction * len(table))
    if not 0 < count < len(pairs):
        raise ValueError(
            f"a fraction of {fraction} holds out {count} of {len(pairs)} pairs; choose 0.25, say"
        )
    return sorted(pairs[count:]), sorted(pairs[:count])


def multiplication(split: str, seed: int = 0) -> list[Example]:
    """Every ordered product of a split.

    Args:
      split: "train" or "held_out".
      seed: of the split.

    Raises:
      ValueError: another split.
    """
    if split not in ("train", "held_out"):
        raise ValueError(f'split must be "train" or "held_out", got {split!r}')
    pairs = split_pairs(seed)[split == "held_out"]
    ordered = sorted({(a, b) for pair in pairs for a, b in (pair, pair[::-1])})
    return [Example(prompt(a, b), str(a * b), {"left": a, "right": b}) for a, b in ordered]
