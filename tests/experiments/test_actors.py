"""Runs with actors: what is refused before the folder is claimed, journals, and judgements in live runs."""

from __future__ import annotations

import json
import types

import numpy as np
import pytest
from rich.console import Console

from experiments import actors as actors_program
from experiments import output, records
from experiments import run as run_program
from experiments.actors import check_actors, copy_answers, recorded, told
from experiments.config import Experiment, default_config
from experiments.reading import from_config_dict
from experiments.setup import build
from experiments.train import train
from experiments.workdir import claim
from gpg_jax.training.collect import Collected
from gpg_jax.training.deliveries import Delivery
from gpg_jax.training.loop import Iteration

NUMBERS = range(1, 7)


def configure(bring: str = "rollouts", **changes) -> Experiment:
    """Of eight devices each of two actors has three, and the learner two."""
    config = default_config().to_dict()
    config["task"] |= {"name": "reversal", "verifier": "places_right", "prompt_tokens": 3}
    config["model"] |= {"width": 16, "layers": 1, "heads": 2, "head_dim": 8, "mlp_width": 16}
    config["sampling"]["new_tokens"] = 2
    config["method"] = {"name": "a2c" if bring == "gradients" else "rloo"}
    config["schedule"] |= {"steps": len(NUMBERS), "prompts": 6, "group": 4}
    config["evaluation"] |= {"examples": -1, "batch": 6}
    config["actors"] |= {"count": 2, "devices": 3, "bring": bring, "staleness": 2}
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (config[section] if section else config)[name] = value
    return from_config_dict(Experiment, config)


def journal(folder, deliveries, config) -> None:
    folder.mkdir(exist_ok=True)
    with claim(folder, config):
        lines = [json.dumps(one._asdict()) + "\n" for one in deliveries]
        (folder / output.DELIVERIES).write_text("".join(lines))


def test_a_journal_is_of_a_run_like_this_one(tmp_path):
    config, folder = configure(), tmp_path / "w"
    deliveries = tuple(Delivery(step, step, max(step - 3, 0), step % 2, (step - 1,)) for step in NUMBERS)
    with pytest.raises(ValueError, match=r"there is no deliveries\.jsonl in it"):
        recorded(folder, NUMBERS, config)
    journal(folder, deliveries, config)
    again = configure(actors__journal=str(folder), checkpoint__every=3)
    assert told(build(again)) == recorded(folder, NUMBERS, again) == deliveries
    with pytest.raises(ValueError, match=r"a run whose seed was 0, and here it is 5: deliveries repeat"):
        recorded(folder, NUMBERS, configure(actors__journal=str(folder), seed=5))
    with pytest.raises(ValueError, match=r"a run whose actors\.staleness was 2, and here it is 3"):
        recorded(folder, NUMBERS, configure(actors__journal=str(folder), actors__staleness=3))
    journal(folder, [deliveries[0]._replace(actor=2), *deliveries[1:]], config)
    with pytest.raises(ValueError, match="tells of 3 actors and a staleness up to 2; its run had 2 and 2"):
        recorded(folder, NUMBERS, again)
    journal(folder, deliveries[:-1], config)
    with pytest.raises(ValueError, match="the deliveries are of 5 iterations"):
        recorded(folder, NUMBERS, again)


def test_what_is_told_is_none_for_actors_at_their_own_pace():
    assert told(build(configure())) is None
    assert [one.staleness for one in told(build(configure(actors__delays=(0, 2))))] == [0, 1, 0, 2, 0, 2]


REFUSED = {
    "learner": (dict(actors__devices=4, schedule__prompts=8), "leave none of the 8 to the learner"),
    "shared": (dict(actors__devices=0, schedule__prompts=8), "would wait for each other"),
    "updates": (dict(bring="gradients", schedule__epochs=2), "makes 2 updates of it"),
    "prompts": (
        dict(actors__devices=3, schedule__prompts=8),
        "schedule.prompts is 8, and an actor decodes on 3 devices: choose actors.devices that divides 8",
    ),
    "micro-batches": (
        dict(bring="gradients", schedule__micro_batches=3),
        "a minibatch of 24 rows cannot be cut into 3 micro-batches on 3 devices",
    ),
    "journal": (dict(actors__journal="nowhere"), r"actors.journal is 'nowhere', and there is no deliveries"),
    "own update": (
        dict(
            actors__count=0,
            actors__devices=0,
            actors__staleness=1,
            schedule__prompts=8,
            evaluation__batch=8,
            schedule__epochs=2,
            method={"name": "cpi", "kl_coefficient": 0.1, "kl_estimator": "full"},
        ),
        "a candidate has no full KL to a mixture",
    ),
}


@pytest.mark.parametrize(("changes", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_a_sentence_before_the_folder_is_claimed(tmp_path, capsys, changes, sentence):
    changes = {"evaluation__batch": changes.get("schedule__prompts", 6), **changes}
    with pytest.raises(SystemExit) as stopped:
        train(configure(**changes), tmp_path / "w", Console(quiet=True))
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and sentence in said, said
    assert not (tmp_path / "w").exists()


def test_actors_that_bring_rollouts_need_no_plan_of_their_own():
    """24 rows are 6 minibatches of four: the learner's two devices can cut them, three could not."""
    check_actors(build(configure(schedule__minibatches=6, schedule__micro_batches=2)))


def test_an_actor_scores_on_its_own_devices(monkeypatch):
    """Programs for the learner's several devices, started by several threads, could wait for each other."""
    found = []
    monkeypatch.setattr(
        actors_program, "find_scorer", lambda config, tokenizer, mesh: found.append(mesh) or (lambda: None)
    )
    check_actors(build(configure()))
    assert not found
    check_actors(build(configure())._replace(scorer=lambda: None))
    assert [[device.id for device in mesh.devices.flat] for mesh in found] == [[2, 3, 4], [5, 6, 7]]


def test_answers_of_tools_are_copied_file_by_file(tmp_path):
    given, own = tmp_path / "given", tmp_path / "own"
    for name in ("0/a", "0/b", "0/c"):
        path = given / "tools" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
    here = own / "tools" / "0"
    here.mkdir(parents=True)
    (here / "b.jsonl").write_text("own\n")  # was copied, and answered to since
    (here / "c.tmp").write_text("0")  # a kill cut it short
    copy_answers(str(given), own)
    assert {path.name: path.read_text() for path in here.iterdir()} == {
        "a.jsonl": "0/a\n",
        "b.jsonl": "own\n",
        "c.jsonl": "0/c\n",
    }
    copy_answers(None, tmp_path / "none")
    copy_answers(str(tmp_path / "none"), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def digits(tmp_path, **changes) -> Experiment:
    """One digit, to be repeated."""
    path = tmp_path / "digits.jsonl"
    rows = [{"question": f"{digit}>", "answer": str(digit)} for digit in range(1, 10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"task__name": "files", "task__train": str(path), "task__alphabet": "0123456789>"}
    return configure(**given, sampling__new_tokens=1, schedule__steps=2, **changes)


def test_a_verifier_that_keeps_time_by_signals_judges_what_actors_bring(tmp_path):
    """Before the gradient is found, which needs the rewards."""
    given = {"actors__count": 1, "actors__devices": 2, "task__verifier": "math", "output__transcripts": 24}
    config = digits(tmp_path, bring="gradients", **given)
    train(config, tmp_path / "w", Console(quiet=True))
    lines = list(records.read(tmp_path / "w" / output.METRICS))
    assert [line["reward_failures"] for line in lines] == [0, 0]
    rows = list(records.read(tmp_path / "w" / output.TRANSCRIPTS))
    assert {row["outcome"] for row in rows} == {0, 1}
    assert all(row["response"].startswith(row["answer"]) for row in rows if row["outcome"])


@pytest.fixture
def writing(tmp_path, monkeypatch):
    """What writes an iteration of a live run whose rollout has two rows, of which some failed."""
    setup = build(configure())
    monkeypatch.setattr(run_program.transcripts, "of_rollout", lambda *_: [])
    monkeypatch.setattr(output, "write_rollout", lambda *_: tmp_path / "rollout.npz")
    checkpoints = types.SimpleNamespace(latest=types.SimpleNamespace(step=2))
    opened = output.Output(tmp_path, None)
    run = run_program.Run(setup, lambda: None, opened, checkpoints, (), Console(quiet=True), {})

    def write(metrics, failures):
        rollout = types.SimpleNamespace(length=np.ones(2, np.int32))
        collected = Collected(rollout, (), {}, failures, np.zeros(2, np.int32), {})
        delivery = Delivery(3, 3, 2, 0)
        run_program.write(run, Iteration(3, None, collected, {}, None, 4, delivery, {}), metrics)

    return write


def test_a_run_does_not_go_on_with_a_rollout_of_which_no_row_was_judged(writing):
    writing({}, {1: "the judge is gone"})
    with pytest.raises(RuntimeError, match="no row of iteration 3 could be judged: the judge is gone"):
        writing({}, {0: "the judge is gone", 1: "the judge is gone"})


def test_where_to_look_when_the_numbers_of_a_live_run_break(writing):
    sentence = r"iteration 3; its rollout is .*npz, and what led to it is in .*deliveries.jsonl, which a run"
    with pytest.raises(FloatingPointError, match=rf"{sentence} .* \(iteration 2\) cuts off"):
        writing({"loss": float("nan")}, {})
