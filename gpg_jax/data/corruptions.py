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
"""Pairs of responses in a row that may be worth the same."""


def draw_preferences(
    examples: Sequence[Example],
    judge: Callable[[str, Example], float],
    symbols: str,
    *,
    pairs: int,
    longest: int,
    seed: int,
) -> list[Preference]:
    """Pairs of responses to the same prompt; the one that is worth more is the chosen one.

    Each response is, by equal chances, the answer with 0 to 3 mistakes (a symbol replaced, left out or put
    in), or nonsense of 0 to `longest` symbols: a policy that begins from nothing writes nonsense at first,
    and what scores it must have seen some.

    Args:
      examples: prompts and their answers.
      judge: response, example -> what it is worth.
      symbols: what mistakes and nonsense are made of.
      pairs: how many.
      longest: characters of a response at most.
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
    found: list[Preference] = []
    since = 0
    while len(found) < pairs:
        example = draw.choice(examples)
        one, other = (_response(draw, example.answer, symbols, longest) for _ in range(2))
        worth, less = judge(one, example), judge(other, example)
        if worth != less:
            chosen, rejected = (one, other) if worth > less else (other, one)
            found.append(Preference(example.prompt, chosen, rejected))
        since = 0 if worth != less else since + 1
        if since == ATTEMPTS:
            raise ValueError(
                f"of {ATTEMPTS} pairs of responses, none had one that is worth more than the other: give a "
                "verifier that tells right answers from wrong ones, and longer responses"
            )
    return found


def _response(draw: random.Random, answer: str, symbols: str, longest: int) -> str:
    if draw.random() < NONSENSE:
        return "".join(draw.choices(symbols, k=draw.randint(0, longest)))
    text = answer
    for _ in range(draw.randint(0, MISTAKES)):
        text = _mistaken(draw, text, symbols)
    return text[:longest]


def _mistaken(draw: random.Random, text: str, symbols: str) -> str:
    """The text with a symbol replaced, or as often with one left out or put in."""
    place = draw.randrange(len(text) + 1)
    kind = draw.choice(("replaced", "replaced", "left out", "put in"))
    put = "" if kind == "left out" else draw.choice(symbols)
    return text[:place] + put + text[place + (kind != "put in") :]
