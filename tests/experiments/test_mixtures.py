"""A run whose policy is a mixture: built, sampled, saved, gone on with, evaluated and taken apart."""

import dataclasses

import bigram
import jax
import numpy as np
import pytest
from exact import bits, same

from configs.arpo_calculator import get_config
from experiments.config import (
    BranchingConfig,
    EvaluationConfig,
    Experiment,
    ModelConfig,
    OptimizerConfig,
    SamplingConfig,
    ScheduleConfig,
    TaskConfig,
    ToolsConfig,
)
from experiments.draws import check_draws
from experiments.evaluation import evaluate, make_evaluators
from experiments.export import members
from experiments.first_state import first_state
from experiments.learning_config import ActorsConfig
from experiments.methods import MethodConfig, make_method
from experiments.phases import make_phases, make_programs
from experiments.reading import from_config_dict
from experiments.setup import build, make_collector, stream
from gpg_jax.policies.architecture import Architecture
from gpg_jax.training.checkpoints import open_checkpoints, restore, save
from gpg_jax.training.loop import iterations


@pytest.fixture(autouse=True)
def tables(monkeypatch):
    """A table for a network: programs are compiled soon."""
    monkeypatch.setattr("experiments.setup.transformer", bigram.policy)


def configuration(**changes) -> Experiment:
    parts = {
        "mesh": (2, 2, 2),
        "model": ModelConfig(width=16, layers=2, heads=2, kv_heads=2, head_dim=8, mlp_width=16),
        "task": TaskConfig(name="reversal", verifier="places_right", prompt_tokens=3),
        "sampling": SamplingConfig(new_tokens=2),
        "method": MethodConfig(
            name="cpi", arguments={"step": "fixed", "alpha": 0.3, "capacity": 2, "kl_coefficient": 0.01}
        ),
        "optimizer": OptimizerConfig(learning_rate=3e-2, warm_up=3, decay="cosine"),
        "schedule": ScheduleConfig(steps=4, prompts=8, group=4, epochs=2, minibatches=2, micro_batches=2),
        "evaluation": EvaluationConfig(batch=8),
    }
    return Experiment(**(parts | changes))


def test_a_mixtures_run_goes_on_bit_for_bit_and_is_asked(tmp_path):
    config = configuration()
    setup = build(config)
    (phase,) = make_phases(setup)

    def go(setup, state, numbers, checkpoints=None):
        own = phase._replace(collector=make_collector(setup)._replace(write=phase.collector.write))
        seen = []
        for found in iterations([own], state, stream(config, "rollout"), numbers, lambda: None):
            seen.append((bits(found.metrics), bits(found.collected.rollout)))
            if checkpoints is not None and found.step == 2:
                cursor = setup.task.batches.get_state()
                save(checkpoints, 2, found.state, {"cursor": cursor}, score=0.0)
            last = bits(found.state)
        return seen, last, found

    first = first_state(setup)
    np.testing.assert_array_equal(first.params["weights"], [1, 0])
    same(*first.params["members"])
    with open_checkpoints(tmp_path) as checkpoints:
        *_, found = go(setup, first, range(1, 3), checkpoints)
        rest, end, found = go(setup, found.state, range(3, 5))
    again = setup._replace(task=build(config).task)
    with open_checkpoints(tmp_path) as checkpoints:
        restored = restore(checkpoints, again.like, pytest.fail)
    again.task.batches.set_state(restored.host["cursor"])
    other, other_end, _ = go(again, restored.state, range(3, 5))
    same(rest, other)
    same(end, other_end)
    params, metrics = found.state.params, found.metrics
    assert params["weights"][0] > 0 and metrics["mixture_members"] == 2 and metrics["sampler_gap_max"] < 1e-4
    (evaluator, *_) = make_evaluators(setup)
    assert evaluate(evaluator, params, next(setup.task.batches)).outcome.shape == (8, 1)
    taken = members(tmp_path / "out", jax.device_get(params))
    assert [path.name for path, *_ in taken] == ["member_0", "member_1"]
    np.testing.assert_allclose([weight for _, weight, _ in taken], params["weights"])
    same(taken[0][2], jax.device_get(params["members"][0]))
    assert members(tmp_path, {"embedding": 1}) == [(tmp_path, None, {"embedding": 1})]


def test_a_pretrained_network_is_every_member(monkeypatch):
    def load(model, tokenizer):
        size = tokenizer.vocab_size
        architecture = Architecture(
            vocab_size=size, width=4, layers=1, heads=1, kv_heads=1, head_dim=4, mlp_width=4
        )
        params = bigram.policy(architecture).init(jax.random.key(7))
        return architecture, jax.device_get(params)

    monkeypatch.setattr("experiments.setup.load_model", load)
    setup = build(configuration())
    state = first_state(setup)
    same(state.params["members"], setup.pretrained["members"])
    same(state.params["members"][0], state.params["members"][1])


def test_what_a_mixture_cannot_do_is_refused():
    with pytest.raises(ValueError, match=r"sampling\.temperature is 0\.7, and 'cpi' mixes"):
        build(configuration(sampling=SamplingConfig(new_tokens=2, temperature=0.7)))
    cold = dataclasses.replace(from_config_dict(Experiment, get_config()), method=MethodConfig(name="cpi"))
    with pytest.raises(ValueError, match="demonstrations teach one network, not the mixture of 'cpi'"):
        build(cold)


def forked(mode, leaf_weight, **options):
    branching = BranchingConfig(mode=mode, leaf_weight=leaf_weight, roots=2, **options)
    return {"branching": branching, "tools": ToolsConfig(boundaries=("a",))}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"sampling": SamplingConfig(new_tokens=2, top_p=0.5)},
            r"sampling\.top_p 0\.5 .*, and 'cpi' measures on draws from the whole .* 0, 1\.0 and 0\.0",
        ),
        ({"sampling": SamplingConfig(new_tokens=2, top_k=3)}, r"sampling\.top_k is 3"),
        ({"sampling": SamplingConfig(new_tokens=2, min_p=0.1)}, r"sampling\.min_p 0\.1"),
        (
            {"actors": ActorsConfig(count=2, staleness=3)},
            r"are 3 iterations old, .* take actors\.staleness=0",
        ),
        ({"actors": ActorsConfig(count=1, delays=(0, 1))}, "are 1 iterations old"),
        ({"actors": ActorsConfig(count=1, journal="w")}, "are 1 iterations old"),
        (forked("random", "uniform"), r"as it has leaves, .* take branching\.leaf_weight='tree' or 'forest'"),
        (forked("arpo_paper", "tree"), r"branching\.tokens 20: .* take branching\.tokens=1"),
    ],
)
def test_draws_from_another_policy_are_refused(changes, sentence):
    setup = build(configuration(**changes))
    with pytest.raises(ValueError, match=sentence):
        make_programs(setup)
    plain = make_method(MethodConfig(name="rloo"), new_tokens=2)
    check_draws(setup.config, plain)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"actors": ActorsConfig(count=1, staleness=0)},
        {"actors": ActorsConfig(count=1, delays=(0,))},
        forked("random", "tree"),
        forked("arpo_paper", "forest", tokens=1),
    ],
)
def test_draws_from_the_policy_are_not(changes):
    config = configuration(**changes)
    check_draws(config, make_method(config.method, new_tokens=2))
