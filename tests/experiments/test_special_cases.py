"""The special cases on a tiny model: which pairs are one method, and that the numbers are what they say."""

import functools
import importlib

import jax
import numpy as np
import pytest
from rich.console import Console

from configs.studies.special_cases import get_config
from experiments.config import Experiment
from experiments.reading import from_config_dict
from experiments.setup import build, first_state
from experiments.studies.identities import METHODS, PAIRS, TOLERANCE, is_equal
from gpg_jax.losses.objective import estimate, loss, weigh
from gpg_jax.types import Batch

study = importlib.import_module("experiments.studies.special_cases")  # the package names its function so


def configure():
    config = get_config("tiny")
    config.base.schedule.prompts, config.base.schedule.group = 2, 4
    config.base.sampling.new_tokens = 8
    config.base.model.width, config.base.model.layers = 16, 1
    config.seeds, config.move = 2, 3.0
    return config


@pytest.fixture(scope="module", autouse=True)
def bench():
    """Setup and programs, compiled once and on one device: eight would compute everything eight times."""
    with pytest.MonkeyPatch.context() as patch:
        first = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda *arguments: first)
        setup = build(from_config_dict(Experiment, configure().base))
        programs = study.compile_programs(setup)
        patch.setattr(study, "compile_programs", lambda setup: programs)
        yield setup, programs


@functools.cache
def found(folder):
    return study.special_cases(configure(), folder, Console(quiet=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("special")


def test_every_pair_is_what_it_should_be(folder):
    rows = found(folder).rows
    assert [row["is"] for row in rows] == [row["should be"] for row in rows]
    assert len(rows) == len(PAIRS) and {pair.policy for pair in PAIRS} == {"on", "off"}
    equal = [row for row in rows if row["is"] == "equal"]
    assert max(row["gradients apart"].mean for row in equal) < TOLERANCE
    assert min(row["cosine"].mean for row in equal) > 1 - 1e-9
    assert found(folder).notes[0].startswith(f"{len(PAIRS)} of {len(PAIRS)} pairs are as they should be")


def test_the_lengths_are_what_parts_grpo_from_the_policy_gradient(folder):
    # On-policy both push each row along A·Σ∇log π, one of them over |o|: they agree where lengths do not
    # vary.
    apart = {
        (row["first"], row["second"], row["policy"]): row["gradients apart"].mean
        for row in found(folder).rows
    }
    assert apart["GRPO", "policy gradient", "on"] > 0.1
    assert apart["GPG K=1", "policy gradient", "on"] == pytest.approx(
        apart["GRPO", "policy gradient", "on"], rel=1e-4
    )


def test_clips_bind_off_policy(folder):
    text = found(folder).notes[3]
    assert "GRPO's clip of 0.2 binds on 0." in text and "GSPO's on 0." in text


def test_a_second_run_reads_what_was_measured(folder, monkeypatch):
    first = found(folder)
    monkeypatch.setattr(study, "measure_seed", None)
    again = study.special_cases(configure(), folder, Console(quiet=True))
    assert [dict(row) for row in again.rows] == [dict(row) for row in first.rows]


def test_numbers_of_a_comparison_by_hand():
    one = study.Outcome(1.5, [np.float32([3, 0]), np.float32([[4]])])
    other = study.Outcome(1.0, [np.float32([0, 0]), np.float32([[4]])])
    # apart by (3, 0, 0): 3 over 4; lengths 5 and 4, along 16
    expected = {"gradient": 0.75, "largest": 0.75, "cosine": 16 / 20, "loss": 0.5}
    assert study.compare(one, other) == pytest.approx(expected)
    assert not is_equal([study.compare(one, other)]) and is_equal([study.compare(one, one)])


def test_the_pulled_gradient_is_that_of_the_loss_through_the_network(bench):
    """No coefficients: the loss is differentiated with respect to the parameters, whole."""
    setup, programs = bench
    params = first_state(setup).params
    rollout = study.mixed_rollout(setup, params)
    batch = Batch(rollout=rollout, old=programs.score(params, rollout))
    params = study.moved(params, jax.random.key(5), 0.5)
    method = METHODS["GPG K=4"]

    @jax.jit
    def whole(params):
        fixed, _ = estimate(method, batch, method.state)
        weights, _ = weigh(method.objective, rollout, fixed)
        return loss(method.objective, programs.score(params, rollout), batch, fixed, weights, (), ())[0]

    expected = jax.jit(jax.grad(whole))(params)
    push = programs.push(batch, programs.score(params, rollout))["GPG K=4"]
    np.testing.assert_allclose(push.loss, whole(params), rtol=1e-6)
    pulled = programs.pull(params, rollout, push.coefficients)
    for left, right in zip(jax.tree.leaves(pulled), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-7)


def test_parameters_are_moved_by_a_share_of_their_size():
    params = {"a": np.full((200, 50), 2.0, np.float32), "b": np.zeros(3, np.float32)}
    moved = study.moved(jax.tree.map(jax.numpy.asarray, params), jax.random.key(0), 0.1)
    assert np.std(moved["a"] - params["a"]) == pytest.approx(0.2, rel=0.03)
    np.testing.assert_array_equal(moved["b"], 0)


def test_prompts_without_signal_are_refused():
    config = configure()
    config.base.schedule.generations = 1
    config.base.task.verifier = "exact"
    setup = build(from_config_dict(Experiment, config.base))
    with pytest.raises(ValueError, match="without signal: raise"):
        study.mixed_rollout(setup, first_state(setup).params)


def test_the_model_has_a_name():
    with pytest.raises(ValueError, match='"smollm2" or "tiny"'):
        get_config("large")
