"""A reward model learns which of two responses is nearer to the prompt's symbols written backwards.

    python -m experiments.train_reward_model --config=configs/reward_model.py --workdir=runs/reward_model

About a minute on two cores. Accuracy on held-out pairs: from 0.5 to 0.960, 0.967 and 0.971 (seeds 0, 1, 2, of
an earlier state of the code). Not robust: seed 0 ends at 0.972 now with one thread, and at 0.861 with two.
Pairs of your own are read by `--config=configs/reward_model.py:FILE.jsonl`.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments.reward_model.experiment import default_config


def get_config(train: str = "") -> ConfigDict:
    """Pairs are made; of two responses the one with more places right is preferred.

    Args:
      train: a file of pairs that are read instead.
    """
    config = default_config()
    config.task.name = "reversal"
    config.task.verifier = "places_right"
    config.task.prompt_tokens = 3
    if train:
        config.preferences.train = train
    else:
        config.preferences.pairs = 20_000
        config.preferences.held_out_pairs = 2000
        config.preferences.held_out_by = "pairs"
    config.preferences.response_tokens = 4
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warm_up = 100
    config.optimizer.decay = "cosine"
    config.schedule.steps = 1000
    config.schedule.pairs = 64
    config.evaluation.every = 100
    config.evaluation.batch = 256
    config.checkpoint.every = 100
    return config
