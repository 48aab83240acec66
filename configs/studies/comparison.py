"""ARPO beside GRPO and sequence-level baselines, at the same budget of responses.

    python -m experiments.study --config=configs/studies/comparison.py --workdir=runs/comparison
    python -m experiments.study --config=configs/studies/comparison.py:smollm2 --workdir=runs/smollm2

A tiny model from scratch learns the search task; SmolLM2 the calculator, in 18 runs as long as that of
`configs/arpo_smollm2.py`.

The arms share cold start, prompts, number of rows, updates, rates, the mean over tokens and no KL. What they
find apart is how rows come about (forked where the policy is unsure, or each from the prompt) and what a unit
of action is: the ratio of "arpo" and "grpo" is a token's, that of the others a unit's geometric mean, with a
clip of 0.02, or, wide, of 0.2 as for tokens; `gspo` has its paper's clip and mean.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.arpo_search import get_config as search
from configs.arpo_smollm2 import TAGS
from configs.arpo_smollm2 import get_config as smollm2
from experiments.studies.training import default_study, in_order

UNFORKED = {"branching": {"mode": "none", "leaf_weight": "uniform"}}
TOKENS = {"markers": None, "ratio": None, "name": "grpo", "kl_coefficient": 0.0}
SEQUENCE = {"markers": None, "ratio": None, "name": "gspo", "aggregation": "sequence_mean"}
WIDE = {"ratio": "unit_geometric"}
NARROW = {**WIDE, "clip_low": 0.02, "clip_high": 0.02}
"""The geometric mean of a unit's ratios leaves 1 later than a token's does, and its clip binds later."""


def get_config(model: str = "tiny") -> ConfigDict:
    """Five seeds of six arms, three of SmolLM2.

    Args:
      model: "tiny", with the search task, or "smollm2", with the calculator.

    Raises:
      ValueError: another model.
    """
    if model not in ("tiny", "smollm2"):
        raise ValueError(f'the model is "tiny" or "smollm2", got {model!r}')
    config = default_study()
    learnt = "search" if model == "tiny" else "calculate"
    config.question = f"Does ARPO learn to {learnt} better than GRPO and the sequence-level baselines?"
    config.base = search() if model == "tiny" else smollm2()
    config.base.method.ratio = "token"
    config.arms = in_order(
        {
            "arpo": {},
            "macro-actions": {"method": NARROW},
            "macro-actions, wide clip": {"method": WIDE},
            "macro-actions without forks": {**UNFORKED, "method": NARROW},
            "grpo": {**UNFORKED, "method": TOKENS},
            "gspo": {**UNFORKED, "method": SEQUENCE},
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
    config.asked = (("arpo", "grpo", "held_out/sampled"), ("arpo", "gspo", "held_out/sampled"))
    config.compared = (*config.compared, "tool_calls")
    config.curves = ("reward", "tool_calls", "marker_fault", "entropy", "length", "truncated")
    if model == "smollm2":
        config.base.output.tags = TAGS  # faults are counted in the arms without markers too
        config.columns = tuple(name for name in config.columns if name != "held_out/greedy")  # not evaluated
        config.seeds = 3
        config.tail = 3
    return config
