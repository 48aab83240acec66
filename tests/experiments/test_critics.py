"""The critic of a run: where it starts, how it learns alone, and that the run goes on where it was killed."""

import io
import itertools
import json
from types import SimpleNamespace

import bigram
import numpy as np
import pytest
from devices import first_devices
from exact import bits, same
from rich.console import Console

from experiments import records, run
from experiments.config import (
    CheckpointConfig,
    ColdStartConfig,
    CriticConfig,
    EvaluationConfig,
    Experiment,
    ModelConfig,
    OptimizerConfig,
    SamplingConfig,
    ScheduleConfig,
    TaskConfig,
)
from experiments.first_state import first_state
from experiments.methods import MethodConfig
from experiments.setup import build
from experiments.train import train
from gpg_jax.training.checkpoints import read_checkpoints, restore

OWN = {"seconds", "new_tokens_per_second"}


PAIRS = [{"prompt": f"{one}{two}>", "response": f"{two}{one}"} for one, two in ("ab", "cd", "ea")]
ENOUGH = 0.1
NUMBERS = [1, 2, 3, 4, 5, 8, 9]
"""Two iterations on demonstrations, three of five of the critic alone, which explains `ENOUGH` in the third,
and the method's."""


def tied(architecture, **options):
    """The policy of `bigram` whose head is its embedding, so that a critic's trunk reads all parameters."""
    policy = bigram.policy(architecture, **options)
    scale = architecture.width**-0.5

    def init(key):
        return {name: leaf for name, leaf in policy.init(key).items() if name != "head"}

    return policy._replace(init=init, unembed=lambda params, states: scale * states @ params["embedding"].T)


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Two devices, and networks in which nothing but their parameters is of interest here."""
    with first_devices(2), pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.setup.transformer", tied)
        patch.setattr("experiments.critics.transformer", tied)
        yield


def experiment(data=None, **sections) -> Experiment:
    critic = CriticConfig(
        trunk="separate",
        pretraining_steps=5,
        explained_variance=ENOUGH,
        optimizer=OptimizerConfig(learning_rate=3e-2),
    )
    given = {
        "method": MethodConfig(name="vapo", arguments={"kl_coefficient": 0.01}),
        "critic": critic,
        **sections,
    }
    return Experiment(
        mesh=(2, 1, 1),
        model=ModelConfig(width=16, layers=1, heads=2, kv_heads=2, head_dim=8, mlp_width=16),
        task=TaskConfig(name="reversal", verifier="places_right", prompt_tokens=3),
        sampling=SamplingConfig(new_tokens=3),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        schedule=ScheduleConfig(steps=2, prompts=8, group=2, epochs=2),
        cold_start=ColdStartConfig(steps=2 if data else 0, data=data),
        evaluation=EvaluationConfig(examples=-1, batch=8),
        checkpoint=CheckpointConfig(every=1, keep_latest=20, keep_best=0),
        **given,
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    return experiment(str(path))


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("critics") / "whole"
    train(config, workdir, Console(quiet=True))
    return workdir


@pytest.fixture(scope="module")
def found(config, whole):
    """Step -> state, of every checkpoint of the run."""
    return states(config, whole)


def states(config, workdir):
    like = build(config).like
    with read_checkpoints(workdir / "checkpoints") as checkpoints:
        known = sorted(one.step for one in checkpoints.checkpoints)
        return {step: restore(checkpoints, like, pytest.fail, [step]).state for step in known}


def lines(workdir):
    told = records.read(workdir / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in OWN} for line in told]


def test_a_separate_critic_begins_as_the_policy_with_a_head_of_zeros():
    state = first_state(build(experiment()))
    same(state.critic.params["trunk"], state.params)
    assert not np.any(state.critic.params["weight"])


def test_the_critic_learns_alone_until_it_explains_enough_and_then_beside_the_policy(found, whole):
    assert list(found) == NUMBERS
    policies, critics = (
        {step: bits(part(state)) for step, state in found.items()}
        for part in (lambda state: state.params, lambda state: state.critic.params)
    )
    for alone in (3, 4, 5):
        same(policies[2], policies[alone])
        same(bits(found[2].optimizer), bits(found[alone].optimizer))
    for one, other in ((1, 2), (5, 8), (8, 9)):
        assert all(np.any(x != y) for x, y in zip(policies[one], policies[other], strict=True))
    for one, other in itertools.pairwise(NUMBERS[1:]):
        assert any(np.any(x != y) for x, y in zip(critics[one], critics[other], strict=True))
    assert [int(state.update) for state in found.values()] == [1, 2, 2, 2, 2, 4, 6]
    told = lines(whole)
    assert [line["step"] for line in told] == NUMBERS
    assert [line["updates"] for line in told] == [1, 2, 2, 2, 2, 4, 6]
    assert ["critic_gradient_norm" in line for line in told] == [False] * 2 + [True] * 5
    assert ["explained_variance" in line for line in told] == [False] * 2 + [True] * 5
    assert ["gradient_norm" in line for line in told] == [True] * 2 + [False] * 3 + [True] * 2
    assert [line["explained_variance"] >= ENOUGH for line in told[2:5]] == [False, False, True]


def test_behind_a_cold_start_reference_and_trunk_are_the_policy_that_it_made(found):
    cold = bits(found[2].params)
    same(bits(found[3].reference), cold)
    assert any(np.any(x != y) for x, y in zip(bits(found[1].reference), cold, strict=True))
    # by then the trunk has moved twice, by about its rate of 0.03 each time
    for one, other in zip(bits(found[3].critic.params["trunk"]), cold, strict=True):
        assert 0 < np.max(np.abs(one - other)) < 0.09


def test_a_run_killed_in_and_behind_its_pretraining_goes_on_bit_for_bit(
    config, found, whole, tmp_path, monkeypatch
):
    """O-37 with a critic: how far its pretraining was, and that it was over early, is known afterwards."""
    keep = run.keep
    for last in (4, 5):

        def killed(current, iteration, metrics, last=last):
            keep(current, iteration, metrics)
            if iteration.step == last:
                raise KeyboardInterrupt

        monkeypatch.setattr(run, "keep", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "killed", Console(quiet=True))
    monkeypatch.setattr(run, "keep", keep)
    train(config, tmp_path / "killed", Console(quiet=True))
    assert json.dumps(lines(tmp_path / "killed")) == json.dumps(lines(whole))
    same(bits(states(config, tmp_path / "killed")[9]), bits(found[9]))


TOO_LITTLE = (
    "iteration 5: critic.pretraining_steps are through, and the critic explains 0.050 of the variance of the "
    "returns, where critic.explained_variance asks for 0.1: the method begins with it as it is"
)


@pytest.mark.parametrize(
    ("asked", "explained", "said"),
    [(ENOUGH, 0.05, [TOO_LITTLE]), (ENOUGH, ENOUGH, []), (None, 0.05, [])],
)
def test_a_critic_that_explains_too_little_when_the_method_begins_is_told_of(
    asked, explained, said, monkeypatch
):
    """Once, behind the last iteration that its pretraining may have, and not where nothing was asked."""
    console = Console(file=io.StringIO(), width=400)
    critic = CriticConfig(trunk="separate", pretraining_steps=5, explained_variance=asked)
    setup = build(experiment(critic=critic))
    coming = [SimpleNamespace(step=step) for step in range(1, 8)]
    monkeypatch.setattr(run, "_coming", lambda current, start: coming)
    monkeypatch.setattr(run, "measure", lambda *arguments: {"explained_variance": explained})
    for name in ("write", "keep"):
        monkeypatch.setattr(run, name, lambda *arguments: None)
    run.train(run.Run(setup, None, None, None, (), console, {}), SimpleNamespace(step=0))
    told = console.file.getvalue().splitlines()
    assert [line for line in told if "explain" in line] == said


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"method": MethodConfig(name="grpo")}, "the method 'grpo' has no critic"),
        ({"critic": CriticConfig(trunk="separate", name="smollm2")}, "must have the policy's tokenizer"),
    ],
)
def test_critics_that_do_not_fit_are_refused(sections, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(experiment(**sections))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"trunk": "shared"}, "must be 'policy' or 'separate'"),
        ({"name": "smollm2"}, "has no weights to start from"),
        ({"explained_variance": 0.5}, "give critic.pretraining_steps"),
        ({"explained_variance": 1.0, "pretraining_steps": 3}, "it is below 1"),
    ],
)
def test_sections_that_contradict_themselves(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        CriticConfig(**given)
