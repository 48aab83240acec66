"""Gradients with and without calibrated advantages, over beam widths, beside a large-sample gradient.

    python -m experiments.study --config=configs/studies/calibration_gradients.py --workdir=runs/gradients
    python -m experiments.study --config=configs/studies/calibration_gradients.py:full --workdir=runs/full

On the search task, whose policy is taken 10 iterations behind its cold start, in the middle of what it
learns; the first sentence of the findings says what it earns. `configs/studies/calibration.py` trains by the
same choices. "full" draws four times as many rollouts of each policy.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.arpo_search import get_config as search
from experiments.studies.gradients import default_study


def get_config(length: str = "short") -> ConfigDict:
    """Five policies, five ways to fork 16 rows; 24 rollouts each and 96 for the reference, or 96 and 384.

    Args:
      length: "short" or "full".

    Raises:
      ValueError: another length.
    """
    if length not in ("short", "full"):
        raise ValueError(f'the length is "short" or "full", got {length!r}')
    config = default_study()
    config.question = "How good is one rollout's gradient, by beam width, calibration and leaf weight?"
    config.base = search()
    config.base.schedule.group = 16
    config.iterations = config.base.cold_start.steps + 10
    if length == "full":
        config.rollouts, config.reference = 96, 384
    return config
