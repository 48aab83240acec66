"""A reward model as a scorer of rollouts: whole rows, a batch at a time, on the devices of a mesh."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from gpg_jax.decoding.rollouts import Prompts, Written, rows_of
from gpg_jax.policies.critic import Critic
from gpg_jax.policies.reward import reward
from gpg_jax.policies.score import Layout
from gpg_jax.training.sharding import row_shards, rows_on
from gpg_jax.types import Array, Params

Score = Callable[[Prompts, Written], np.ndarray]
"""P prompts, B responses -> `float32[B]`."""


def row_scorer(
    critic: Critic, params: Params, mesh: Mesh, *, batch: int, mean: float = 0.0, std: float = 1.0
) -> Score:
    """(r_φ(x, y) − μ)/σ of every row, read behind its last token, whether that ends it or its budget did.

    Preferences leave the rewards of a prompt open by a constant, and nothing says their scale: they are
    normalised before a policy is trained on them. μ and σ are the caller's: the experiments take them over
    both responses of training pairs. Ziegler et al. 2019, arXiv 1909.08593, take samples of the initial
    policy; Ouyang et al. 2022, arXiv 2203.02155, add a bias alone, by which demonstrations have the mean 0.

    Args:
      critic: the reward model, with a transformer of its own.
      params: its parameters, on the mesh; they are kept as they are rounded for decoding.
      mesh: where rows are scored.
      batch: rows that are scored at once.
      mean: μ.
      std: σ, above 0.

    Raises:
      ValueError: a critic without a transformer, a batch that the devices do not divide, or a σ that is not
        above 0.
    """
    shards = row_shards(mesh)
    if batch < 1 or batch % shards:
        raise ValueError(f"{batch} rows cannot be scored on {shards} devices; choose a multiple of {shards}")
    if critic.trunk is None:
        raise ValueError("rows are scored by a transformer of their own: make the critic with `trunk_critic`")
    if not 0 < std < math.inf or not math.isfinite(mean):
        raise ValueError(f"rewards of mean {mean} and standard deviation {std} cannot be normalised")
    constrain = rows_on(mesh)
    places = jax.tree.map(lambda leaf: leaf.sharding, params["trunk"])
    trunk = jax.jit(critic.trunk.for_decoding, out_shardings=places)(params["trunk"])
    rounded = {**params, "trunk": trunk}

    @functools.partial(jax.jit, static_argnums=4, out_shardings=NamedSharding(mesh, Spec()))
    def rewards(params: Params, tokens: Array, prompt_length: Array, length: Array, layout: Layout) -> Array:
        tokens, prompt_length, length = constrain((tokens, prompt_length, length))
        return (reward(critic, params, tokens, prompt_length, length, layout) - mean) / std

    def score(prompts: Prompts, said: Written) -> np.ndarray:
        tokens, start = rows_of(prompts, said)
        length = start + said.length.astype(np.int32)
        group = len(tokens) // len(prompts.length)
        slots = prompts.tokens.shape[1]
        layout = Layout(slots, tokens.shape[1] - slots, shared=math.gcd(batch // shards, group))
        # Rows that fill the last batch up are copies of the first, so that neighbours share their prompt.
        place = np.arange(-(-len(tokens) // batch) * batch)
        rows = np.where(place < len(tokens), place, 0).reshape(-1, batch)
        found = [rewards(rounded, tokens[own], start[own], length[own], layout) for own in rows]
        return np.concatenate([np.asarray(part) for part in found])[: len(tokens)]

    return score
