"""GRPO on GSM8K with Qwen2.5-0.5B-Instruct, the size of a small pod.

    python -m experiments.train --config=configs/grpo_gsm8k.py --workdir=W --config.mesh=8,1,1

On several hosts add `--distributed`, and give a workdir that all of them see. GSM8K is downloaded by
tensorflow-datasets, or read from `$GPG_JAX_DATA/gsm8k` or `--config.task.folder`.
A tiny run from end to end on one host, any model folder in the place of the name:

    python -m experiments.train --config=configs/grpo_gsm8k.py --workdir=W --config.model.name=smollm2 \\
      --config.schedule.prompts=2 --config.schedule.group=2 --config.schedule.micro_batches=1 \\
      --config.schedule.steps=2 --config.sampling.new_tokens=16 --config.evaluation.examples=4
"""

from __future__ import annotations

import os

from ml_collections import ConfigDict

from experiments.config import default_config


def get_config() -> ConfigDict:
    """What a pod runs: 128 prompts × 8 responses of at most 512 tokens an iteration."""
    config = default_config()
    config.model.name = "Qwen/Qwen2.5-0.5B-Instruct"
    config.model.dtype = "bfloat16"
    config.model.remat = True
    config.model.chunk = 4096
    config.task.name = "gsm8k"
    if "GPG_JAX_DATA" in os.environ:
        config.task.folder = os.path.join(os.environ["GPG_JAX_DATA"], "gsm8k")
    config.task.verifier = "gsm8k_strict"
    config.task.prompt_tokens = 320
    config.sampling.new_tokens = 512
    config.method.name = "grpo"
    config.method.kl_coefficient = 1e-3
    config.optimizer.learning_rate = 1e-6
    config.optimizer.warm_up = 10
    config.schedule.steps = 200
    config.schedule.prompts = 128
    config.schedule.group = 8
    config.schedule.micro_batches = 8
    config.evaluation.every = 50
    config.evaluation.batch = 128
    config.checkpoint.every = 20
    config.output.transcripts = 16
    config.output.rollouts = 50
    return config
