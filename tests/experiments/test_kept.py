"""A seed is measured once, and not believed under another configuration."""

import pytest
from ml_collections import ConfigDict

from experiments.studies.kept import kept


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
        found = [kept(study(seeds=seeds, question="!"), tmp_path, seed, measure) for seed in range(seeds)]
        assert [one["value"] for one in found] == [seed + 0.1 for seed in range(seeds)]
    assert asked == [0, 1, 2] and len(list(tmp_path.iterdir())) == 3


def test_another_configuration_is_refused(tmp_path):
    kept(study(), tmp_path, 0, lambda seed: 1)
    with pytest.raises(ValueError, match="another configuration"):
        kept(study(sizes=(1, 3)), tmp_path, 0, lambda seed: 2)
    (tmp_path / "seed_0.json").write_text("{")
    with pytest.raises(ValueError, match="is not what a study has measured"):
        kept(study(), tmp_path, 0, lambda seed: 2)
