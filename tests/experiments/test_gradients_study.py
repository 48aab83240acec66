"""Gradients of forked rollouts: they are the methods' own; what forks share; what the study tells."""

import dataclasses
import importlib
import itertools

import bigram
import forking
import jax
import numpy as np
import pytest
import small
from ml_collections import ConfigDict
from rich.console import Console

from configs.studies.calibration_gradients import get_config
from experiments.config import Experiment
from experiments.reading import from_config_dict
from experiments.setup import first_state
from experiments.studies import gradients_report as report
from experiments.studies import moments
from experiments.studies.estimators import (
    AIM_OF,
    AIMS,
    ESTIMATORS,
    FAMILIES,
    TREE,
    UNBIASED,
    compile_gradients,
)
from gpg_jax.losses.objective import estimate, loss, weigh
from gpg_jax.policies.score import Layout, score
from gpg_jax.training.collect import Collected
from gpg_jax.types import Batch

study = importlib.import_module("experiments.studies.gradients")  # the package names its function so


def configure(**changes) -> ConfigDict:
    config = study.default_study()
    config.base = forking.experiment(prompts=4, group=4)
    config.update({"prompts": 2, "together": 4, "widths": (1, 2), "paper_roots": 0, "seeds": 1})
    config.update({"rollouts": 8, "reference": 48, **changes})
    return config


@pytest.fixture(scope="module")
def one_device():
    """One replica, and a table for a network: programs are compiled once, and soon."""
    with pytest.MonkeyPatch.context() as patch:
        first = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda *arguments: first)
        patch.setattr("experiments.setup.transformer", bigram.policy)
        yield


AIM_LINES = [
    next(index for index, one in enumerate(ESTIMATORS) if one.method is aim and one.leaf_weight == "uniform")
    for aim in AIMS
]


@pytest.fixture(scope="module")
def lab(one_device):
    """What is aimed at is read from the gradients of all methods, to compile once."""
    lab = study.open_lab(configure())
    return lab._replace(of_aims=lambda params, rollout: lab.of_all(params, rollout)[AIM_LINES])


@pytest.fixture(scope="module")
def forked(lab):
    """The first parameters, and a rollout of them with forks in it."""
    params = first_state(lab.setup).params
    examples = next(lab.setup.task.batches)[:2] * 2
    collector = study.forked_collector(
        lab.setup, lab.toolbox, lab.programs, lab.branchings["2"], examples, group=4
    )._replace(leaf_weight="tree")
    rollouts = study._rollouts(collector, params, jax.random.key(3), 32, prompts=2)
    rollout = max(rollouts, key=unlike)
    assert unlike(rollout) >= 1
    return params, rollout


def unlike(rollout):
    """Rows of another length and reward than the row that they were forked from."""
    parent = rollout.parent
    return np.sum((rollout.length != rollout.length[parent]) & (rollout.reward != rollout.reward[parent]))


def line(family, calibration, leaf_weight):
    return next(
        index for index, one in enumerate(ESTIMATORS) if one[:3] == (family, calibration, leaf_weight)
    )


def test_an_estimate_is_the_gradient_of_the_methods_loss():
    """No coefficients: the loss is differentiated with respect to the parameters, whole.

    Each method by itself, on as many tokens as a rollout has: XLA gets the batched pullback of a norm wrong.
    """
    layout, policy = Layout(prompt_slots=6, new_slots=40, shared=4), bigram.policy(small.ARCHITECTURE)
    rollout, params = small.rollout(layout=layout), policy.init(jax.random.key(0))
    rollout = rollout.replace(leaf_weight=np.float32([0.5, 0.5, 1, 2] * 8))
    methods = [
        ESTIMATORS[line(*name)].method for name in ((UNBIASED, "hard", "tree"), (TREE, "tree", "tree"))
    ]

    def whole(params, chosen):
        rows = rollout.tokens, rollout.prompt_length, rollout.length
        scores = score(policy, params, *rows, layout, temperature=1.0)
        batch = Batch(rollout=rollout, old=jax.lax.stop_gradient(scores))
        losses = []
        for method in methods:
            fixed, _ = estimate(method, batch, ())
            weights, _ = weigh(method.objective, rollout, fixed)
            losses.append(loss(method.objective, scores, batch, fixed, weights, (), ())[0])
        return losses[0] * chosen[0] + losses[1] * chosen[1]

    found = compile_gradients(policy, layout, 1.0, methods)(params, rollout)
    gradient = jax.jit(jax.grad(whole))
    for index, chosen in ((1, [1.0, 0.0]), (3, [0.0, 1.0])):  # behind each method's uniform weights
        expected = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient(params, chosen))])
        scale = np.abs(expected).max()
        assert scale > 1e-2
        np.testing.assert_allclose(found[index], -expected, rtol=1e-3, atol=1e-5 * scale)


def test_calibration_matters_where_a_row_counts_by_its_length_alone(lab, forked):
    """O-30: under token sums hard and soft push alike."""
    apart = study._apart(lab.of_all(*forked))
    for weight in ("uniform", "tree"):
        assert apart[line(UNBIASED, "hard", weight)] < 1e-5
    assert apart[line("mean/std, sequence mean", "hard", "uniform")] > 1e-3


def test_rollouts_are_whole_and_numbered_from_0(lab, forked):
    rollout = forked[1]
    np.testing.assert_array_equal(rollout.group, np.repeat([0, 1], 4))
    np.testing.assert_array_equal(rollout.parent // 4, rollout.group)
    seen = study._described(rollout)
    assert seen["drawn"] < seen["trained"] == rollout.action_mask.sum()


def test_families_aim_at_what_they_are_without_forks(lab, forked):
    """Leave-one-out is G/(G − 1) times the group's mean; std and lengths aim elsewhere."""
    params, rollout = forked
    alone = dataclasses.replace(
        rollout,
        parent=np.arange(8, dtype=np.int32),
        fork=np.asarray(rollout.prompt_length),
        leaf_weight=np.ones(8, np.float32),
    )
    found = lab.of_all(params, alone)
    aims = found[AIM_LINES]
    np.testing.assert_allclose(found, aims[AIM_OF], rtol=1e-3, atol=1e-6)
    unbiased, group = (list(FAMILIES).index(name) for name in (UNBIASED, "group mean, token sum"))
    np.testing.assert_allclose(aims[unbiased], 4 / 3 * aims[group], rtol=1e-3, atol=1e-6)
    assert len(AIMS) == 4


@pytest.fixture(scope="module")
def found(lab, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gradients")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "open_lab", lambda config: lab)
        findings = study.gradients(configure(), folder, Console(quiet=True))
        patch.setattr(study, "measure_seed", None)
        again = study.gradients(configure(), folder, Console(quiet=True))
    assert list(map(str, again.rows)) == list(map(str, findings.rows))
    return findings


def test_without_forks_there_is_one_estimator_a_family(found):

    alone = [row for row in found.rows if row["width"] == "1"]
    assert [row["family"] for row in alone] == list(FAMILIES)
    assert all(row["leaf weight"] == "uniform = tree" for row in alone)
    assert all(row["tokens drawn"].mean == row["tokens trained"].mean for row in alone)
    forked = [row for row in found.rows if row["width"] == "2"]
    assert all(row["tokens drawn"].mean < row["tokens trained"].mean for row in forked)
    assert {"soft", "hard"} <= {row["calibration"] for row in forked}  # parted under the sequence mean
    assert "soft = hard" in {row["calibration"] for row in forked}  # one under sums of tokens


def test_numbers_of_real_rollouts_are_possible(found):
    for row in found.rows:
        assert row["variance"].mean > 0 and -1 < row["cosine"].mean < 1
        assert 0 < row["groups with signal"].mean <= row["rollouts with signal"].mean <= 1
    assert f"Calibration changes nothing under {UNBIASED}" in " ".join(found.notes)


def noisy(draw, count, mean):
    """Estimates `[count, E, 6]` that scatter around a mean."""
    return np.float32(mean + 0.5 * draw.normal(size=(count, len(ESTIMATORS), 6)))


@pytest.fixture(scope="module")
def recorded():
    """Made-up estimates of five rollouts, one of which has no signal, and seven of what they aim at."""
    draw = np.random.default_rng(0)
    estimates, aimed = noisy(draw, 5, 1.0), noisy(draw, 7, 1.1)[:, : len(AIMS)]
    estimates[3] = 0
    rollouts = [small.rollout(seed=number, prompts=2) for number in range(5)]
    reward = np.float32([1, 0, 1, 1, 1, 1, 1, 1])
    rollouts = [rollout.replace(reward=reward * (number != 3)) for number, rollout in enumerate(rollouts)]
    target = moments.no_moments(len(AIMS), 6)
    for one in aimed:
        target = moments.add(target, one)
    queue = iter(estimates)
    found = study._records("2", iter(rollouts), lambda rollout: next(queue), target)
    return found, estimates.astype(np.float64), aimed.astype(np.float64)


def crossed(one, other=None):
    """Mean product of different estimates, in which the noise has no square."""
    pairs = itertools.permutations(one, 2) if other is None else itertools.product(one, other)
    return np.mean([first @ second for first, second in pairs])


def test_the_bias_is_without_the_noise_of_the_means(recorded):
    for index, record in enumerate(recorded[0]):
        own, aim = recorded[1][:, index], recorded[2][:, AIM_OF[index]]
        norm = crossed(aim)
        assert record["bias"] == pytest.approx((crossed(own) - 2 * crossed(own, aim) + norm) / norm)
        assert record["squared_mean"] == pytest.approx(crossed(own) / norm)
        assert record["variance"] == pytest.approx(own.var(0, ddof=1).sum() / norm)


def test_a_rollout_without_signal_has_a_cosine_of_0(recorded):
    for index, record in enumerate(recorded[0]):
        own, aim = recorded[1][:, index], recorded[2][:, AIM_OF[index]]
        along = own @ aim.mean(0) / np.sqrt(crossed(aim))
        lengths = np.linalg.norm(own, axis=1)
        expected = [cosine / length if length else 0 for cosine, length in zip(along, lengths, strict=True)]
        assert record["cosine"] == pytest.approx(np.mean(expected)) and expected[3] == 0
        assert record["signal"] == 0.8 and record["mixed"] == 0.4  # one of two groups, in four of five


def test_the_distance_of_hard_from_soft_is_the_largest(recorded):
    soft, hard = (line(UNBIASED, kind, "tree") for kind in ("soft", "hard"))
    apart, lengths = recorded[1][:, hard] - recorded[1][:, soft], np.linalg.norm(recorded[1][:, soft], axis=1)
    expected = [np.linalg.norm(one) / length for one, length in zip(apart, lengths, strict=True) if length]
    assert recorded[0][hard]["apart"] == pytest.approx(max(expected)) and len(expected) == 4


PLAIN = {
    "variance": 2.0,
    "bias": 0.0,
    "squared_mean": 1.0,
    "cosine": 0.5,
    "to_gradient": 1.0,
    "apart": 0.0,
    "signal": 1.0,
    "mixed": 0.75,
    "trained": 100.0,
}


def policy_like(*changes, reward=0.5):
    """What one policy came to, made up: all estimators are alike but for (where, what) changes."""
    rows = []
    for branching, drawn in (("1", 100.0), ("2", 80.0)):
        for estimator in ESTIMATORS:
            names = dict(zip(("family", "calibration", "leaf_weight"), estimator[:3], strict=True))
            row = {"branching": branching, **names, **PLAIN, "drawn": drawn}
            for where, what in changes:
                row |= what if where.items() <= row.items() else {}
            rows.append(row)
    seen = {"reward": 0.3, "mixed": 1.0, "drawn": 100.0}
    return {"batch": {"reward": reward, "mixed": 0.25}, "policy": seen, "rows": rows}


def tree_and_leave_one_out(tree, other):
    """Changes at width 2 of the two that are compared."""
    lines = ({"family": TREE, "calibration": "tree"}, {"family": UNBIASED, "calibration": "soft"})
    return [
        ({**one, "branching": "2", "leaf_weight": "tree"}, what)
        for one, what in zip(lines, (tree, other), strict=True)
    ]


def test_tree_advantages_are_compared_over_their_own_length():
    # Half as long, and so a quarter of the variance over ‖g‖², where the noise over the length is as large:
    # 4 and 1 times that of leave-one-out, 2 in the geometric mean.
    found = [
        policy_like(
            *tree_and_leave_one_out({"variance": v, "squared_mean": 0.25, "cosine": c}, {"variance": 1.0})
        )
        for v, c in ((1.0, 0.30), (0.25, 0.31))
    ]
    text = next(note for note in report.notes(found) if "tree advantages" in note)
    assert "the variance of tree advantages is that of leave-one-out times 2 (" in text
    assert "their means are 0.5 (0.5–0.5) and 1 (1–1) times as long as without forks" in text
    assert "∇J is 0.305 ± 0.064, lower than 0.5 ± 0." in text
    for cosines, word in (((0.7, 0.71), "higher than"), ((0.4, 0.6), "not told from")):
        found = [policy_like(*tree_and_leave_one_out({"cosine": cosine}, {})) for cosine in cosines]
        assert f", {word} 0.5 ± 0." in " ".join(report.notes(found))
    assert "∇J is 0.4, beside 0.5." in " ".join(report.notes(found[:1]))


def test_a_mean_that_is_all_noise_is_not_told():
    where = {"family": TREE, "branching": "2"}
    found = [policy_like((where, {"squared_mean": size})) for size in (0.5, -0.1)]
    assert "leave-one-out times not told at 2, where their means are not told and 1 (1–1)" in " ".join(
        report.notes(found)
    )
    row = next(row for row in report.table(found) if row["family"] == TREE and row["width"] == "2")
    assert str(row[report.OWN]) == str(row[report.LENGTH]) == "not told"


def test_the_policy_is_told_by_prompts_as_they_come():
    assert report.notes([policy_like(reward=0.4), policy_like(reward=0.6)])[0] == (
        "Without forks the policy earns 0.5 ± 1.3 on a batch of prompts, and 25% of its groups have "
        "different rewards; on the prompts taken, those of the batch whose rewards differed the most, it "
        "earns 0.3 ± 0, and 100% have."
    )


def test_calibration_is_told_by_its_largest_change():
    family = "mean/std, sequence mean"
    hard = {"family": family, "calibration": "hard", "branching": "2"}
    found = [
        policy_like((hard, {"apart": apart, "variance": 2.0 * ratio}))
        for apart, ratio in ((0.1, 2), (0.3, 0.5))
    ]
    notes = report.notes(found)
    assert notes[1].startswith(f"Under {family} calibration changes a gradient by up to 0.3 of its length; ")
    assert "that of the soft form times 1 (" in notes[1]  # twice and half
    assert notes[2].endswith("hard and soft gradients of a rollout differ by 0 of their length at most.")


def test_variances_are_compared_by_factors():
    # Twice and half the variance at 0.8 of the tokens.
    found = [policy_like(({"branching": "2"}, {"variance": 2.0 * ratio})) for ratio in (2, 0.5)]
    notes = [note for note in report.notes(found) if note.startswith("Variance over that without forks")]
    assert len(notes) == 3
    assert all(": 2: 1 (" in note and "at equal rows, 0.8 (" in note for note in notes)


@pytest.mark.parametrize(
    ("biases", "words"),
    [
        ((0.30, 0.31), "0.305 ± 0.064 at 2 (told from 0)"),
        ((-0.1, 0.3), "0.1 ± 2.5 at 2 (not told from 0)"),
        ((0.2,), "0.2 at 2 (one policy)"),
    ],
)
def test_a_bias_is_told_from_0_or_not(biases, words):
    where = {"branching": "2", "family": UNBIASED, "calibration": "soft", "leaf_weight": "tree"}
    found = [policy_like((where, {"bias": bias})) for bias in biases]
    assert f"with tree leaf weights ({UNBIASED}), is {words}." in " ".join(report.notes(found))


def test_the_table_and_the_picture_bear_what_is_not_told():
    nothing = {"to_gradient": float("nan"), "squared_mean": -1.0, "variance": 0.0}
    found = [policy_like(({"branching": "2"}, nothing)), policy_like()]
    rows = report.table(found)
    assert len(rows) == 8  # a row for each family and way: what is not told is alike, too
    assert {str(row["variance"]) for row in rows if row["width"] == "2"} == {"not told"}
    assert rows[0]["groups with signal"].mean == 0.75 and rows[0]["rollouts with signal"].mean == 1
    report.draw(found)
    report.draw(found[:1])


def test_without_forks_nothing_is_said_of_them():
    found = [policy_like(({"branching": "2"}, {"drawn": 100.0}))]
    notes = report.notes(found)
    assert len(notes) == 3 and notes[1] == "No row was forked."


def test_the_policy_of_the_study_has_learnt_from_rewards():
    config = get_config()
    experiment = from_config_dict(Experiment, config.base)
    behind = config.iterations - experiment.cold_start.steps
    assert 0 < behind < experiment.schedule.steps
    assert (
        f"{behind} iterations behind its cold start" in importlib.import_module(get_config.__module__).__doc__
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (1, 4)}, "a width of 4 does not cut base.schedule.group=4 rows"),
        ({"rollouts": 6}, "rollouts is 6; it must be a multiple of together=4"),
        ({"widths": (2,)}, "the width 1 is what the others are compared with"),
        ({"prompts": 5}, "prompts is 5; base.schedule.prompts=4"),
        ({"iterations": 500}, "iterations is 500, and the run of base has 400"),
    ],
)
def test_what_makes_no_sense_is_refused(one_device, changes, message):
    with pytest.raises(ValueError, match=message):
        study.open_lab(configure(**changes))


def test_prompts_are_those_that_tell_the_most():
    reward = np.array([1, 1, 1, 1, 0, 1, 0, 1, 1, 0, 0, 0], np.float32)
    names = ("certain", "even", "rare")
    rollout = small.rollout(prompts=3).replace(reward=reward)
    collected = Collected(rollout, names, {}, {}, np.zeros(12), {})
    assert study.telling(collected, 2) == ["even", "rare"]


def test_a_reference_that_is_all_noise_is_refused():
    draw = np.random.default_rng(0)
    target = moments.no_moments(1, 50)
    while target.samples < 4 or moments.squared_norm(target)[0] > 0:
        target = moments.add(target, draw.normal(size=(1, 50)))
    with pytest.raises(ValueError, match="all noise"):
        study._check_target(target, 4)
