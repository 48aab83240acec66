"""Bias, scale, variance and direction of every method's gradient, by listing every rollout there is.

python -m experiments.study --config=configs/studies/cards.py --workdir=runs/cards
python -m experiments.study --config=configs/studies/cards.py:binary --workdir=runs/cards_binary
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments.studies.cards import default_study


def get_config(rewards: str = "graded") -> ConfigDict:
    """Ten problems with groups of two and graded rewards, or six with groups of four and rewards of 0 or 1.

    Args:
      rewards: "graded" or "binary"; with "binary" responses have two tokens at most.

    Raises:
      ValueError: other rewards.
    """
    if rewards not in ("graded", "binary"):
        raise ValueError(f'rewards are "graded" or "binary", got {rewards!r}')
    config = default_study()
    config.question = "What is each method's gradient an estimate of, and how good a one?"
    if rewards == "binary":
        config.rewards, config.group, config.longest, config.seeds = "binary", 4, 2, 6
    return config
