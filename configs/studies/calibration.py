"""Learning with and without calibrated advantages, over beam widths at one budget of responses.

    python -m experiments.study --config=configs/studies/calibration.py --workdir=runs/calibration

`configs/studies/calibration_gradients.py` measures the gradients of the same choices.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.arpo_search import get_config as search
from experiments.studies.training import default_study


def get_config() -> ConfigDict:
    """Five seeds of three widths, each with and without."""
    config = default_study()
    config.question = "Do calibrated advantages learn better, and at which beam width?"
    config.base = search()
    config.base.branching.mode = "fixed"
    config.arms = {
        f"width {width}, {kind}": {
            "branching": {"width": width, "roots": 8 // width},
            "method": {"calibration": kind},
        }
        for width in (1, 2, 4)
        for kind in ("hard", "soft")
        if (width, kind) != (1, "hard")  # without forks every row keeps its own: the same run
    }
    config.columns = ("held_out/sampled", "reward", "gradient_norm")
    config.curves = ("reward", "gradient_norm", "entropy")
    return config
