"""Examples from JSON lines and from parquet in verl's layout; what is wrong is named with its place."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpg_jax.data.boxes import solution_answer
from gpg_jax.data.files import read_jsonl, read_parquet, read_questions

DATA = os.environ.get("GPG_JAX_DATA")
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}]
ARPO = {"train_10k": (10_000, 1), "valid": (180, 0)}
"""Rows of ARPO's files, and how many of them have no answer."""


def write(folder, text, name="rows.jsonl"):
    path = folder / name
    path.write_bytes(text.encode())
    return path


def write_parquet(folder, rows):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = folder / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def verl_row(truth="2", prompt=MESSAGES, **fields):
    rule = {"ground_truth": truth, "style": "rule"}
    return {"data_source": "tiny", "prompt": prompt, "ability": "math", "reward_model": rule} | fields


def test_lines_become_examples(tmp_path):
    path = write(
        tmp_path,
        '{"question": "1+1", "answer": "2"}\n\n  \t\r\n'
        '{"question": "4/8", "answer": 0.5, "level": {"n": [1, null]}}\r\n'
        '{"answer": 0, "question": [{"role": "user", "content": "1-1"}]}',
    )
    first, second, third = read_jsonl(path)
    assert (first.prompt, first.answer, first.metadata) == ("1+1", "2", {})
    assert (second.prompt, second.answer, second.metadata) == ("4/8", "0.5", {"level": {"n": [1, None]}})
    assert (third.prompt, third.answer) == (({"role": "user", "content": "1-1"},), "0")
    assert read_jsonl(str(path)) == [first, second, third]


def test_fields_may_have_other_names(tmp_path):
    path = write(tmp_path, '{"problem": "1+1", "gold": 2, "answer": "unused"}')
    (example,) = read_jsonl(path, question="problem", answer="gold")
    assert (example.prompt, example.answer, example.metadata) == ("1+1", "2", {"answer": "unused"})


@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_survives(tmp_path, pairs, ascii_only):
    # also line separators inside a text, which are no ends of a line of JSON: U+2028, form feed, U+0085
    pairs = [(f"q{a}\u2028\x0c", f"{b}\x85.") for a, b in pairs if (a + b).isprintable()] or [("q", "a")]
    rows = [json.dumps({"question": a, "answer": b}, ensure_ascii=ascii_only) for a, b in pairs]
    read = read_jsonl(write(tmp_path, "\n".join(rows)))
    assert [(example.prompt, example.answer) for example in read] == pairs


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    (example,) = read_jsonl(write(tmp_path, '\ufeff{"question": "1+1", "answer": 2}\n'))
    assert example.prompt == "1+1"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "line 3 is not JSON"),
        ("[1, 2]", "line 3 is list, not an object"),
        ("null", "line 3 is NoneType, not an object"),
        ('{"question": "1+1"}', "line 3 has no 'answer'; its fields are \\['question'\\]"),
        ('{"question": "1+1", "answer": null}', "line 3 has no 'answer'"),
        ('{"question": "1+1", "answer": " "}', "line 3 has no 'answer'"),
        ('{"question": "", "answer": 2}', "line 3 has no 'question'"),
        ('{"question": [], "answer": 2}', "line 3 has no 'question'"),
        ('{"prompt": "1+1", "answer": 2}', "line 3 has no 'question'; its fields are"),
        ('{"question": "1+1", "answer": [2]}', "line 3 has the answer \\[2\\]; an answer is a text or a num"),
        ('{"question": "1+1", "answer": true}', "line 3 has the answer True"),
        ('{"question": 5, "answer": 2}', "line 3 asks 5; a prompt is a text or a list of messages"),
        ('{"question": ["1+1"], "answer": 2}', "line 3 asks"),
        ('{"question": [{"role": "user"}], "answer": 2}', "line 3 asks .* role and content"),
    ],
)
def test_a_bad_line_is_named_with_file_and_number(tmp_path, line, message):
    path = write(tmp_path, f'{{"question": "1+1", "answer": 2}}\n\n{line}\n')
    with pytest.raises(ValueError, match=f"rows.jsonl, {message}"):
        read_jsonl(path)


def test_bytes_that_are_no_utf_8_are_named_too(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"question": "\xe9", "answer": 2}')
    with pytest.raises(ValueError, match=r"rows.jsonl, line 1 is not JSON: 'utf-8' codec"):
        read_jsonl(path)


@pytest.mark.parametrize("read", [read_jsonl, read_parquet])
def test_a_file_must_exist(tmp_path, read):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ValueError, match=f"there is no file {path}"):
            read(path)


def test_a_file_must_hold_examples(tmp_path):
    with pytest.raises(ValueError, match="holds no examples"):
        read_jsonl(write(tmp_path, "\n\n"))


def test_rows_in_verls_layout_become_examples(tmp_path):
    rows = [verl_row(extra_info={"index": 0}), verl_row("3", MESSAGES[1:], extra_info={"index": 1})]
    first, second = read_parquet(write_parquet(tmp_path, rows))
    assert first.prompt == tuple(MESSAGES)
    assert second.prompt == tuple(MESSAGES[1:])
    assert [first.answer, second.answer] == ["2", "3"]
    assert first.metadata == {"data_source": "tiny", "ability": "math", "extra_info": {"index": 0}}


def test_of_several_ground_truths_all_are_kept(tmp_path):
    (example,) = read_parquet(write_parquet(tmp_path, [verl_row(["Paris", "Paris, France"])]))
    assert example.answer == "Paris"
    assert example.metadata["answers"] == ["Paris", "Paris, France"]


def test_a_number_and_a_plain_prompt_will_do(tmp_path):
    (example,) = read_parquet(write_parquet(tmp_path, [verl_row(0, "1 - 1?")]))
    assert (example.prompt, example.answer) == ("1 - 1?", "0")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (verl_row(None), "row 1 has no answer in reward_model.ground_truth"),
        (verl_row(""), "row 1 has no answer"),
        (verl_row(prompt=None), "row 1 has no prompt"),
        (verl_row(prompt=[]), "row 1 has no prompt"),
        (verl_row(prompt=[{"role": "user", "content": None}]), "row 1 asks .* role and content"),
        (verl_row(reward_model=None), "row 1 has no answer"),
    ],
)
def test_a_bad_row_is_named_with_file_and_number(tmp_path, row, message):
    with pytest.raises(ValueError, match=f"rows.parquet, {message}"):
        read_parquet(write_parquet(tmp_path, [verl_row(), row]))


def test_ground_truths_of_another_layout_are_refused(tmp_path):
    for truth in ({"target": ["2"]}, ["2", None]):
        with pytest.raises(ValueError, match=r"row 0 has the answer .* a text or a number"):
            read_parquet(write_parquet(tmp_path, [verl_row(truth)]))


@pytest.mark.parametrize("column", ["prompt", "reward_model"])
def test_a_missing_column_is_named_beside_those_there_are(tmp_path, column):
    row = verl_row()
    del row[column]
    with pytest.raises(ValueError, match=f"no '{column}'; verl's layout has data_source, prompt"):
        read_parquet(write_parquet(tmp_path, [row]))


def test_what_is_no_parquet_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match=r"rows.parquet is not parquet"):
        read_parquet(write(tmp_path, "question,answer\n", "rows.parquet"))
    path = write_parquet(tmp_path, [verl_row()])
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.parquet.read_table(path).slice(0, 0), path)
    with pytest.raises(ValueError, match="holds no examples"):
        read_parquet(path)


def test_rows_without_an_answer_are_left_out_where_that_is_asked_for(tmp_path):
    path = write(tmp_path, '{"question": "1+1"}\n{"question": "1+2", "answer": 3}\n')
    assert [example.answer for example in read_jsonl(path, drop_unanswered=True)] == ["3"]
    rows = write_parquet(tmp_path, [verl_row(" "), verl_row("3"), verl_row(None)])
    assert [example.answer for example in read_parquet(rows, drop_unanswered=True)] == ["3"]
    with pytest.raises(ValueError, match=r"row 0 has no answer .*drop_unanswered=True, leaves such rows out"):
        read_parquet(rows)
    with pytest.raises(ValueError, match="holds no examples"):
        read_parquet(write_parquet(tmp_path, [verl_row(" ")]), drop_unanswered=True)


@pytest.mark.skipif(DATA is None, reason="GPG_JAX_DATA is not set")
@pytest.mark.parametrize("name", ARPO)
def test_arpos_files_are_read_whole(name):
    rows, unanswered = ARPO[name]
    examples = read_parquet(Path(DATA) / "arpo" / f"{name}.parquet", drop_unanswered=True)
    assert len(examples) == rows - unanswered
    for example in examples:
        assert [message["role"] for message in example.prompt] == ["system", "user"]
        assert all(message["content"].strip() for message in example.prompt)
        assert example.answer.strip()
        assert {"data_source", "ability", "extra_info"} <= set(example.metadata)
    json.dumps([example.metadata for example in examples])


ASKED = [
    {"problem": "1+1?", "question": None, "answer": 2, "golden_answers": None, "id": 6},
    {"problem": None, "question": "Where?", "answer": None, "golden_answers": ["Rome", "Roma"], "id": 7},
]


def write_questions(folder, ending, rows):
    if ending == "parquet":
        return write_parquet(folder, rows)
    text = json.dumps(rows) if ending == "json" else "".join(json.dumps(row) + "\n" for row in rows)
    return write(folder, text, f"rows.{ending}")


@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet"])
def test_questions_of_benchmarks_have_fields_of_several_names(tmp_path, ending):
    first, second = read_questions(write_questions(tmp_path, ending, ASKED))
    assert (first.prompt, first.answer) == ("1+1?", "2") and "answers" not in first.metadata
    assert (second.prompt, second.answer) == ("Where?", "Rome")
    assert second.metadata["answers"] == ["Rome", "Roma"] and second.metadata["id"] == 7


PUBLISHED = {
    "AIME 2024": (
        {"ID": "2024-I-1", "Problem": "q", "Solution": "So \\boxed{204}, or 3 h 24 min.", "Answer": 204},
        "204",
        {"ID": "2024-I-1", "Solution": "So \\boxed{204}, or 3 h 24 min."},
    ),
    "Bamboogle": ({"Question": "q", "Answer": "Buddhism"}, "Buddhism", {}),
    "MATH": (
        {"problem": "q", "level": "Level 5", "solution": "\\boxed{1}? No, $\\boxed{\\frac{1}{2}}$."},
        "\\frac{1}{2}",
        {"level": "Level 5", "solution": "\\boxed{1}? No, $\\boxed{\\frac{1}{2}}$."},
    ),
    "MATH-500": ({"problem": "q", "solution": "\\boxed{1}", "answer": "2"}, "2", {"solution": "\\boxed{1}"}),
    "MuSiQue": (
        {"question": "q", "answer": "Rome", "answer_aliases": ["Roma", "Rome", "Urbs"]},
        "Rome",
        {"answer_aliases": ["Roma", "Rome", "Urbs"], "answers": ["Rome", "Roma", "Urbs"]},
    ),
    "MuSiQue, no alias": (
        {"question": "q", "answer": "Rome", "answer_aliases": []},
        "Rome",
        {"answer_aliases": []},
    ),
    "several and aliases": (
        {"question": "q", "golden_answers": ["a", "b"], "Answer_Aliases": ["c"]},
        "a",
        {"Answer_Aliases": ["c"], "answers": ["a", "b", "c"]},
    ),
}


@pytest.mark.parametrize("ending", ["json", "parquet"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_benchmarks_are_read_as_they_are_published(tmp_path, name, ending):
    row, answer, metadata = PUBLISHED[name]
    (example,) = read_questions(write_questions(tmp_path, ending, [row]))
    assert (example.prompt, example.answer, example.metadata) == ("q", answer, metadata)


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("\\boxed{6} no, \\boxed{\\text{7}}.", "\\text{7}"),
        ("It is $\\boxed 2$, not $3$.", "2"),
        ("\\boxed{1} and $\\boxed \\frac12$", "\\frac12"),
        ("$\\fbox{C}$", "C"),
        ("\\boxed{7} \\fbox{C}", "7"),
        ("\\boxed{6} and \\boxed{7", None),
        ("\\boxed{ }", None),
        ("\\boxed 2, unclosed", None),
        ("7", None),
    ],
)
def test_the_answer_of_a_solution_stands_in_its_last_box(solution, answer):
    assert solution_answer(solution) == answer


def test_an_empty_field_is_no_other_spelling(tmp_path):
    rows = [{"Question": None, "question": "q", "Answer": "a", "answer": ""}]
    (example,) = read_questions(write_questions(tmp_path, "json", rows))
    assert (example.prompt, example.answer) == ("q", "a")


@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet"])
def test_questions_may_be_in_verls_layout(tmp_path, ending):
    rows = [verl_row(["3"], answer="9"), verl_row(["4", "four"], answer="9")]
    first, second = read_questions(write_questions(tmp_path, ending, rows))
    assert first.prompt == tuple(MESSAGES) and first.answer == "3"
    assert second.answer == "4" and second.metadata["answers"] == ["4", "four"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.csv", "question,answer\n1,2", "rows.csv is neither .jsonl nor .json nor .parquet"),
        ("rows.json", '{"question": "1", "answer": 2}', "rows.json is dict, not a list of objects"),
        ("rows.json", "[1]", "rows.json, row 0 is int, not an object"),
        ("rows.json", "[", "rows.json is not JSON"),
        ("rows.json", "[]", "rows.json holds no examples"),
        ("rows.json", '[{"query": "1", "answer": 2}]', "row 0 has no 'question'; its fields are"),
        (
            "rows.json",
            '[{"question": "1", "gold": 2}]',
            r"row 0 has no 'answer'; its fields are \['gold', 'q",
        ),
        ("rows.json", '[{"question": "1", "answer": []}]', "row 0 has no 'answer'"),
        ("rows.json", '[{"question": "1", "answer": ["a", null]}]', "row 0 has the answer None"),
        ("rows.jsonl", '{"problem": 1, "answer": 2}', "line 1 asks 1; a prompt is a text"),
        (
            "rows.json",
            '[{"Problem": "1", "solution": "2"}]',
            r"row 0 has no 'answer', and its solution no \\boxed",
        ),
        (
            "rows.json",
            '[{"problem": "1", "solution": 2}]',
            r"row 0 has no 'answer', and its solution no \\boxed",
        ),
        (
            "rows.json",
            '[{"Question": "1", "question": "2"}]',
            "row 0 has 'Question' and 'question', which diff",
        ),
        (
            "rows.json",
            '[{"question": "1", "answer": 2, "ANSWER": 2}]',
            "row 0 has 'answer' and 'ANSWER', which",
        ),
        (
            "rows.json",
            '[{"question": "1", "answer": 2, "answer_aliases": [null]}]',
            "row 0 has the answer None",
        ),
    ],
)
def test_bad_questions_are_named(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        read_questions(write(tmp_path, text, name))


def test_questions_without_an_answer_are_left_out_where_that_is_asked_for(tmp_path):
    rows = [
        {"question": "1", "answer": None},
        {"question": "2", "answer": []},
        {"question": "3", "answer": 4},
        {"question": "4", "solution": "no box"},
        {"question": "5", "solution": "\\boxed{6}"},
    ]
    path = write_questions(tmp_path, "json", rows)
    assert [example.prompt for example in read_questions(path, drop_unanswered=True)] == ["3", "5"]
    with pytest.raises(ValueError, match=r"row 0 has no 'answer'.*drop_unanswered"):
        read_questions(path)
