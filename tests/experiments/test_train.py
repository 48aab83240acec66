"""Whole runs: what they leave, how they resume, and what they refuse."""

import dataclasses
import functools
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from absl import flags
from children import ended, start
from commands import one_device
from devices import first_devices
from rich.console import Console

from experiments import command_line, evaluate, output, records, replay
from experiments import train as train_program
from experiments.config import Experiment, default_config
from experiments.reading import from_config_dict
from experiments.run import finish_run, open_run
from experiments.setup import build
from experiments.trained import trained_params
from experiments.workdir import check_workdir, claim
from gpg_jax.policies.pretrained import load_pretrained
from gpg_jax.types import Rollout

ROOT = Path(__file__).parents[2]
STEPS = 4


@pytest.fixture(autouse=True, scope="module")
def two_devices():
    with first_devices(2):
        yield


def configure(tmp_path: Path, **changes) -> Experiment:
    """Two-letter words backwards, the last 5 of 25 held out; `__` for the dot."""
    rows = [{"question": f"{a}{b}>", "answer": f"{b}{a}"} for a in "abcde" for b in "abcde"]
    for name, part in (("train", rows[:20]), ("held_out", rows[20:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    config = default_config().to_dict()
    config["task"] |= {"name": "files", "prompt_tokens": 3, "verifier": "places_right"}
    config["task"] |= {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "held_out")}
    config["model"] |= {"width": 16, "heads": 2, "head_dim": 8, "mlp_width": 16}
    config["sampling"]["new_tokens"] = 2
    config["schedule"] |= {"steps": STEPS, "prompts": 8, "group": 4}
    config["evaluation"] |= {"batch": 8, "samples": 2, "every": 2}
    config["checkpoint"] |= {"every": 2}
    config["output"] |= {"rollouts": 2, "transcripts": 10, "kl": True}
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (config[section] if section else config)[name] = value
    return from_config_dict(Experiment, config)


def train(config: Experiment, workdir: Path) -> str:
    """Runs to the end, and gives what was printed."""
    setup = build(config)
    check_workdir(workdir, config)
    with claim(workdir, config), (workdir.parent / "screen").open("w") as screen:
        console = Console(file=screen)
        checkpoints, start = open_run(setup, workdir, console)
        finish_run(setup, workdir, console, checkpoints, start)
    return (workdir.parent / "screen").read_text()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = configure(folder)
    return config, folder / "w", train(config, folder / "w")


def test_the_last_line_is_the_accuracy(finished):
    _, _, screen = finished
    assert re.fullmatch(r"held-out accuracy: \d\.\d{3} → \d\.\d{3}", screen.splitlines()[-1])
    assert f"{STEPS}/{STEPS}  reward" in screen


def test_metrics_have_what_is_watched(finished):
    _, workdir, _ = finished
    lines = list(records.read(workdir / output.METRICS))
    trained = [line for line in lines if "loss" in line]
    assert [line["step"] for line in trained] == list(range(1, STEPS + 1))
    watched = {"loss", "reward", "outcome", "length", "truncated", "signal_groups", "advantage_mean"}
    watched |= {"clip_fraction", "gate", "ratio_mean", "ratio_max", "entropy", "kl_reference", "kl_old_k3"}
    watched |= {"sampler_gap", "gradient_norm", "learning_rate", "reward_failures", "new_tokens_per_second"}
    assert watched <= set(trained[0])
    evaluated = [line for line in lines if "held_out/sampled" in line]
    assert [line["step"] for line in evaluated] == [0, 2, STEPS]
    assert evaluated[0]["held_out/greedy_low"] <= evaluated[0]["held_out/greedy"]


def test_transcripts_rescore_to_the_accuracy(finished):
    _, workdir, _ = finished
    rows = list(records.read(workdir / output.EVALUATIONS))
    metrics = {
        line["step"]: line for line in records.read(workdir / output.METRICS) if "held_out/greedy" in line
    }
    for step in (0, 2, STEPS):
        for kind, count in (("sampled", 10), ("greedy", 5)):
            asked = [row for row in rows if row["step"] == step and row["kind"] == kind]
            right = [row["response"][:2] == row["answer"] for row in asked]
            assert len(asked) == count and np.isclose(np.mean(right), metrics[step][f"held_out/{kind}"])


def test_transcripts_of_rollouts(finished):
    _, workdir, _ = finished
    rows = list(records.read(workdir / output.TRANSCRIPTS))
    assert [row["step"] for row in rows] == [step for step in range(1, STEPS + 1) for _ in range(10)]
    assert len({row["prompt"] for row in rows[:8]}) == 8
    for row in rows:
        places = sum(one == two for one, two in zip(row["response"], row["answer"], strict=False)) / 2
        assert row["outcome"] == row["reward"] == places


def test_a_saved_rollout_is_replayed_under_other_methods(finished):
    """With one update a rollout the pushes of GRPO and GSPO agree, and Σ_b of RLOO's is 0 in each group."""
    _, workdir, _ = finished
    assert sorted(path.name for path in (workdir / "rollouts").iterdir()) == ["2.npz", "4.npz"]
    rollout = output.read_rollout(workdir / "rollouts" / "4.npz")
    assert isinstance(rollout, Rollout) and rollout.tokens.shape == (32, 5)
    np.testing.assert_allclose(replay.push("grpo", rollout), replay.push("gspo", rollout), atol=1e-6)
    full = rollout.replace(action_mask=np.arange(5)[None] == np.full((32, 1), 3))
    assert np.allclose(replay.push("rloo", full).sum(1).reshape(8, 4).sum(1), 0, atol=1e-6)
    assert replay.push("reinforce_optimal", rollout) is None


def test_the_report_is_a_picture(finished):
    _, workdir, _ = finished
    raw = (workdir / "report.png").read_bytes()
    assert raw.startswith(b"\x89PNG") and len(raw) > 20_000
    assert list((workdir / "tensorboard").glob("events*"))


def test_a_finished_run_changes_nothing_and_says_the_same(finished):
    config, workdir, screen = finished
    before = (workdir / output.METRICS).read_bytes()
    again = train(config, workdir)
    assert "resuming after iteration 4" in again
    assert again.splitlines()[-1] == screen.splitlines()[-1]
    assert (workdir / output.METRICS).read_bytes() == before


def test_a_folder_is_refused_before_anything_is_built(tmp_path, monkeypatch, capsys):
    config = configure(tmp_path)
    monkeypatch.setattr(train_program, "build", lambda _: pytest.fail("it was built"))
    with pytest.raises(SystemExit) as stopped:
        train_program.train(config, tmp_path, Console())
    assert stopped.value.code == 2
    assert re.match(r"error: workdir .* has held_out.jsonl and no config.json", capsys.readouterr().err)


def test_the_folder_is_locked_to_the_end(tmp_path, monkeypatch):
    config, said = configure(tmp_path), []

    def second_run(*_):
        with pytest.raises(ValueError, match="a run is going on") as refused:
            check_workdir(tmp_path / "w", config)
        said.append(refused)

    monkeypatch.setattr(train_program, "open_run", lambda *_: (None, None))
    monkeypatch.setattr(train_program, "finish_run", second_run)
    train_program.train(config, tmp_path / "w", Console(quiet=True))
    assert said
    check_workdir(tmp_path / "w", config)


def test_numbers_that_are_not_finite_stop_the_run(tmp_path, monkeypatch):
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *arguments: first)
    config = configure(tmp_path, optimizer__learning_rate=1e38, evaluation__examples=-1)
    with pytest.raises(FloatingPointError, match=r"is (nan|inf) in iteration \d; its rollout is .*npz"):
        train(config, tmp_path / "w")
    (path,) = (tmp_path / "w" / "diagnosis").iterdir()
    assert output.read_rollout(path).tokens.shape == (32, 5)
    assert [line["step"] for line in records.read(tmp_path / "w" / output.METRICS)][-1] == int(path.stem)


def command(*arguments: str, program: Sequence[str] = (), cache: str = "") -> subprocess.Popen:
    """The real command on one device; programs that were compiled before are taken from a cache."""
    compiled = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return subprocess.Popen(
        [sys.executable, *(program or ("-m", "experiments.train")), *arguments],
        cwd=ROOT,
        env=one_device(PYTHONPATH=str(ROOT), **compiled if cache else {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_commands_begin_in_an_interpreter_of_their_own(tmp_path):
    programs = [("-m", f"experiments.{name}") for name in ("evaluate", "export")]
    for child in [command(f"--workdir={tmp_path}", "--out=o", program=program) for program in programs]:
        said, _ = child.communicate()
        assert child.returncode == 2 and said.endswith("no config.json: no run was started there\n"), said


def test_a_mistake_is_a_sentence_and_exit_code_2(tmp_path):
    mistaken = ["--config", "configs/smoke.py:grpo", f"--workdir={tmp_path / 'w'}"]
    child = command(*mistaken, "--config.schedule.promts=3")
    said, _ = child.communicate()
    assert child.returncode == 2
    assert (
        said.strip() == "error: there is no config key 'schedule.promts'; the nearest is 'schedule.prompts'"
    )
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config=configs/smoke.py:grpo", "--config.schedule.promts=3"],
        ["--config", "configs/smoke.py:grpo", "--config.schedule.promts", "3"],
        ["-config", "configs/none.py", "-config=configs/smoke.py", "-config.schedule.promts=3"],
        ["--config.schedule.promts=3", "--workdir=w", "--config", "configs/smoke.py"],
    ],
)
def test_an_unknown_key_is_named_however_the_file_is_given(monkeypatch, capsys, arguments):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stopped:
        command_line._name_the_unknown(["train", *arguments])
    assert stopped.value.code == 2
    sentence = "error: there is no config key 'schedule.promts'; the nearest is 'schedule.prompts'\n"
    assert capsys.readouterr().err == sentence


def test_nothing_is_named_where_no_file_is_given():
    command_line._name_the_unknown(["train", "--config.schedule.promts=3"])
    command_line._name_the_unknown(["train", "--config"])


def test_programs_that_are_imported_together_define_their_flags_when_they_start():
    for program in (train_program, evaluate, replay):
        own = flags.FlagValues()
        with pytest.MonkeyPatch.context() as patch:
            for name in ("string", "bool", "integer", "list"):
                kind = getattr(flags, f"DEFINE_{name}")
                patch.setattr(flags, f"DEFINE_{name}", functools.partial(kind, flag_values=own))
            program.define()
        assert "workdir" in own
    assert "workdir" not in flags.FLAGS


def test_who_a_process_is_needs_a_distributed_run():
    code, said = ended(start("train", "--config=configs/smoke.py", "--workdir=w", "--process=1"))
    assert code == 2
    assert said == "error: --coordinator, --processes and --process need --distributed\n"


def test_a_checkpoint_is_evaluated_on_another_mesh(finished):
    """Trained on two devices, asked on one: the transcripts rescore to the accuracy that is printed."""
    _, workdir, _ = finished
    flags = [f"--workdir={workdir}", "--checkpoint=best", "--samples=4", "--pass_at=1,4", "--examples=3"]
    code, said = ended(start("evaluate", *flags))
    assert code == 0, said
    rows = [row for row in records.read(workdir / "evaluation.jsonl") if row["kind"] == "sampled"]
    right = np.reshape([row["response"][:2] == row["answer"] for row in rows], (3, 4))
    printed = re.search(r"sampled accuracy: (\S+) \[\S+, \S+\], 3 prompts × 4", said)
    assert np.isclose(float(printed[1]), right.mean(), atol=5e-4)
    assert f"pass@1: {right.mean():.3f}" in said and f"pass@4: {right.any(1).mean():.3f}" in said
    code, said = ended(start("evaluate", *flags))
    assert code == 2 and re.search(r"error: .*evaluation.jsonl exists", said)


def test_what_was_learnt_becomes_a_folder_that_loads(finished, tmp_path):
    config, workdir, _ = finished
    flags = [f"--workdir={workdir}", f"--out={tmp_path / 'model'}", "--checkpoint=best"]
    code, said = ended(start("export", *flags))
    assert code == 0, said
    architecture, params = load_pretrained(tmp_path / "model")
    setup = build(config)
    assert architecture == setup.architecture
    learnt = trained_params(setup, workdir, "best", Console(quiet=True))
    jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(learnt))
    code, said = ended(start("export", *flags))
    assert code == 2 and "is not an empty folder; nothing is overwritten" in said


def test_no_moments_are_read_where_parameters_are_asked_for(finished):
    config, workdir, _ = finished
    setup = build(config)
    whole = trained_params(setup, workdir, "best", Console(quiet=True))
    other = setup._replace(like=dataclasses.replace(setup.like, optimizer=()))
    chex.assert_trees_all_equal(trained_params(other, workdir, "best", Console(quiet=True)), whole)


def untimed(path: Path) -> list[dict]:
    own = ("second", "tool_replayed", "learner_waits")
    return [{k: v for k, v in line.items() if not any(o in k for o in own)} for line in records.read(path)]


def record(workdir: Path, step: int) -> dict:
    """What a checkpoint says of itself, its digests included."""
    metadata = json.loads((workdir / "checkpoints" / str(step) / "_CHECKPOINT_METADATA").read_text())
    return json.loads(metadata["custom_metadata"]["record"])


def smoke_on_files(folder: Path, *flags: str) -> list[str]:
    """The smoke configuration with words of `configure`, of which some are held out."""
    configure(folder)
    rollout = ["--config.schedule.prompts=8", "--config.schedule.group=4", "--config.output.kl=false"]
    data = [f"--config.task.{name}={folder / name}.jsonl" for name in ("train", "held_out")]
    return ["--config=configs/smoke.py:grpo", "--config.task.name=files", *data, *rollout, *flags]


def assert_same_run(one: Path, other: Path, last: int):
    """All that was written, but for the time that it took."""
    assert untimed(one / output.METRICS) == untimed(other / output.METRICS)
    rollouts = sorted(path.name for path in (one / "rollouts").iterdir())
    assert rollouts == sorted(path.name for path in (other / "rollouts").iterdir()) and rollouts
    for name in (output.TRANSCRIPTS, output.EVALUATIONS, *(f"rollouts/{rollout}" for rollout in rollouts)):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert record(one, last) == record(other, last) and record(one, last)["host"]["accuracies"]


def test_a_killed_run_ends_as_if_undisturbed(tmp_path):
    flags = smoke_on_files(tmp_path, "--config.schedule.steps=30", "--config.checkpoint.every=7")
    flags += ["--config.output.rollouts=4", "--config.evaluation.every=5"]
    whole, killed, cache = tmp_path / "whole", tmp_path / "killed", str(tmp_path / "cache")
    code, said = ended(start("train", *flags, f"--workdir={whole}", cache=cache))
    assert code == 0, said
    child = start("train", *flags, f"--workdir={killed}", cache=cache)
    while child.process.is_alive() and sum(1 for _ in records.read(killed / output.METRICS)) < 16:
        time.sleep(0.01)
    child.process.kill()
    code, said = ended(child)
    assert code == -signal.SIGKILL, said
    code, said = ended(start("train", *flags, f"--workdir={killed}", cache=cache))
    assert code == 0 and re.search(r"resuming after iteration (7|14|21|28)", said), said
    assert_same_run(whole, killed, 30)


KILLED = """
import json, os, signal, sys
from experiments import command_line, output, records, run, train

moment, step = sys.argv.pop(1), int(sys.argv.pop(1))
append, save, write_lines = records.append, run.save, output.write_lines

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def append_half(path, lines):
    if path.name == output.METRICS and lines[0]["step"] == step:
        with path.open("a") as file:
            file.write(json.dumps(lines[0])[:20])
        die()
    append(path, lines)

def write_and_die(target, name, rows):
    write_lines(target, name, rows)
    if name == output.EVALUATIONS and rows[0]["step"] == step:
        die()

def save_and_die(checkpoints, number, *rest, **score):
    if number == step and moment == "before a checkpoint":
        die()
    save(checkpoints, number, *rest, **score)
    if number == step:
        die()

if moment == "in a line":
    records.append = append_half
elif moment == "while evaluating":
    output.write_lines = write_and_die
else:
    run.save = save_and_die
command_line.start(train.main, train.define)
"""


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_if_undisturbed(tmp_path):
    """Whatever was half written when it died is written anew: nothing twice, nothing missing."""
    flags = smoke_on_files(tmp_path, "--config.schedule.steps=12", "--config.checkpoint.every=3")
    flags += ["--config.output.rollouts=1", "--config.evaluation.every=2"]
    whole, killed, cache = tmp_path / "whole", tmp_path / "killed", str(tmp_path / "cache")
    (tmp_path / "killed.py").write_text(KILLED)
    undisturbed = command(*flags, f"--workdir={whole}", cache=cache)
    assert undisturbed.communicate() and undisturbed.returncode == 0
    moments = [("while evaluating", 0), ("in a line", 2), ("before a checkpoint", 6)]
    for moment, step in [*moments, ("while evaluating", 8), ("while saving", 9)]:
        program = [str(tmp_path / "killed.py"), moment, str(step)]
        child = command(*flags, f"--workdir={killed}", program=program, cache=cache)
        said, _ = child.communicate()
        assert child.returncode == -signal.SIGKILL, (moment, step, said)
    last = command(*flags, f"--workdir={killed}", cache=cache)
    said, _ = last.communicate()
    assert last.returncode == 0 and re.search(r"resuming after iteration (6|9)", said), said
    assert_same_run(whole, killed, 12)


@pytest.mark.slow
def test_a_run_with_tools_that_is_killed_is_told_what_it_had_been_told(tmp_path):
    changes = {
        "cold_start.steps": 6,
        "schedule.steps": 9,
        "schedule.prompts": 8,
        "checkpoint.every": 5,
        "output.rollouts": 4,
        "evaluation.examples": 8,
        "branching.mode": "random",
        "branching.roots": 4,
    }
    flags = ["--config=configs/arpo_calculator.py"]
    flags += [f"--config.{key}={value}" for key, value in changes.items()]
    whole, killed, cache = tmp_path / "whole", tmp_path / "killed", str(tmp_path / "cache")
    undisturbed = command(*flags, f"--workdir={whole}", cache=cache)
    said, _ = undisturbed.communicate()
    assert undisturbed.returncode == 0, said
    child = command(*flags, f"--workdir={killed}", cache=cache)
    while child.poll() is None and sum(1 for _ in records.read(killed / output.METRICS)) < 14:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    again = command(*flags, f"--workdir={killed}", cache=cache)
    said, _ = again.communicate()
    assert again.returncode == 0 and "resuming after iteration 10" in said, said
    assert_same_run(whole, killed, 15)
    replayed = [line.get("tool_replayed", 0) for line in records.read(killed / output.METRICS)]
    assert any(replayed), "nothing was asked before the kill, so that the test shows nothing"


@pytest.mark.slow
def test_a_live_run_of_actors_that_is_killed_is_repeated_bit_for_bit(tmp_path):
    """Its deliveries are all that timing decided: every prompt once, and the same parameters from them."""
    flags = ["--config=configs/smoke.py:a3c", "--config.schedule.steps=24", "--config.checkpoint.every=5"]
    flags += ["--config.output.rollouts=4", "--config.output.kl=False"]
    killed, again, cache = tmp_path / "killed", tmp_path / "again", str(tmp_path / "cache")
    child = command(*flags, f"--workdir={killed}", cache=cache)
    while child.poll() is None and sum(1 for _ in records.read(killed / output.METRICS)) < 12:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    resumed = command(*flags, f"--workdir={killed}", cache=cache)
    said, _ = resumed.communicate()
    assert resumed.returncode == 0 and re.search(r"resuming after iteration (5|10|15)", said), said
    deliveries = list(records.read(killed / output.DELIVERIES))
    assert sorted(line["ticket"] for line in deliveries) == list(range(1, 25))
    assert sorted(number for line in deliveries for number in line["batches"]) == list(range(24))
    repeated = command(*flags, f"--config.actors.journal={killed}", f"--workdir={again}", cache=cache)
    said, _ = repeated.communicate()
    assert repeated.returncode == 0, said
    assert untimed(killed / output.METRICS) == untimed(again / output.METRICS)
    for rollout in (killed / "rollouts").iterdir():
        assert rollout.read_bytes() == (again / "rollouts" / rollout.name).read_bytes()
    first, second = (record(folder, 24)["digests"] for folder in (killed, again))
    assert all(second[name] == digest for name, digest in first.items())
