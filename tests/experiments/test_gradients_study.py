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
from experiments.first_state import first_state
from experiments.reading import from_config_dict
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


@pytest.mark.parametrize("length", ["short", "full"])
def test_the_policy_of_the_study_has_learnt_from_rewards(length):
    config = get_config(length)
    experiment = from_config_dict(Experiment, config.base)
    behind = config.iterations - experiment.cold_start.steps
    assert 0 < behind < experiment.schedule.steps
    assert (
        f"{behind} iterations behind its cold start" in importlib.import_module(get_config.__module__).__doc__
    )


def test_the_full_length_has_four_times_the_rollouts():
    short, full = get_config(), get_config("full")
    assert (full.rollouts, full.reference) == (4 * short.rollouts, 4 * short.reference)
    assert full.rollouts % full.together == full.reference % full.together == 0
    assert short.base == full.base


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (1, 4)}, "a width of 4 does not cut base.schedule.group=4 rows"),
        ({"paper_roots": 5}, "paper_roots is 5, and base.schedule.group=4 rows begin no more"),
        ({"rollouts": 6}, "rollouts is 6; it must be a multiple of together=4"),
        ({"widths": (2,)}, "the width 1 is what the others are compared with"),
        ({"widths": (1,)}, "no rows are forked; give another width"),
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
