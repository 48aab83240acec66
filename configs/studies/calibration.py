"""Learning with and without calibrated advantages, over beam widths at one budget of responses.

    python -m experiments.study --config=configs/studies/calibration.py --workdir=runs/calibration
    python -m experiments.study --config=configs/studies/calibration.py:full --workdir=runs/calibration_full

The loss is the mean of token means of the rows, GPG's own: under a mean over all tokens a shared token's rows
add up to one push, whether their advantages are averaged before or not.
`configs/studies/calibration_gradients.py` measures the gradients of the same choices.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.arpo_search import get_config as search
from experiments.studies.training import default_study, in_order, of_length


def get_config(length: str = "short") -> ConfigDict:
    """Five seeds of three widths, each with and without."""
    config = default_study()
    config.question = "Do calibrated advantages learn better, and at which beam width?"
    config.base = of_length(search(), length, 80)
    config.base.branching.mode = "fixed"
    config.base.method.aggregation = "sequence_mean"
    config.arms = in_order(
        {
            f"width {width}, {kind}": {
                "branching": {"width": width, "roots": 8 // width},
                "method": {"calibration": kind},
            }
            for width in (1, 2, 4)
            for kind in ("hard", "soft")
            if (width, kind) != (1, "hard")  # without forks every row keeps its own: the same run
        }
    )
    config.pairs = (
        *((f"width {width}, hard", f"width {width}, soft") for width in (2, 4)),
        *((f"width {width}, soft", "width 1, soft") for width in (2, 4)),
    )
    config.asked = tuple((*pair, "held_out/sampled") for pair in config.pairs)
    config.columns = ("held_out/sampled", "reward", "gradient_norm")
    config.curves = ("reward", "gradient_norm", "entropy")
    return config
