"""Ways in which a run fails, each provoked, beside the metric that shows it.

    python -m experiments.study --config=configs/studies/signatures.py --workdir=runs/signatures
    python -m experiments.study --config=configs/studies/signatures.py:full --workdir=runs/signatures_full

- Advantage collapse: samples as good as greedy, so that the responses to a prompt are alike and earn one
  reward; `signal_groups` falls.
- Segmentation drift: tags stop to mean what they did; `marker_fault` rises.
- Narrow beams: where entropy must rise by 5% of log V, and not at all, hardly a row begins behind another's
  tokens, and a calibrated token is shared by hardly anybody; `forks` falls, and `sharing` is near 1.

The runs are compared by what the metrics are over all iterations.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.arpo_search import get_config as search
from experiments.studies.training import WHOLE, default_study, in_order, of_length


def get_config(length: str = "short") -> ConfigDict:
    """Five seeds of a run as it should be, and of three that fail."""
    config = default_study()
    config.question = "Which metric shows that a run goes wrong?"
    config.base = of_length(search(), length, 80)
    config.arms = in_order(
        {
            "as it should be": {},
            "collapse: greedy samples": {"sampling": {"temperature": 0.05}},
            "drift: entropy is paid for": {"method": {"entropy_coefficient": 0.3}},
            "narrow: forks where entropy rises by 5%": {"branching": {"threshold": 0.51}},
        }
    )
    right, collapse, drift, narrow = config.arms
    shown = {"signal_groups": collapse, "marker_fault": drift, "forks": narrow, "sharing": narrow}
    config.asked = tuple((right, arm, f"{metric}{WHOLE}") for metric, arm in shown.items())
    config.compared = tuple(f"{metric}{WHOLE}" for metric in ("outcome", *shown))
    config.columns = ("held_out/greedy", "outcome", *shown, *config.compared, "entropy")
    config.curves = ("reward", *shown, "entropy")
    return config
