"""A tiny model from scratch learns to search twice: `bobs boss town?`, in a world made up for it.

    python -m experiments.train --config=configs/arpo_search.py --workdir=runs/search

The town of bob's boss stands in no document: one says who the boss is, another where that one lives. The
people of the held-out questions are never asked about in training. Three of four demonstrations are hasty:
they answer behind the first search. A broken format earns −1, whatever the answer. The argument
`without_tools` shows what can be guessed: the same model, demonstrations of the answers alone, all of them
right, as many iterations.

Three minutes of one core. On 150 held-out questions, sampled, seeds 0 to 4: 0.10, 0.15, 0.25, 0.25 and 0.20
behind the demonstrations, 0.91, 0.80, 0.95, 0.95 and 0.82 at the end; greedy 0 each, and 0.99, 0.87, 0.99,
1.00 and 0.85.
"""

from __future__ import annotations

import string

from ml_collections import ConfigDict

from configs.arpo_calculator import with_or_without
from experiments.config import default_config
from gpg_jax.data.hops import RELATIONS

TAGS = ("search", "answer")


def get_config(kind: str = "tools") -> ConfigDict:
    """Two cores, some minutes; with its "tools", or "without_tools"."""
    config = default_config()
    config.model.layers = 3
    config.model.width, config.model.mlp_width = 96, 192
    config.task.name = "hops"
    config.task.verifier = "answer_tag"
    config.task.hasty = 0.75
    config.task.rewards = {"formatted_answer": 1.0}
    config.task.prompt_tokens = 9
    config.task.alphabet = string.ascii_lowercase + " ?"
    config.task.pieces = (
        *(f"<{tag}>" for tag in TAGS),
        *(f"</{tag}>" for tag in TAGS),
        *RELATIONS,
        " <result>\n",
        "\n</result>",
        "Page 1: ",
    )
    config.sampling.new_tokens = 56
    config.tools.names = ("search",)
    config.tools.results = 1
    config.tools.calls = 3
    config.tools.answer_tokens = 24
    config.branching.mode = "arpo_paper"
    config.branching.roots = 4
    config.branching.tokens = 1
    config.method.name = "gpg"
    config.method.markers = TAGS
    config.method.ratio = "token"
    config.method.aggregation = "token_mean"
    config.optimizer.learning_rate = 2e-4
    config.optimizer.warm_up = 160
    config.cold_start.steps = 175
    config.cold_start.batches = 2
    config.cold_start.learning_rate = 1e-3
    config.schedule.steps = 150
    config.schedule.prompts = 16
    config.schedule.group = 8
    config.schedule.minibatches = 8
    config.evaluation.every = 35
    config.checkpoint.every = 35
    config.output.rollouts = 35
    config.output.tags = TAGS
    return with_or_without(config, kind)
