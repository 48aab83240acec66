"""Any method on a tiny model from scratch: write two symbols backwards.

python -m experiments.train --config=configs/smoke.py:METHOD --workdir=runs/smoke
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments.config import default_config


def get_config(method: str = "grpo") -> ConfigDict:
    """The configuration of one method, a key of `gpg_jax.algorithms.ALGORITHMS`."""
    config = default_config()
    config.task.name = "reversal"
    config.task.verifier = "places_right"
    config.task.prompt_tokens = 3
    config.sampling.new_tokens = 2
    config.method.name = method
    config.optimizer.learning_rate = 2e-3
    config.schedule.steps = 150
    config.schedule.prompts = 32
    config.schedule.group = 8
    config.checkpoint.every = 50
    config.output.kl = True
    return config
