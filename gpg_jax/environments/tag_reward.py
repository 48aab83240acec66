"""ARPO's reward for answers in tags: what breaks the format earns −1, right or wrong.

    R = −1   the format is broken
        1    the answer is right
        0    it is not

The first line is that of arXiv 2507.19849, section 3.3, for any tools and without thoughts and boxes, which
`arpo_reward` asks for; the answer must match as a whole. It is read off the parsed trajectory, where a tool's
result can neither break nor forge a format.
"""

from __future__ import annotations

import re

from gpg_jax.data.examples import Example
from gpg_jax.environments.arpo_reward import parts_of
from gpg_jax.environments.trajectory import Part
from gpg_jax.environments.verifiers import answer_tag_match

_TAG = re.compile(r"<(/?)(\w+)>")
_THOUGHT, _ANSWER, _RESULT = "think", "answer", "result"


def tag_reward(response: str, example: Example) -> float:
    """See the module.

    Args:
      response: a `Trajectory`; a plain text is one without tools.
      example: its answer is the gold one.
    """
    return -1.0 if tag_error(parts_of(response)) else answer_tag_match(response, example)


def tag_error(parts: tuple[Part, ...]) -> str:
    """What is wrong with the tags that the policy wrote, "" if nothing.

    Each is closed before another opens; one answer ends the response; each call is answered by its tool; no
    result is the policy's own.
    """
    tags = [(part, match) for part in parts if part.by_policy for match in _TAG.finditer(part.text)]
    if any(match[2] == _RESULT for _, match in tags):
        return "a result is the tool's to write"
    opened, closed = tags[::2], tags[1::2]
    pairs = zip(opened, closed, strict=False)
    if len(tags) % 2 or any(one[1] or not two[1] or one[2] != two[2] for (_, one), (_, two) in pairs):
        return "each tag must be closed before another opens"
    names = [match[2] for _, match in opened]
    if names.count(_ANSWER) != 1 or names[-1] != _ANSWER:
        return "exactly one <answer>…</answer> is needed, behind all else"
    last, end = closed[-1]
    if last is not parts[-1] or last.text[end.end() :].strip():
        return "nothing may stand behind the answer"
    called = sum(name not in (_THOUGHT, _ANSWER) for name in names)
    if called != sum(not part.by_policy for part in parts):
        return "each call must be answered"
    return ""
