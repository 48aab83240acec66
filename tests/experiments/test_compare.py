"""The comparison of all methods: each is there, budgets are equal, and the sentences are what they say."""

import numpy as np
import pytest

from experiments import records
from experiments.compare import TASK, comparison
from experiments.studies import all_methods as study
from experiments.studies.training import experiment_of
from gpg_jax.algorithms import ALGORITHMS


def lines(rewards, **metrics):
    return [
        {"step": step, "reward": float(reward), "seconds": 0.5}
        | {name: float(values[step - 1]) for name, values in metrics.items()}
        for step, reward in enumerate(rewards, 1)
    ]


def test_all_methods_of_the_library_and_a3c_share_task_and_budget():
    config = comparison(["all"], TASK)
    assert list(config.arms) == [*ALGORITHMS, "a3c"]
    runs = {(arm, 0): experiment_of(config, arm, 0) for arm in config.arms}
    study.check_budgets(runs)
    assert {name for (name, _), run in runs.items() if run.actors.count} == {"a3c"}
    assert [run.method.name for run in runs.values()] == [*ALGORITHMS, "a2c"]


def test_another_budget_is_refused():
    config = comparison(["grpo", "rloo"], TASK)
    config.arms["rloo"]["schedule"]["group"] = 4
    runs = {(arm, 0): experiment_of(config, arm, 0) for arm in config.arms}
    with pytest.raises(ValueError, match="'rloo' has another task, budget"):
        study.check_budgets(runs)


def test_another_task_has_methods_and_rewards_of_its_own():
    """A file without `METHODS` gives those of the library, by their own names."""
    rlhf = TASK.with_name("rlhf.py")
    for rewards in ({}, {"start": 0.1}, {"threshold": 0.9}):
        with pytest.raises(ValueError, match="give --start and --threshold, rewards of that task"):
            comparison(["all"], rlhf, **rewards)
    config = comparison(["all"], rlhf, start=-1.5, threshold=2.0)
    assert list(config.arms) == [arm.method.name for arm in config.arms.values()] == list(ALGORITHMS)
    assert (config.start, config.threshold) == (-1.5, 2)
    with pytest.raises(ValueError, match="--methods has 'a3c'"):
        comparison(["a3c"], rlhf, start=-1.5, threshold=2.0)
    figure = study.draw(config, {"rloo": [lines(np.linspace(-2, 3, 12))]})
    low, high = figure.axes[0].get_ylim()
    assert low < -2 and high > 3


@pytest.mark.parametrize(
    ("names", "task", "sentence"),
    [(["grpoo"], TASK, "nearest is 'grpo'"), (["grpo"], TASK.with_name("none.py"), "there is no such file")],
)
def test_what_there_is_not(names, task, sentence):
    with pytest.raises(ValueError, match=sentence):
        comparison(names, task)


def test_the_row_and_the_verdict_of_a_method_that_learns_and_of_one_that_does_not():
    config = comparison(["grpo", "rloo"], TASK)
    rising = np.concatenate([np.full(10, 0.2), np.linspace(0.2, 1, 20), np.full(10, 1.0)])
    drawn = dict(updates=np.arange(1, 41), new_tokens=np.full(40, 10), offered_groups=np.full(40, 16))
    found = {"grpo": [lines(rising, **drawn)] * 2, "rloo": [lines(np.full(40, 0.2), **drawn)] * 1}
    found["rloo"].append(lines(rising, **drawn | {"offered_groups": np.tile([16, 32], 20)}))
    learns, stays = (study.row(config, name, runs) for name, runs in found.items())
    assert learns["first"].mean == pytest.approx(0.2) and learns["last"].mean == 1
    assert learns["seeds that learn"] == "2 of 2" and learns["seconds"].mean == 20
    assert learns["updates"].mean == 40 and learns["new tokens"].mean == 400
    # groups of 8: 40·16 groups, and half as many again where every other iteration draws twice
    assert learns["responses drawn"].mean == 5120 and stays["responses drawn"].mean == (5120 + 7680) / 2
    # the mean of ten consecutive rewards is at 0.9 first where iterations 22 to 31 are at hand
    means = np.convolve(rising, np.ones(10) / 10, mode="valid")
    assert learns["iterations until then"].mean == np.flatnonzero(means >= 0.9)[0] + 10
    assert stays["seeds that learn"] == "1 of 2" and stays["last"].mean == pytest.approx(0.6)
    told = study.verdict(config, found)
    assert told == "1 of 2 methods begin at 0.3 or below and end at 0.9 or above; not rloo"


def test_what_demonstrations_earn_is_no_methods_reward(tmp_path, monkeypatch):
    """Nor are they responses that were drawn."""
    config = comparison(["grpo"], TASK)
    config.seeds, config.tail = 1, 2
    config.arms["grpo"]["cold_start"]["steps"] = 3
    own = {"updates": range(1, 8), "new_tokens": np.full(7, 10), "offered_groups": np.full(7, 4)}
    own = {name: np.asarray(values) for name, values in own.items()}
    records.append(tmp_path / "metrics.jsonl", lines([1, 1, 1, 0.2, 0.2, 0.6, 0.6], **own))
    monkeypatch.setattr(study, "train_all", lambda runs, *given: [(run, tmp_path) for run in runs])
    (found,) = study.methods(config, tmp_path, None).rows
    assert found["first"].mean == pytest.approx(0.2) and found["last"].mean == pytest.approx(0.6)
    assert found["responses drawn"].mean == 4 * 4 * 8


def test_iterations_that_a_pretraining_left_out_are_not_counted():
    early = [line for line in lines([0.2] * 6 + [1.0] * 4) if not 2 < line["step"] <= 5]
    told = study.numbered(early)
    assert [line["step"] for line in told] == list(range(1, 8))
    assert study.reached(early, 1, "reward", 0.9, 2) == 8 and study.reached(told, 1, "reward", 0.9, 2) == 5


def test_a_trust_region_is_told_beside_its_radius():
    config = comparison(["grpo", "trpo"], TASK)
    kls = [lines([0.2, 0.3], trust_region_kl=[0.004, 0.0097])] * 2
    (told,) = study.regions(config, {"grpo": [lines([0.2, 0.3])], "trpo": kls})
    assert told == "trpo: the largest of 4 measured KL(old‖new) is 0.00970 nats an action, δ = 0.01"


def test_every_method_has_a_panel():
    config = comparison(["grpo", "rloo", "dapo"], TASK)
    figure = study.draw(config, {name: [lines(np.linspace(0, 1, 12))] * 2 for name in config.arms})
    shown = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title() for axis in shown] == ["grpo", "rloo", "dapo"]
    assert all(len(axis.lines) == 4 for axis in shown)  # two seeds, their mean, the threshold
