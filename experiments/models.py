"""The network that a configuration names."""

from __future__ import annotations

import jax

from experiments.config import ModelConfig
from gpg_jax.data.tokenizers import Tokenizer
from gpg_jax.policies.architecture import Architecture
from gpg_jax.policies.pretrained import load_pretrained
from gpg_jax.types import Params


def load_model(config: ModelConfig, tokenizer: Tokenizer) -> tuple[Architecture, Params | None]:
    """The architecture of a model, and its parameters on the host, None where it starts from scratch."""
    if config.name is not None:
        return load_pretrained(config.name, config.revision)
    return Architecture(
        vocab_size=tokenizer.vocab_size,
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        mlp_width=config.mlp_width,
    ), None


def count(params: Params) -> int:
    """Numbers in a pytree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
