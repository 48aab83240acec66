"""ARPO's system prompt (arXiv 2507.19849), as its released evaluation writes it.

It tells of the tools that there are; with one or none, it is what the paper's baselines are asked with. The
training data have the same text for both tools, but for a backspace in the place of the `\\b` of `\\boxed`.
"""

from __future__ import annotations

from collections.abc import Collection

from gpg_jax.data.examples import Message

_NAMES = {"search": "wikipedia search tool", "python": "python interpreter tool"}
_USES = {"search": "to search", "python": "to calculate the math problem"}
_CALLS = {
    "search": "<search> search query here </search> <result> search result here </result>",
    "python": "<python> python code here </python> <result> python interpreter result here </result>",
}
_THINK = "<think> This is the reasoning process. </think>"
_ANSWER = "<answer> The final answer is \\[ \\boxed{answer here} \\] </answer>"
_TEXT = (
    "You are a helpful assistant that can solve the given question step by step{helped}. Given a question, "
    "you need to first think about the reasoning process in the mind and then provide the answer. {invoked}"
    "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags "
    "respectively{queries}. For example, {example}. In the last part of the answer, the final exact answer "
    "is enclosed within \\boxed{{}} with latex format."
)
_INVOKED = "During thinking, you can invoke the {uses} for fact information about specific topics if needed. "
_QUERIES = (
    ", and the search query and result are enclosed within <search> </search> and <result> </result> tags "
    "respectively"
)


def system_prompt(tools: Collection[str]) -> str:
    """The system prompt for a policy with some tools, of which "search" and "python" are told of."""
    there = [tool for tool in _NAMES if tool in tools]
    uses = " and ".join(f"{_NAMES[tool]} {_USES[tool]}" for tool in there)
    return _TEXT.format(
        helped=" with the help of the " + " and ".join(_NAMES[tool] for tool in there) if there else "",
        invoked=_INVOKED.format(uses=uses) if there else "",
        queries=_QUERIES if "search" in there else "",
        example=" ".join([*(f"{_THINK} {_CALLS[tool]}" for tool in there), f"{_THINK} {_ANSWER}"]),
    )


SYSTEM_PROMPT = system_prompt(("search", "python"))
"""The system prompt for both tools."""


def asked(question: str, tools: Collection[str] = ("search", "python")) -> tuple[Message, ...]:
    """A question as ARPO asks it, in chat messages."""
    return (
        {"role": "system", "content": system_prompt(tools)},
        {"role": "user", "content": question},
    )
