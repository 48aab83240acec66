"""A task for models from scratch: write the prompt's symbols backwards.

The outcome of a response is the fraction of places that are right, so that a first success is easy to
come by; a policy that does not read the prompt gets 1/len(SYMBOLS) of them right, whatever it does.
"""

from __future__ import annotations

import itertools

from gpg_jax.data.examples import Example

SYMBOLS = "abcde"
LENGTH = 2
END = ">"
"""Closes the prompt."""
ALPHABET = SYMBOLS + END


def reversal(length: int = LENGTH, symbols: str = SYMBOLS) -> list[Example]:
    """Every prompt of `length` symbols with its answer.

    Args:
      length: symbols of a prompt, at least 1.
      symbols: what they are drawn from, each once and none of them `END`.

    Raises:
      ValueError: no symbols to write, or symbols that cannot be told apart.
    """
    if length < 1 or not symbols:
        raise ValueError(f"a prompt of {length} of the symbols {symbols!r} is empty; give at least one")
    if len(set(symbols + END)) < len(symbols) + 1:
        raise ValueError(f"the symbols {symbols!r} must all differ, also from {END!r}, which ends a prompt")
    words = ("".join(letters) for letters in itertools.product(symbols, repeat=length))
    return [Example(word + END, word[::-1]) for word in words]


def places_right(text: str, example: Example) -> float:
    """The fraction of the answer's places that a response has right; further symbols are not read."""
    right = sum(mine == gold for mine, gold in zip(text, example.answer, strict=False))
    return right / len(example.answer)


def blind_ceiling(examples: list[Example]) -> float:
    """What the best policy that does not read the prompt earns: in every place the commonest symbol."""
    places = zip(*(example.answer for example in examples), strict=True)
    counts = [max(place.count(symbol) for symbol in set(place)) for place in places]
    return sum(counts) / (len(counts) * len(examples))
