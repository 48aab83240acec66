"""What stands in a `\\boxed{…}`: of a response, and of a worked solution."""

from __future__ import annotations

_OPENING = "\\boxed{"
_COMMANDS = ("\\boxed", "\\fbox")


def last_boxed(text: str) -> str | None:
    """What stands in the last `\\boxed{…}`, braces balanced; None without one, or where it is not closed."""
    start = text.rfind(_OPENING)
    return None if start < 0 else _braced(text[start + len(_OPENING) :])


def solution_answer(solution: str) -> str | None:
    """The answer of a solution as MATH writes them (Hendrycks et al. 2021, arXiv 2103.03874).

    It is what the last `\\boxed{…}` holds, or the last `\\fbox{…}` where nothing is `\\boxed`. Some of its
    boxes have no braces, `$\\boxed 2$`: those hold what stands before the `$`.

    Returns:
      The answer; None without a box, or where the last is empty or not closed.
    """
    command = next((one for one in _COMMANDS if one in solution), None)
    if command is None:
        return None
    inside = solution.rpartition(command)[2].lstrip()
    if inside.startswith("{"):
        answer = _braced(inside[1:]) or ""
    else:
        before, end, _ = inside.partition("$")
        answer = before if end else ""
    return answer.strip() or None


def _braced(text: str) -> str | None:
    """What stands before the brace that closes one opened before the text."""
    depth = 1
    for index, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[:index]
    return None
