"""SmolLM2-135M-Instruct learns to use a calculator, after a short cold start: `47*86+19=`.

    python -m experiments.train --config=configs/arpo_smollm2.py --workdir=runs/arpo_smollm2

10 to 20 minutes of one core, no hub. On 48 held-out questions, sampled, seeds 0, 1 and 2: 0.00 as it is,
0.52, 0.65 and 0.65 behind the 32 demonstrations of the cold start, 0.96, 0.98 and 0.98 behind 4 iterations
of GPG with forks, 0.96, 0.92 and 0.94 behind 8.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments.config import default_config

TAGS = ("calculator", "answer")


def get_config() -> ConfigDict:
    """The question stands in a chat: behind nothing, its first digits are hard to copy."""
    config = default_config()
    config.model.name = "smollm2"
    config.task.name = "calculation"
    config.task.verifier = "answer_tag"
    config.task.chat = True
    config.task.prompt_tokens = 48
    config.task.examples, config.task.held_out_examples = 2000, 48
    config.sampling.new_tokens = 48
    config.tools.names = ("calculator",)
    config.tools.calls = 2
    config.tools.answer_tokens = 20
    config.branching.mode = "arpo_paper"
    config.branching.roots = 4
    config.branching.tokens = 1
    config.method.name = "gpg"
    config.method.markers = TAGS
    config.method.aggregation = "token_mean"
    config.optimizer.learning_rate = 2e-5
    config.cold_start.steps = 4
    config.cold_start.batches = 2
    config.cold_start.learning_rate = 5e-5
    config.schedule.steps = 8
    config.schedule.prompts = 4
    config.schedule.group = 8
    config.schedule.minibatches = 4
    config.evaluation.every = 4
    config.evaluation.samples = 1
    config.evaluation.greedy = False
    config.evaluation.batch = 48
    config.checkpoint.every = 12
    config.output.rollouts = 5
    return config
