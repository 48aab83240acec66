"""Floating-point operations of a rollout and of an update: by formula, and as XLA counts them.

The formula counts the products alone, two operations a multiply-add: 2·N a token that is read, N the entries
of the blocks' matrices; 4·H·hd a layer for each pair of a token and one that it attends to; 2·D·V where the
next token is predicted (Kaplan et al. 2020, arXiv 2001.08361, section 2.1). Tokens are those that there are:
what programs of static shapes do to padding is not in it; it is in `program_flops` and in XLA's count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from gpg_jax.policies.architecture import Architecture
from gpg_jax.policies.score import Layout
from gpg_jax.types import Rollout

BACKWARD = 3
"""A forward and a backward pass over one forward pass."""


def block_entries(architecture: Architecture) -> int:
    """N: entries of all blocks' matrices."""
    shape = architecture
    attention = shape.width * shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads)
    return shape.layers * (attention + 3 * shape.width * shape.mlp_width)


def forward_flops(architecture: Architecture, contexts: np.ndarray, predictions: int) -> float:
    """Of reading tokens.

    Args:
      architecture: of the network.
      contexts: `int[n]`, for each token that is read how many it attends to, itself among them.
      predictions: tokens that are predicted.
    """
    shape = architecture
    pairs = 4 * shape.layers * shape.heads * shape.head_dim * float(np.sum(contexts))
    return (
        2.0 * block_entries(shape) * len(contexts)
        + pairs
        + 2.0 * shape.width * shape.vocab_size * predictions
    )


def decode_flops(architecture: Architecture, rollout: Rollout) -> float:
    """Of writing the rollout: prompts read once a group, each token of a branch once, a tool's tokens too."""
    position = np.arange(rollout.tokens.shape[1])[None]
    own = (position >= rollout.fork[:, None]) & (position < rollout.length[:, None])
    drawn = int(np.sum(own & rollout.action_mask))
    # A token at place p is written by reading the one before, which sees p tokens.
    responses = np.broadcast_to(position, own.shape)[own]
    return forward_flops(architecture, np.concatenate([_prompts(rollout), responses]), drawn)


def program_flops(
    architecture: Architecture, layout: Layout, prompts: int, steps: int, answers: Sequence[tuple[int, int]]
) -> float:
    """Of the programs that write a rollout: all rows at every step and all slots of the caches, used or not.

    Args:
      architecture: of the network.
      layout: of the rows.
      prompts: P, whose slots are read once each.
      steps: of the decoding loop, each of which computes a token of every row.
      answers: rows and slots `[A, R]` of what was read behind calls, each time.
    """
    drawn, slots = steps * prompts * layout.shared, layout.prompt_slots
    begun = forward_flops(architecture, np.full(prompts * slots, slots), 0)
    stepped = forward_flops(architecture, np.full(drawn, layout.length + 1), drawn)
    read = [forward_flops(architecture, np.full(rows * new, layout.length + new), 0) for rows, new in answers]
    return begun + stepped + sum(read)


def train_flops(architecture: Architecture, rollout: Rollout) -> float:
    """Of one update on the rollout: prompts read once a group, every row's response whole, shared or not."""
    position = np.arange(rollout.tokens.shape[1])[None]
    inside = (position >= rollout.prompt_length[:, None]) & (position < rollout.length[:, None])
    responses = np.broadcast_to(position, inside.shape)[inside]
    contexts = np.concatenate([_prompts(rollout), responses])
    return BACKWARD * forward_flops(architecture, contexts, int(rollout.action_mask.sum()))


def _prompts(rollout: Rollout) -> np.ndarray:
    """Contexts of the tokens of each group's prompt but its last one, which is read with the response."""
    _, first = np.unique(rollout.group, return_index=True)
    return np.concatenate([np.arange(1, length) for length in rollout.prompt_length[first]])


def xla_flops(function: Callable[..., Any], *arguments: Any) -> float:
    """Of a program by XLA's cost analysis, its loops written out: XLA counts a loop's body once.

    Args:
      function: not compiled; loops whose length is not known when it is traced stay loops.
      *arguments: arrays or their shapes.
    """
    leaves, tree = jax.tree.flatten(arguments)

    def flat(*leaves: Any) -> Any:
        with jax.disable_jit():
            return function(*jax.tree.unflatten(tree, leaves))

    cost: Any = jax.jit(flat).lower(*leaves).cost_analysis()
    return float(cost["flops"])
