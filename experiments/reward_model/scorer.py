"""The reward model of a policy's run: found and checked before anything compiles, loaded when needed."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.config import Experiment
from experiments.reward_model.config import NAME, RewardModelConfig
from experiments.reward_model.setup import make_reward_model, optimizer_of, state_like
from experiments.reward_model.trained import Trained, find_trained, load_trained
from gpg_jax.data.tokenizers import Tokenizer
from gpg_jax.training.collect import Write, scored
from gpg_jax.training.digest import digests
from gpg_jax.training.row_rewards import Score, row_scorer
from gpg_jax.training.sharding import row_shards
from gpg_jax.types import Params


class Scorer(NamedTuple):
    """A reward model that is loaded.

    Attributes:
      score: P prompts, B responses -> `float32[B]`.
      summary: which one it is.
      identity: what tells it from every other, as JSON keeps it.
    """

    score: Score
    summary: str
    identity: dict[str, Any]


def find_scorer(config: Experiment, tokenizer: Tokenizer, mesh: Mesh) -> Callable[[], Scorer] | None:
    """The reward model that a run is scored by, None where it has none.

    Args:
      config: of the run.
      tokenizer: of the policy.
      mesh: of the run.

    Returns:
      () -> the model with its weights on the mesh; they are read once.

    Raises:
      ValueError: no reward model there, one that is not trained to its end, or one that does not fit; when it
        is loaded, no such checkpoint, a damaged one, or one that gives all rows the same reward.
    """
    asked = config.reward_model
    if asked.workdir is None:
        return None
    found = find_trained("reward_model", asked.workdir, asked.checkpoint, config, tokenizer)
    _check_batch(asked.batch, row_shards(mesh))
    return functools.cache(lambda: _load(asked, found, mesh))


def scoring(write: Write, scorer: Callable[[], Scorer] | None) -> Write:
    """What responds, with the reward model's scores where a run has one.

    Args:
      write: what responds.
      scorer: from `find_scorer`.
    """
    return write if scorer is None else scored(write, NAME, scorer().score)


def check_identity(
    scorer: Callable[[], Scorer] | None, kept: dict[str, Any] | None, scored: str = "this run"
) -> None:
    """Raises a ValueError if a run would go on, or be repeated, with another reward model than it had.

    Args:
      scorer: from `find_scorer`.
      kept: the identity in the checkpoint that the run goes on from.
      scored: which run it was.
    """
    own, kept = {} if scorer is None else scorer().identity, kept or {}
    changed = [name for name in own | kept if own.get(name) != kept.get(name)]
    if changed:
        told = ", ".join(f"{name} {kept.get(name)}, now {own.get(name)}" for name in changed)
        raise ValueError(
            f"{scored} was scored by another reward model than the one that reward_model.workdir has now "
            f"({told}): put that one back, or begin a run of its own"
        )


def _load(asked: RewardModelConfig, found: Trained, mesh: Mesh) -> Scorer:
    folder, critic = found.folder, make_reward_model(found.model)
    like = state_like(critic, optimizer_of(found.config), mesh).params
    restored = load_trained(found, like)
    mean, std = (restored.host["statistics"][name] for name in ("mean", "std"))
    if not std > 0:
        raise ValueError(
            f"the reward model of update {restored.step} in {folder} gives every response the reward "
            f"{mean:g}: it has learnt nothing; train it longer, or name another reward_model.checkpoint"
        )
    accuracy = restored.host["accuracies"].get(str(restored.step))
    shown = "not measured" if accuracy is None else f"{accuracy:.3f}"
    summary = (
        f"reward model: update {restored.step} of {folder}, held-out accuracy {shown}; rewards {mean:.3f} ± "
        f"{std:.3f} on its training pairs, {'normalised' if asked.normalise else 'taken as they are'}"
    )
    own = {"mean": mean, "std": std} if asked.normalise else {}
    params = restored.state
    identity = {
        "update": restored.step,
        "parameters": _digest(params),
        "mean": mean,
        "std": std,
        "normalise": asked.normalise,
    }
    return Scorer(row_scorer(critic, params, mesh, batch=asked.batch, **own), summary, identity)


def _digest(params: Params) -> str:
    """Of the digests that the checkpoint's record has of the parameters: the same on every mesh."""
    return hashlib.sha256(np.asarray(digests(jax.tree.leaves(params))).tobytes()).hexdigest()[:16]


def _check_batch(batch: int, shards: int) -> None:
    if batch % shards:
        raise ValueError(
            f"reward_model.batch is {batch}, and rows are scored on {shards} devices; choose a multiple of "
            f"{shards}"
        )
