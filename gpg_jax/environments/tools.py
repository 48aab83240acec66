"""Tools: what a policy may call in the middle of its response, and how a call is made.

A tool is a name and a function from text to text. The policy calls it by writing `<name>text</name>`; what
the function returns is appended as `<result>…</result>`. A function that raises has its message appended:
the policy sees what went wrong, and the failure is counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Tool(NamedTuple):
    """A tool.

    Attributes:
      name: of its tag.
      call: what stands inside the tag -> result; called in threads, several at once.
      retries: further attempts after an exception.
      pause: seconds before an attempt, doubled each time.
    """

    name: str
    call: Callable[[str], str]
    retries: int = 0
    pause: float = 0.5


class Answer(NamedTuple):
    """What came of a call.

    Attributes:
      text: result, or what went wrong.
      seconds: that it took.
      failure: "raised" on every attempt, "malformed" or "timed_out"; "" for a result.
    """

    text: str
    seconds: float
    failure: str = ""


def find(tools: Sequence[Tool], name: str) -> Tool:
    """The tool of a name.

    Raises:
      ValueError: there is none.
    """
    for tool in tools:
        if tool.name == name:
            return tool
    raise ValueError(f"no tool {name!r}; there are {', '.join(tool.name for tool in tools)}")


def call(tool: Tool, query: str, sleep: Callable[[float], None] = time.sleep) -> Answer:
    """Calls a tool; whatever it does, there is an answer.

    Args:
      tool: what to call.
      query: its text.
      sleep: waits so many seconds between attempts.
    """
    start = time.monotonic()
    for attempt in range(tool.retries + 1):
        if attempt:
            sleep(tool.pause * 2 ** (attempt - 1))
        try:
            return Answer(_text(tool, tool.call(query)), time.monotonic() - start)
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
    return Answer(f"Error: {message}", time.monotonic() - start, "raised")


def query_of(tool: str, response: str) -> str:
    """What stands inside the last `<tool>…</tool>` of a response, which ends with the closing tag.

    Raises:
      ValueError: the tag was never opened, or nothing stands in it.
    """
    opening = f"<{tool}>"
    before, found, inside = response.rpartition(opening)
    del before
    if not found:
        raise ValueError(f"</{tool}> closes nothing; write {opening} before it")
    query = inside.partition(f"</{tool}>")[0].strip()
    if not query:
        raise ValueError(f"{opening} is empty; write the query inside it")
    return query


def _text(tool: Tool, result: object) -> str:
    if not isinstance(result, str):
        raise TypeError(f"the tool {tool.name!r} returned {type(result).__name__}; a result is text")
    return result
