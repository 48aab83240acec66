"""Any method on a tiny model from scratch: write two symbols backwards.

    python -m experiments.train --config=configs/smoke.py:METHOD --workdir=runs/smoke

METHOD is a key of `gpg_jax.algorithms.ALGORITHMS`, or "a3c": A2C by two actors that do not wait. Under a
minute on two cores; the reward, the fraction of places that are right, rises from 0.2 (what a policy earns
that does not read the prompt) to above 0.9.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments.config import default_config
from gpg_jax.algorithms import ALGORITHMS

METHODS = (*ALGORITHMS, "a3c")
"""What `get_config` takes."""


def get_config(method: str = "grpo") -> ConfigDict:
    """The configuration of one method; an entropy bonus keeps each of them from settling too early."""
    config = default_config()
    config.task.name = "reversal"
    config.task.verifier = "places_right"
    config.task.prompt_tokens = 3
    config.sampling.new_tokens = 2
    config.method.name = "a2c" if method == "a3c" else method
    config.method.entropy_coefficient = 0.05
    config.optimizer.learning_rate = 1e-3
    config.optimizer.decay = "cosine"
    config.schedule.steps = 400
    config.schedule.prompts = 16
    config.schedule.group = 8
    config.schedule.generations = 2
    config.checkpoint.every = 100
    config.output.rollouts = 100
    config.output.kl = True
    if method == "dapo":
        config.method.max_response, config.method.overlong_cache = 4, 2  # a whole answer is not overlong
        config.method.entropy_coefficient = 0.03
        config.optimizer.decay = "constant"  # fewer groups teach, the more of them are solved
    if method == "cpi":  # the safe step is of the order of 1e-2: a candidate that is to count needs more
        config.method.step, config.method.alpha = "fixed", 0.5
        config.schedule.epochs = 4
    if method == "vapo":  # λ = 1 − 1/(α·2) is 1/2; the paper's α is of responses of thousands of tokens
        config.method.alpha = 1.0
        config.critic.trunk = "separate"
        config.critic.pretraining_steps, config.critic.explained_variance = 20, 0.1
    if method == "a3c":
        config.actors.count, config.actors.bring, config.actors.staleness = 2, "gradients", 3
    return config
