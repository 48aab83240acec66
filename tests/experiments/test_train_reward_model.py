"""Whole runs of a reward model: what they leave, how they resume, and what they refuse."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_reward_model as tiny
from commands import one_device
from rich.console import Console
from tiny_chat import tiny_chat_model

from configs import reward_model, rlhf
from experiments import command_line, output, records
from experiments import train_reward_model as program
from experiments.config import Experiment
from experiments.reading import from_config_dict
from experiments.resuming import restored_params
from experiments.reward_model import run as run_program
from experiments.reward_model.data import hold_out, load_preferences, pair_key, prompt_key, words
from experiments.reward_model.experiment import RewardModelExperiment
from experiments.reward_model.run import rewards_of, statistics
from experiments.reward_model.setup import build, model_from_json, model_to_json
from experiments.statistics import accuracy, clustered, wilson
from experiments.tasks import load_asker
from gpg_jax.data.preference_pairs import Preference
from gpg_jax.training.reward_model import compile_pair_rewards

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward_model")
    config = tiny.configure()
    return config, folder / "w", tiny.run(config, folder / "w")


def record(workdir: Path, step: int) -> dict:
    """What a checkpoint says of itself, its digests included."""
    metadata = json.loads((workdir / "checkpoints" / str(step) / "_CHECKPOINT_METADATA").read_text())
    return json.loads(metadata["custom_metadata"]["record"])


def untimed(workdir: Path) -> list[dict]:
    lines = records.read(workdir / output.METRICS)
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


def test_what_is_printed(finished):
    _, _, screen = finished
    assert "6 of 16 pairs, 0.9" in screen and "of reversal, and " in screen
    assert re.fullmatch(r"held-out accuracy: \d\.\d{3} → \d\.\d{3}", screen.splitlines()[-1])
    assert re.search(r"update 3, held-out: \S+ \[\S+, \S+\] of \d+ pairs of \d+ prompts in the right", screen)


def test_metrics_have_what_is_watched(finished):
    _, workdir, _ = finished
    lines = list(records.read(workdir / output.METRICS))
    trained = [line for line in lines if "loss" in line]
    assert [line["step"] for line in trained] == list(range(1, tiny.STEPS + 1))
    watched = {"loss", "accuracy", "margin", "reward", "gradient_norm", "learning_rate", "pairs_per_second"}
    assert watched <= trained[0].keys()
    measured = [line for line in lines if "held_out/pairs" in line]
    assert [line["step"] for line in measured] == [0, 3, 6]
    for line in measured:
        assert line["held_out/pairs_low"] <= line["held_out/pairs"] <= line["held_out/pairs_high"]
    np.testing.assert_allclose(measured[0]["held_out/loss"], np.log(2), rtol=1e-6)  # all rewards are 0
    assert measured[0]["held_out/pairs"] == 0.5  # and order nothing
    assert (workdir / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_checkpoint_holds_the_statistics_of_its_rewards(finished):
    """Recomputed from the restored parameters, pair by pair as the file has them."""
    config, workdir, _ = finished
    setup = build(config)
    restored = restored_params(workdir, setup.like.params, "latest", pytest.fail)
    assert restored.step == tiny.STEPS
    places = jax.tree.map(lambda leaf: leaf.sharding, setup.like)
    score = compile_pair_rewards(setup.program, setup.mesh, places.params)
    run = run_program.Run(setup, None, score, None, None, None, {})
    rewards = rewards_of(run, restored.state, setup.preferences.train)
    assert rewards.shape == (len(setup.preferences.train), 2) and rewards.std() > 0
    some = np.float64(rewards[:40])
    found = restored.host["statistics"]
    np.testing.assert_allclose([found["mean"], found["std"]], [some.mean(), some.std()], rtol=1e-5)
    assert statistics(run, restored.state) == pytest.approx(found, rel=1e-5)


def test_held_out_prompts_are_not_trained_on(finished):
    config, _, _ = finished
    setup = build(config)
    own, held = ({prompt_key(pair) for pair in part} for part in setup.preferences[1:3])
    assert own and held and not own & held
    assert len(setup.preferences.held_out) >= 20
    assert len(setup.preferences.train) + len(setup.preferences.held_out) == 120


def test_a_run_that_was_stopped_ends_as_if_undisturbed(finished, tmp_path, monkeypatch):
    config, workdir, screen = finished
    write = output.write_metrics

    def stop(target, step, metrics):
        write(target, step, metrics)
        if step == 5 and "loss" in metrics:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run_program.out, "write_metrics", stop)
        tiny.run(config, tmp_path / "w")
    assert [line["step"] for line in records.read(tmp_path / "w" / output.METRICS)][-1] == 5
    again = tiny.run(config, tmp_path / "w")
    assert "resuming after iteration 4" in again and again.splitlines()[-1] == screen.splitlines()[-1]
    assert untimed(workdir) == untimed(tmp_path / "w")
    assert record(workdir, tiny.STEPS) == record(tmp_path / "w", tiny.STEPS)


def test_another_run_and_a_strange_folder_are_refused_before_anything_is_built(
    finished, tmp_path, monkeypatch, capsys
):
    _, workdir, _ = finished
    monkeypatch.setattr(program, "build", lambda _: pytest.fail("it was built"))
    (tmp_path / "notes.txt").write_text("mine")
    for folder, config, sentence in (
        (workdir, tiny.configure(seed=1), r"belongs to another run: seed was 0 and is 1"),
        (tmp_path, tiny.configure(), r"has notes.txt and no config.json"),
    ):
        with pytest.raises(SystemExit) as stopped:
            program.train(config, folder, Console(quiet=True))
        assert stopped.value.code == 2 and re.search(sentence, capsys.readouterr().err)


def test_a_model_comes_back_from_its_description(finished):
    config, workdir, _ = finished
    model = build(config).model
    assert model_from_json((workdir / "model.json").read_text()) == model
    assert model_from_json(model_to_json(model)) == model
    with pytest.raises(ValueError, match="not the description of a reward model"):
        model_from_json('{"architecture": {}}')


def write_pairs(path: Path, count: int = 24, **other) -> str:
    rows = [
        {"prompt": f"{a}{b}>", "chosen": f"{b}{a}", "rejected": a} | other
        for a in "abcde" for b in "abcde"
    ][:count]  # fmt: skip
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def loaded(config):
    return load_preferences(config, *load_asker(config.model, config.task))


def test_files_are_read_split_by_prompt_and_encoded(tmp_path):
    path = write_pairs(tmp_path / "pairs.jsonl")
    found = loaded(tiny.configure(preferences__train=path, preferences__held_out_pairs=4))
    assert (len(found.train), len(found.held_out)) == (20, 4)
    assert found.summary == f"20 of {path}, and 4 held out"
    tokenizer, _ = load_asker(tiny.configure().model, tiny.configure().task)
    pair = found.encode(Preference("ab>", "ba", "a"))
    assert tokenizer.decode_all(pair.chosen) == "ba<eos>" and tokenizer.decode_all(pair.prompt) == "ab>"
    ended = loaded(tiny.configure(preferences__train=path, preferences__end=">")).encode
    assert tokenizer.decode_all(ended(Preference("ab>", "ba", "a")).rejected) == "a>"

    other = write_pairs(tmp_path / "other.jsonl", 6)
    found = loaded(tiny.configure(preferences__train=path, preferences__held_out=other))
    assert (len(found.train), len(found.held_out)) == (24, 6)
    assert found.summary == f"24 of {path}, and 6 held out"


def test_pairs_that_are_not_fit_are_refused_or_counted(tmp_path):
    rows = [
        {"prompt": "ab>", "chosen": "ba", "rejected": "b"},
        {"prompt": "ab>", "chosen": "b", "rejected": "b"},
    ]
    rows += [
        {"prompt": "cd>", "chosen": "dc", "rejected": "dcba"},
        {"prompt": "cd>", "chosen": "dc", "rejected": "d"},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in (rows[0], *rows[2:])))
    config = tiny.configure(preferences__train=str(path), preferences__held_out_pairs=0)
    with pytest.raises(
        ValueError, match=r"1 of the 3 preferences of .* are longer than task.prompt_tokens=3 or"
    ):
        loaded(config)
    path.write_text("\n".join(map(json.dumps, rows)))
    found = loaded(
        tiny.configure(
            preferences__train=str(path), preferences__drop_unfit=True, preferences__held_out_pairs=1
        )
    )
    assert "2 left out as unfit" in found.summary and len(found.train) == len(found.held_out) == 1


def test_chat_messages_are_asked_by_the_models_template(tmp_path):
    folder = tiny_chat_model(tmp_path / "model")
    said = [{"role": "assistant", "content": text} for text in ("four", "five")]
    asked = [{"role": "user", "content": "2+2?"}]
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"chosen": [*asked, said[0]], "rejected": [*asked, said[1]]}))
    config = tiny.configure(
        model__name=str(folder), preferences__train=str(path), preferences__held_out_pairs=0,
        preferences__response_tokens=16, task__prompt_tokens=64,
    )  # fmt: skip
    found = loaded(config)
    tokenizer, _ = load_asker(config.model, config.task)
    pair = found.encode(found.train[0])
    assert tokenizer.decode_all(pair.prompt) == "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode_all(pair.chosen) == "four<|im_end|>"
    setup = build(config)
    assert setup.pretrained is not None and setup.model.architecture.vocab_size == tokenizer.vocab_size


SENTENCES = {
    "unknown key": (dict(preferences__pear=3), r"no config key 'preferences.pear'; the nearest is 'pairs'"),
    "rewards": (dict(task__rewards={"exact": 1.0}), "task.rewards is of policies"),
    "micro-batches": (
        dict(schedule__pairs=24),
        r"schedule.pairs is 24, which cannot be cut into 2 micro-batches on 8 devices; .* of 16",
    ),
    "evaluation": (dict(evaluation__batch=12), r"evaluation.batch is 12, .* choose a multiple of 8"),
    "all held out": (
        dict(preferences__held_out_pairs=5000, preferences__pairs=1),
        "none would be left to train on",
    ),
    "long answers": (
        dict(preferences__response_tokens=2),
        "an answer has 2 characters, and a response at most 1, its end aside",
    ),
    "long rows": (
        dict(task__prompt_tokens=2046),
        r"response_tokens is 2050, and the model's positions were trained for 2048",
    ),
    "no file": (dict(preferences__train="none.jsonl"), "there is no file none.jsonl"),
    "pairs of a file": (
        dict(preferences__train="x.jsonl", preferences__pairs=7),
        "preferences.pairs would not be read: preferences.train has the pairs",
    ),
    "held-out pairs of a file": (
        dict(
            preferences__train="x.jsonl",
            preferences__held_out="y.jsonl",
            preferences__held_out_pairs=7,
            preferences__held_out_by="pairs",
        ),
        "preferences.held_out_pairs, preferences.held_out_by would not be read: preferences.held_out has",
    ),
    "logits": (dict(model__chunk=8), "model.chunk would not be read: a reward model has no logits"),
    "held out alone": (dict(preferences__held_out="x.jsonl"), "give preferences.train, a file too"),
    "a split": (dict(preferences__held_out_by="rows"), "held_out_by is 'rows'; it must be 'prompts' or"),
    "centring": (dict(preferences__centring=-1.0), "preferences.centring is -1.0; it must be at least 0"),
    "no number": (dict(preferences__centring=float("inf")), "preferences.centring is inf; it must be finite"),
}


@pytest.mark.parametrize(("changes", "sentence"), SENTENCES.values(), ids=SENTENCES)
def test_a_mistake_is_a_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(tiny.configure(**changes))


def test_what_is_held_out_is_held_out_whole():
    pairs = [Preference(prompt, str(n // 2), "x") for n, prompt in enumerate("aaabbc")]
    for key in (prompt_key, pair_key):
        for seed in range(5):
            train, held = hold_out(pairs, 2, seed, key)
            assert len(held) >= 2 and not set(map(key, train)) & set(map(key, held))
            assert sorted(map(words, train + held)) == sorted(map(words, pairs))
    assert hold_out(pairs, 0, 0, prompt_key) == (pairs, [])
    found = loaded(tiny.configure(preferences__held_out_by="pairs"))
    assert len(found.held_out) >= 20 and not {*map(pair_key, found.train)} & {*map(pair_key, found.held_out)}
    assert {*map(prompt_key, found.train)} & {*map(prompt_key, found.held_out)}


def test_an_interval_by_prompt_is_that_of_equal_prompts():
    correct = np.random.default_rng(0).random((7, 4)) < 0.7
    cluster = np.repeat(np.arange(7), 4)
    mean, low, high = clustered(correct.reshape(-1), cluster)
    np.testing.assert_allclose((mean, low, high), accuracy(correct)[:3], rtol=1e-12)
    # p = 3/4, V = ((3·1/4)² + (3/4)²)/4² = 9/128, n* = (3/16)/V = 8/3; all alike: as many as prompts.
    assert clustered(np.array([1, 1, 1, 0]), np.array([0, 0, 0, 1]))[1:] == pytest.approx(wilson(0.75, 8 / 3))
    assert clustered(np.ones(4), np.array([0, 0, 0, 1]))[1:] == accuracy(np.ones((2, 1)))[1:3]
    assert clustered(np.full(4, 0.5), np.arange(4))[0] == 0.5
    with pytest.raises(ValueError, match="outcomes from 0 to 1, got 0 to 2"):
        clustered(np.array([0, 2.0]), np.array([0, 1]))


def test_the_command_reads_its_own_configuration(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        command_line._name_the_unknown(
            ["train", "--config=configs/reward_model.py", "--config.schedule.steb=3"]
        )
    assert "the nearest is 'schedule.steps'" in capsys.readouterr().err


def test_the_configurations_of_model_and_policy_are_of_one_task():
    given = rlhf.get_config("ppo")
    given.reward_model.workdir = "w"
    model, policy = (
        from_config_dict(kind, config)
        for kind, config in ((RewardModelExperiment, reward_model.get_config()), (Experiment, given))
    )
    assert dataclasses.replace(policy.task, rewards={}) == model.task
    read = from_config_dict(RewardModelExperiment, reward_model.get_config("pairs.jsonl")).preferences
    assert (read.train, read.response_tokens) == ("pairs.jsonl", 4)
    assert policy.sampling.new_tokens == model.preferences.response_tokens
    assert policy.method.name == "ppo" and policy.method.arguments["kl_placement"] == "reward"


@pytest.mark.slow
def test_a_run_that_is_killed_ends_as_if_undisturbed(tmp_path):
    flags = ["--config=configs/reward_model.py", "--config.schedule.steps=60", "--config.checkpoint.every=13"]
    flags += [
        "--config.preferences.pairs=500",
        "--config.preferences.held_out_pairs=50",
        "--config.evaluation.every=10",
    ]

    def start(workdir):
        return subprocess.Popen(
            [sys.executable, "-m", "experiments.train_reward_model", *flags, f"--workdir={workdir}"],
            cwd=ROOT, env=one_device(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(whole)
    said, _ = undisturbed.communicate()
    assert undisturbed.returncode == 0, said
    child = start(killed)
    while child.poll() is None and sum(1 for _ in records.read(killed / output.METRICS)) < 40:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    again = start(killed)
    said, _ = again.communicate()
    assert again.returncode == 0 and re.search(r"resuming after iteration (26|39|52)", said), said
    assert untimed(whole) == untimed(killed) and record(whole, 60) == record(killed, 60)
