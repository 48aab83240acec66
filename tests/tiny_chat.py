"""The folder of a tiny chat model: a byte-level tokenizer that knows ARPO's prompt, and random weights."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from gpg_jax.environments.arpo_prompt import SYSTEM_PROMPT
from gpg_jax.policies.architecture import Architecture
from gpg_jax.policies.huggingface import save_pretrained
from gpg_jax.policies.transformer import transformer

START, END = "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_chat_model(folder: Path) -> Path:
    """Writes the model into a new folder, and gives it back."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=448,
        special_tokens=[START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([SYSTEM_PROMPT], trainer)
    source = folder.with_name(folder.name + "-tokenizer")
    source.mkdir()
    backend.save(str(source / "tokenizer.json"))
    settings = {"eos_token": END, "pad_token": END, "chat_template": TEMPLATE}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    architecture = Architecture(
        vocab_size=backend.get_vocab_size(), width=16, layers=2, heads=2, kv_heads=1, head_dim=8,
        mlp_width=32, max_length=16384,
    )  # fmt: skip
    params = jax.device_get(transformer(architecture).init(jax.random.key(0)))
    return save_pretrained(folder, architecture, params, source=source)
