"""GSM8K prepared by tensorflow-datasets' builder from local files, and the real files whole."""

import json
import os
from pathlib import Path

import pytest

from gpg_jax.data.gsm8k import FILES, INSTRUCTION, gsm8k
from gpg_jax.environments.verifiers import gsm8k_flexible, gsm8k_strict

pytest.importorskip("tensorflow_datasets")
DATA = os.environ.get("GPG_JAX_DATA")


def problems(count, name):
    return [
        {"question": f"{name} {number}: ½ of £{2 * number}?", "answer": f"Half of it.\n#### {number:,}"}
        for number in range(1000, 1000 + count)
    ]


def write(folder, train, test):
    folder.mkdir()
    for name, rows in zip(FILES.values(), (train, test), strict=True):
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Where three training problems and two test problems lie, and where they are prepared."""
    folder = tmp_path_factory.mktemp("gsm8k")
    return write(folder / "source", problems(3, "train"), problems(2, "test")), folder / "prepared"


@pytest.mark.parametrize(("split", "count"), [("train", 3), ("test", 2)])
def test_all_problems_of_a_split_come_once(folders, split, count):
    source, prepared = folders
    read = gsm8k(split, data_dir=prepared, source_dir=source)
    expected = {row["question"]: row["answer"] for row in problems(count, split)}
    assert len(read) == count
    assert {example.metadata["question"]: example.answer for example in read} == expected
    for example in read:
        asked = f"{example.metadata['question']} {INSTRUCTION}"
        assert example.prompt == ({"role": "user", "content": asked},)
        assert gsm8k_strict(example.answer, example) == 1


def test_slices_of_splits_and_of_sources(folders):
    source, prepared = folders
    whole = gsm8k("train", data_dir=prepared, source_dir=source)
    first = gsm8k("train[:1]", data_dir=prepared, source_dir=str(source))
    assert whole[:1] == list(first)
    assert whole[1:] == [whole[1], whole[-1]]
    assert whole[5:] == []
    for index in (3, -4):
        with pytest.raises(IndexError):
            whole[index]


def test_a_preparation_is_kept(folders):
    source, prepared = folders
    before = list(gsm8k("train", data_dir=prepared, source_dir=source))
    files = {path: path.stat().st_mtime_ns for path in prepared.rglob("*") if path.is_file()}
    assert list(gsm8k("train", data_dir=prepared, source_dir=source)) == before
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*") if path.is_file()} == files


def test_other_files_are_not_mixed_up_with_those_prepared_before(folders, tmp_path):
    source, prepared = folders
    mine = list(gsm8k("test", data_dir=prepared, source_dir=source))
    changed = problems(2, "test")
    changed[0]["answer"] = "Another.\n#### 7"
    other = write(tmp_path / "other", problems(3, "train"), changed)
    answers = {example.answer for example in gsm8k("test", data_dir=prepared, source_dir=other)}
    assert answers == {row["answer"] for row in changed}
    assert list(gsm8k("test", data_dir=prepared, source_dir=source)) == mine


def test_a_folder_without_the_files_is_refused(tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps(problems(1, "train")[0]))
    with pytest.raises(
        ValueError, match=f"{tmp_path} has no test.jsonl; GSM8K is train.jsonl and test.jsonl"
    ):
        gsm8k("train", data_dir=tmp_path / "prepared", source_dir=tmp_path)


@pytest.mark.parametrize("split", ["valid", "train["])
def test_an_unknown_split_is_refused(folders, split):
    source, prepared = folders
    with pytest.raises(ValueError, match="split"):
        gsm8k(split, data_dir=prepared, source_dir=source)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{broken", "test.jsonl, line 2 is not JSON"),
        ({"question": "1+1?"}, "test.jsonl, line 2 has no 'answer'"),
        ({"question": "1+1?", "answer": "2"}, "test.jsonl: the problem '1\\+1\\?' must be"),
        ({"question": "1+1?", "answer": 2}, "one \"#### \", got the answer '2'"),
        ({"question": "1+1?", "answer": "#### 2 #### 3"}, "must be a question and an answer with one"),
        ({"question": "1+1?", "answer": "#### 2", "level": 3}, "and the fields \\['level'\\]"),
    ],
)
def test_a_row_that_is_no_problem_is_refused_and_nothing_is_prepared(tmp_path, row, message):
    source = write(tmp_path / "source", problems(1, "train"), [*problems(1, "test"), row])
    with pytest.raises(ValueError, match=message):
        gsm8k("test", data_dir=tmp_path / "prepared", source_dir=source)
    assert not (tmp_path / "prepared").exists()


@pytest.mark.skipif(DATA is None, reason="GPG_JAX_DATA is not set")
def test_every_real_gold_answer_verifies(tmp_path):
    for split, count in (("train", 7473), ("test", 1319)):
        read = gsm8k(split, data_dir=tmp_path, source_dir=Path(DATA) / "gsm8k")
        assert len(read) == count
        questions = set()
        for example in read:
            questions.add(example.metadata["question"])
            assert gsm8k_strict(example.answer, example) == gsm8k_flexible(example.answer, example) == 1
            gold = example.answer.rpartition("#### ")[2]
            assert gsm8k_flexible(f"So it is ${gold}.", example) == 1
            assert gsm8k_strict(f"So it is ${gold}.", example) == 0
            assert gsm8k_flexible(f"{gold}, or 123456789", example) == 0
        assert len(questions) == count
