"""GPG's special cases on SmolLM2-135M-Instruct: K = 1 and K = |o| beside GSPO and GRPO, and Σ A ∇log π, the
theorem's form, beside them all and RLOO.

    python -m experiments.study --config=configs/studies/special_cases.py --workdir=runs/special_cases
    python -m experiments.study --config=configs/studies/special_cases.py:tiny --workdir=runs/special_tiny

The tiny model is random.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.quickstart import get_config as quickstart
from configs.smoke import get_config as smoke
from experiments.studies.special_cases import default_study


def get_config(model: str = "smollm2") -> ConfigDict:
    """Three rollouts of products in SmolLM2's own words, or of a tiny model.

    Raises:
      ValueError: another model.
    """
    if model not in ("smollm2", "tiny"):
        raise ValueError(f'the model is "smollm2" or "tiny", got {model!r}')
    config = default_study()
    config.question = "What are GPG's special cases equal to, and to what precision?"
    config.base = quickstart() if model == "smollm2" else smoke()
    config.base.output.kl = False
    config.base.schedule.prompts, config.base.schedule.group = 2, 6
    config.base.schedule.generations = 50
    config.base.sampling.new_tokens = 20
    if model == "smollm2":
        config.base.sampling.stop = ("\nA:",)  # behind the answer and a question of its own: lengths vary
    else:
        config.move = 1.0  # a random policy hardly minds less
    return config
