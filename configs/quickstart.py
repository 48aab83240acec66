"""SmolLM2-135M-Instruct learns to multiply, on two CPU cores, without a hub.

    python -m experiments.train --config=configs/quickstart.py --workdir=runs/quickstart
    python -m experiments.train --config=configs/quickstart.py:ppo --workdir=runs/quickstart_ppo

By GRPO in about 6 minutes: on held-out pairs, sampled accuracy from below 0.1 to above 0.9. Behind the colon
stands any key of `gpg_jax.algorithms.ALGORITHMS`, or "a3c". By seed 0 and `--config.evaluation.samples=8` (4
for `vapo`), 11 to 20 minutes of one core with other work beside it:

          sampled           greedy
  a2c     0.017 → 0.925     0.133 → 1.000
  ppo     0.017 → 0.925     0.133 → 1.000
  cpi     0.017 → 0.850     0.133 → 0.933
  vapo    0.050 → 0.933     0.133 → 1.000; its critic explains nothing, before or after

`a3c` by 10 iterations and 2 samples, on two idle cores in 4 minutes: 0.000 → 0.733, greedy 0.133 → 0.867.
`trpo` takes 9 GB and two and a half minutes an update there; it was stopped behind the fourth of 15, at a
reward of 0.09 from 0.03.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments.config import default_config
from gpg_jax.algorithms import ALGORITHMS

METHODS = (*ALGORITHMS, "a3c")
"""What `get_config` takes."""


def get_config(method: str = "grpo") -> ConfigDict:
    """The main job, by one of the methods."""
    config = default_config()
    config.model.name = "smollm2"
    config.task.name = "multiplication"
    config.task.verifier = "first_line"
    config.task.prompt_tokens = 48
    config.sampling.new_tokens = 5
    config.sampling.stop = ("\n",)
    config.method.name = "a2c" if method == "a3c" else method
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
    if method == "dapo":
        config.method.max_response, config.method.overlong_cache = 6, 1  # no answer here is overlong
    if method == "vapo":  # λ = 1 − 1/(α·l) is 1/2 for answers of 4 tokens; the paper's α is of thousands
        config.method.alpha = 0.5
        config.critic.pretraining_steps, config.critic.explained_variance = 10, 0.1
    if method == "trpo":  # a Fisher-vector product costs 2.7 gradients, and twice the memory of one
        config.method.cg_iterations, config.method.radius, config.method.shrink = 3, 0.2, 0.7
        config.method.damping = 1.0  # the Fisher information is that of 64 responses
        config.method.lambda_ = 1.0  # hardly any reward is not 0 at first, and the critic knows nothing
        config.critic.optimizer.learning_rate = 1e-4
        config.schedule.steps, config.checkpoint.every = 15, 15
        config.schedule.micro_batches = 2
    if method == "cpi":  # two networks of 540 MB; the safe step is too small to be seen
        config.method.step, config.method.alpha, config.method.capacity = "fixed", 0.5, 2
        config.schedule.epochs = 2
    if method == "a3c":
        config.actors.count, config.actors.bring, config.actors.staleness = 2, "gradients", 3
    return config
