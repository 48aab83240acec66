"""What the cut into macro-actions is worth: tags, tags degraded step by step, and cuts that read nothing.

    python -m experiments.study --config=configs/studies/segmentation.py --workdir=runs/segmentation
    python -m experiments.study --config=configs/studies/segmentation.py:full --workdir=runs/segmentation_full

The cut matters where a rollout is used for several updates alone: at a ratio of 1 all cuts have one gradient.
The search task uses one for eight. The ratio is a unit's geometric mean, with a clip of 0.02 for all.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.arpo_search import get_config as search
from configs.studies.comparison import NARROW
from experiments.studies.training import default_study, in_order, of_length


def get_config(length: str = "short") -> ConfigDict:
    """Five seeds of eight cuts; rows are not forked."""
    config = default_study()
    config.question = "Does it matter that macro-actions end at tags?"
    config.base = of_length(search(), length, 80)
    config.base.branching.mode, config.base.branching.leaf_weight = "none", "uniform"
    config.base.method.update(NARROW)
    noisy = {f"tags, {share:.0%} moved": {"method": {"boundary_noise": share}} for share in (0.25, 0.5, 0.75)}
    config.arms = in_order(
        {
            "tags": {},
            **noisy,
            "as many, at random": {"method": {"boundary_noise": 1.0}},
            "four of one length": {"method": {"markers": None, "unit_count": 4}},
            "every token": {"method": {"markers": None, "unit_length": 1}},
            "the whole response": {"method": {"markers": None, "unit_count": 1}},
        }
    )
    config.asked = (("tags", "as many, at random", "held_out/sampled"),)
    config.trend = ("tags", *noisy, "as many, at random")
    config.compared = ("held_out/sampled", "reward, all iterations")
    config.columns = ("held_out/sampled", "reward", "units", "clip_fraction")
    config.curves = ("reward", "clip_fraction", "units")
    return config
