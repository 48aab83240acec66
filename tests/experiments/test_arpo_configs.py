"""The configurations of ARPO's paper: what they come to, its data, and a tiny run from end to end."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import numpy as np
import pytest
from children import ended, start
from tiny_chat import tiny_chat_model

from configs import arpo_paper, arpo_smollm2
from experiments import output, records
from experiments.config import Experiment
from experiments.reading import from_config_dict
from experiments.schedule import derive
from experiments.setup import build
from gpg_jax.data.calculation import calculations, demonstration
from gpg_jax.data.demonstrations import demonstration_tokens
from gpg_jax.data.files import read_parquet
from gpg_jax.data.tokenizers import load_tokenizer
from gpg_jax.decoding.markers import compile_markers, marked_units
from gpg_jax.environments.arpo_prompt import SYSTEM_PROMPT, asked
from gpg_jax.environments.arpo_reward import arpo_reward
from gpg_jax.policies.smollm2 import default_cache, smollm2_folder

ROLES = ("system", "user")
DATA = os.environ.get("GPG_JAX_DATA")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_chat_model(tmp_path_factory.mktemp("tiny") / "model")


def paper(model: str, **changes) -> Experiment:
    """A configuration with dotted keys changed, `__` for the dot."""
    config = arpo_paper.get_config(model)
    for key, value in changes.items():
        config.update_from_flattened_dict({key.replace("__", "."): value})
    return from_config_dict(Experiment, config)


@pytest.mark.parametrize(
    ("model", "rows", "updates", "steps", "length"),
    [
        ("qwen2.5-3b", 128 * 16, 8, 156, 1536 + 4096),
        ("qwen2.5-7b", 128 * 16, 8, 156, 1536 + 4096),
        ("llama3.1-8b", 128 * 16, 8, 156, 1536 + 4096),
        ("qwen3-8b", 128 * 16, 8, 35, 2000 + 8192),
        ("qwen3-14b", 64 * 12, 8, 75, 2000 + 8192),
    ],
)
def test_the_papers_schedule(model, rows, updates, steps, length):
    config = paper(model)
    schedule = derive(config)
    assert dict(schedule.mesh.shape) == {"data": 1, "fsdp": 8, "tensor": 1}
    assert schedule.plan.rows == rows and schedule.plan.updates == updates
    assert schedule.steps == steps and schedule.cold_steps == 0
    assert schedule.plan.layout.length == length
    assert config.branching.roots * 2 == config.schedule.group
    assert config.branching.mode == "arpo_paper" and config.branching.width == 1
    arguments = config.method.arguments
    assert (arguments["calibration"], arguments["ratio"], arguments["aggregation"]) == (
        "soft", "token", "token_mean",
    )  # fmt: skip
    assert arguments.get("kl_coefficient", 0.0) == 0.0 and config.optimizer.learning_rate == 1e-6
    assert config.task.rewards == {"arpo": 1.0} and config.tools.names == ("search", "python")


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match=r"no model 'qwen2.5'; there are qwen2.5-3b, "):
        arpo_paper.get_config("qwen2.5")


def write_data(folder: Path, count: int) -> list[str]:
    """Rows as the paper's and a search cache, as flags."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [
        {
            "data_source": "tiny",
            "prompt": list(asked(f"What is {n} + {n}?")),
            "ability": "math",
            "reward_model": {"ground_truth": str(2 * n), "style": "rule"},
            "extra_info": {"index": n},
        }
        for n in range(count)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train.parquet")
    (folder / "cache.json").write_text('{"a query": "Page 1: one page\\nPage 2: another one"}')
    return [
        f"--config.task.train={folder / 'train.parquet'}",
        f"--config.tools.corpus={folder / 'cache.json'}",
        f"--config.tools.index={folder / 'index'}",
    ]


def test_a_tiny_run_of_the_papers_setting(model, tmp_path):
    """All as in the paper but the sizes: it samples, forks, judges, updates and saves."""
    workdir = tmp_path / "w"
    flags = [
        "--config=configs/arpo_paper.py:qwen2.5-3b", f"--workdir={workdir}", *write_data(tmp_path, 4),
        f"--config.model.name={model}", "--config.mesh=-1,1,1", "--config.task.prompt_tokens=340",
        "--config.schedule.steps=1", "--config.schedule.prompts=2", "--config.schedule.group=4",
        "--config.schedule.minibatches=2", "--config.schedule.micro_batches=1", "--config.branching.roots=2",
        "--config.sampling.new_tokens=24", "--config.tools.answer_tokens=16",
        "--config.evaluation.examples=-1", "--config.output.rollouts=1",
    ]  # fmt: skip
    code, said = ended(start("train", *flags, without="GPG_JAX_DATA"))
    assert code == 0, said
    lines = list(records.read(workdir / output.METRICS))
    assert [line["step"] for line in lines] == [1]
    assert lines[0]["reward"] == -1 and lines[0]["marker_absent"] == 1  # random weights write no format
    assert {"units", "calls", "tool_calls", "tool_seconds"} <= set(lines[0])
    rollout = output.read_rollout(workdir / "rollouts" / "1.npz")
    assert rollout.tokens.shape == (8, 340 + 24) and (workdir / "checkpoints" / "1").is_dir()


@pytest.mark.skipif(DATA is None, reason="GPG_JAX_DATA is not set")
def test_the_papers_data_fit_its_setting(model, tmp_path):
    """Every row but the one without an answer; nine have a gold answer that no box can hold whole."""
    longest = {"task__prompt_tokens": 2100}  # of a tokenizer that knows little but the system prompt
    names = {"model__name": str(model), "tools__index": str(tmp_path / "index")}
    setup = build(paper("qwen2.5-7b", **names, **longest))
    assert len(setup.task.held_out) == 180
    assert setup.task.batches.get_state()["settings"]["examples"] == 9999
    batch = next(setup.task.batches)
    assert len(batch) == 128
    assert all(message["role"] == role for e in batch for message, role in zip(e.prompt, ROLES, strict=True))
    rows = read_parquet(setup.config.task.train, drop_unanswered=True)
    own = [f"<think>x</think><answer>\\boxed{{{row.answer}}}</answer>" for row in rows]
    assert sum(arpo_reward(text, row) < 1 for text, row in zip(own, rows, strict=True)) == 9
    (search, python) = setup.tools
    assert search.call("who wrote Hamlet").startswith("Page 1: ") and python.call("print(6 * 7)") == "42"


def test_smollm2_has_a_cold_start_and_tools():
    config = from_config_dict(Experiment, arpo_smollm2.get_config())
    schedule = derive(config, jax.devices()[:1])
    assert schedule.cold_steps > 0 and config.tools.names == ("calculator",)
    assert config.model.name == "smollm2" and config.method.name == "gpg"


@pytest.mark.parametrize("name", ["tiny", "smollm2"])
def test_tags_that_a_tokenizer_splits_cut_macro_actions(model, name):
    """A demonstration behind a prompt that speaks of tags: a call and an answer, each a unit of its own."""
    if name == "smollm2" and not any(default_cache().glob("SmolLM2-135M-Instruct-*")):
        pytest.skip("SmolLM2 is not in the cache")
    tokenizer = load_tokenizer(model if name == "tiny" else smollm2_folder())
    assert all(len(tokenizer.encode(f"<{tag}>")) > 1 for tag in arpo_smollm2.TAGS)
    (example,) = calculations(1)
    said, own = demonstration_tokens(demonstration(example), tokenizer.encode, tokenizer.eos_ids[0])
    prompt = tokenizer.encode(SYSTEM_PROMPT + example.prompt)
    markers = compile_markers(arpo_smollm2.TAGS, tokenizer.token_bytes)
    tokens, mask = np.array([[*prompt, *said]], np.int32), np.array([[False] * len(prompt) + own])
    found = marked_units(markers, tokens, mask)
    assert found.fault.tolist() == [0]
    cut = [np.flatnonzero(np.asarray(found.unit_ids[0]) == unit) for unit in range(3)]
    texts = [tokenizer.decode_all(tokens[0, places].tolist()) for places in cut]
    call, answer = example.metadata["call"], example.answer
    assert texts[:2] == [f"<calculator>{call}</calculator>", f"<answer>{answer}</answer>"]
    assert texts[2] == tokenizer.decode_all([tokenizer.eos_ids[0]])
