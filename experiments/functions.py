"""Verifiers and rewards by name."""

from __future__ import annotations

from gpg_jax.data.reversal import places_right
from gpg_jax.environments import boxed
from gpg_jax.environments.arpo_reward import arpo_f1, arpo_reward
from gpg_jax.environments.formatted_answer import formatted_answer
from gpg_jax.environments.rewards import RewardFunction
from gpg_jax.environments.verifiers import VERIFIERS, puzzle_match

TOOLS = ("calculator", "python", "search")
"""Tags that call a tool in a formatted answer; for other ones register `formatted_answer` of their names."""

FUNCTIONS: dict[str, RewardFunction] = VERIFIERS | {
    "places_right": places_right,
    "puzzle": puzzle_match(),
    "arpo": arpo_reward,
    "arpo_f1": arpo_f1,
    "formatted_answer": formatted_answer(TOOLS),
    "answer_f1": boxed.answer_f1,
    "boxed_f1": boxed.boxed_f1,
    "boxed_exact": boxed.boxed_exact,
    "boxed_cover": boxed.boxed_cover,
    "boxed_math": boxed.boxed_math,
    "answered": boxed.answered,
    "broken_format": boxed.broken_format,
}
"""Name -> function of a response and its example."""
