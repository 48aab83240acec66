"""The study that trains arms side by side: what it runs, and what it says of the runs."""

from __future__ import annotations

import importlib
import itertools

import numpy as np
import pytest
from rich.console import Console

from configs.studies.comparison import get_config
from experiments import records
from experiments.config import Experiment
from experiments.methods import make_method
from experiments.studies.training import (
    experiment_of,
    numbers,
    reached,
    training,
)
from experiments.studies.training_figure import draw


def line(step: int, reward: float) -> dict[str, float]:
    return {"step": step, "reward": reward, "new_tokens": 10.0}


@pytest.mark.parametrize("model", ["tiny", "smollm2"])
def test_an_arm_changes_its_keys_alone(model):
    config = get_config(model)
    arpo, grpo = (experiment_of(config, arm, 3) for arm in ("arpo", "grpo"))
    assert (arpo.method.name, grpo.method.name) == ("gpg", "grpo")
    assert arpo.branching.mode == "arpo_paper" and grpo.branching.mode == "none"
    assert arpo.seed == grpo.seed == 3
    for section in ("model", "task", "sampling", "tools", "optimizer", "schedule", "cold_start"):
        assert getattr(arpo, section) == getattr(grpo, section)
    assert experiment_of(config, "arpo", 3) == arpo  # the base is left as it was


@pytest.mark.parametrize(
    "arm", [{"schedul": {"steps": 1}}, {"schedule": {"stepps": 1}}, {"schedule": {"steps": "many"}}]
)
def test_an_arm_that_does_not_fit_is_refused_before_anything_runs(tmp_path, arm):
    config = get_config()
    config.arms = {"arpo": {}, "wrong": arm}
    with pytest.raises(ValueError, match="wrong"):
        training(config, tmp_path, Console(quiet=True))
    assert not list(tmp_path.iterdir())


def test_the_threshold_is_that_of_a_mean_behind_the_cold_start():
    rewards = [1, 1, 0, 0, 1, 1, 1]  # the first two belong to the cold start
    lines = [line(step, reward) for step, reward in enumerate(rewards, 1)]
    assert (
        reached(lines, 3, "reward", 0.6, 3) == 6
    )  # (0, 1, 1)/3 is the first mean of three that is high enough
    assert reached(lines, 3, "reward", 1.0, 3) == 7
    assert reached(lines, 3, "reward", 1.0, 4) is None
    assert reached(lines, 3, "reward", 0.0, 9) is None


def test_numbers_are_of_the_end_and_of_the_whole():
    config = get_config()
    config.columns, config.tail = ("held_out/sampled", "reward", "entropy", "entropy, all iterations"), 2
    lines = [{**line(step, step / 10), "entropy": step**2} for step in range(1, 7)]
    lines += [{"step": 0, "held_out/sampled": 0.1}, {"step": 6, "held_out/sampled": 0.9}]
    found = numbers(config, lines, first=3)
    assert found["held_out/sampled"] == 0.9
    assert found["reward"] == pytest.approx(0.55)
    assert found["reward, all iterations"] == pytest.approx((0.3 + 0.4 + 0.5 + 0.6) / 4)
    assert found["new tokens"] == 40
    assert (found["entropy"], found["entropy, all iterations"]) == (61 / 2, 86 / 4)  # 9, 16, 25, 36
    config.columns = ("no_such_metric",)
    with pytest.raises(ValueError, match="no_such_metric"):
        numbers(config, lines, first=3)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("curves", (), "curves is empty"),
        ("columns", ("held_out/greedy, all iterations",), "evaluated now and then"),
        ("compared", ("clip",), "growth name clip, which is no column"),
        ("seeds", 0, "seeds"),
        ("jobs", 0, "jobs"),
        ("tail", 0, "tail"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_anything_runs(tmp_path, key, value, message):
    config = get_config()
    config[key] = value
    with pytest.raises(ValueError, match=message):
        training(config, tmp_path, Console(quiet=True))
    assert not list(tmp_path.iterdir())


def test_a_column_that_the_runs_do_not_have_is_known_when_the_first_has_ended(tmp_path, monkeypatch):
    config, asked_for = get_config(), []
    config.columns = (*config.columns, "clipp_fraction")

    def ended(runs, *given):
        for run in runs:
            asked_for.append(run)
            everything = dict.fromkeys(get_config().columns, 0.1)
            records.append(tmp_path / "metrics.jsonl", [{**line(400, 0.5), **everything}])
            yield run, tmp_path

    monkeypatch.setitem(training.__globals__, "train_all", ended)  # the package's name is the function
    with pytest.raises(ValueError, match="the runs have no metric 'clipp_fraction'"):
        training(config, tmp_path, Console(quiet=True))
    assert len(asked_for) == 1


def test_the_threshold_is_told_with_the_tokens_until_then(tmp_path, monkeypatch):
    config = get_config()
    config.arms, config.compared, config.asked = {"a": {}, "b": {}}, ("reward",), ()
    config.columns, config.curves, config.seeds, config.tail = ("reward",), ("reward",), 1, 2
    first = experiment_of(config, "a", 0).cold_start.steps
    outcomes = {"a": [1, 0, 1, 1], "b": [1, 0, 1, 0]}  # the first belongs to the cold start
    for arm, found in outcomes.items():
        (tmp_path / arm).mkdir()
        lines = [{**line(first + step, one), "outcome": one} for step, one in enumerate(found)]
        records.append(tmp_path / arm / "metrics.jsonl", lines)
    monkeypatch.setitem(
        training.__globals__, "train_all", lambda runs, *given: ((run, tmp_path / run[0]) for run in runs)
    )
    *_, one, other = training(config, tmp_path, Console(quiet=True)).notes
    assert one == "a: an outcome of 0.8 in 1 of 1 seeds, after 3 iterations of 2 at least, 0.03k new tokens"
    assert other == "b: an outcome of 0.8 in 0 of 1 seeds"


def test_the_figure_of_one_seed_claims_no_interval():
    runs = {arm: [[line(step, step) for step in range(5)]] for arm in "ab"}
    values = {arm: [{"x": 1.0}] for arm in "ab"}
    figure = draw(values, ("x",), runs, ("reward", "clip"))  # of which no arm has the second
    assert figure.get_suptitle() == "one run an arm"
    named = [text.get_text() for part in figure.subfigs for legend in part.legends for text in legend.texts]
    assert named == ["a", "b"]


def test_the_figure_has_a_dot_a_run_and_a_band_an_arm():
    runs = [[line(step, step * seed) for step in range(5)] for seed in (1, 3)]
    values = {"a": [{"x": 1.0}, {"x": 3.0}], "b": [{"x": 5.0}, {"x": 2.0}]}

    def panels(first):
        figure = draw(values, ("x",), {"a": runs, "b": runs}, ("reward",), first)
        return [axis for axis in figure.axes if axis.axison]

    dots, curves = panels(first=0)
    joined, drawn = [curve for curve in dots.lines if len(curve.get_xdata()) == 2][:2], {}
    assert [list(seed.get_xdata()) for seed in joined] == [[1, 5], [3, 2]]  # a seed's runs
    for curve in dots.lines:
        if curve.get_marker() in ("o", "D"):
            drawn.setdefault(curve.get_marker(), []).append(list(curve.get_xdata()))
    assert drawn == {"o": [[1, 3], [5, 2]], "D": [[2], [3.5]]}  # runs and means
    assert [label.get_text() for label in dots.get_yticklabels()] == ["a", "b"]
    assert [list(curve.get_ydata()) for curve in curves.lines] == [[0, 2, 4, 6, 8]] * 2
    assert len(curves.collections) == 2
    assert [list(curve.get_ydata()) for curve in panels(first=2)[1].lines] == [[4, 6, 8]] * 2


def test_a_curve_is_a_mean_of_the_last_iterations_in_a_panel_as_high_as_its_runs():
    runs = [[line(step, step * seed) for step in range(5)] for seed in (1, 3)]
    figure = draw({"a": [{"x": 1.0}] * 2}, ("x",), {"a": runs}, ("reward",), tail=2)
    _, panel = [axis for axis in figure.axes if axis.axison]
    (curve,) = panel.lines
    assert list(curve.get_ydata()) == [0, 1, 3, 5, 7]  # means of 0, 2, 4, 6, 8 by two
    assert panel.get_xlabel() == "iteration, mean of the last 2"
    low, high = panel.get_ylim()  # the second seed ends at (9 + 12)/2
    assert 10.5 < high < 11.5 and -1 < low < 0
    runs[0][1]["reward"] = "nan"  # as a run writes it
    broken = draw({"a": [{"x": 1.0}] * 2}, ("x",), {"a": runs}, ("reward",), tail=2)
    _, panel = [axis for axis in broken.axes if axis.axison]
    assert list(np.isnan(panel.lines[0].get_ydata())) == [False, True, True, False, False]
    assert panel.get_ylim() == (low, high)


@pytest.mark.parametrize(("model", "tool"), [("tiny", "search"), ("smollm2", "calculator")])
def test_the_arms_of_the_comparison_are_charged_alike(model, tool):
    config = get_config(model)
    token_bytes = [b"a", b"b", *(part.encode() for part in (f"<{tool}>", f"</{tool}>"))]
    for arm in config.arms:
        run = experiment_of(config, arm, 0)
        method = make_method(run.method, run.sampling.new_tokens, token_bytes)
        assert method.objective.penalties == () and "reference" not in method.needs, arm
        marked = run.method.arguments.get("markers")
        assert run.output.tags == (tool, "answer") and marked in (None, run.output.tags), arm
        assert (marked is None) == (arm in ("grpo", "gspo")), arm


@pytest.mark.parametrize("model", ["tiny", "smollm2"])
def test_a_column_of_the_comparison_is_a_metric_of_its_runs(model):
    config = get_config(model)
    evaluation = experiment_of(config, "arpo", 0).evaluation
    kinds = {"held_out/sampled": evaluation.samples > 0, "held_out/greedy": evaluation.greedy}
    assert {name for name in config.columns if name.startswith("held_out/")} == {
        name for name, there in kinds.items() if there
    }


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ("comparison", 'the model is "tiny" or "smollm2", got \'huge\''),
        ("calibration_gradients", 'the length is "short" or "full", got \'huge\''),
        ("special_cases", "the model is smollm2, tiny, qwen2.5-0.5b, got 'huge'"),
        ("scale", "the argument is small, medium, large, smollm2 or forks, got 'huge'"),
    ],
)
def test_another_argument_of_a_study_is_refused(study, message):
    with pytest.raises(ValueError, match=message):
        importlib.import_module(f"configs.studies.{study}").get_config("huge")


LENGTHS = ("segmentation:full", "calibration:full", "signatures:full", "non_agentic:products")
SIZES = ("scale:medium", "scale:large", "scale:smollm2", "scale:forks", "comparison:smollm2")
STUDIES = ("comparison", "segmentation", "calibration", "non_agentic", "scale", "signatures")


@pytest.mark.parametrize("name", STUDIES + LENGTHS + SIZES)
def test_every_arm_of_every_study_is_an_experiment(name):
    module, *argument = name.split(":")
    config = importlib.import_module(f"configs.studies.{module}").get_config(*argument)
    assert config.question.endswith("?") and config.seeds >= 3 and len(config.arms) >= 2
    runs = {arm: experiment_of(config, arm, 0) for arm in config.arms}
    assert all(isinstance(run, Experiment) for run in runs.values())
    assert all(one != other for one, other in itertools.combinations(runs.values(), 2))
