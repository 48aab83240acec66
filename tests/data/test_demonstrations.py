"""Demonstrations from files: whoever wrote them down, the policy learns what is the policy's."""

from __future__ import annotations

import json

import pytest

from gpg_jax.data.demonstrations import demonstration_tokens, read_demonstrations, split_turns
from gpg_jax.data.tokenizers import character_tokenizer

TOOLS = ("search", "python")
RESPONSE = (
    "<think>Who?</think><search>Yuri</search>\n<result>\nPage 1: </search> is a tag\n</result>\n"
    "<think>2</think><python>print(2)</python><result>2</result><think>so</think>"
    "<answer> \\boxed{2} </answer>"
)
TURNS = [
    ("policy", "<think>Who?</think><search>Yuri</search>"),
    ("tool", "\n<result>\nPage 1: </search> is a tag\n</result>"),
    ("policy", "\n<think>2</think><python>print(2)</python>"),
    ("tool", "<result>2</result>"),
    ("policy", "<think>so</think><answer> \\boxed{2} </answer>"),
]
ASKED = ({"role": "system", "content": "Use tools."}, {"role": "user", "content": "Who is Yuri?"})


def written(folder, *rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("\n".join(json.dumps(row) for row in rows) if name.endswith("l") else json.dumps(rows))
    return path


def test_a_response_is_taken_apart_behind_calls():
    assert split_turns(RESPONSE, TOOLS) == TURNS
    assert "".join(text for _, text in TURNS) == RESPONSE
    assert split_turns("no call", ()) == [("policy", "no call")]
    with pytest.raises(ValueError, match=r"no <result>…</result> follows the call that </search> ends"):
        split_turns("<search>a</search> and so <result>b</result>", TOOLS)
    with pytest.raises(ValueError, match="stands outside of what answers a call of search"):
        split_turns(RESPONSE, ("search",))  # the policy would learn to write the result of its code itself


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Who is Yuri?", "system": "Use tools.", "response": RESPONSE},
        {"prompt": list(ASKED), "response": RESPONSE},
        {"prompt": list(ASKED), "turns": [list(turn) for turn in TURNS]},
        {"instruction": "Use tools.", "input": "Who is Yuri?", "output": RESPONSE},
        {"instruction": "Who is Yuri?", "input": "", "system": "Use tools.", "output": RESPONSE},
        {
            "system": "Use tools.",
            "conversations": [
                {"from": "human", "value": "Who is Yuri?"},
                {"from": "gpt", "value": RESPONSE},
            ],
        },
        {
            "conversations": [
                {"from": "system", "value": "Use tools."},
                {"from": "human", "value": "Who is Yuri?"},
                *(
                    {"from": "gpt" if who == "policy" else "observation", "value": text}
                    for who, text in TURNS
                ),
            ]
        },
    ],
)
def test_every_layout_says_the_same(row, tmp_path):
    for name in ("rows.jsonl", "rows.json"):
        ((example, turns),) = read_demonstrations(written(tmp_path, row, name=name), TOOLS).rows
        assert (example.prompt, turns) == (ASKED, TURNS)
        assert example.answer == "\\boxed{2}" and example.metadata == {}


def test_a_question_alone_is_a_text_and_other_fields_are_kept(tmp_path):
    rows = [
        {"question": "1+1?", "response": "2", "answer": 2, "source": "mine"},
        {"instruction": "Add.", "input": "1 1", "system": "Be brief.", "output": "<answer>2</answer>"},
        {"conversations": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": " It is 2. "}]},
    ]
    (first, turns), (second, _), (third, _) = read_demonstrations(written(tmp_path, *rows), ()).rows
    assert (first.prompt, first.answer, first.metadata) == ("1+1?", "2", {"source": "mine"})
    assert turns == [("policy", "2")]
    assert [message["content"] for message in second.prompt] == ["Be brief.", "Add.\n1 1"]
    assert second.answer == "2" and (third.prompt, third.answer) == ("1+1?", "It is 2.")


GOOD = {"question": "a", "response": "b"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "a", "response": "<search>b</search>"}, "line 2: no <result>"),
        (
            {"question": "a", "response": "<result>b</result>"},
            "line 2: a <result> or </result> stands outside",
        ),
        (
            {"question": "a", "response": "<search>b</search><result>a </result> in it</result> and so c"},
            "line 2: a <result> or </result> stands outside",
        ),
        (
            {
                "question": "a",
                "turns": [
                    ["policy", "<search>b</search><result>c</result>"],
                    ["tool", "<result>d</result>"],
                    ["policy", "e"],
                ],
            },
            "line 2: turn 1 is a tool's, and turn 0 does not end in a call",
        ),
        (
            {
                "question": "a",
                "turns": [
                    ["policy", "<result>c</result><search>b</search>"],
                    ["tool", "<result>d</result>"],
                    ["policy", "e"],
                ],
            },
            "line 2: a <result> or </result> stands outside",
        ),
        ({"question": "a", "turns": [["tool", "c"], ["policy", "b"]]}, "line 2: turn 0 is the tool's"),
        (
            {
                "question": "a",
                "turns": [["policy", "<search>b</search>"], ["tool", "c"], ["tool", "c"], ["policy", "b"]],
            },
            "line 2: turn 2 is the tool's",
        ),
        (
            {"question": "a", "turns": [["policy", "b"], ["tool", "c"], ["policy", "b"]]},
            "line 2: turn 1 is a tool's",
        ),
        (
            {
                "question": "a",
                "turns": [
                    ["policy", "<search>b</search> hm <search>c</search>"],
                    ["tool", "d"],
                    ["policy", "e"],
                ],
            },
            "line 2: turn 1 is a tool's, and turn 0 does not end in a call, its only one",
        ),
        (
            {
                "question": "a",
                "turns": [["policy", "<search>b</search>"], ["tool", "c"], ["policy", "<search>d</search>"]],
            },
            "line 2: no tool's turn follows the call that </search> ends",
        ),
        (
            {"question": "a", "response": "<search>b</search><result>c</result>"},
            "line 2: the policy says nothing",
        ),
        (
            {"question": "a", "turns": [["policy", "<search>b</search>"], ["tool", "c"]]},
            "line 2: the policy says nothing",
        ),
    ],
)
def test_calls_and_results_that_do_not_alternate(row, message, tmp_path):
    path = written(tmp_path, GOOD, row)
    with pytest.raises(ValueError, match=message):
        read_demonstrations(path, TOOLS)
    found = read_demonstrations(path, TOOLS, drop_unfit=True)
    assert len(found.rows) == 1 and found.left_out == 1
    with pytest.raises(ValueError, match="holds no demonstrations"):
        read_demonstrations(written(tmp_path, row), TOOLS, drop_unfit=True)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "a"},
        {"response": "b"},
        {"question": " ", "response": "b"},
        {"question": "a", "response": 3},
        {"question": "a", "turns": []},
        {"question": "a", "turns": [["user", "b"]]},
        {"question": "a", "turns": ["b"]},
        {"instruction": "a", "input": "b"},
        {"conversations": "a"},
        {"conversations": [{"from": "gpt", "value": "b"}]},
        {"conversations": [{"from": "human", "value": "a"}]},
        {
            "conversations": [
                {"from": "human", "value": "a"},
                {"from": "gpt", "value": "b"},
                {"from": "human", "value": "c"},
            ]
        },
    ],
)  # fmt: skip
def test_rows_that_are_none_are_refused_with_their_line(row, tmp_path):
    path = written(tmp_path, GOOD, GOOD, row)
    with pytest.raises(ValueError, match="line 3 is no demonstration"):
        read_demonstrations(path, TOOLS, drop_unfit=True)


def test_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        read_demonstrations(tmp_path / "rows.jsonl", TOOLS)
    (tmp_path / "rows.csv").write_text("a")
    with pytest.raises(ValueError, match=r"is neither \.jsonl nor \.json"):
        read_demonstrations(tmp_path / "rows.csv", TOOLS)
    (tmp_path / "rows.jsonl").write_text('{"question": "a", "response": "b"}\n{')
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        read_demonstrations(tmp_path / "rows.jsonl", TOOLS)


def test_what_a_tool_said_is_encoded_as_foreign_text():
    tokenizer = character_tokenizer("ab?")
    turns = [("policy", "a"), ("tool", "bé"), ("policy", "b")]
    ids, acted = demonstration_tokens(turns, tokenizer.encode, 1, tokenizer.encode_foreign)
    assert ids == [2, 3, 4, 3, 1] and acted == [True, False, False, True, True]
    with pytest.raises(ValueError, match="which the alphabet"):
        demonstration_tokens([("policy", "é")], tokenizer.encode, 1, tokenizer.encode_foreign)
