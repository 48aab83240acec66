"""GPG where nothing marks a boundary: high-entropy tokens against other cuts, on a task without tools.

python -m experiments.study --config=configs/studies/non_agentic.py --workdir=runs/non_agentic
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.smoke import get_config as smoke
from experiments.studies.training import default_study, in_order


def get_config() -> ConfigDict:
    """Five seeds of five cuts on the reversal of four symbols."""
    config = default_study()
    config.question = "Are tokens of high entropy good boundaries where there are no markers?"
    base = smoke("gpg")
    base.task.symbols, base.task.prompt_tokens, base.sampling.new_tokens = 4, 5, 4
    base.schedule.minibatches = 4
    config.base = base
    config.arms = in_order(
        {
            "a fifth, of highest entropy": {"method": {"entropy_fraction": 0.2}},
            "half, of highest entropy": {"method": {"entropy_fraction": 0.5}},
            "two of one length": {"method": {"unit_count": 2}},
            "every token (GRPO)": {"method": {"unit_length": 1}},
            "the whole response (GSPO)": {"method": {"unit_count": 1}},
        }
    )
    config.compared = ("reward", "reward, all iterations")
    config.columns = ("reward", "clip_fraction", "units")
    config.curves = ("reward", "clip_fraction", "entropy")
    return config
