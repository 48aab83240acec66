"""Answers in a `\\boxed{…}` against one or several gold answers: how ARPO's benchmarks are judged.

The answer is what stands in the last `\\boxed{…}` that the policy wrote itself, inside `<answer>` or not
(ARPO, arXiv 2507.19849, section 4.4); a broken format is counted apart.
"""

from __future__ import annotations

import re

from gpg_jax.data.boxes import last_boxed
from gpg_jax.data.examples import Example
from gpg_jax.environments.answers import best_f1, exact, gold_answers, normalise
from gpg_jax.environments.arpo_reward import format_error, parts_of
from gpg_jax.environments.verifiers import math_match

_COMMANDS = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf)\s*(?=\{)")


def boxed_f1(response: str, example: Example) -> float:
    """F1 of the words of the answer, the best over the gold answers; see `answers.f1`.

    Answers that normalise to no words at all agree, as in SQuAD's evaluation.
    """
    words = best_f1(_words(response), [_plain(gold) for gold in golds(example)])
    return max(words, boxed_exact(response, example))


def answer_f1(response: str, example: Example) -> float:
    """`boxed_f1`, of the whole text where there is no box; ARPO's evaluation reads its last lines there.

    It is for training data in which some gold answers are cut LaTeX, which no box can hold.
    """
    if last_boxed(response) is not None:
        return boxed_f1(response, example)
    return best_f1(response, golds(example))


def boxed_exact(response: str, example: Example) -> float:
    """1 where there is an answer and it is a gold one, both normalised as in SQuAD's evaluation."""
    same = max(exact(_words(response), _plain(gold)) for gold in golds(example))
    return same * answered(response, example)


def boxed_cover(response: str, example: Example) -> float:
    """1 where the words of a gold answer stand in the answer, in a row and in order, both normalised."""
    words = f" {normalise(_words(response))} "
    wanted = [normalise(_plain(gold)) for gold in golds(example)]
    return float(any(f" {gold} " in words for gold in wanted if gold))


def boxed_math(response: str, example: Example) -> float:
    """1 where math-verify finds the answer equivalent to a gold one; see `verifiers.math_match`."""
    answer = last_boxed(response)
    if answer is None:
        return 0.0
    text = f"\\boxed{{{answer}}}"
    return max(math_match(text, Example(example.prompt, gold)) for gold in golds(example))


def answered(response: str, example: Example) -> float:
    """1 where there is an answer at all."""
    del example
    return float(last_boxed(response) is not None)


def broken_format(response: str, example: Example) -> float:
    """1 where the format that ARPO asks for is broken; see `arpo_reward.format_error`."""
    del example
    return float(bool(format_error(parts_of(response))))


def golds(example: Example) -> list[str]:
    """The gold answers; of one that has a box, as a worked solution has, what stands in it."""
    return [gold if (inside := last_boxed(gold)) is None else inside for gold in gold_answers(example)]


def _words(response: str) -> str:
    return _plain(last_boxed(response) or "")


def _plain(answer: str) -> str:
    """Words without LaTeX's commands: `\\text{Paris}` is Paris, as to Search-o1 (arXiv 2501.05366)."""
    return _COMMANDS.sub("", answer)
