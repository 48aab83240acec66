"""Hugging Face folders in and out: an independent NumPy decoder, and transformers where it is installed."""

import json
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_models import ARCHITECTURES, BASE, SCALING, SIZES, numpy_logits

from gpg_jax.policies.huggingface import read_folder, save_pretrained
from gpg_jax.policies.pretrained import load_pretrained, pretrained_folder
from gpg_jax.policies.transformer import transformer

TOKENS = np.random.default_rng(0).integers(0, SIZES["vocab_size"], (2, 40)).astype(np.int32)


@pytest.fixture(params=ARCHITECTURES)
def family(request):
    return request.param


def random_params(architecture, seed=0):
    """Our transformer's own tree, every leaf moved so that no norm is one and no bias is zero."""
    rng = np.random.default_rng(seed)
    params = transformer(architecture).init(jax.random.key(seed))
    return jax.tree.map(
        lambda leaf: np.asarray(leaf) + rng.normal(0, 0.1, leaf.shape).astype(np.float32), params
    )


def our_logits(architecture, params, tokens=TOKENS):
    policy = transformer(architecture)
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)

    @jax.jit
    def logits(params, tokens, positions):
        return policy.unembed(params, policy.hidden(params, tokens, positions, ())[0])

    return np.asarray(logits(params, tokens, positions))


def test_saved_files_give_our_logits_in_numpy(family, tmp_path):
    architecture = ARCHITECTURES[family]
    params = random_params(architecture)
    folder = save_pretrained(tmp_path / "model", architecture, params)
    config = json.loads((folder / "config.json").read_text())
    expected = [numpy_logits(config, load_file(folder / "model.safetensors"), row) for row in TOKENS]
    np.testing.assert_allclose(our_logits(architecture, params), expected, atol=1e-4)


@pytest.mark.parametrize("shard_bytes", [10**9, 20_000])
def test_round_trip_is_exact(family, shard_bytes, tmp_path):
    architecture = ARCHITECTURES[family]
    params = random_params(architecture)
    folder = save_pretrained(tmp_path / "new" / "model", architecture, params, shard_bytes=shard_bytes)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (shard_bytes == 20_000)
    assert [entry.name for entry in folder.parent.iterdir()] == ["model"]
    read, back = load_pretrained(folder)
    assert read == architecture
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(back))


def test_bfloat16_on_disk_becomes_float32(tmp_path):
    architecture = ARCHITECTURES["llama"]
    params = random_params(architecture)
    folder = save_pretrained(tmp_path / "model", architecture, params, dtype="bfloat16")
    _, back = read_folder(folder)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jax.numpy.bfloat16).astype(np.float32), params)
    jax.tree.map(np.testing.assert_array_equal, back, rounded)


def test_float16_on_disk_becomes_float32(tmp_path):
    architecture = ARCHITECTURES["llama"]
    folder = save_pretrained(tmp_path / "model", architecture, random_params(architecture))
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor.astype(np.float16) for name, tensor in tensors.items()}, folder / "model.safetensors"
    )
    _, back = read_folder(folder)
    expected = tensors["model.layers.1.mlp.up_proj.weight"].astype(np.float16).astype(np.float32).T
    np.testing.assert_array_equal(back["layers"]["mlp"]["up"][1], expected)


def test_companions_and_token_ids_come_along(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "tokenizer.json").write_text("{}")
    (source / "generation_config.json").write_text('{"eos_token_id": [2, 5], "temperature": 0.6}')
    (source / "config.json").write_text('{"bos_token_id": 1, "vocab_size": 7}')
    architecture = ARCHITECTURES["llama"]
    folder = save_pretrained(tmp_path / "model", architecture, random_params(architecture), source=source)
    config = json.loads((folder / "config.json").read_text())
    assert (config["eos_token_id"], config["bos_token_id"], config["vocab_size"]) == ([2, 5], 1, 61)
    assert "temperature" not in config
    assert (folder / "tokenizer.json").read_text() == "{}"
    assert (folder / "generation_config.json").read_text() == (source / "generation_config.json").read_text()
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


def test_nothing_is_overwritten(tmp_path):
    architecture = ARCHITECTURES["llama"]
    params = random_params(architecture)
    (tmp_path / "empty").mkdir()
    save_pretrained(tmp_path / "empty", architecture, params)
    before = (tmp_path / "empty" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        save_pretrained(tmp_path / "empty", architecture, random_params(architecture, 1))
    assert (tmp_path / "empty" / "model.safetensors").read_bytes() == before


def test_a_failed_save_leaves_nothing(tmp_path):
    architecture = ARCHITECTURES["llama"]
    params = random_params(architecture)

    class Gone:
        shape = params["norm"].shape

        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("the device is gone")

    with pytest.raises(RuntimeError, match="the device is gone"):
        save_pretrained(tmp_path / "model", architecture, {**params, "norm": Gone()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({"source": "nowhere"}, {}, "source='nowhere' is not a folder"),
        ({"dtype": "int8"}, {}, "dtype='int8'"),
        ({}, {"norm": np.zeros(3, np.float32)}, r"norm has shape \(3,\); the architecture asks for \(32,\)"),
        ({}, {"lora": {"a": np.zeros(3)}}, "hold lora/a"),
    ],
)
def test_bad_saves(options, change, message, tmp_path):
    architecture = ARCHITECTURES["llama"]
    with pytest.raises(ValueError, match=message):
        save_pretrained(tmp_path / "model", architecture, random_params(architecture) | change, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def saved(tmp_path):
    architecture = ARCHITECTURES["llama"]
    return save_pretrained(tmp_path / "model", architecture, random_params(architecture))


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors")


def test_missing_surplus_and_misshapen_tensors(saved):
    original = load_file(saved / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    rewrite(saved, lambda tensors: {key: tensors[key] for key in tensors if key != name})
    with pytest.raises(ValueError, match=f"lacks 1 tensors .*: {re.escape(name)}"):
        read_folder(saved)
    rewrite(saved, lambda _: original | {"model.layers.3.mlp.up_proj.weight": original[name]})
    with pytest.raises(ValueError, match=r"holds 1 tensors .*: model.layers.3.mlp.up_proj.weight"):
        read_folder(saved)
    rewrite(saved, lambda _: original | {name: original[name].T.copy()})
    with pytest.raises(
        ValueError, match=re.escape(f"{name} of {saved} has shape (32, 48); its configuration asks")
    ):
        read_folder(saved)
    rewrite(saved, lambda _: original | {name: original[name].astype(np.int8)})
    with pytest.raises(ValueError, match="has type I8; F32, BF16, F16 are read"):
        read_folder(saved)


def test_tensors_that_the_configuration_determines_are_skipped(saved):
    _, before = read_folder(saved)
    frequencies = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    rewrite(
        saved,
        lambda tensors: tensors | frequencies | {"lm_head.weight": tensors["model.embed_tokens.weight"]},
    )
    jax.tree.map(np.testing.assert_array_equal, read_folder(saved)[1], before)
    rewrite(saved, lambda tensors: tensors | {"lm_head.weight": tensors["lm_head.weight"] + 1})
    with pytest.raises(ValueError, match="set tie_word_embeddings to false"):
        read_folder(saved)


def test_foreign_folders(saved, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"has no config.json"):
        read_folder(tmp_path / "empty")
    (saved / "model.safetensors").rename(saved / "model-00001-of-00002.safetensors")
    with pytest.raises(ValueError, match=r"no model.safetensors and no model.safetensors.index.json$"):
        read_folder(saved)
    (saved / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="a pickle can run code"):
        read_folder(saved)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"lacks the shards model-00002-of-00002.safetensors"):
        read_folder(saved)
    (saved / "model.safetensors").write_bytes(b"not at all")
    with pytest.raises(ValueError, match="damaged or no safetensors file"):
        read_folder(saved)
    (saved / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        read_folder(saved)


def test_names_that_lead_nowhere(monkeypatch):
    with pytest.raises(ValueError, match=r"there is no folder './no/such/model'; give"):
        pretrained_folder("./no/such/model")

    def snapshot_download(name, **options):
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(ValueError, match="hub did not give a model of that name: no route"):
        load_pretrained("owner/model")


def test_a_hub_name_is_fetched_without_pickles(saved, monkeypatch):
    asked = {}

    def snapshot_download(name, revision, allow_patterns):
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        return str(saved)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    architecture, _ = load_pretrained("owner/model-1.5", revision="main")
    assert architecture == ARCHITECTURES["llama"]
    assert (asked["name"], asked["revision"]) == ("owner/model-1.5", "main")
    assert not any(pattern.endswith((".bin", ".pt", "*")) for pattern in asked["patterns"])


# Parity with transformers, both ways.


@pytest.fixture
def torch_and_transformers():
    why = "parity with transformers needs the extra `parity`"
    return pytest.importorskip("torch", reason=why), pytest.importorskip("transformers", reason=why)


def their_logits(torch, model, tokens=TOKENS):
    with torch.no_grad():
        return model(torch.from_numpy(tokens.astype(np.int64))).logits.numpy()


def their_model(transformers, family):
    """A random tiny model that transformers makes from its own arguments."""
    sizes = {key: BASE[key] for key in BASE if key != "model_type"}
    if family == "qwen2":
        config = transformers.Qwen2Config(**sizes, tie_word_embeddings=True)
        return transformers.Qwen2ForCausalLM(config)
    if family == "qwen3":
        config = transformers.Qwen3Config(**sizes, head_dim=16, tie_word_embeddings=True)
        return transformers.Qwen3ForCausalLM(config)
    rope = {"rope_type": "default", "rope_theta": 1e5}
    if family == "llama3":
        rope = {"rope_type": "llama3", "rope_theta": 5e3, **SCALING}
    config = transformers.LlamaConfig(**sizes, rope_parameters=rope, tie_word_embeddings=family == "llama")
    return transformers.LlamaForCausalLM(config)


@pytest.mark.parity
def test_what_transformers_saves_has_its_logits_here(family, torch_and_transformers, tmp_path):
    torch, transformers = torch_and_transformers
    torch.manual_seed(0)
    model = their_model(transformers, family).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "theirs", max_shard_size="30KB")
    architecture, params = load_pretrained(tmp_path / "theirs")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    np.testing.assert_allclose(our_logits(architecture, params), their_logits(torch, model), atol=1e-4)


@pytest.mark.parity
def test_what_we_save_has_our_logits_in_transformers(family, torch_and_transformers, tmp_path):
    torch, transformers = torch_and_transformers
    architecture = ARCHITECTURES[family]
    params = random_params(architecture)
    folder = save_pretrained(tmp_path / "ours", architecture, params)
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    np.testing.assert_allclose(their_logits(torch, model.eval()), our_logits(architecture, params), atol=1e-4)
