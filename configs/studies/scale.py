"""ARPO beside GRPO from small to larger models, on the search task.

python -m experiments.study --config=configs/studies/scale.py --workdir=runs/scale
python -m experiments.study --config=configs/studies/scale.py:large --workdir=runs/scale_large
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.arpo_search import get_config as search
from configs.studies.comparison import TOKENS, UNFORKED
from experiments.studies.training import default_study

SIZES = {
    "100 k": {"width": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "mlp_width": 128},
    "1 M": {"width": 128, "layers": 5, "heads": 4, "kv_heads": 4, "head_dim": 32, "mlp_width": 352},
    "4 M": {"width": 256, "layers": 5, "heads": 8, "kv_heads": 8, "head_dim": 32, "mlp_width": 704},
    "26 M": {"width": 512, "layers": 8, "heads": 8, "kv_heads": 8, "head_dim": 64, "mlp_width": 1408},
    "135 M": {"width": 576, "layers": 30, "heads": 9, "kv_heads": 3, "head_dim": 64, "mlp_width": 1536},
}
RATES = {"100 k": 1e-3, "1 M": 1e-3, "4 M": 5e-4, "26 M": 3e-4, "135 M": 1e-4}


def get_config(size: str = "small") -> ConfigDict:
    """Three seeds: sizes to 4 M parameters, or with "large" those above."""
    if size not in ("small", "large"):
        raise ValueError(f'the argument is "small" or "large", got {size!r}')
    config = default_study()
    config.question = "Does ARPO's lead over GRPO grow with the model?"
    config.base = search()
    names = list(SIZES)[:3] if size == "small" else list(SIZES)[3:]
    config.arms = {
        f"{method}, {name}": {
            "model": SIZES[name],
            "optimizer": {"learning_rate": RATES[name]},
            **({} if method == "arpo" else {**UNFORKED, "method": TOKENS}),
        }
        for name in names
        for method in ("arpo", "grpo")
    }
    config.seeds = 3
    config.columns = ("held_out/sampled", "held_out/greedy", "reward")
    config.curves = ("reward", "entropy", "tool_calls")
    return config
