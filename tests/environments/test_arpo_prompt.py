"""ARPO's system prompt: that of its data, and what it says of fewer tools."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from gpg_jax.environments.arpo_prompt import SYSTEM_PROMPT, asked, system_prompt


@pytest.mark.skipif("GPG_JAX_DATA" not in os.environ, reason="reads real data")
@pytest.mark.parametrize("name", ["train_10k", "valid"])
def test_it_is_the_one_of_every_row_of_the_paper(name):
    from pyarrow import parquet

    path = Path(os.environ["GPG_JAX_DATA"]) / "arpo" / f"{name}.parquet"
    rows = parquet.read_table(path, columns=["prompt"]).column("prompt").to_pylist()
    assert {row[0]["role"] for row in rows} == {"system"}
    damaged = SYSTEM_PROMPT.replace("\\boxed", "\boxed")  # "\\b" became a backspace
    assert {row[0]["content"] for row in rows} == {damaged}


@pytest.mark.parametrize("tools", [(), ("search",), ("python",), ("search", "python"), ("calculator",)])
def test_it_tells_of_the_tools_that_there_are(tools):
    prompt = system_prompt(tools)
    for tool in ("search", "python"):
        assert (f"<{tool}>" in prompt) == (f"</{tool}>" in prompt) == (tool in tools)
        assert (f"{tool} " in prompt.partition("Given")[0]) == (tool in tools)
    assert ("<result>" in prompt) == ("invoke" in prompt) == bool({"search", "python"} & set(tools))
    assert "\\boxed{answer here} \\] </answer>." in prompt and "  " not in prompt
    opened, closed = re.findall(r"<(\w+)>", prompt), re.findall(r"</(\w+)>", prompt)
    assert sorted(opened) == sorted(closed)


def test_a_question_is_the_users():
    system, user = asked("1 + 1?", ())
    assert system == {"role": "system", "content": system_prompt(())}
    assert user == {"role": "user", "content": "1 + 1?"}
