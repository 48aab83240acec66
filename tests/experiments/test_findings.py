"""Intervals over seeds, tables and files of a study."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.studies.findings import (
    Asked,
    Findings,
    GeometricInterval,
    Interval,
    check_folder,
    geometric_interval,
    interval,
    markdown,
    paired,
    write,
)

ASKED = Asked("Which?", "python -m x", 3, ("a", "b"))


def test_an_interval_is_students():
    # Mean 2, s² = 1 over n − 1 = 2. Student's quantile for 2 degrees is (2p − 1)/√(2p(1 − p)).
    found = interval([1.0, 2.0, 3.0])
    assert found.mean == 2 and found.seeds == 3
    np.testing.assert_allclose(found.half, 0.95 / np.sqrt(2 * 0.975 * 0.025) / np.sqrt(3), rtol=1e-12)


def test_one_value_has_no_width_and_none_is_an_error():
    assert np.isnan(interval([0.5]).half) and str(interval([0.5])) == "0.5"
    with pytest.raises(ValueError, match="needs a value"):
        interval([])


def test_pairs_take_out_what_seeds_share():
    seeds = np.array([0.0, 10.0, 20.0])
    apart = paired((seeds + np.array([1.0, 1.1, 0.9])).tolist(), seeds.tolist())
    assert abs(apart.mean - 1) < 1e-12 and apart.half < 0.3


def test_it_covers_the_mean_in_95_of_100_samples():
    draws = np.random.default_rng(0).normal(size=(4000, 5))
    covered = np.mean([abs(found.mean) <= found.half for found in map(interval, draws)])
    # Binomial standard error: √(.95·.05/4000) = 0.0034.
    assert abs(covered - 0.95) < 4 * 0.0034


def test_a_ratio_and_its_inverse_have_one_interval():
    # Logs ±log 2: mean 0, s = √2·log 2, and t of one degree is tan(.475π): half the width is t·log 2.
    found = geometric_interval([2.0, 0.5])
    assert interval([2.0, 0.5]).mean == 1.25  # what a linear mean makes of two ways that are alike
    assert found.mean == pytest.approx(1) and found.seeds == 2
    np.testing.assert_allclose([found.low, found.high], 2.0 ** (np.tan(0.475 * np.pi) * np.array([-1, 1])))
    one, other = geometric_interval([1.2, 1.5, 1.1]), geometric_interval([1 / 1.2, 1 / 1.5, 1 / 1.1])
    np.testing.assert_allclose([one.mean, one.low, one.high], [1 / other.mean, 1 / other.high, 1 / other.low])
    assert str(GeometricInterval(1.2812, 1.049, 1.552, 5)) == "1.28 (1.05–1.55)"


def test_positive_numbers_have_positive_intervals():
    found = geometric_interval([4.0, 9.0, 400.0])
    assert 0 < found.low < found.mean < found.high and interval([4.0, 9.0, 400.0]).low < 0
    assert str(geometric_interval([2.5])) == "2.5" and np.isnan(geometric_interval([2.5]).high)


@pytest.mark.parametrize("values", [[1.0, 0.0], [1.0, -2.0], [1.0, float("nan")], [float("inf"), 1.0]])
def test_what_has_no_logarithm_is_not_told(values):
    assert str(geometric_interval(values)) == "not told"
    with pytest.raises(ValueError, match="needs a value"):
        geometric_interval([])


def test_what_is_not_a_number_is_not_told(tmp_path):
    nan = float("nan")
    rows = [
        {
            "way": "K=|o|",
            "a": interval([nan, 1.0]),
            "b": geometric_interval([-1.0]),
            "c": nan,
            "d": interval([2.0]),
        }
    ]
    path = write(Findings(rows, Figure(), [f"it is {rows[0]['a']}"]), tmp_path, ASKED)
    assert "| K=\\|o\\| | not told | not told | not told | 2 |" in path.read_text()
    assert "- it is not told" in path.read_text() and "nan" not in path.read_text()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = (tmp_path / "findings.json").read_text()
    (row,) = json.loads(text, parse_constant=refuse)["rows"]
    assert row["a"] == {"mean": None, "half": None, "seeds": 2} and row["c"] is None
    assert row["b"] == {"mean": None, "low": None, "high": None, "seeds": 1}
    assert row["d"] == {"mean": 2.0, "half": None, "seeds": 1} and row["way"] == "K=|o|"


def test_further_tables_have_titles(tmp_path):
    further = {"Bias": [{"arm": "a", "far": Interval(0.5, 0.1, 3)}], "Noise": [{"arm": "b", "far": "none"}]}
    path = write(Findings([{"arm": "a"}], Figure(), ["it is"], further), tmp_path, ASKED)
    assert path.read_text().endswith(
        "- it is\n\n## Bias\n\n| arm | far |\n|---|---|\n| a | 0.5 ± 0.1 |\n"
        "\n## Noise\n\n| arm | far |\n|---|---|\n| b | none |\n"
    )
    record = json.loads((tmp_path / "findings.json").read_text())
    assert record["tables"]["Bias"] == [{"arm": "a", "far": {"mean": 0.5, "half": 0.1, "seeds": 3}}]


def test_what_is_written_reads_back(tmp_path):
    rows = [{"arm": "a", "reward": Interval(0.5, 0.1, 3)}, {"arm": "b", "reward": Interval(0.25, 0.2, 3)}]
    path = write(Findings(rows, Figure(), ["a is higher"]), tmp_path, ASKED)
    text = path.read_text()
    assert markdown(rows) in text and "| a | 0.5 ± 0.1 |" in text
    assert "# Which?" in text and "python -m x" in text and "- a is higher" in text
    record = json.loads((tmp_path / "findings.json").read_text())
    assert record["rows"][1]["reward"] == {"mean": 0.25, "half": 0.2, "seeds": 3}
    assert (tmp_path / "findings.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"question": "Why?"}, "answers 'Which\\?'; give another --workdir"),
        ({"arms": ("a", "c")}, "answers 'Which\\?' of b; give another"),
        ({"seeds": 2}, "is of 3 seeds, and 2 would replace it"),
    ],
)
def test_findings_of_something_else_are_not_replaced(tmp_path, changed, message):
    check_folder(tmp_path / "new", ASKED)
    write(Findings([{"arm": "a"}], Figure()), tmp_path, ASKED)
    check_folder(tmp_path, ASKED)
    check_folder(tmp_path, ASKED._replace(seeds=4, arms=("a", "b", "c"), command="python -m y"))
    with pytest.raises(ValueError, match=message):
        check_folder(tmp_path, ASKED._replace(**changed))
    (tmp_path / "findings.json").write_text("{}")
    with pytest.raises(ValueError, match="no findings of the present form"):
        check_folder(tmp_path, ASKED)


def test_findings_are_written_whole_or_not_at_all(tmp_path):
    write(Findings([{"arm": "a"}], Figure()), tmp_path, ASKED)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {"findings.md", "findings.json", "findings.png"}
    with pytest.raises(TypeError):
        write(Findings([{"arm": object()}], Figure()), tmp_path, ASKED)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
