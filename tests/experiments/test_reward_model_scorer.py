"""A policy's run whose reward is what a reward model says: end to end, and what is refused before."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_reward_model as tiny
from rich.console import Console

from experiments import output, records
from experiments.actors import told
from experiments.config import Experiment, default_config
from experiments.reading import from_config_dict
from experiments.resuming import restored_params
from experiments.reward_model import trained as trained_model
from experiments.reward_model.scorer import check_identity
from experiments.reward_model.setup import build as build_model
from experiments.run import open_run
from experiments.setup import build
from experiments.train import train
from experiments.trained import trained_config, unscored
from gpg_jax.policies.reward import reward
from gpg_jax.policies.score import Layout
from gpg_jax.training.checkpoints import best_step, read_checkpoints

STEPS = 2


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a reward model, and its configuration."""
    workdir, config = tmp_path_factory.mktemp("model") / "w", tiny.configure(preferences__held_out_pairs=0)
    tiny.run(config, workdir)
    return workdir, config


def configure(model: Path | None, **changes) -> Experiment:
    """Words backwards, judged by the places that are right and scored by the model."""
    config = default_config().to_dict()
    config["task"] |= {"prompt_tokens": 3, "verifier": "places_right"}
    config["task"]["rewards"] = {"reward_model": 2.0, "exact": -0.5}
    config["reward_model"] |= {"workdir": None if model is None else str(model), "batch": 24}
    config["model"] |= {"width": 16, "heads": 2, "head_dim": 8, "mlp_width": 16}
    config["sampling"]["new_tokens"] = 4
    config["method"] |= {
        "name": "rloo",
        "kl_placement": "reward",
        "kl_coefficient": 0.1,
        "kl_estimator": "k1",
    }
    config["schedule"] |= {"steps": STEPS, "prompts": 8, "group": 4}
    config["output"] |= {"rollouts": 1, "transcripts": 32}
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (config[section] if section else config)[name] = value
    return from_config_dict(Experiment, config)


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    config = configure(model[0])
    with tiny.one_device(), (folder / "screen").open("w") as screen:
        train(config, folder / "w", Console(file=screen, width=200))
    return folder / "w", (folder / "screen").read_text()


def test_the_reward_is_the_normalised_score(model, finished):
    """Each row's, by a plain forward of the best checkpoint; the outcome stays the verifier's."""
    workdir, screen = finished
    with read_checkpoints(model[0] / "checkpoints") as kept:
        best = best_step(kept)
    assert f"reward model: update {best} of {model[0]}, held-out accuracy not measured" in screen
    setup = build_model(model[1])
    restored = restored_params(model[0], setup.like.params, "best", pytest.fail)
    mean, std = (restored.host["statistics"][name] for name in ("mean", "std"))
    alone = jax.jit(lambda *rows: reward(setup.program.critic, restored.state, *rows, Layout(3, 4, 1)))
    rows = list(records.read(workdir / output.TRANSCRIPTS))
    for step in range(1, STEPS + 1):
        rollout = output.read_rollout(workdir / "rollouts" / f"{step}.npz")
        scores = (np.asarray(alone(rollout.tokens, rollout.prompt_length, rollout.length)) - mean) / std
        own = [row for row in rows if row["step"] == step]
        assert len(own) == 32
        order = sorted(range(32), key=lambda row: (row % 4, row))
        found = np.array([row["parts"]["reward_model"] for row in own])
        np.testing.assert_allclose(found, scores[order], atol=1e-4)
        exact = np.array([row["parts"]["exact"] for row in own])
        np.testing.assert_allclose(rollout.reward[order], 2 * found - 0.5 * exact, atol=1e-4)
        assert set(np.unique(rollout.outcome)) <= {0, 0.5, 1}
    assert found.std() > 0.01


def test_a_model_that_is_not_finished_is_refused_but_by_its_number(model, tmp_path):
    workdir = tmp_path / "w"
    shutil.copytree(model[0], workdir)
    shutil.rmtree(workdir / "checkpoints" / str(tiny.STEPS))
    sentence = r"has been trained for 4 of its 6 updates: let it finish .* reward_model.checkpoint"
    for checkpoint in ("best", "latest"):
        with pytest.raises(ValueError, match=sentence):
            build(configure(workdir, reward_model__checkpoint=checkpoint))
    setup = build(configure(workdir, reward_model__checkpoint="4", reward_model__normalise=False))
    assert "update 4 of" in setup.scorer().summary and "taken as they are" in setup.scorer().summary
    assert setup.scorer() is setup.scorer()
    missing = build(configure(workdir, reward_model__checkpoint="5"))
    with pytest.raises(ValueError, match="there is no checkpoint 5 in"):
        missing.scorer()


def test_a_model_that_has_learnt_nothing_scores_nothing(model, monkeypatch):
    def restore_untrained(*arguments):
        restored = restored_params(*arguments)
        return restored._replace(host=restored.host | {"statistics": {"mean": 0.25, "std": 0.0}})

    monkeypatch.setattr(trained_model, "restored_params", restore_untrained)
    setup = build(configure(model[0]))
    with pytest.raises(ValueError, match=r"gives every response the reward 0\.25: it has learnt nothing"):
        setup.scorer()


def test_rows_longer_than_the_model_has_positions_are_refused(model, tmp_path):
    workdir = tmp_path / "w"
    shutil.copytree(model[0], workdir)
    known = json.loads((workdir / "model.json").read_text())
    known["architecture"]["max_length"] = 6
    (workdir / "model.json").write_text(json.dumps(known))
    with pytest.raises(ValueError, match=r"is 7, and the positions of the reward model in .* for 6 tokens"):
        build(configure(workdir))


SENTENCES = {
    "other tokens": (dict(task__alphabet="abcdef>"), "reads other tokens than the policy writes"),
    "batch": (dict(reward_model__batch=12), "reward_model.batch is 12, .* choose a multiple of 8"),
    "not among the rewards": (
        dict(task__rewards={}),
        r"nothing is scored by it: give task.rewards.reward_model",
    ),
    "checkpoint": (dict(reward_model__checkpoint="first"), r"reward_model.checkpoint is 'first'; it is best"),
    "a verifier": (dict(task__verifier="reward_model"), "there is no verifier or reward 'reward_model'"),
}


@pytest.mark.parametrize(("changes", "sentence"), SENTENCES.values(), ids=SENTENCES)
def test_a_mistake_is_a_sentence(model, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(configure(model[0], **changes))


def test_a_journal_is_repeated_with_its_own_reward_model_alone(model, finished, monkeypatch):
    """The same words in the configuration may mean another one: it was trained again since."""
    monkeypatch.setattr("experiments.actors.recorded", lambda *journal: ())
    journal = dict(actors__count=1, actors__journal=str(finished[0]))
    assert told(build(configure(model[0], **journal))) == ()
    changed = build(configure(model[0], reward_model__normalise=False, **journal))
    with pytest.raises(
        ValueError, match=r"the run in actors\.journal='.*' was scored by another .*now False"
    ):
        told(changed)


def test_a_run_goes_on_with_its_own_reward_model_alone(model, finished, tmp_path):
    """Another checkpoint or other units in the place of the one that it began with; on any mesh."""
    with read_checkpoints(model[0] / "checkpoints") as kept:
        other = next(known.step for known in kept.checkpoints if known.step != best_step(kept))
    workdir, quiet = tmp_path / "w", Console(quiet=True)
    shutil.copytree(finished[0], workdir)
    for changes, wrong in (
        ({"checkpoint": str(other)}, r"update \d, now \d, parameters \w{16}, now \w{16}, mean"),
        ({"normalise": False}, r"\(normalise True, now False\)"),
    ):
        setup = build(configure(model[0], **{f"reward_model__{key}": to for key, to in changes.items()}))
        with pytest.raises(ValueError, match=f"scored by another reward model .*{wrong}"):
            open_run(setup, workdir, quiet)
    with pytest.raises(ValueError, match=r"parameters \w{16}, now None"):
        check_identity(None, setup.scorer().identity)
    check_identity(None, None)
    checkpoints, start = open_run(build(configure(model[0], mesh=(4, 2, 1))), workdir, quiet)
    checkpoints.close()
    output.close_output(start.output)
    assert start.step == STEPS


def test_a_model_that_is_gone_is_not_missed_where_nothing_is_scored(tmp_path):
    config = configure(tmp_path / "gone")
    with pytest.raises(ValueError, match="no run was started there"):
        build(config)
    setup = build(unscored(config))
    assert setup.scorer is None and setup.config.task.rewards == {"exact": -0.5}


def test_a_model_is_no_policy(model):
    with pytest.raises(ValueError, match=r"is the folder of a reward model, not of a policy"):
        trained_config(model[0], ("-1", "1", "1"))


def test_a_folder_of_something_else_is_no_model(finished, tmp_path):
    with pytest.raises(
        ValueError, match=r"is not the folder of a reward model; experiments.train_reward_model"
    ):
        build(configure(finished[0]))
    with pytest.raises(ValueError, match=r"has no config.json: no run was started there"):
        build(configure(tmp_path))
    with pytest.raises(ValueError, match=r"task.rewards has 'reward_model': give reward_model.workdir"):
        configure(None)


def test_the_model_may_lie_on_any_mesh(model):
    """The same scores, whatever the mesh of the policy's run."""
    summaries = [build(configure(model[0], mesh=mesh)).scorer().summary for mesh in ((-1, 1, 1), (2, 2, 2))]
    assert summaries[0] == summaries[1] and re.search(r"rewards -?\d\.\d+ ± \d", summaries[0])
