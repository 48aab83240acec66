"""An answer between tags, for which a broken format costs more than a wrong answer.

    R = −1   the format is broken
        1    the answer is the gold one, white space at both ends aside
        0    it is not

That a broken format earns −1, right or wrong, is ARPO's (arXiv 2507.19849, "hierarchical reward design"); its
own format, F1 and bonus are `arpo_reward`'s. What breaks the format is stricter here: see `tag_error`. It is
read off the parsed trajectory, where a tool's result can neither break nor forge a format; the prompt is not
read, so that a tag which a chat template opened counts as never opened.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from gpg_jax.data.examples import Example
from gpg_jax.environments.arpo_reward import parts_of
from gpg_jax.environments.rewards import RewardFunction
from gpg_jax.environments.trajectory import Part

THINK, ANSWER, RESULT = "think", "answer", "result"


def formatted_answer(tools: Sequence[str]) -> RewardFunction:
    """A reward for answers between tags; see the module.

    Args:
      tools: names of the tags that call one. These, `think`, `answer` and `result` are tags; `<b>` is text.

    Returns:
      Response (a `Trajectory`; a plain text is one without tools) and example -> −1, 0 or 1.

    Raises:
      ValueError: a tool that is named like one of the other tags.
    """
    if taken := {THINK, ANSWER, RESULT} & set(tools):
        raise ValueError(
            f"a tool cannot be named {', '.join(sorted(taken))}: that tag has a meaning of its own"
        )

    def reward(response: str, example: Example) -> float:
        parts = parts_of(response)
        if tag_error(parts, tools):
            return -1.0
        *_, opened, closed = _tag(tuple(tools)).finditer(parts[-1].text)
        return float(parts[-1].text[opened.end() : closed.start()].strip() == example.answer.strip())

    return reward


def tag_error(parts: Sequence[Part], tools: Sequence[str]) -> str:
    """What is wrong with the tags that the policy wrote, "" if nothing.

    Each is closed before another opens; a tool answers each call, right behind it; one answer ends the
    response, with nothing behind it; no result is the policy's own.

    Args:
      parts: of the response.
      tools: see `formatted_answer`.
    """
    answers = 0
    for number, part in enumerate(parts):
        if not part.by_policy:
            continue
        tags = [(match[1], match[2]) for match in _tag(tuple(tools)).finditer(part.text)]
        if any(name == RESULT for _, name in tags):
            return "a result is the tool's to write"
        names = [name for _, name in tags[::2]]
        if tags != [tag for name in names for tag in (("", name), ("/", name))]:
            return "each tag must be closed before another opens"
        called = [name not in (THINK, ANSWER) for name in names]
        answered = number + 1 < len(parts)  # authors take turns
        if called.count(True) != answered or (answered and not called[-1]):
            return "a tool must answer each call, right behind it"
        answers += names.count(ANSWER)
    last = parts[-1] if parts else Part("", by_policy=True)
    if answers != 1 or not last.by_policy or not last.text.rstrip().endswith(f"</{ANSWER}>"):
        return "exactly one <answer>…</answer> is needed, with nothing behind it"
    return ""


@functools.cache
def _tag(tools: tuple[str, ...]) -> re.Pattern[str]:
    names = "|".join(map(re.escape, (THINK, ANSWER, RESULT, *tools)))
    return re.compile(f"<(/?)({names})>")
