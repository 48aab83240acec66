"""GPG where nothing marks a boundary: high-entropy tokens against other cuts, on tasks without tools.

    python -m experiments.study --config=configs/studies/non_agentic.py --workdir=runs/non_agentic
    python -m experiments.study --config=configs/studies/non_agentic.py:products --workdir=runs/products

A tiny model learns to write six symbols backwards, by sixteen updates a rollout; or SmolLM2 to multiply, as
in `configs/quickstart.py`, by four. At a ratio of 1 all cuts have one gradient: how many tokens are clipped
tells how far they differ.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.quickstart import get_config as quickstart
from configs.smoke import get_config as smoke
from experiments.studies.training import WHOLE, default_study, in_order

ENTROPY = {"entropy_fraction": 0.35}
CUTS = {
    "a third, of highest entropy": ENTROPY,
    "as many, at random": {**ENTROPY, "boundary_noise": 1.0},
    "as many, of one length": {"unit_length": 3},
    "every token": {"unit_length": 1},
    "the whole response": {"unit_count": 1},
}


def get_config(task: str = "reversal") -> ConfigDict:
    """Five seeds of five cuts, three of SmolLM2.

    Raises:
      ValueError: another task.
    """
    if task not in ("reversal", "products"):
        raise ValueError(f'the task is "reversal" or "products", got {task!r}')
    config = default_study()
    config.question = "Are tokens of high entropy good boundaries where there are no markers?"
    config.base = _reversal() if task == "reversal" else quickstart()
    config.base.method.name = "gpg"
    config.base.schedule.minibatches = 4
    cuts = dict(CUTS)
    if task == "reversal":  # whose six tokens the others cut into four
        cuts["as many, of one length"] = {"unit_count": 4}
    config.arms = in_order({name: {"method": cut} for name, cut in cuts.items()})
    config.columns = ("reward", "clip_fraction", f"clip_fraction{WHOLE}", f"kl_old_k3{WHOLE}", "units")
    config.asked = tuple((*list(CUTS)[:2], column) for column in ("reward", f"reward{WHOLE}"))
    config.compared = ("reward", f"reward{WHOLE}")
    config.curves = ("reward", "clip_fraction", "entropy")
    if task == "products":
        config.columns = ("held_out/sampled", *config.columns)
        config.compared = ("held_out/sampled", *config.compared)
        config.seeds = 3
    return config


def _reversal() -> ConfigDict:
    base = smoke("gpg")
    base.task.symbols, base.task.prompt_tokens, base.sampling.new_tokens = 6, 7, 6
    base.schedule.steps = 300
    base.schedule.epochs = 4
    base.checkpoint.every = 150
    return base
