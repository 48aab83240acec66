"""The special cases on a tiny policy: which pairs are one method, and that the numbers are what they say."""

import functools
import importlib
from types import SimpleNamespace

import bigram
import jax
import numpy as np
import pytest
from rich.console import Console

from configs.quickstart import get_config as quickstart
from configs.studies.special_cases import get_config
from experiments.config import Experiment
from experiments.first_state import first_state
from experiments.reading import from_config_dict
from experiments.setup import build, make_collector
from experiments.studies import special_cases_report as report
from experiments.studies.identities import METHODS, PAIRS, TOLERANCE, verdict
from gpg_jax.losses.objective import estimate, loss, weigh
from gpg_jax.types import Batch

study = importlib.import_module("experiments.studies.special_cases")  # the package names its function so


THEOREM = "Σ A ∇log π"


def configure():
    config = get_config("tiny")
    config.base.schedule.prompts, config.base.schedule.group = 2, 4
    config.base.sampling.new_tokens = 8
    config.base.model.width, config.base.model.layers = 16, 1
    config.seeds, config.move = 2, 0.3
    return config


@pytest.fixture(scope="module", autouse=True)
def bench():
    """Setup and programs, compiled once, on one device and with a table for a network."""
    with pytest.MonkeyPatch.context() as patch:
        first = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda *arguments: first)
        patch.setattr("experiments.setup.transformer", bigram.policy)
        setup = build(from_config_dict(Experiment, configure().base))
        programs = study.compile_programs(setup)
        patch.setattr(study, "compile_programs", lambda setup: programs)
        collector = make_collector(setup)
        patch.setattr(
            study, "make_collector", lambda one: collector._replace(draw=lambda: next(one.task.batches))
        )
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
    assert apart["GRPO", THEOREM, "on"] > 0.1
    assert apart["GPG K=1", THEOREM, "on"] == pytest.approx(apart["GRPO", THEOREM, "on"], rel=1e-4)


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
    assert verdict([study.compare(one, other)]) == "different"
    assert verdict([study.compare(one, one)]) == "equal"


@pytest.mark.parametrize(
    ("gradients", "losses", "expected"),
    [
        ((1.4e-6, 0.0), (0.0, 9e-6), "equal"),
        ((1.1e-5, 1.4e-6), (0.0, 0.0), "neither"),  # rounding in one seed makes no other method
        ((0.5, 1.1e-5), (0.0, 0.0), "neither"),
        ((0.0, 0.0), (0.0, 2e-5), "neither"),
        ((0.5, 2e-3), (0.0, 0.0), "different"),
    ],
)
def test_pairs_are_equal_different_or_neither(gradients, losses, expected):
    records = [{"gradient": one, "loss": other} for one, other in zip(gradients, losses, strict=True)]
    assert verdict(records) == expected


def rollouts(changes, seeds=2):
    """What the study finds, made up: pairs are as they should be but for changes, names -> how far apart."""

    def record(pair):
        apart = changes.get((pair.first, pair.second, pair.policy), 1e-7 if pair.equal else 0.25)
        return {"gradient": apart, "largest": apart, "cosine": 1 - apart, "loss": 0.0}

    seen = {"tokens": 5.0, "spread": 2.0, "log_ratio": 0.3}
    seen |= {"clipped by GRPO": 0.25, "clipped by GSPO": 0.75}
    return [{"pairs": [record(pair) for pair in PAIRS], "rollout": seen}] * seeds


def test_sentences_where_all_is_as_it_should_be():
    notes = report.notes(rollouts({}))
    assert notes[0] == f"{len(PAIRS)} of {len(PAIRS)} pairs are as they should be."
    assert notes[1] == "Gradients that should be equal are 1e-07 apart at most, the others 0.2 at least."
    assert notes[2] == "Responses have 5 ± 0 tokens, with a standard deviation of 2 ± 0."
    assert "GRPO's clip of 0.2 binds on 0.25 ± 0 of the tokens, GSPO's on 0.75 ± 0." in notes[3]
    assert len(notes) == 4 + sum(not pair.equal for pair in PAIRS)
    assert notes[4] == (
        f"GRPO and {THEOREM}, on-policy: cosine 0.75 ± 0, 0.25 ± 0 apart "
        "(the objective's 1/|o|, which the theorem does not have)."
    )


def test_a_pair_that_came_out_equal_has_no_reason():
    name = "GRPO", THEOREM, "on"
    for apart, is_what, words in (
        (1e-6, "equal", "equal"),
        (1e-4, "neither", "neither equal nor different"),
    ):
        found = rollouts({name: apart})
        notes, row = report.notes(found), report.table(found)[PAIRS.index((*name, False))]
        assert row["is"] == is_what and row["should be"] == "different"
        assert notes[0] == (
            f"{len(PAIRS) - 1} of {len(PAIRS)} pairs are as they should be; GRPO and {THEOREM}, on-policy, "
            f"are {words} and should be different."
        )
        assert notes[4].endswith(" apart.") and "1/|o|" not in notes[4] and "1/|o|" in notes[5]


def test_a_pair_that_should_be_equal_and_is_not_is_told():
    notes = report.notes(rollouts({("GSPO", "GRPO", "on"): 0.5}))
    assert notes[0].endswith("; GSPO and GRPO, on-policy, are different and should be equal.")
    assert notes[1].startswith("Gradients that should be equal are 0.5 apart at most")


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


def test_prompts_without_signal_are_refused(bench, monkeypatch):
    monkeypatch.setattr(study, "collect", lambda *_: SimpleNamespace(short=1, offered=3))
    with pytest.raises(ValueError, match="1 groups of 3 that were drawn are without signal: raise"):
        study.mixed_rollout(bench[0], None)


@pytest.mark.parametrize(
    ("model", "name"),
    [("smollm2", "smollm2"), ("tiny", None), ("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B-Instruct")],
)
def test_the_configurations_are_experiments(model, name):
    experiment = from_config_dict(Experiment, get_config(model).base)
    assert experiment.model.name == name and not experiment.output.kl
    assert experiment.sampling.stop == (() if model == "tiny" else ("\nA:",))
    assert experiment.task.name == ("reversal" if model == "tiny" else "multiplication")
    assert model != "smollm2" or experiment.task.prompt_tokens == quickstart().task.prompt_tokens


def test_the_model_has_a_name():
    with pytest.raises(ValueError, match=r"the model is smollm2, tiny, qwen2\.5-0\.5b, got 'large'"):
        get_config("large")
