"""Intervals over seeds, tables and files of a study."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.studies.findings import Findings, Interval, interval, markdown, paired, write


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


def test_what_is_written_reads_back(tmp_path):
    rows = [{"arm": "a", "reward": Interval(0.5, 0.1, 3)}, {"arm": "b", "reward": Interval(0.25, 0.2, 3)}]
    path = write(Findings(rows, Figure(), ["a is higher"]), tmp_path, "Which?", "python -m x")
    text = path.read_text()
    assert markdown(rows) in text and "| a | 0.5 ± 0.1 |" in text
    assert "# Which?" in text and "python -m x" in text and "- a is higher" in text
    record = json.loads((tmp_path / "findings.json").read_text())
    assert record["rows"][1]["reward"] == {"mean": 0.25, "half": 0.2, "seeds": 3}
    assert (tmp_path / "findings.png").stat().st_size > 0
