"""Verifiers and rewards by name."""

from __future__ import annotations

from gpg_jax.data.reversal import places_right
from gpg_jax.environments.rewards import RewardFunction
from gpg_jax.environments.verifiers import VERIFIERS, puzzle_match

FUNCTIONS: dict[str, RewardFunction] = VERIFIERS | {"places_right": places_right, "puzzle": puzzle_match()}
"""Name -> function of a response and its example."""
