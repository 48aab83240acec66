"""The tokenizer that a GGUF file describes, as the files of a Hugging Face folder.

GGUF holds vocabulary and merges, and only the *name* of the rule that cuts text into words. For
`smollm` the rule is to split off every digit and then to cut as GPT-2 does; without the first half
whitespace before digits is encoded differently from how the model was trained.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

_CONTROL, _USER_DEFINED = 3, 4  # token types of GGUF
_IDS = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id", "unk": "unknown_token_id"}


def _pre_tokenizer(name: str | None) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    if name == "gpt-2":
        return byte_level
    raise ValueError(f"the GGUF file has pre-tokenizer {name!r}; supported are 'smollm' and 'gpt-2'")


def tokenizer_from_fields(metadata: dict[str, Any]) -> Tokenizer:
    """The byte-level BPE tokenizer of a GGUF file.

    Args:
      metadata: from `gguf.fields`.

    Returns:
      A `tokenizers.Tokenizer`.

    Raises:
      ValueError: another tokenizer model than `gpt2`, an unknown pre-tokenizer, or missing fields.
    """
    model = metadata.get("tokenizer.ggml.model")
    if model != "gpt2":
        raise ValueError(f"the GGUF file has tokenizer model {model!r}; only 'gpt2' is supported")
    if metadata.get("tokenizer.ggml.add_bos_token"):
        raise ValueError(
            "the GGUF file asks for a begin-of-sequence token before every text; that is not supported"
        )
    try:
        tokens, kinds, merges = (
            metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type", "merges")
        )
    except KeyError as error:
        raise ValueError(f"the GGUF file does not say {error.args[0]}") from error
    pairs = [tuple(merge.split(" ")) for merge in merges]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = _pre_tokenizer(metadata.get("tokenizer.ggml.pre"))
    tokenizer.decoder = decoders.ByteLevel()
    named = [
        (token, kind) for token, kind in zip(tokens, kinds, strict=True) if kind in (_CONTROL, _USER_DEFINED)
    ]
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False) for token, kind in named if kind == _CONTROL]
    )
    tokenizer.add_tokens(
        [AddedToken(token, normalized=False) for token, kind in named if kind == _USER_DEFINED]
    )
    return tokenizer


def tokenizer_files(metadata: dict[str, Any]) -> dict[str, str]:
    """The tokenizer files of a Hugging Face folder: name -> text.

    Args:
      metadata: from `gguf.fields`.

    Returns:
      `tokenizer.json`, `tokenizer_config.json`, `generation_config.json`, and `chat_template.jinja`
      where the model has one.

    Raises:
      ValueError: as `tokenizer_from_fields`.
    """
    tokens = metadata["tokenizer.ggml.tokens"]
    ids = {
        name: metadata[f"tokenizer.ggml.{field}"]
        for name, field in _IDS.items()
        if f"tokenizer.ggml.{field}" in metadata
    }
    settings = {
        # The class that takes tokenizer.json as it is; GPT2Tokenizer would cut words its own way.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata.get("llama.context_length"),
        **{f"{name}_token": tokens[number] for name, number in ids.items()},
    }
    generation = {f"{name}_token_id": number for name, number in ids.items() if name != "unk"}
    files = {
        "tokenizer.json": tokenizer_from_fields(metadata).to_str(pretty=True),
        "tokenizer_config.json": json.dumps(settings, indent=2, ensure_ascii=False) + "\n",
        "generation_config.json": json.dumps(generation, indent=2) + "\n",
    }
    if "tokenizer.chat_template" in metadata:
        files["chat_template.jinja"] = metadata["tokenizer.chat_template"]
    return files
