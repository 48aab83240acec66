"""A reward model learns which of two responses is nearer to the prompt's symbols written backwards.

    python -m experiments.train_reward_model --config=configs/reward_model.py --workdir=runs/reward_model

About two minutes on two cores. Accuracy on held-out pairs: from 0.5 to 0.997, 0.994 and 0.989 (seeds 0, 1
and 2).
Half as many updates left two of 17 runs at 0.91 and 0.94.
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
    config.schedule.steps = 2000
    config.schedule.pairs = 128
    config.evaluation.every = 200
    config.evaluation.batch = 256
    config.checkpoint.every = 200
    return config
