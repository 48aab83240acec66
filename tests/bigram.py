"""A policy that minds its last token alone: the programs around a network, without the time one compiles."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gpg_jax.policies.architecture import Architecture
from gpg_jax.policies.policy import Policy
from gpg_jax.policies.transformer import rms_norm


def policy(architecture: Architecture, **options: object) -> Policy:
    """In the place of `policies.transformer.transformer`: an embedding, a norm and a head."""
    del options
    width, size = architecture.width, architecture.vocab_size

    def init(key):
        one, other = jax.random.split(key)
        return {
            "embedding": jax.random.normal(one, (size, width)),
            "norm": jnp.ones(width),
            "head": jax.random.normal(other, (width, size)) * width**-0.5,
        }

    def hidden(params, tokens, positions, contexts):
        del contexts
        states = rms_norm(params["embedding"][tokens], params["norm"], architecture.norm_eps)
        return states, jnp.zeros((*positions.shape, 1))

    return Policy(
        init=init,
        hidden=hidden,
        unembed=lambda params, states: states @ params["head"],
        init_cache=lambda rows, slots: jnp.zeros((rows, slots, 1)),
        for_decoding=lambda params: params,
        vocab_size=size,
    )
