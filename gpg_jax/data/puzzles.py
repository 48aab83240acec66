"""Tasks of reasoning-gym (Stojanovski et al. 2025, arXiv 2505.24760): examples, and what is right.

Its scorers have traps. A text that contains the answer, or any text at all, may get partial credit; some
scorers raise on junk; some take wrong answers for right, or a text for Python and run it; some tasks come
without an answer. Here an answer is right or wrong, and tasks that cannot be judged are refused.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

from gpg_jax.data.examples import Example

Scorer = Callable[[str, dict[str, Any]], float]
"""An answer and reasoning-gym's entry -> its score."""

PUZZLE_SECONDS = 5
"""Seconds that a scorer may run what an answer says."""

REFUSED: Mapping[str, str] = {
    "boxnet": "has no answers",
    "rush_hour": "has no answers",
    "puzzle24": "takes a solution of one puzzle for every other",
    "list_functions": "gives other puzzles each time",
}
"""Tasks that cannot be trained on, and why not."""

_GOLD_ALONE = frozenset(
    {
        "binary_matrix",  # runs the text as Python
        "coin_flip",  # right so far as the digits go: "0" is 0.3125
        "complex_arithmetic",  # right where the distance is NaN
        "game_of_life_halting",  # any text is true
        "spiral_matrix",  # runs the text as Python
        "string_insertion",  # runs the text as Python
    }
)
"""Tasks with one right answer and a scorer that is not to be asked."""

_POLYNOMIAL = r"(?:[A-Za-z](?!\w)|(?:a?(?:sin|cos|tan)h?|exp|log|sqrt)(?=\()|\d+(?!\w)|[\s+\-*/().])*"
_READABLE: Mapping[str, str] = {
    "countdown": r"(?:\d|[\s+\-/().]|(?<!\*)\*)*",
    "n_queens": r"[Q_\s]*",
    "polynomial_multiplication": _POLYNOMIAL,
    "simple_integration": _POLYNOMIAL,
    "intermediate_integration": _POLYNOMIAL,
}
"""What an answer may consist of where the scorer runs it as Python; an unsolved integral is no answer."""

_ANSWERS = ("example_answer", "example_correct_answer", "possible_answer")
"""Where the metadata of tasks with several right answers have one of them."""


class PuzzleSource(Sequence[Example]):
    """Examples that are generated when they are asked for, the same for the same index."""

    def __init__(self, name: str, dataset: Any, settings: Mapping[str, Any] | None = None):
        self.name, self.dataset, self.settings = name, dataset, dict(settings or {})

    def __len__(self) -> int:
        return len(self.dataset)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        places = range(len(self))[index]
        if isinstance(places, range):
            return [self[place] for place in places]
        entry = self.dataset[places]
        metadata = {"puzzle": self.name, "settings": self.settings, "entry": entry}
        return Example(entry["question"], _gold(entry), metadata)


def puzzles(name: str, *, size: int, seed: int = 0, **settings: Any) -> PuzzleSource:
    """A task of reasoning-gym.

    Args:
      name: such as "chain_sum".
      size: number of examples.
      seed: of the examples.
      **settings: of the task; JSON-able.

    Raises:
      ValueError: an unknown task, one that is refused, or settings that it refuses.
    """
    import reasoning_gym

    if name in REFUSED:
        raise ValueError(f"reasoning-gym's {name!r} {REFUSED[name]}: choose another task")
    if size < 1:
        raise ValueError(f"size is {size}; there must be at least 1 puzzle")
    try:
        json.dumps(settings)
        dataset = reasoning_gym.create_dataset(name, size=size, seed=seed, **settings)
    except (ValueError, AssertionError, TypeError) as error:
        raise ValueError(f"reasoning-gym does not make {name!r} with {settings}: {error}") from error
    return PuzzleSource(name, dataset, settings)


def is_right(answer: str, example: Example) -> bool:
    """Whether an answer solves a puzzle: it is the gold answer, or the task's scorer gives it all.

    A scorer that raises on an answer has refused it. One that runs the answer as Python sees only plain
    expressions and has `PUZZLE_SECONDS`; that limit uses signals, which only the main thread has.

    Args:
      answer: without anything around it.
      example: of a `PuzzleSource`.

    Raises:
      ValueError: another example.
      RuntimeError: an answer that is run, outside the main thread.
    """
    if not {"puzzle", "settings", "entry"} <= set(example.metadata):
        raise ValueError(f"this is no puzzle of gpg_jax.data.puzzles: {example}")
    name, entry = example.metadata["puzzle"], example.metadata["entry"]
    if answer == example.answer:
        return True
    if name in _GOLD_ALONE or not re.fullmatch(_READABLE.get(name, r"(?s:.*)"), answer):
        return False
    if name in _READABLE and threading.current_thread() is not threading.main_thread():
        raise RuntimeError(f"the time limit of {name!r} is kept by signals: judge it in the main thread")
    score = _scorer(name, json.dumps(example.metadata["settings"], sort_keys=True))
    return _takes(_timed(score) if name in _READABLE else score, answer, entry)


@functools.lru_cache(maxsize=64)
def _scorer(name: str, settings: str) -> Scorer:
    import reasoning_gym

    return reasoning_gym.create_dataset(name, seed=0, **json.loads(settings)).score_answer


def _timed(score: Scorer) -> Scorer:
    from math_verify.errors import TimeoutException
    from math_verify.utils import timeout

    def scored(answer: str, entry: dict[str, Any]) -> float:
        try:
            return timeout(PUZZLE_SECONDS)(score)(answer, entry)
        except TimeoutException:
            return 0.0

    return scored


def _takes(score: Scorer, answer: str, entry: dict[str, Any]) -> bool:
    try:
        return bool(score(answer, entry) >= 1.0)
    except Exception:  # whatever a scorer raises, it does not take the answer
        return False


def _gold(entry: dict[str, Any]) -> str:
    known = [entry["answer"], *(entry["metadata"].get(field) for field in _ANSWERS)]
    answer = next((answer for answer in known if answer is not None), None)
    if answer is None:
        raise ValueError(f"reasoning-gym gives no answer to {entry['question']!r}")
    return json.dumps(answer) if isinstance(answer, dict) else str(answer)
