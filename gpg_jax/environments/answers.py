"""Answers in words: what is gold, and how far two answers agree."""

from __future__ import annotations

import collections
import json
import re
import string

from gpg_jax.data.examples import Example

_WHOLE = {"yes", "no", "noanswer"}
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def gold_answers(example: Example) -> list[str]:
    """The gold answers: those in the metadata, as `data.files` leaves them, of a JSON list, or the one."""
    if several := example.metadata.get("answers"):
        return list(several)
    if example.answer.lstrip().startswith("["):
        try:
            several = json.loads(example.answer)
        except ValueError:
            several = None
        if isinstance(several, list) and several and all(isinstance(item, str) for item in several):
            return several
    return [example.answer]


def best_f1(answer: str, golds: list[str]) -> float:
    """The best `f1` over the gold answers."""
    return max(f1(answer, gold) for gold in golds)


def f1(answer: str, gold: str) -> float:
    """F1 of the words, as SQuAD counts them (arXiv 1606.05250, section 6.1); yes and no must match whole.

    2PR/(P + R), with P and R the shares of the answer's and of the gold's words that both have, each as often
    as in both; lower case, without punctuation and articles.
    """
    mine, theirs = normalise(answer), normalise(gold)
    if mine != theirs and (mine in _WHOLE or theirs in _WHOLE):
        return 0.0
    common = collections.Counter(mine.split()) & collections.Counter(theirs.split())
    shared = sum(common.values())
    if not shared:
        return 0.0
    precision, recall = shared / len(mine.split()), shared / len(theirs.split())
    return 2 * precision * recall / (precision + recall)


def exact(answer: str, gold: str) -> float:
    """1 where the normalised texts are equal."""
    return float(normalise(answer) == normalise(gold))


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles and further white space (SQuAD's evaluation script)."""
    plain = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", plain).split())
