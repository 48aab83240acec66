"""GPG's special cases on a language model: K = 1 and K = |o| beside GSPO and GRPO, and Σ A ∇log π, the
theorem's form, beside them all and RLOO.

    python -m experiments.study --config=configs/studies/special_cases.py --workdir=runs/special_cases
    python -m experiments.study --config=configs/studies/special_cases.py:tiny --workdir=runs/special_tiny
    python -m experiments.study --config=configs/studies/special_cases.py:qwen2.5-0.5b --workdir=runs/qwen

The model is SmolLM2-135M-Instruct; a tiny one, which is random; or Qwen2.5-0.5B-Instruct from the Hugging
Face hub, with which nothing was run here: by arithmetic its parameters, their gradient, and the three
gradients that are kept to be compared take 2 GB each.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.quickstart import get_config as quickstart
from configs.smoke import get_config as smoke
from experiments.studies.special_cases import default_study

MODELS = {"smollm2": "smollm2", "tiny": None, "qwen2.5-0.5b": "Qwen/Qwen2.5-0.5B-Instruct"}


def get_config(model: str = "smollm2") -> ConfigDict:
    """Three rollouts of products in a language model's own words, or of a tiny model.

    Args:
      model: a key of `MODELS`.

    Raises:
      ValueError: another model.
    """
    if model not in MODELS:
        raise ValueError(f"the model is {', '.join(MODELS)}, got {model!r}")
    config = default_study()
    config.question = "What are GPG's special cases equal to, and to what precision?"
    config.base = smoke() if model == "tiny" else quickstart()
    config.base.model.name = MODELS[model]
    config.base.output.kl = False
    config.base.schedule.prompts, config.base.schedule.group = 2, 6
    config.base.schedule.generations = 50
    config.base.sampling.new_tokens = 20
    if model == "tiny":
        config.move = 1.0  # a random policy hardly minds less
    else:
        config.base.sampling.stop = ("\nA:",)  # behind the answer and a question of its own: lengths vary
    if model == "qwen2.5-0.5b":
        config.base.task.prompt_tokens = 64  # tokenizers differ; SmolLM2's prompts have 48 tokens
    return config
