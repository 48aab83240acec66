"""ARPO beside GRPO and sequence-level baselines on the search task, at the same budget of responses.

    python -m experiments.study --config=configs/studies/comparison.py --workdir=runs/comparison

The arms share cold start, prompts, number of rows, updates, rates, the mean over tokens and no KL. What they
find apart is how rows come about (forked where the policy is unsure, or each from the prompt) and what a unit
of action is; `gspo` has its paper's clip and mean besides, "the whole response" the others'.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.arpo_search import get_config as search
from experiments.studies.training import default_study, in_order

UNFORKED = {"branching": {"mode": "none", "leaf_weight": "uniform"}}
TOKENS = {"markers": None, "name": "grpo", "kl_coefficient": 0.0}
SEQUENCE = {"markers": None, "name": "gspo", "aggregation": "sequence_mean"}


def get_config() -> ConfigDict:
    """Five seeds of five arms."""
    config = default_study()
    config.question = "Does ARPO learn to search better than GRPO and the sequence-level baselines?"
    config.base = search()
    config.arms = in_order(
        {
            "arpo": {},
            "macro-actions without forks": UNFORKED,
            "grpo": {**UNFORKED, "method": TOKENS},
            "gspo": {**UNFORKED, "method": SEQUENCE},
            "the whole response": {**UNFORKED, "method": {"markers": None, "unit_count": 1}},
        }
    )
    config.columns = (
        "held_out/sampled",
        "held_out/greedy",
        "reward",
        "tool_calls",
        "marker_fault",
        "clip_fraction",
    )
    config.curves = ("reward", "tool_calls", "marker_fault", "entropy", "length")
    return config
