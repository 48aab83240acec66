"""Lines of JSON: appended, read, and cut back to a step."""

from experiments import records


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    records.append(path, [{"step": 1, "text": "ü\n", "value": 0.1}])
    records.append(path, [{"step": 2, "value": float("nan"), "deep": [{"x": float("-inf")}]}])
    assert list(records.read(path)) == [
        {"step": 1, "text": "ü\n", "value": 0.1},
        {"step": 2, "value": "nan", "deep": [{"x": "-inf"}]},
    ]
    assert list(records.read(tmp_path / "none.jsonl")) == []


def test_cut_back_and_written_again_is_undisturbed(tmp_path):
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    lines = [{"step": step, "part": part} for step in range(1, 6) for part in range(2)]
    records.append(whole, lines)
    records.append(broken, lines[:7])
    with broken.open("a") as file:
        file.write('{"step": 4, "par')  # a kill in the middle of a line
    assert records.keep_through(broken, 3) == 39
    assert list(records.read(broken)) == lines[:6]
    records.append(broken, lines[6:])
    assert broken.read_bytes() == whole.read_bytes()


def test_nothing_to_cut(tmp_path):
    path = tmp_path / "a.jsonl"
    assert records.keep_through(path, 3) == 0 and not path.exists()
    records.append(path, [{"step": 3}])
    assert records.keep_through(path, 3) == 0
    assert records.keep_through(path, -1) == 12 and path.read_bytes() == b""
