"""The reward of ARPO (arXiv 2507.19849, section 3.3; `deep_research.py` of its code).

    R = −1              the format is broken
        0               the answer shares no word with any gold answer
        F1              else, the best over the gold answers
        F1 + 0.1        … and both tools were called

It is read off the parsed trajectory, where a tool's result can forge nothing: the released code searches the
whole text, in which a page that says `</python>` earns the bonus.
"""

from __future__ import annotations

import collections
import itertools
import json
import re
import string

from gpg_jax.data.examples import Example
from gpg_jax.environments.trajectory import Part, Trajectory

TOOLS = ("search", "python")
BONUS = 0.1
_WHOLE = {"yes", "no", "noanswer"}
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def arpo_reward(response: str, example: Example) -> float:
    """See the module.

    Args:
      response: a `Trajectory`; a plain text is one without tools.
      example: its answer is the gold one, or a JSON list of several.
    """
    parts = parts_of(response)
    if format_error(parts):
        return -1.0
    score = best_f1(boxed_answer(parts) or "", gold_answers(example))
    both = all(called(parts, tool) for tool in TOOLS)
    return score + BONUS if score > 0 and both else score


def arpo_f1(response: str, example: Example) -> float:
    """F1 of the boxed answer alone, 0 without one; whatever the format. See `arpo_reward`."""
    return best_f1(boxed_answer(parts_of(response)) or "", gold_answers(example))


def format_error(parts: tuple[Part, ...]) -> str:
    """What is wrong with the format, "" if nothing.

    As many `<think>` as `</think>` and at least one; exactly one answer, with a `\\boxed{…}` in it; each call
    closed and answered by its tool; no result that the policy wrote itself.
    """
    own = "".join(part.text for part in parts if part.by_policy)
    if own.count("<think>") != own.count("</think>") or not own.count("<think>"):
        return "as many <think> as </think> are needed, at least one"
    if own.count("<answer>") != 1 or own.count("</answer>") != 1:
        return "exactly one <answer>…</answer> is needed"
    if "<result>" in own or "</result>" in own:
        return "a result is the tool's to write"
    for tool in TOOLS:
        answered = sum(
            part.by_policy and part.text.rstrip().endswith(f"</{tool}>") and not after.by_policy
            for part, after in itertools.pairwise(parts)
        )
        if not own.count(f"<{tool}>") == own.count(f"</{tool}>") == answered:
            return f"each <{tool}> must be closed and answered"
    if boxed_answer(parts) is None:
        return "the answer needs a \\boxed{…}"
    return ""


def parts_of(response: str) -> tuple[Part, ...]:
    """The parts of a trajectory; a plain text is all the policy's."""
    return response.parts if isinstance(response, Trajectory) else (Part(response, True),)


def called(parts: tuple[Part, ...], tool: str) -> bool:
    """Whether a tool was called and answered."""
    return any(
        part.by_policy and part.text.rstrip().endswith(f"</{tool}>") and not after.by_policy
        for part, after in itertools.pairwise(parts)
    )


def boxed_answer(parts: tuple[Part, ...]) -> str | None:
    """What stands in the last `\\boxed{…}` of the policy's own `<answer>`, None without one."""
    own = "".join(part.text for part in parts if part.by_policy)
    found = _ANSWER.search(own)
    start = found.group(1).rfind("\\boxed{") if found else -1
    if found is None or start < 0:
        return None
    inside, depth = found.group(1)[start + len("\\boxed{") :], 1
    for index, character in enumerate(inside):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return inside[:index]
    return None


def gold_answers(example: Example) -> list[str]:
    """The gold answers: those of a JSON list, or the answer itself."""
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
