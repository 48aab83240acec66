"""Whether a run's rollouts are what its method takes them for: draws from the whole policy as it is."""

from __future__ import annotations

from experiments.config import BranchingConfig, Experiment
from experiments.learning_config import ActorsConfig
from gpg_jax.decoding.sampling import Sampling
from gpg_jax.types import Conservative, Method


def check_draws(config: Experiment, method: Method) -> None:
    """Raises a ValueError if a conservative update would measure its candidate on draws from another policy.

    Its gain rests on E_{a~π}[π′/π − 1] = 0, which is so of π's own draws alone.

    Args:
      config: of the run.
      method: of the run.
    """
    if not isinstance(method.update, Conservative):
        return
    sampling = config.sampling
    why = f"{config.method.name!r} measures on draws from the whole policy as it is"
    if sampling.distribution != Sampling(sampling.temperature):
        raise ValueError(
            f"sampling.top_k is {sampling.top_k}, sampling.top_p {sampling.top_p} and sampling.min_p "
            f"{sampling.min_p}, and {why}: take 0, 1.0 and 0.0, which leave out no token"
        )
    if stalest := _stalest(config.actors):
        raise ValueError(
            f"actors may bring rollouts that are {stalest} iterations old, and {why}: take actors.staleness=0"
        )
    if config.branching.mode != "none":
        _check_leaves(config.branching, why)


def _check_leaves(branching: BranchingConfig, why: str) -> None:
    if branching.leaf_weight == "uniform":
        raise ValueError(
            f"branching.mode is {branching.mode!r} and branching.leaf_weight 'uniform', which counts a tree "
            f"as often as it has leaves, and {why}: take branching.leaf_weight='tree' or 'forest'"
        )
    if branching.mode == "arpo_paper" and branching.tokens > 1:
        raise ValueError(
            f"branching.mode is 'arpo_paper' and branching.tokens {branching.tokens}: rows fork by what they "
            f"went on with, which no weight of leaves mends, and {why}: take branching.tokens=1"
        )


def _stalest(actors: ActorsConfig) -> int:
    """Iterations that a rollout may be old."""
    return max(actors.delays, default=actors.staleness) if actors.count else 0
