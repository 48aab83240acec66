"""Preferences that are made: answers with mistakes in them, and nonsense, compared by a verifier."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from gpg_jax.data.examples import Example
from gpg_jax.data.preference_pairs import Preference

MISTAKES = 2
"""In an answer at most."""
NONSENSE = 0.25
"""Share of the responses that have nothing to do with the answer."""
ALIKE = 0.8
"""Share of the pairs whose second response is the first with a mistake more."""
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

    A response is the answer with some mistakes, or nonsense of 0 to `longest` symbols: a policy that begins
    from nothing writes nonsense, and finds what its scorer has never seen. The other one is most often the
    same with a mistake more, so that a pair tells what the mistake was.

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
        one = _response(draw, example.answer, symbols, longest)
        if draw.random() < ALIKE:
            other = _mistaken(draw, one, symbols)[:longest]
        else:
            other = _response(draw, example.answer, symbols, longest)
        texts = "".join(one), "".join(other)
        worth, less = (judge(text, example) for text in texts)
        if worth != less:
            chosen, rejected = texts if worth > less else texts[::-1]
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
        said = _mistaken(draw, said, symbols)
    return said[:longest]


def _mistaken(draw: random.Random, said: Sequence[str], symbols: Sequence[str]) -> list[str]:
    """The symbols with one replaced, or, as often together, with one left out or put in."""
    place = draw.randrange(len(said) + 1)
    kind = draw.choice(("replaced", "replaced", "left out", "put in"))
    put = [] if kind == "left out" else [draw.choice(symbols)]
    return [*said[:place], *put, *said[place + (kind != "put in") :]]
