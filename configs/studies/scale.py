"""ARPO beside GRPO from small to larger models, on the search task.

    python -m experiments.study --config=configs/studies/scale.py --workdir=runs/scale
    python -m experiments.study --config=configs/studies/scale.py:medium --workdir=runs/scale_medium
    python -m experiments.study --config=configs/studies/scale.py:large --workdir=runs/scale_large
    python -m experiments.study --config=configs/studies/scale.py:smollm2 --workdir=runs/scale_smollm2
    python -m experiments.study --config=configs/studies/scale.py:forks --workdir=runs/scale_forks

The search task from scratch: the 220 thousand parameters of its own config and 1 million, 4 million
("medium"), 26 and 106 million ("large", which want an accelerator). A million parameters learn by two rates:
that of the small model, by which they are unsteady, and half of it. A size alone ("medium") has a lead and no
growth. "forks" asks what of ARPO's forks unsteadies a million parameters: where they are, or that 8 rows grow
from 4 roots, as many as are independent in GRPO's groups of 4. SmolLM2 learns another task, the calculator:
how its lead compares with theirs is not asked.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from configs.arpo_search import get_config as search
from configs.arpo_smollm2 import get_config as smollm2
from configs.studies.comparison import TOKENS, UNFORKED
from experiments.studies.training import DRAWN, WHOLE, default_study, in_order, of_length

MILLION = {"width": 128, "layers": 5, "heads": 4, "kv_heads": 4, "head_dim": 32, "mlp_width": 352}
SIZES = {
    "220 k": {},
    "1 M": MILLION,
    "1 M, half the rate": MILLION,
    "4 M": {"width": 256, "layers": 5, "heads": 8, "kv_heads": 8, "head_dim": 32, "mlp_width": 704},
    "26 M": {"width": 512, "layers": 8, "heads": 8, "kv_heads": 8, "head_dim": 64, "mlp_width": 1408},
    "106 M": {"width": 576, "layers": 30, "heads": 9, "kv_heads": 3, "head_dim": 64, "mlp_width": 1536},
}
RATES = {
    "220 k": (1e-3, 2e-4),
    "1 M": (1e-3, 2e-4),
    "1 M, half the rate": (1e-3, 1e-4),
    "4 M": (5e-4, 1e-4),
    "26 M": (3e-4, 5e-5),
    "106 M": (1e-4, 2e-5),
}
"""Of the cold start, and behind it."""

FROM_SCRATCH = {
    "small": ("220 k", "1 M", "1 M, half the rate"),
    "medium": ("4 M",),
    "large": ("26 M", "106 M"),
}

UNFORKED_TOKENS = {**UNFORKED, "method": TOKENS}
"""GRPO."""


def get_config(size: str = "small") -> ConfigDict:
    """Three seeds: sizes from scratch ("small", "medium", "large"), SmolLM2 ("smollm2"), or "forks".

    Raises:
      ValueError: another size.
    """
    if size not in (*FROM_SCRATCH, "smollm2", "forks"):
        raise ValueError(f"the argument is {', '.join(FROM_SCRATCH)}, smollm2 or forks, got {size!r}")
    config = default_study()
    config.question = "Does ARPO's lead over GRPO grow with the model?"
    config.seeds = 3
    config.columns = ("held_out/sampled", "outcome", "reward", "tool_calls", f"outcome{WHOLE}")
    # The reward of the search task punishes a broken format, that of the calculator does not.
    config.compared = ("held_out/sampled", f"outcome{WHOLE}", DRAWN)
    config.curves = ("outcome", "entropy", "tool_calls")
    if size == "smollm2":
        config.base = smollm2()
        config.base.method.ratio = "token"
        config.question = "Does ARPO learn to calculate better than GRPO with SmolLM2?"
        config.arms = in_order({"arpo": {}, "grpo": UNFORKED_TOKENS})
        config.tail = 3
        return config
    config.base = of_length(search(), "full" if size == "large" else "short", 80)
    if size == "forks":
        return _of_forks(config)
    names = FROM_SCRATCH[size]
    config.arms = in_order(
        {
            f"{method}, {name}": _of_size(name) | ({} if method == "arpo" else UNFORKED_TOKENS)
            for name in names
            for method in ("arpo", "grpo")
        }
    )
    config.pairs = tuple((f"arpo, {name}", f"grpo, {name}") for name in names)
    config.growth = tuple((config.pairs[0], pair, f"outcome{WHOLE}") for pair in config.pairs[1:])
    return config


def _of_forks(config: ConfigDict) -> ConfigDict:
    config.question = "What of ARPO's forks unsteadies a million parameters?"
    million = _of_size("1 M")
    config.arms = in_order(
        {
            "arpo, 1 M": million,
            "random forks, 1 M": million | {"branching": {"mode": "random", "probability": 0.5}},
            "grpo, 1 M": million | UNFORKED_TOKENS,
            "grpo, 1 M, groups of 4": million | UNFORKED_TOKENS | {"schedule": {"group": 4}},
        }
    )
    config.pairs = (("arpo, 1 M", "random forks, 1 M"), ("grpo, 1 M", "grpo, 1 M, groups of 4"))
    config.asked = tuple((*pair, f"outcome{WHOLE}") for pair in config.pairs)
    return config


def _of_size(name: str) -> dict[str, Any]:
    cold, rate = RATES[name]
    return {
        "model": SIZES[name],
        "optimizer": {"learning_rate": rate},
        "cold_start": {"learning_rate": cold},
    }
