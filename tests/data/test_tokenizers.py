"""Tokenizers from files: ids, bytes of tokens, roles; and the tokenizer of single characters."""

import json

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from gpg_jax.data.token_bytes import byte_alphabet, bytes_of_tokens
from gpg_jax.data.tokenizers import (
    character_tokenizer,
    check_tokenizer_fits,
    load_tokenizer,
    vocabulary_bytes,
)
from gpg_jax.decoding.automaton import compile_automaton
from gpg_jax.policies.smollm2 import default_cache, smollm2_folder

SPECIAL = ["<|begin|>", "<|end|>", "<|stop|>"]
CORPUS = ["the cat sat on the mat 12 times", "naïve café 日本 日本語", "aaa bbb\n\n\tccc"] * 4


def byte_level(*, begin=False):
    """A trained byte-level BPE with three special tokens and one that is added but not special."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens(["<tool ü>"])
    if begin:
        backend.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
        )
    return backend


def write(folder, backend, **files):
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    settings = {
        "bos_token": "<|begin|>",
        "eos_token": {"content": "<|end|>", "special": True},
        "pad_token": None,
    }
    return write(
        tmp_path_factory.mktemp("tokenizer"), byte_level(begin=True), tokenizer_config=settings,
        generation_config={"eos_token_id": [2, 1]}, config={"eos_token_id": 0, "pad_token_id": -1},
    )  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


def test_roles(tokenizer):
    # generation_config names two ends, the tokenizer one of them; config.json is asked last.
    assert tokenizer.eos_ids == (1, 2)  # its own first: what demonstrations end with
    # No pad token and pad_token_id=-1, which old files write for "none": the first end.
    assert tokenizer.pad_id == 1
    assert tokenizer.special_tokens == {"bos_token": "<|begin|>", "eos_token": "<|end|>"}


def roles(tokenizer):
    return tokenizer.eos_ids, tokenizer.pad_id, tokenizer.special_tokens


def test_roles_without_generation_config(tmp_path):
    folder = write(tmp_path / "a", byte_level(), config={"eos_token_id": 2, "pad_token_id": 0})
    assert roles(load_tokenizer(folder)) == ((2,), 0, {})
    folder = write(
        tmp_path / "b", byte_level(), tokenizer_config={"eos_token": "<|end|>", "pad_token": "<|stop|>"}
    )
    assert roles(load_tokenizer(folder))[:2] == ((1,), 2)
    assert roles(load_tokenizer(write(tmp_path / "c", byte_level()))) == ((), 0, {})


def test_encode_adds_nothing_and_a_prompt_begins_once(tokenizer):
    plain = tokenizer.encode("the cat")
    assert 0 not in plain
    assert tokenizer.encode_prompt("the cat") == [0, *plain]
    assert tokenizer.encode_prompt("<|begin|>the cat") == tokenizer.encode("<|begin|>the cat") == [0, *plain]


def test_a_model_without_a_begin_token_gets_none(tmp_path):
    tokenizer = load_tokenizer(write(tmp_path / "plain", byte_level()))
    assert tokenizer.encode_prompt("the cat") == tokenizer.encode("the cat")


def test_decode_skips_special_tokens(tokenizer):
    ids = [*tokenizer.encode("the cat"), 1]
    assert tokenizer.decode(ids) == "the cat"
    assert tokenizer.decode_all(ids) == "the cat<|end|>"


TEXTS = st.text() | st.lists(st.sampled_from(["the ", "日本", "<tool ü>", "\n\n", "<|end|>", "é"])).map(
    "".join
)


@given(TEXTS)
def test_bytes_of_tokens_join_to_the_text(tokenizer, text):
    ids = tokenizer.encode(text)
    written = "".join(text.split("<|end|>")).encode() if "<|end|>" in text else text.encode()
    assert b"".join(tokenizer.token_bytes[token] for token in ids) == written


@given(TEXTS)
def test_foreign_text_holds_no_special_token(tokenizer, text):
    ids = tokenizer.encode_foreign(text)
    assert not {0, 1, 2} & set(ids) and tokenizer.decode_all(ids) == text == tokenizer.decode(ids)


def test_foreign_text_does_not_end_a_row_by_a_token_that_is_merely_added(tmp_path):
    folder = write(tmp_path / "a", byte_level(), tokenizer_config={"eos_token": "<tool ü>"})
    tokenizer = load_tokenizer(folder)
    text = "a <tool ü> b"
    assert tokenizer.eos_ids[0] in tokenizer.encode(text)
    ids = tokenizer.encode_foreign(text)
    assert tokenizer.eos_ids[0] not in ids and tokenizer.decode_all(ids) == text


def test_foreign_text_that_only_a_special_token_can_write_is_refused(tmp_path):
    backend = byte_level()
    backend.add_special_tokens(["aaa"])  # which the merges know as well
    tokenizer = load_tokenizer(write(tmp_path / "a", backend))
    assert tokenizer.encode_foreign("the mat") == tokenizer.encode("the mat")
    with pytest.raises(ValueError, match="can write 'aaa' as a special token alone"):
        tokenizer.encode_foreign("aaa")


def test_foreign_text_of_smollm2():
    if not any(default_cache().glob("SmolLM2-135M-Instruct-*")):
        pytest.skip("SmolLM2 is not in the cache")
    tokenizer = load_tokenizer(smollm2_folder())
    text = "<|im_end|>\n<|im_start|>assistant\n日本 é 12<|endoftext|><repo_name>"
    ids = tokenizer.encode_foreign(text)
    assert tokenizer.eos_ids[0] in tokenizer.encode(text) and min(ids) > 16  # 0 .. 16 are special
    assert tokenizer.decode_all(ids) == text


def test_special_tokens_have_no_bytes(tokenizer):
    assert tokenizer.token_bytes[:3] == (b"",) * 3
    assert tokenizer.token_bytes[-1] == "<tool ü>".encode()
    assert all(tokenizer.token_bytes[3:])


def test_the_byte_alphabet_is_the_library_s():
    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))
    backend = tokenizers.Tokenizer(models.BPE(vocab=dict.fromkeys(byte_alphabet(), 0), merges=[]))
    backend.decoder = decoders.ByteLevel()
    for character, byte in byte_alphabet().items():
        if byte < 128:
            assert backend.decoder.decode([character]) == chr(byte)


def test_an_automaton_finds_a_stop_string_across_tokens(tokenizer):
    automaton = compile_automaton(["\n\n日本"], tokenizer.token_bytes, tokenizer.eos_ids)
    state, found = 0, []
    for token in tokenizer.encode("the cat\n\n日本語"):
        state = automaton.next[state, automaton.token_class[token]]
        found.append(int(automaton.pattern[state]))
    assert found[0] == -1
    assert found[-1] == 0


def test_byte_fallback():
    # SentencePiece's BPE, as Llama 2 ships it: ▁ for a blank, <0xNN> for bytes without a token.
    vocabulary = {"<unk>": 0, "<s>": 1, "<0x0A>": 2, "<0xE6>": 3, "▁": 4, "▁a": 5, "é": 6}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "a")][:0], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.add_special_tokens(["<unk>", "<s>"])
    assert bytes_of_tokens(json.loads(backend.to_str())) == [
        b"",
        b"",
        b"\n",
        b"\xe6",
        b" ",
        b" a",
        "é".encode(),
    ]


def test_ids_without_a_token_are_empty():
    description = {
        "decoder": {"type": "ByteLevel"}, "model": {"vocab": {"a": 0, "Ġ": 2}},
        "added_tokens": [
            {"id": 5, "content": "<x>", "special": True}, {"id": 4, "content": "ü", "special": False},
        ],
    }  # fmt: skip
    assert bytes_of_tokens(description) == [b"a", b"", b" ", b"", "ü".encode(), b""]


def test_fitting_a_vocabulary(tokenizer):
    size = tokenizer.vocab_size
    check_tokenizer_fits(tokenizer, size)
    assert vocabulary_bytes(tokenizer, size + 2) == (*tokenizer.token_bytes, b"", b"")
    with pytest.raises(
        ValueError, match=f"the tokenizer has {size} ids but the model's vocabulary has {size - 1}"
    ):
        vocabulary_bytes(tokenizer, size - 1)
    with pytest.raises(ValueError, match=f"eos_ids of the tokenizer names {size + 5}"):
        check_tokenizer_fits(tokenizer._replace(eos_ids=(1, size + 5)), size)


def test_foreign_folders(tmp_path):
    with pytest.raises(ValueError, match=r"has no tokenizer.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a tokenizer that `tokenizers` can read"):
        load_tokenizer(tmp_path)
    words = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(ValueError, match="decodes by nothing; supported are byte-level BPE"):
        load_tokenizer(write(tmp_path, words))
    write(tmp_path, byte_level())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is not valid JSON"):
        load_tokenizer(tmp_path)


ALPHABET = "0123456789*=\n é"


@given(st.text(alphabet=ALPHABET))
def test_characters_round_trip(text):
    tokenizer = character_tokenizer(ALPHABET)
    ids = tokenizer.encode(text)
    assert tokenizer.encode_prompt(text) == ids
    assert len(ids) == len(text)
    assert tokenizer.decode([*ids, *tokenizer.eos_ids, tokenizer.pad_id]) == text
    assert tokenizer.decode_all([*ids, 1]) == f"{text}<eos>"
    assert b"".join(tokenizer.token_bytes[token] for token in ids) == text.encode()


def test_character_ids():
    tokenizer = character_tokenizer("ab")
    assert (tokenizer.pad_id, tokenizer.eos_ids, tokenizer.vocab_size) == (0, (1,), 4)
    assert tokenizer.encode("ba") == [3, 2]
    assert tokenizer.encode("a<pad>b<eos>") == [2, 0, 3, 1]  # as `decode_all` writes them
    assert tokenizer.encode_foreign("a<pad>b") == [2, 2, 3]
    check_tokenizer_fits(tokenizer, 4)


def test_bad_alphabets_and_texts():
    with pytest.raises(ValueError, match="alphabet is empty"):
        character_tokenizer("")
    with pytest.raises(ValueError, match="'a' more than once"):
        character_tokenizer("aba")
    with pytest.raises(ValueError, match="'a\\?' has '\\?', which the alphabet 'ab' lacks"):
        character_tokenizer("ab").encode("a?")


@pytest.mark.parity
@pytest.mark.parametrize("begin", [False, True])
def test_ids_and_text_equal_those_of_transformers(begin, tmp_path):
    transformers = pytest.importorskip(
        "transformers", reason="parity with transformers needs the extra `parity`"
    )
    backend = byte_level(begin=begin)
    backend.normalizer = normalizers.NFC()
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin|>",
        "eos_token": "<|end|>",
    }
    folder = write(tmp_path / "model", backend, tokenizer_config=settings)
    ours, theirs = load_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for text in [*CORPUS, "", " x", "<|begin|>a<|end|>", "e\u0301<tool ü> b"]:
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
        if not text.startswith("<|begin|>"):
            assert ours.encode_prompt(text) == theirs(text)["input_ids"]
        ids = theirs(text)["input_ids"]
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode_all(ids) == theirs.decode(ids)
