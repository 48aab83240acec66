"""Gradients of forked rollouts: they are the methods' own; what forks share; what the study tells."""

import dataclasses
import importlib

import forking
import jax
import numpy as np
import pytest
import small
from ml_collections import ConfigDict
from rich.console import Console

from experiments.setup import first_state
from experiments.studies import moments
from experiments.studies.estimators import AIM_OF, AIMS, ESTIMATORS, FAMILIES, UNBIASED, compile_gradients
from gpg_jax.losses.objective import estimate, loss, weigh
from gpg_jax.policies.score import Layout, score
from gpg_jax.training.collect import Collected
from gpg_jax.types import Batch

study = importlib.import_module("experiments.studies.gradients")  # the package names its function so


def configure(**changes) -> ConfigDict:
    config = study.default_study()
    config.base = forking.experiment(prompts=4, group=4)
    config.update({"prompts": 2, "together": 4, "widths": (1, 2), "paper_roots": 0, "seeds": 2})
    config.update({"rollouts": 24, "reference": 96, **changes})
    return config


@pytest.fixture(scope="module")
def one_device():
    """One replica: the programs of eight would be compiled eight times."""
    with pytest.MonkeyPatch.context() as patch:
        first = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda *arguments: first)
        yield


@pytest.fixture(scope="module")
def lab(one_device):
    return study.open_lab(configure())


@pytest.fixture(scope="module")
def forked(lab):
    """The first parameters, and a rollout of them with forks in it."""
    params = first_state(lab.setup).params
    examples = next(lab.setup.task.batches)[:2] * 2
    collector = study.forked_collector(
        lab.setup, lab.toolbox, lab.programs, lab.branchings["2"], examples, group=4
    )._replace(leaf_weight="tree")
    rollouts = list(study._rollouts(collector, params, jax.random.key(3), 8, prompts=2))
    rollout = max(rollouts, key=lambda one: np.sum(one.fork > one.prompt_length) * np.ptp(one.reward))
    assert np.sum(rollout.fork > rollout.prompt_length) >= 1 and np.ptp(rollout.reward) > 0
    return params, rollout


def line(family, calibration, leaf_weight):
    return next(
        index for index, one in enumerate(ESTIMATORS) if one[:3] == (family, calibration, leaf_weight)
    )


def test_an_estimate_is_the_gradient_of_the_methods_loss(lab, forked):
    """No coefficients: the loss is differentiated with respect to the parameters, whole."""
    params, rollout = forked
    found = lab.of_all(params, rollout)
    plan = lab.setup.schedule.plan
    estimator = ESTIMATORS[index := line(UNBIASED, "hard", "tree")]
    assert np.ptp(rollout.leaf_weight) > 0

    def whole(params):
        rows = rollout.tokens, rollout.prompt_length, rollout.length
        scores = score(lab.setup.policy, params, *rows, plan.layout, temperature=1.0)
        batch = Batch(rollout=rollout, old=jax.lax.stop_gradient(scores))
        fixed, _ = estimate(estimator.method, batch, ())
        weights, _ = weigh(estimator.method.objective, rollout, fixed)
        return loss(estimator.method.objective, scores, batch, fixed, weights, (), ())[0]

    expected = jax.tree.leaves(jax.jit(jax.grad(whole))(params))
    expected = np.concatenate([np.ravel(leaf) for leaf in expected])
    assert np.abs(expected).max() > 1e-4
    np.testing.assert_allclose(found[index], -expected, rtol=1e-3, atol=1e-6)


def test_estimators_share_a_forward_pass_and_nothing_else():
    """Each as if it were alone, on as many tokens as a rollout has."""
    layout = Layout(prompt_slots=6, new_slots=40, shared=4)
    rollout, params = small.rollout(layout=layout), small.params()
    together = compile_gradients(small.policy(), layout, 1.0, AIMS, ("uniform",))(params, rollout)
    for method, found in zip(AIMS, together, strict=True):
        (alone,) = compile_gradients(small.policy(), layout, 1.0, (method,), ("uniform",))(params, rollout)
        np.testing.assert_allclose(found, alone, rtol=1e-3, atol=1e-5 * np.abs(alone).max())


def test_calibration_matters_where_a_row_counts_by_its_length_alone(lab, forked):
    """O-30: under token sums hard and soft push alike."""
    apart = study._apart(lab.of_all(*forked))
    for weight in ("uniform", "tree"):
        assert apart[line(UNBIASED, "hard", weight)] < 1e-5
    lengths = forked[1].action_mask.sum(1)
    tree = forked[1].parent != np.arange(8)
    assert any(lengths[child] != lengths[forked[1].parent[child]] for child in np.flatnonzero(tree))
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
    found, aims = lab.of_all(params, alone), lab.of_aims(params, alone)
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
    assert all(row["tokens drawn"] == row["tokens trained"] for row in alone)
    forked = [row for row in found.rows if row["width"] == "2"]
    assert all(row["tokens drawn"].mean < row["tokens trained"].mean for row in forked)
    assert {"soft", "hard"} <= {row["calibration"] for row in forked}  # parted under the sequence mean
    assert "soft = hard" in {row["calibration"] for row in forked}  # one under sums of tokens


def test_without_forks_there_is_no_bias(found):
    # The noise of the means is taken out; were it left in, the bias would be about variance·(1/R + 1/S).
    for row in found.rows:
        if row["width"] == "1":
            assert abs(row["bias²"].mean) < row["variance"].mean * (1 / 24 + 1 / 96)
            assert row["variance"].mean > 0 and -1 < row["cosine"].mean < 1


def test_notes_tell_what_came_out(found):
    notes = " ".join(found.notes)
    assert f"Calibration changes nothing under {UNBIASED}" in notes
    assert "Under mean/std, sequence mean calibration changes a gradient by up to" in notes
    assert "The squared bias of forks with tree leaf weights" in notes


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
