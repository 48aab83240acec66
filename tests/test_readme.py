"""What the README says is so: its table is the dictionary of methods, its example runs."""

import pathlib
import re

import examples
import jax.numpy as jnp
import numpy as np

from experiments import tools
from experiments.config import Experiment
from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.losses import objective
from gpg_jax.types import Scores

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NOTEBOOKS = ROOT / "notebooks"
STUDIES = {path.stem for path in (ROOT / "configs" / "studies").glob("*.py")} - {"__init__"}

METHOD, TOOL = re.findall(r"```python\n(.*?)```", README, re.S)


def run(code):
    namespace = {}
    exec(code, namespace)
    return namespace


def test_the_tables_are_the_dictionary_of_methods():
    """What each is, and what came of each; there A3C, which is A2C by actors, is one more."""
    methods = README.split("\n## Methods\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", methods, re.M) == [*ALGORITHMS, *ALGORITHMS, "a3c"]


def test_the_table_of_studies_is_the_folder_of_their_configs():
    asked = README.split("\n## The papers' questions\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", asked, re.M)) == STUDIES


def test_the_example_is_short_and_is_what_it_says():
    namespace = run(METHOD)
    assert len([line for line in METHOD.splitlines() if line.strip()]) < 20
    mask = np.array([[0, 1, 1], [0, 1, 0]], bool)
    rollout = examples.make_rollout(mask, [1.0, 0.0], [0, 0])
    batch = examples.make_batch(rollout, np.where(mask, -1.0, 0))
    ratio = np.array([[1, 2.0, 0.5], [1, 1.2, 1]])
    scores = Scores(jnp.asarray(batch.old.log_prob + np.log(ratio), jnp.float32))
    found = objective.coefficients(namespace["cispo"](), batch, scores)
    # A = ±1; min(r, 1.28) = 1.28, .5 and 1.2; three tokens.
    np.testing.assert_allclose(found, [[0, -1.28 / 3, -0.5 / 3], [0, 1.2 / 3, 0]], rtol=1e-5)


def test_the_tool_answers(monkeypatch):
    monkeypatch.setattr(tools, "TOOLS", dict(tools.TOOLS))
    run(TOOL)
    assert tools.TOOLS["reverse"](Experiment()).call("abc") == "cba"


def test_every_study_has_its_command_its_table_and_its_figure():
    page = (NOTEBOOKS / "studies.md").read_text(encoding="utf-8")
    found = set()
    for section in page.split("\n## ")[1:]:
        (name,) = set(re.findall(r"--config=configs/studies/(\w+)\.py --workdir=W", section))
        figures = re.findall(r"!\[[^]]+\]\((figures/\w+\.png)\)", section)
        assert "\n|---|" in section and figures, name
        assert all((NOTEBOOKS / path).is_file() for path in figures), name
        found.add(name)
    assert found == STUDIES - {"cards"}  # which have a page of their own
