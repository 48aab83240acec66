"""The configurations of ARPO's paper: what they come to, its data, and a tiny run from end to end."""

from __future__ import annotations

import ast
import dataclasses
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from children import ended, start
from tiny_chat import tiny_chat_model

from configs import arpo_calculator, arpo_paper, arpo_search, arpo_smollm2
from experiments import output, records
from experiments.config import Experiment
from experiments.reading import from_config_dict
from experiments.schedule import Schedule, derive
from experiments.setup import build
from experiments.tasks import load_task
from gpg_jax.data.calculation import calculations, demonstration
from gpg_jax.data.demonstrations import demonstration_tokens
from gpg_jax.data.files import read_parquet
from gpg_jax.data.tokenizers import load_tokenizer
from gpg_jax.decoding.markers import compile_markers, marked_units
from gpg_jax.environments.arpo_prompt import SYSTEM_PROMPT, asked
from gpg_jax.environments.arpo_reward import arpo_reward
from gpg_jax.policies.architecture import Architecture
from gpg_jax.policies.smollm2 import default_cache, smollm2_folder
from gpg_jax.policies.transformer import transformer
from gpg_jax.training.sharding import AXES, parameter_specs

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


def published(layers, width, heads, kv_heads, mlp_width, vocab_size, **changes):
    """An architecture as its config.json on the hub says; rotary positions and ε take no memory."""
    sizes = {"layers": layers, "width": width, "heads": heads, "kv_heads": kv_heads, "mlp_width": mlp_width}
    return Architecture(**sizes, vocab_size=vocab_size, head_dim=128, **{"tied": False, **changes})


ARCHITECTURES = {
    "qwen2.5-3b": published(36, 2048, 16, 2, 11008, 151936, tied=True, attention_bias=True),
    "qwen2.5-7b": published(28, 3584, 28, 4, 18944, 152064, attention_bias=True),
    "llama3.1-8b": published(32, 4096, 32, 8, 14336, 128256),
    "qwen3-8b": published(36, 4096, 32, 8, 12288, 151936, query_key_norm=True),
    "qwen3-14b": published(40, 5120, 40, 8, 17408, 151936, query_key_norm=True),
}
FLAGS = {
    name: dict(re.findall(r"--config\.(\S+)=(\S+)", flags))
    for name, flags in re.findall(r"^ +(\S+) +(--config\.mesh=.*)$", arpo_paper.__doc__, re.MULTILINE)
    if name in arpo_paper.MODELS
}
"""What the docstring tells to give, key -> value."""


def on_a_pod(model: str, patch: pytest.MonkeyPatch, *without: str) -> tuple[Experiment, Schedule]:
    """The docstring's command on as many devices as its mesh has, which need not be there."""

    def abstract(shape, devices):
        return jax.sharding.AbstractMesh(tuple(shape), AXES)

    patch.setattr("experiments.schedule.make_mesh", abstract)
    flags = {key: ast.literal_eval(value) for key, value in FLAGS[model].items() if key not in without}
    config = arpo_paper.get_config(model)
    config.update_from_flattened_dict(flags)
    experiment = from_config_dict(Experiment, config)
    return experiment, derive(experiment)


def bytes_of(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("model", "devices", "own", "cold"),
    [
        ("qwen2.5-3b", 8, 4, 8),
        ("qwen2.5-7b", 16, 2, 8),
        ("llama3.1-8b", 32, 1, 4),
        ("qwen3-8b", 64, 1, 2),
        ("qwen3-14b", 32, 1, 2),
    ],
)
def test_the_flags_of_the_docstring_are_accepted(model, devices, own, cold, monkeypatch):
    """Rows and prompts divide, see `derive`, those of a cold start too, and so does every parameter."""
    config, schedule = on_a_pod(model, monkeypatch)
    assert dict(schedule.mesh.shape) == {"data": 1, "fsdp": devices, "tensor": 1}
    assert schedule.plan.micro_rows == own * devices
    params = jax.eval_shape(transformer(ARCHITECTURES[model]).init, jax.random.key(0))
    parameter_specs(params, schedule.mesh)
    begun = dataclasses.replace(config.cold_start, steps=1, micro_batches=cold)
    plan = derive(dataclasses.replace(config, cold_start=begun)).cold_plan
    assert plan is not None and plan.rows == (64 if model == "qwen3-14b" else 128)
    begun = dataclasses.replace(begun, micro_batches=2 * cold)
    if cold < config.cold_start.micro_batches:
        with pytest.raises(ValueError, match="their product must divide"):
            derive(dataclasses.replace(config, cold_start=begun))


@pytest.mark.parametrize("model", ["qwen3-8b", "qwen3-14b"])
def test_deep_search_on_so_many_devices_needs_its_micro_batches(model, monkeypatch):
    with pytest.raises(ValueError, match=r"micro-batches on \d+ devices; their product must divide"):
        on_a_pod(model, monkeypatch, "schedule.micro_batches")


@pytest.mark.parametrize("model", arpo_paper.MODELS)
def test_the_memory_of_the_docstring_adds_up(model, monkeypatch):
    """The table's line, by the shapes of the policy that decodes."""
    config, schedule = on_a_pod(model, monkeypatch)
    architecture, layout, devices = ARCHITECTURES[model], schedule.plan.layout, schedule.mesh.size
    policy = transformer(architecture, dtype=jnp.dtype(config.model.dtype))

    def cache(rows: int, slots: int) -> int:
        return bytes_of(jax.eval_shape(lambda: policy.init_cache(rows, slots)))

    params = jax.eval_shape(policy.init, jax.random.key(0))
    weights = bytes_of(jax.eval_shape(policy.for_decoding, params))
    rows, prompts = cache(schedule.plan.rows, layout.new_slots), cache(schedule.prompts, layout.prompt_slots)
    tools = config.tools
    scores = 4 * architecture.heads * tools.answer_tokens * layout.new_slots
    reading = tools.at_once * (cache(1, layout.new_slots) + cache(1, layout.prompt_slots) + scores)

    def device(count: int) -> float:
        return (rows + prompts + 3 * bytes_of(params)) / count + weights + reading

    def billions(count: float) -> str:
        return f"{count / 1e9:,.0f} GB"

    cells = (
        model, f"{cache(1, 1) / 1e3:.0f} kB", f"{schedule.plan.rows:,} × {layout.new_slots:,}",
        *map(billions, (rows, prompts, weights)), str(devices), billions(device(devices)),
    )  # fmt: skip
    line = r"^ +" + " +".join(map(re.escape, cells)) + "$"
    assert re.search(line, arpo_paper.__doc__, re.MULTILINE), cells
    assert device(devices) < 80e9 and device(devices // 2) > 94e9


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


@pytest.mark.parametrize("module", [arpo_calculator, arpo_search])
def test_without_tools_the_answers_are_shown_and_nothing_can_be_called(module):
    config = from_config_dict(Experiment, module.get_config("without_tools"))
    assert config.tools.names == () and config.branching.mode == "none"
    task = load_task(config)
    for example in task.held_out:
        assert list(task.demonstrate(example)) == [("policy", f"<answer>{example.answer}</answer>")]
    with pytest.raises(ValueError, match='the argument is "tools" or "without_tools", got \'none\''):
        module.get_config("none")
