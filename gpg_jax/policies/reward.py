"""A reward model: a critic with a transformer of its own, read behind the last token of a row."""

from __future__ import annotations

import jax.numpy as jnp

from gpg_jax.policies.critic import Critic, value
from gpg_jax.policies.score import Layout, check_rows, tail_hidden
from gpg_jax.types import Array, Params


def reward(
    critic: Critic, params: Params, tokens: Array, prompt_length: Array, length: Array, layout: Layout
) -> Array:
    """r_φ(x, y) = w·h + b, h the hidden state behind the last token of y.

    Ouyang et al. 2022, arXiv 2203.02155, section 3.5: a language model whose unembedding is replaced by a
    scalar. Nothing behind the row is seen, and a prompt that neighbouring rows share is read once.

    Args:
      critic: with a trunk.
      params: of the critic.
      tokens: `int32[B, L]`, with `layout.shared` neighbouring rows to a prompt.
      prompt_length: `int32[B]`.
      length: `int32[B]`, prompt and response.
      layout: static shape of the rows.

    Returns:
      `float32[B]`.

    Raises:
      ValueError: a critic without a trunk, or rows whose shape is not the layout's.
    """
    if critic.trunk is None:
        raise ValueError("a reward model reads a transformer of its own: make it with `trunk_critic`")
    check_rows(tokens, layout)
    hidden, _ = tail_hidden(critic.trunk, params["trunk"], tokens, prompt_length, length, layout, last=True)
    behind = jnp.take_along_axis(hidden, (length - prompt_length)[:, None, None], axis=1)
    return value(params, behind[:, 0])
