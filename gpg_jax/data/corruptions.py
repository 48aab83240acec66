"""Preferences that are made: right answers with mistakes in them, and nonsense, compared by a verifier."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from gpg_jax.data.examples import Example
from gpg_jax.data.preference_pairs import Preference

MISTAKES = 3
"""In an answer at most."""
NONSENSE = 0.5
"""Share of the responses that have nothing to do with the answer."""
ATTEMPTS = 1000
"""Pairs of responses that are tried for one of unequal worth."""


def draw_preferences(
    examples: Sequence[Example],
    judge: Callable[[str, Example], float],
    symbols: Sequence[str],
    *,
    pairs: int,
    longest: int,
    seed: int,
) -> list[Preference]:
    """Pairs of responses to the same prompt; the one that is worth more is the chosen one.

    Each response is, by equal chances, the answer with up to `MISTAKES` mistakes, or nonsense of 0 to
    `longest` symbols: a policy that begins from nothing writes nonsense, and finds whatever its scorer has
    never seen.

    Args:
      examples: prompts and their answers.
      judge: response, example -> what it is worth.
      symbols: what mistakes and nonsense are made of.
      pairs: how many.
      longest: symbols of a response at most, those of an answer being its characters.
      seed: of the draw.

    Raises:
      ValueError: nothing to draw from, or a judge to whom all responses are worth the same.
    """
    if not examples or not symbols or pairs < 1 or longest < 1:
        raise ValueError(
            f"{pairs} pairs of up to {longest} of the symbols {symbols!r} cannot be drawn for "
            f"{len(examples)} examples; there must be one of each at least"
        )
    if (most := max(len(example.answer) for example in examples)) > longest:
        raise ValueError(
            f"an answer has {most} characters, and a response at most {longest}, its end aside: none would "
            "be right; allow longer responses"
        )
    draw = random.Random(seed)
    return [_pair(draw, examples, judge, symbols, longest) for _ in range(pairs)]


def _pair(
    draw: random.Random,
    examples: Sequence[Example],
    judge: Callable[[str, Example], float],
    symbols: Sequence[str],
    longest: int,
) -> Preference:
    for _ in range(ATTEMPTS):
        example = draw.choice(examples)
        one, other = ("".join(_response(draw, example.answer, symbols, longest)) for _ in range(2))
        worth, less = judge(one, example), judge(other, example)
        if worth != less:
            chosen, rejected = (one, other) if worth > less else (other, one)
            return Preference(example.prompt, chosen, rejected)
    raise ValueError(
        f"of {ATTEMPTS} pairs of responses, none had one that is worth more than the other: give a verifier "
        "that tells right answers from wrong ones"
    )


def _response(draw: random.Random, answer: str, symbols: Sequence[str], longest: int) -> list[str]:
    if draw.random() < NONSENSE:
        return draw.choices(symbols, k=draw.randint(0, longest))
    said = list(answer)
    for _ in range(draw.randint(0, MISTAKES)):
        _mistake(draw, said, symbols)
    return said[:longest]


def _mistake(draw: random.Random, said: list[str], symbols: Sequence[str]) -> None:
    """Replaces a symbol, or, as often together, leaves one out or puts one in."""
    place = draw.randrange(len(said) + 1)
    kind = draw.choice(("replaced", "replaced", "left out", "put in"))
    put = [] if kind == "left out" else [draw.choice(symbols)]
    said[place : place + (kind != "put in")] = put
