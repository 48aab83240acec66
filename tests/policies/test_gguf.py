"""GGUF: weights against a file that is written here from the format's definition, and its tokenizer."""

import json

import gguf
import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tiny_gguf import LAYERS, MERGES, SIZE, TEMPLATE, TOKENS, WIDTH, random_weights, write_gguf

from gpg_jax.policies.gguf import architecture_from_fields, fields, open_gguf, read_gguf
from gpg_jax.policies.gguf_tokenizer import tokenizer_files, tokenizer_from_fields
from gpg_jax.policies.pretrained import load_pretrained


def test_weights_come_back_in_their_places(tmp_path):
    weights = random_weights()
    architecture, params = load_pretrained(write_gguf(tmp_path / "model.gguf", weights))
    assert (architecture.layers, architecture.heads, architecture.kv_heads, architecture.head_dim) == (
        2,
        4,
        2,
        16,
    )
    assert (architecture.norm_eps, architecture.rope_theta, architecture.tied) == (1e-5, 1e5, True)
    assert architecture.vocab_size == len(TOKENS)
    np.testing.assert_array_equal(params["embedding"], weights["token_embd.weight"])
    for ours, theirs in (
        ("query", "attn_q"),
        ("key", "attn_k"),
        ("value", "attn_v"),
        ("output", "attn_output"),
    ):
        expected = np.stack([weights[f"blk.{layer}.{theirs}.weight"].T for layer in range(LAYERS)])
        np.testing.assert_array_equal(params["layers"]["attention"][ours], expected)
    for ours, theirs in (("gate", "ffn_gate"), ("up", "ffn_up"), ("down", "ffn_down")):
        expected = np.stack([weights[f"blk.{layer}.{theirs}.weight"].T for layer in range(LAYERS)])
        np.testing.assert_array_equal(params["layers"]["mlp"][ours], expected)
    np.testing.assert_array_equal(params["layers"]["mlp_norm"][1], weights["blk.1.ffn_norm.weight"])


def test_a_head_of_its_own(tmp_path):
    weights = random_weights()
    weights["output.weight"] = np.random.default_rng(1).normal(size=(len(TOKENS), WIDTH)).astype(np.float32)
    architecture, params = read_gguf(write_gguf(tmp_path / "model.gguf", weights))
    assert not architecture.tied
    np.testing.assert_array_equal(params["head"], weights["output.weight"].T)


def test_quantised_rows_are_dequantised(tmp_path):
    # Q8_0 rounds blocks of 32 to 1/127 of their largest value, and that scale to float16.
    weights = random_weights()
    names = ("blk.0.attn_q.weight", "blk.1.ffn_down.weight")
    _, params = read_gguf(write_gguf(tmp_path / "model.gguf", weights, quantised=names))
    for read, name in ((params["layers"]["attention"]["query"][0], names[0]),
                       (params["layers"]["mlp"]["down"][1], names[1])):  # fmt: skip
        error = np.abs(read.T - weights[name]).reshape(len(weights[name]), -1, 32).max(-1)
        scale = np.abs(weights[name]).reshape(len(weights[name]), -1, 32).max(-1) / 127
        assert error.max() > 0
        assert (error <= 0.6 * scale + 1e-3 * 127 * scale).all()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"architecture": "qwen2"}, "architecture 'qwen2'; only 'llama'"),
        ({"add_rope_scaling_type": gguf.RopeScalingType.YARN}, "scaling 'yarn'"),
        ({"add_rope_dimension_count": 8}, "rotary positions of 8 in 16"),
        ({"add_expert_count": 4}, "4 experts"),
        ({"omit": ("add_block_count",)}, "does not say llama.block_count"),
    ],
)
def test_unsupported_files(more, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_gguf(write_gguf(tmp_path / "model.gguf", random_weights(), **more))


def test_tensors_that_do_not_fit(tmp_path):
    # Llama 3's GGUF holds its rotary scaling as a tensor of factors.
    weights = random_weights() | {"rope_freqs.weight": np.ones(SIZE // 2, np.float32)}
    with pytest.raises(ValueError, match=r"holds 1 tensors .*rope_freqs.weight"):
        read_gguf(write_gguf(tmp_path / "a.gguf", weights))
    weights = random_weights()
    del weights["blk.1.ffn_up.weight"]
    with pytest.raises(ValueError, match=r"lacks 1 tensors .*model.layers.1.mlp.up_proj.weight"):
        read_gguf(write_gguf(tmp_path / "b.gguf", weights))
    with pytest.raises(ValueError, match=r"has no token_embd.weight"):
        read_gguf(write_gguf(tmp_path / "c.gguf", {"output_norm.weight": np.ones(WIDTH, np.float32)}))


def test_files_that_are_no_gguf(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        read_gguf(tmp_path / "none.gguf")
    (tmp_path / "text.gguf").write_text("not a model at all, but long enough for a header")
    with pytest.raises(ValueError, match="damaged or no GGUF file"):
        read_gguf(tmp_path / "text.gguf")
    (tmp_path / "empty.gguf").write_bytes(b"")
    with pytest.raises(ValueError, match="damaged or no GGUF file"):
        read_gguf(tmp_path / "empty.gguf")
    whole = write_gguf(tmp_path / "whole.gguf", random_weights()).read_bytes()
    for kept in (3000, len(whole) // 2, len(whole) - 100):
        (tmp_path / "cut.gguf").write_bytes(whole[:kept])
        with pytest.raises(ValueError, match="damaged or no GGUF file"):
            read_gguf(tmp_path / "cut.gguf")


METADATA = {
    "general.architecture": "llama", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS, "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(TOKENS) - 3),
    "tokenizer.ggml.merges": MERGES, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.bos_token_id": 1,
}  # fmt: skip


def encode(metadata, text):
    return tokenizer_from_fields(metadata).encode(text, add_special_tokens=False).tokens


def test_smollm_splits_digits_before_words():
    # Digits stand alone before GPT-2's rule sees the text, so a run of blanks before one stays whole;
    # GPT-2's own rule gives the last blank to the number, and keeps the number whole.
    assert encode(METADATA, "  12") == ["ĠĠ", "1", "2"]
    assert encode(METADATA | {"tokenizer.ggml.pre": "gpt-2"}, "  12") == ["Ġ", "Ġ", "12"]
    assert encode(METADATA, "ab ab") == ["ab", "Ġab"]


def test_special_tokens_are_whole():
    tokenizer = tokenizer_from_fields(METADATA)
    encoding = tokenizer.encode("<|im_start|>ab<|im_end|>", add_special_tokens=False)
    assert encoding.ids == [1, TOKENS.index("ab"), 2]
    assert tokenizer.decode(encoding.ids) == "ab"
    assert [tokenizer.id_to_token(number) for number in range(len(TOKENS))] == TOKENS


@given(st.text())
def test_tokenizer_round_trip(text):
    tokenizer = tokenizer_from_fields(METADATA)
    assert (
        tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)
        == text
    )


def test_tokenizer_files_of_a_written_file(tmp_path):
    metadata = fields(open_gguf(write_gguf(tmp_path / "model.gguf", random_weights())))
    files = tokenizer_files(metadata)
    assert files["chat_template.jinja"] == TEMPLATE
    assert json.loads(files["generation_config.json"]) == {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    settings = json.loads(files["tokenizer_config.json"])
    assert (settings["eos_token"], settings["unk_token"]) == ("<|im_end|>", "<|endoftext|>")
    assert settings["model_max_length"] == 256
    loaded = tokenizers.Tokenizer.from_str(files["tokenizer.json"])
    assert loaded.encode("  12", add_special_tokens=False).tokens == ["ĠĠ", "1", "2"]
    assert "chat_template.jinja" not in tokenizer_files(METADATA)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.model": "llama"}, "tokenizer model 'llama'; only 'gpt2'"),
        ({"tokenizer.ggml.pre": "llama-bpe"}, "pre-tokenizer 'llama-bpe'; supported are 'smollm'"),
        ({"tokenizer.ggml.add_bos_token": True}, "begin-of-sequence"),
    ],
)
def test_unsupported_tokenizers(change, message):
    with pytest.raises(ValueError, match=message):
        tokenizer_from_fields(METADATA | change)


def test_a_tokenizer_without_merges():
    metadata = {key: value for key, value in METADATA.items() if not key.endswith("merges")}
    with pytest.raises(ValueError, match=r"does not say tokenizer.ggml.merges"):
        tokenizer_from_fields(metadata)


def test_the_shortest_decimal_of_a_float32():
    metadata = {
        "general.architecture": "llama", "llama.embedding_length": 8, "llama.attention.head_count": 2,
        "llama.block_count": 1, "llama.feed_forward_length": 8, "llama.context_length": 8,
        "llama.attention.layer_norm_rms_epsilon": float(np.float32(1e-5)),
    }  # fmt: skip
    architecture = architecture_from_fields(metadata, tied=True, vocab_size=5)
    assert (architecture.norm_eps, architecture.rope_theta, architecture.kv_heads) == (1e-5, 1e4, 2)
