"""Verifiers and rewards by name."""

from __future__ import annotations

from gpg_jax.data.reversal import places_right
from gpg_jax.environments import boxed
from gpg_jax.environments.arpo_reward import arpo_f1, arpo_reward
from gpg_jax.environments.rewards import RewardFunction
from gpg_jax.environments.tag_reward import tag_reward
from gpg_jax.environments.verifiers import VERIFIERS, puzzle_match

FUNCTIONS: dict[str, RewardFunction] = VERIFIERS | {
    "places_right": places_right,
    "puzzle": puzzle_match(),
    "arpo": arpo_reward,
    "arpo_f1": arpo_f1,
    "arpo_tags": tag_reward,
    "answer_f1": boxed.answer_f1,
    "boxed_f1": boxed.boxed_f1,
    "boxed_exact": boxed.boxed_exact,
    "boxed_cover": boxed.boxed_cover,
    "boxed_math": boxed.boxed_math,
    "answered": boxed.answered,
    "broken_format": boxed.broken_format,
}
"""Name -> function of a response and its example."""
