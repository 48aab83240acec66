"""A seed is measured once, and not believed under another configuration."""

import pytest
from ml_collections import ConfigDict
from rich.console import Console

from experiments.studies.kept import every_seed

QUIET = Console(quiet=True)


def study(**changes):
    return ConfigDict(
        {"study": "x", "question": "?", "seeds": 2, "sizes": (1, 2), "base": {"width": None}} | changes
    )


def test_it_is_measured_once(tmp_path):
    asked = []

    def measure(seed):
        asked.append(seed)
        return {"value": seed + 0.1, "none": float("nan")}

    for seeds in (2, 3):  # more seeds add to those that there are
        found = every_seed(study(seeds=seeds, question="!"), tmp_path, QUIET, measure)
        assert [one["value"] for one in found] == [seed + 0.1 for seed in range(seeds)]
    assert asked == [0, 1, 2] and len(list(tmp_path.iterdir())) == 3


def test_another_configuration_is_refused(tmp_path):
    every_seed(study(), tmp_path, QUIET, lambda seed: 1)
    with pytest.raises(ValueError, match="another configuration"):
        every_seed(study(sizes=(1, 3)), tmp_path, QUIET, lambda seed: 2)
    (tmp_path / "seed_0.json").write_text("{")
    with pytest.raises(ValueError, match="is not what a study has measured"):
        every_seed(study(), tmp_path, QUIET, lambda seed: 2)
