"""Where a cold start's demonstrations come from, and that a run finds its place in them again."""

from __future__ import annotations

import dataclasses
import json

import pytest

from configs.arpo_calculator import get_config
from experiments.config import Experiment
from experiments.demonstrations import go_to, load_demonstrations, place
from experiments.reading import from_config_dict
from experiments.tasks import load_task
from gpg_jax.data.calculation import calculations, demonstration


def configure(**cold) -> Experiment:
    config = from_config_dict(Experiment, get_config())
    return dataclasses.replace(config, cold_start=dataclasses.replace(config.cold_start, **cold))


def written(path, extra=()):
    rows = [
        {"question": one.prompt, "answer": one.answer, "turns": demonstration(one)}
        for one in calculations(40, seed=3)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *extra]))
    return str(path)


def test_a_file_of_the_tasks_own_demonstrations_gives_the_tasks_own_rows(tmp_path):
    config = configure(data=written(tmp_path / "d.jsonl"))
    task = load_task(config)
    read, own = load_demonstrations(config, task), load_demonstrations(configure(), task)
    examples = next(read.batches)
    assert len(examples) == config.schedule.prompts and len({one.prompt for one in examples}) > 1
    asked = {one.prompt: one for one in calculations(40, seed=3)}
    for example in examples:
        assert read.rows(example) == own.rows(asked[example.prompt])
    assert own.batches is task.batches and read.batches is not task.batches


def test_a_run_goes_on_in_both_sets_where_it_was(tmp_path):
    config = configure(data=written(tmp_path / "d.jsonl"))
    task = load_task(config)
    demonstrations = load_demonstrations(config, task)
    next(demonstrations.batches), next(task.batches), next(task.batches)
    saved = json.loads(json.dumps(place(task, demonstrations)))
    coming = next(demonstrations.batches), next(task.batches)
    again = load_task(config)
    anew = load_demonstrations(config, again)
    go_to(again, anew, saved)
    assert (next(anew.batches), next(again.batches)) == coming


def test_a_long_demonstration_is_an_error_or_left_out(tmp_path):
    long = {"question": "10*10+10=", "answer": "110", "turns": [["policy", "1" * 99]]}
    path = written(tmp_path / "d.jsonl", [long])
    config = configure(data=path)
    task = load_task(config)
    with pytest.raises(ValueError, match=r"1 of the 41 demonstrations .* longer than .*new_tokens=40"):
        load_demonstrations(config, task)
    kept = load_demonstrations(configure(data=path, drop_unfit=True), task)
    assert all("1" * 99 not in str(one) for _ in range(5) for one in next(kept.batches))


def test_a_cold_start_from_nothing_is_refused():
    config = from_config_dict(Experiment, get_config())
    task = load_task(config)._replace(demonstrate=None)
    with pytest.raises(ValueError, match=r"has no demonstrations; give cold_start\.data"):
        load_demonstrations(config, task)
    assert load_demonstrations(configure(steps=0), task) is None
