"""SmolLM2-135M-Instruct learns to multiply by GRPO, on two CPU cores, without a hub.

    python -m experiments.train --config=configs/quickstart.py --workdir=runs/quickstart

About 6 minutes. Held-out pairs: sampled accuracy from below 0.1 to above 0.9.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments.config import default_config


def get_config() -> ConfigDict:
    """The main job."""
    config = default_config()
    config.model.name = "smollm2"
    config.task.name = "multiplication"
    config.task.verifier = "first_line"
    config.task.prompt_tokens = 48
    config.sampling.new_tokens = 5
    config.sampling.stop = ("\n",)
    config.method.name = "grpo"
    config.method.kl_coefficient = 0.0
    config.optimizer.learning_rate = 1e-5
    config.optimizer.decay = "linear"
    config.schedule.steps = 30
    config.schedule.prompts = 8
    config.schedule.group = 8
    config.evaluation.samples = 40
    config.evaluation.batch = 16
    config.checkpoint.every = 30
    config.output.kl = True
    return config
