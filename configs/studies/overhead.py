"""What forked rollouts cost beside GRPO at the same budget of rows: seconds, tokens, operations.

    python -m experiments.study --config=configs/studies/overhead.py --workdir=runs/overhead
    python -m experiments.study --config=configs/studies/overhead.py:small --workdir=runs/overhead_small

On the search task with its tool, by a tiny policy that has learnt to search twice, 30 iterations behind its
cold start; or by a random policy of SmolLM2's shape, for which a letter is a boundary that nothing answers.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.arpo_search import get_config as search
from experiments.studies.overhead import default_study

SMALL = {"width": 576, "layers": 30, "heads": 9, "kv_heads": 3, "head_dim": 64, "mlp_width": 1536}
"""SmolLM2's blocks."""


def get_config(model: str = "tiny") -> ConfigDict:
    """GRPO, four widths and ARPO's forks by entropy, 16 rows a prompt; each is first four times.

    Raises:
      ValueError: another model.
    """
    if model not in ("tiny", "small"):
        raise ValueError(f'the model is "tiny" or "small", got {model!r}')
    config = default_study()
    config.question = "What does beaming cost beside GRPO at the same budget of responses?"
    config.base = search()
    config.base.schedule.group = 16
    config.iterations = config.base.cold_start.steps + 30
    config.seeds = 24
    if model == "small":
        config.iterations = 0
        config.base.model.update(SMALL)
        config.base.tools.names, config.base.tools.boundaries = (), ("e",)
        config.base.schedule.prompts = 1
        config.seeds = 3
    return config
