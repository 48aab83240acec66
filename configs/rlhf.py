"""A policy learns to write two symbols backwards from a reward model's scores, held near its reference.

    python -m experiments.train_reward_model --config=configs/reward_model.py --workdir=runs/reward_model
    python -m experiments.train --config=configs/rlhf.py:METHOD --workdir=runs/rlhf \\
        --config.reward_model.workdir=runs/reward_model

Ziegler et al. 2019, arXiv 1909.08593, eq. 2: the reward is the model's score, less β times the KL to the
first policy. A response that its budget has cut off earns a fixed low reward: the model has seen whole ones
alone.

About a minute on two cores. The places that are right, which the policy is not told, rise from 0.10, 0.08 and
0.08 to 0.88, 0.86 and 0.73 (seeds 0, 1, 2 of both commands), by `ppo` from 0.11, 0.08 and 0.09 to 0.86, 0.89
and 0.71: what the models of those seeds score best is not always right.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments.config import default_config
from experiments.reward_model.config import NAME


def get_config(method: str = "rloo") -> ConfigDict:
    """The outcome, which nothing is trained on, is the fraction of places that are right."""
    config = default_config()
    config.task.name = "reversal"
    config.task.verifier = "places_right"
    config.task.rewards = ConfigDict({NAME: 1.0})
    config.task.prompt_tokens = 3
    config.sampling.new_tokens = 4
    config.method.name = method
    config.method.kl_placement = "reward"
    config.method.kl_estimator = "k1"
    config.method.kl_coefficient = 0.1
    config.method.truncated_reward = -3.0
    config.optimizer.learning_rate = 1e-3
    config.optimizer.decay = "cosine"
    config.schedule.steps = 400
    config.schedule.prompts = 16
    config.schedule.group = 8
    config.reward_model.batch = 128
    config.checkpoint.every = 100
    config.output.rollouts = 100
    return config
