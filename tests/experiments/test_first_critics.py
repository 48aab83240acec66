"""What a separate critic starts as where that is read: a trained reward model, or a Hugging Face folder."""

from __future__ import annotations

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import tiny_reward_model as tiny
from exact import bits, same

from experiments.config import (
    CriticConfig,
    EvaluationConfig,
    Experiment,
    ModelConfig,
    SamplingConfig,
    ScheduleConfig,
    TaskConfig,
)
from experiments.first_state import first_state
from experiments.methods import MethodConfig
from experiments.phases import _take_policy
from experiments.resuming import restored_params
from experiments.reward_model.setup import build as build_model
from experiments.setup import build
from experiments.trained import unscored
from gpg_jax.policies.architecture import Architecture
from gpg_jax.policies.huggingface import save_pretrained
from gpg_jax.policies.reward import reward
from gpg_jax.policies.score import Layout, score
from gpg_jax.policies.transformer import transformer

LAYOUT = Layout(3, 4, 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a reward model, and its configuration."""
    workdir = tmp_path_factory.mktemp("model") / "w"
    config = tiny.configure(preferences__held_out_pairs=0, evaluation__every=0)
    tiny.run(config, workdir)
    return workdir, config


def experiment(task=None, **critic) -> Experiment:
    """A policy that is smaller than the reward model."""
    return Experiment(
        mesh=(4, 2, 1),
        model=ModelConfig(width=8, layers=1, heads=1, kv_heads=1, head_dim=8, mlp_width=8),
        task=TaskConfig(name="reversal", verifier="places_right", prompt_tokens=3, **(task or {})),
        sampling=SamplingConfig(new_tokens=4),
        method=MethodConfig(name="vapo", arguments={"kl_coefficient": 0.01}),
        schedule=ScheduleConfig(steps=1, prompts=8, group=2),
        evaluation=EvaluationConfig(batch=8),
        critic=CriticConfig(**{"trunk": "separate", **critic}),
    )


def learnt(model, checkpoint):
    """A checkpoint's parameters, and what they say of the rows that end with each token."""
    workdir, config = model
    setup = build_model(config)
    params = restored_params(workdir, setup.like.params, checkpoint, pytest.fail).state
    read = jax.jit(lambda *rows: reward(setup.program.critic, params, *rows, LAYOUT))
    return bits(params), np.asarray(read(*rows(setup.model.architecture.vocab_size)))


def rows(symbols):
    """Prompts of two tokens, responses of one to four."""
    tokens = np.random.default_rng(0).integers(0, symbols, (8, LAYOUT.length)).astype(np.int32)
    return tokens, np.full(8, 2, np.int32), np.arange(8, dtype=np.int32) % 4 + 3


def test_a_critic_starts_as_a_reward_model_trunk_and_head(model):
    """Its first value behind a last token is that row's reward, on any mesh, by any of its checkpoints."""
    setup = build(experiment(workdir=str(model[0]), checkpoint="4"))
    state = first_state(setup)
    params, rewards = learnt(model, "4")
    same(bits(state.critic.params), params)
    assert np.any(state.critic.params["weight"]) and np.std(rewards) > 0.01
    own = (setup.critic.critic, state.critic.params)
    read = jax.jit(
        lambda *rows: score(setup.policy, state.params, *rows, LAYOUT, temperature=1.0, critic=own)
    )
    values = read(*rows(setup.architecture.vocab_size)).bootstrap
    np.testing.assert_allclose(values, rewards, atol=1e-5)
    newest = first_state(build(experiment(workdir=str(model[0]), checkpoint="latest")))
    same(bits(newest.critic.params), learnt(model, "latest")[0])
    assert any(np.any(one != other) for one, other in zip(bits(newest.critic.params), params, strict=True))


def test_a_cold_start_does_not_put_the_policy_in_its_place(model):
    setup = build(experiment(workdir=str(model[0])))
    state = first_state(setup)
    before = bits(state.critic.params)
    same(bits(_take_policy(setup)(state).critic.params), before)


def test_a_critic_starts_as_a_hugging_face_folder_with_a_head_of_zeros(tmp_path):
    config = experiment()
    tokens = build(config).architecture.vocab_size
    sizes = {"width": 16, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 8, "mlp_width": 32}
    given = jax.device_get(transformer(Architecture(vocab_size=tokens, **sizes)).init(jax.random.key(5)))
    folder = save_pretrained(tmp_path / "model", Architecture(vocab_size=tokens, **sizes), given)
    setup = build(experiment(name=str(folder)))
    state = first_state(setup)
    same(bits(state.critic.params["trunk"]), bits(given))
    assert not np.any(state.critic.params["weight"]) and not np.any(state.critic.params["bias"])
    same(bits(_take_policy(setup)(state).critic.params["trunk"]), bits(given))
    other = save_pretrained(
        tmp_path / "other",
        Architecture(vocab_size=tokens + 1, **sizes),
        transformer(Architecture(vocab_size=tokens + 1, **sizes)).init(jax.random.key(5)),
    )
    with pytest.raises(ValueError, match=rf"reads {tokens + 1} tokens, and the policy writes {tokens}"):
        build(experiment(name=str(other)))


def test_a_reward_model_that_does_not_fit_is_refused(model, tmp_path):
    workdir = str(model[0])
    with pytest.raises(ValueError, match="reads other tokens than the policy writes"):
        build(experiment({"alphabet": "abcdef>"}, workdir=workdir))
    with pytest.raises(ValueError, match=r"has no config.json: no run was started there"):
        build(experiment(workdir=str(tmp_path)))
    missing = build(experiment(workdir=workdir, checkpoint="5"))
    with pytest.raises(ValueError, match="there is no checkpoint 5 in"):
        first_state(missing)
    short = tmp_path / "short"
    shutil.copytree(model[0], short)
    shutil.rmtree(short / "checkpoints" / str(tiny.STEPS))
    with pytest.raises(ValueError, match=r"4 of its 6 updates: .* by critic\.checkpoint"):
        build(experiment(workdir=str(short)))
    known = json.loads((short / "model.json").read_text())
    known["architecture"]["max_length"] = 6
    (short / "model.json").write_text(json.dumps(known))
    with pytest.raises(ValueError, match=r"is 7, and the positions of the reward model in .* for 6 tokens"):
        build(experiment(workdir=str(short), checkpoint="4"))
    (short / "model.json").unlink()
    with pytest.raises(ValueError, match=r"critic\.workdir '.*' is not the folder of a reward model"):
        build(experiment(workdir=str(short)))
    config = experiment(workdir=workdir)
    with pytest.raises(ValueError, match=r"critic\.trunk, critic\.workdir would not be read: .*no critic"):
        build(dataclasses.replace(config, method=MethodConfig(name="grpo")))


def test_a_reward_model_that_is_gone_is_not_missed_where_nothing_is_trained(tmp_path):
    """Who evaluates or exports a policy reads nothing of its critic."""
    setup = build(unscored(experiment(workdir=str(tmp_path / "gone"), checkpoint="4")))
    assert setup.critic.trained is None


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"workdir": "w", "trunk": "policy"}, "critic.workdir is 'w' and critic.trunk is 'policy'"),
        ({"workdir": "w", "name": "smollm2"}, "critic.name and critic.workdir both say"),
        ({"workdir": "w", "checkpoint": "first"}, "critic.checkpoint is 'first'; it is best, latest"),
        ({"checkpoint": "latest"}, "critic.checkpoint would not be read: it is of critic.workdir"),
    ],
)
def test_sections_that_contradict_themselves(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        CriticConfig(**{"trunk": "separate", **given})
