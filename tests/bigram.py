"""A policy that minds its last token alone: the programs around a network, without the time that one compiles."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gpg_jax.policies.architecture import Architecture
from gpg_jax.policies.policy import Policy


def policy(architecture: Architecture, **options: object) -> Policy:
    """In the place of `policies.transformer.transformer`: the logits behind a token are a row of a table."""
    del options
    width, size = architecture.width, architecture.vocab_size

    def init(key):
        one, other = jax.random.split(key)
        return {
            "embedding": jax.random.normal(one, (size, width)),
            "head": jax.random.normal(other, (width, size)) * width**-0.5,
        }

    def hidden(params, tokens, positions, contexts):
        del contexts
        return params["embedding"][tokens], jnp.zeros((*positions.shape, 1))

    return Policy(
        init=init,
        hidden=hidden,
        unembed=lambda params, states: states @ params["head"],
        init_cache=lambda rows, slots: jnp.zeros((rows, slots, 1)),
        for_decoding=lambda params: params,
        vocab_size=size,
    )
