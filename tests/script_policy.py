"""A policy that writes scripts, and what it has read: dialogues whose every token is known beforehand."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gpg_jax.policies.architecture import Architecture
from gpg_jax.policies.policy import Policy

CERTAIN = 60.0
"""Logit of the token that is written; those of the others are 0."""

Turn = tuple[str, str]
"""Author, "policy", "tool", or "copied" for what the policy reads off the last turn of a tool; and text."""


def table(scripts: Mapping[str, Sequence[Turn]], ids: Mapping[str, int], end: int, length: int) -> np.ndarray:
    """What stands at every place of a row: a token, or less than 0 the place that it is copied from.

    Args:
      scripts: prompts of one character, which names the row, and the turns that follow.
      ids: character -> its token.
      end: the token that follows a script, at all places left.
      length: L, of a row.

    Returns:
      `int32[V, L]`, V tokens that a row may begin with. What a tool writes is 0: the policy has to read it.
    """
    places = np.full((1 + max(ids.values()), length), end, np.int32)
    for prompt, turns in scripts.items():
        row, text, heard = places[ids[prompt]], prompt, 0
        for author, said in turns:
            start, stop = len(text), len(text) + len(said)
            if author == "copied":
                row[start:stop] = -np.arange(len(said)) - text.index(said, heard)
            else:
                row[start:stop] = 0 if author == "tool" else [ids[one] for one in said]
            heard, text = start if author == "tool" else heard, text + said
    return places


def policy(places: np.ndarray, architecture: Architecture, **options: object) -> Policy:
    """In the place of `policies.transformer.transformer`: its cache is the tokens that it has read."""
    del options
    size = architecture.vocab_size

    def hidden(params, tokens, positions, contexts):
        rows = len(tokens)
        seen = [(tokens, positions)]
        for context in contexts:
            each = rows // len(context.position)
            slots = (context.cache[..., 0].astype(jnp.int32), context.position)
            seen.append(tuple(jnp.repeat(leaf, each, axis=0) for leaf in slots))

        def read(place):
            """The token at a place of the row; there is one slot that holds it."""
            return sum(
                jnp.sum(jnp.where(position[:, None, :] == place[:, :, None], token[:, None, :], 0), axis=2)
                for token, position in seen
            )

        wanted = jnp.asarray(places)[read(jnp.zeros_like(positions)), positions + 1]
        written = jnp.where(wanted < 0, read(-wanted), wanted)
        return jax.nn.one_hot(written, size) * params["norm"][None, None], tokens[..., None]

    return Policy(
        init=lambda key: {"norm": jnp.full(size, CERTAIN)},
        hidden=hidden,
        unembed=lambda params, states: states,
        init_cache=lambda rows, slots: jnp.zeros((rows, slots, 1), jnp.int32),
        for_decoding=lambda params: params,
        vocab_size=size,
    )


def network(places: np.ndarray):
    """`policy` of a table, as the experiments ask for a transformer."""
    return functools.partial(policy, places)
