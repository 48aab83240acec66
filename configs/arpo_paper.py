"""ARPO as its paper trains it (arXiv 2507.19849, sections 3 and 4.3, appendix C.2), on a pod.

    python -m experiments.train --config=configs/arpo_paper.py:MODEL --workdir=W FLAGS

MODEL is `qwen2.5-3b`, `qwen2.5-7b` or `llama3.1-8b` (deep reasoning: 10k questions, 2 epochs), or `qwen3-8b`
or `qwen3-14b` (deep search: 1k questions, 5 epochs). FLAGS are below. On several hosts add `--distributed`.
The paper begins with 3 epochs of supervised fine-tuning on 54k demonstrations, 128 an update: give a folder
so made by `--config.model.name`, or `--config.cold_start.data=FILE --config.cold_start.steps=1265`.
`$GPG_JAX_DATA/arpo` has `train_10k.parquet`, `valid.parquet` and `search_cache.json`; without it, and for
deep search, give `--config.task.train`, `--config.task.held_out` and `--config.tools.corpus`. The prompts of
those files have a backspace in the place of the `\\b` of `\\boxed`; they are asked as they are, and so are
nine rows whose gold answers no box can hold.

To expect, from the paper's table 1: an average of 52.8 (3B), 58.3 (7B) and 55.3 (Llama) on the ten benchmarks
of `experiments.evaluate --suite=arpo`, where GRPO has 50.4, 56.5 and 51.1. Nothing of this was run here at
this size: not the speed, the memory, or what is learnt. Its search is Bing; here it is BM25 over the pages of
the cache, of 1,000 queries, so that the knowledge questions will be answered less well.

By arithmetic, which no measurement has confirmed, the largest part of the memory is the cache of the rows
that are decoded at once: keys and values in bfloat16 of all `sampling.new_tokens`, tools' results among
them, and besides of the prompts, once a group. A device has its share of both, all weights in bfloat16, its
share of the parameters and their moments in float32, and what it takes to read `tools.at_once` results: the
caches of those rows once more, and scores of attention.

                   a token   rows             cache     prompts   weights   devices   a device
    qwen2.5-3b       37 kB   2,048 × 4,096     309 GB      7 GB      6 GB         8      54 GB
    qwen2.5-7b       57 kB   2,048 × 4,096     481 GB     11 GB     15 GB        16      58 GB
    llama3.1-8b     131 kB   2,048 × 4,096   1,100 GB     26 GB     16 GB        32      64 GB
    qwen3-8b        147 kB   2,048 × 8,192   2,474 GB     38 GB     16 GB        64      62 GB
    qwen3-14b       164 kB     768 × 8,192   1,031 GB     21 GB     30 GB        32      74 GB

so that devices of 80 GB might do, as long as the cache is updated in place; half as many would hold more than
94 GB each. A minibatch has 256 rows (14B: 96), and `schedule.micro_batches` × devices must divide that. FLAGS
leave a device of deep search one row in an update, whose scores of attention, heads × 8,192² in float32, are
9 or 11 GB a few times over:

    qwen2.5-3b     --config.mesh=1,8,1
    qwen2.5-7b     --config.mesh=1,16,1
    llama3.1-8b    --config.mesh=1,32,1
    qwen3-8b       --config.mesh=1,64,1 --config.schedule.micro_batches=4 --config.tools.at_once=2
    qwen3-14b      --config.mesh=1,32,1 --config.schedule.micro_batches=3 --config.tools.at_once=2

With demonstrations `cold_start.micro_batches` × devices must divide 128 (14B: 64): it is 8, and must be 4 for
Llama and 2 for deep search.

Where the paper and its released scripts differ, this is the paper's:

  forks        deterministic, P > 0.5 by the entropy after the result; released: a coin (`arpo_release`)
  deep search  responses of 8,192 tokens; released: 10,000 (8B) and 6,192 (14B)
  hard parts   the soft advantage, its default, which is GRPO's; no hard one is released

but the scripts' is what the paper leaves open: prompts of 1,536 (2,000) tokens, 3 calls, 10 results of 1,000
characters, dual clip 3, the sample's std and 1e-6 beside it, weight decay 0.01; and two things more: for 14B
M = 12, N = 6 and 64 prompts in minibatches of 8, where the paper says "the same parameters", and the mean
over tokens, where equation 6 has a mean over responses of their means. Ours alone: k = 20 tokens of an
entropy, as many as the scripts sum over, and results of 1,024 tokens at most.

A tiny run from end to end, any model folder with a chat template in the place of the name:

    python -m experiments.train --config=configs/arpo_paper.py:qwen2.5-3b --workdir=W \\
      --config.model.name=FOLDER --config.mesh=-1,1,1 --config.schedule.steps=1 --config.schedule.prompts=2 \\
      --config.schedule.group=4 --config.schedule.minibatches=2 --config.schedule.micro_batches=1 \\
      --config.branching.roots=2 --config.sampling.new_tokens=64 --config.tools.answer_tokens=32 \\
      --config.evaluation.examples=2
"""

from __future__ import annotations

import os

from ml_collections import ConfigDict

from experiments.config import default_config
from gpg_jax.decoding.markers import ARPO_TAGS

MODELS = {
    "qwen2.5-3b": "Qwen/Qwen2.5-3B-Instruct",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B-Instruct",
    "llama3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "qwen3-14b": "Qwen/Qwen3-14B",
}


def get_config(model: str = "qwen2.5-7b") -> ConfigDict:
    """The paper's setting for one of `MODELS`."""
    if model not in MODELS:
        raise ValueError(f"there is no model {model!r}; there are {', '.join(MODELS)}")
    config = default_config()
    config.model.name = MODELS[model]
    config.model.dtype = "bfloat16"
    config.model.remat = True
    config.model.chunk = 4096
    config.mesh = (1, -1, 1)
    config.task.name = "files"
    config.task.drop_unanswered = True
    config.task.verifier = "answer_f1"
    config.task.rewards = {"arpo": 1.0}
    config.task.chat = True  # of questions that are no messages, as a demonstration's may be
    config.task.prompt_tokens = 1536
    config.sampling.new_tokens = 4096
    config.tools.names = ("search", "python")
    config.tools.calls = 3
    config.tools.answer_tokens = 1024
    config.tools.results, config.tools.characters = 10, 1000
    config.tools.retries = 3
    config.tools.seconds = 120.0
    config.tools.workers = 64
    config.branching.mode = "arpo_paper"
    config.branching.roots = 8
    config.branching.alpha, config.branching.beta, config.branching.threshold = 0.5, 0.2, 0.5
    config.branching.width = 1  # a beam of 2: the row and one fork
    config.method.name = "gpg"
    config.method.markers = ARPO_TAGS
    config.method.calibration = "soft"
    config.method.ratio = "token"
    config.method.aggregation = "token_mean"
    config.method.dual_clip = 3.0
    config.method.ddof, config.method.eps = 1, 1e-6
    config.cold_start.learning_rate = 7e-6
    config.cold_start.micro_batches = 8
    config.optimizer.learning_rate = 1e-6
    config.optimizer.weight_decay = 0.01
    config.schedule.prompts = 128
    config.schedule.group = 16
    config.schedule.minibatches = 8
    config.schedule.micro_batches = 8
    config.schedule.steps = 2 * (10_000 // 128)
    config.evaluation.every = 5
    config.evaluation.samples = 0
    config.checkpoint.every = 5
    config.output.transcripts = 16
    config.output.rollouts = 20
    if "GPG_JAX_DATA" in os.environ:
        folder = os.path.join(os.environ["GPG_JAX_DATA"], "arpo")
        config.task.train = os.path.join(folder, "train_10k.parquet")
        config.task.held_out = os.path.join(folder, "valid.parquet")
        config.tools.corpus = os.path.join(folder, "search_cache.json")
    if model.startswith("qwen3"):
        _deep_search(config, large=model == "qwen3-14b")
    return config


def _deep_search(config: ConfigDict, large: bool) -> None:
    """Questions that take a longer search; they are not those of `$GPG_JAX_DATA`."""
    config.task.train = config.task.held_out = None
    config.task.prompt_tokens = 2000
    config.sampling.new_tokens = 8192
    config.schedule.steps = 5 * (1_000 // 128)
    if large:
        config.schedule.prompts = 64
        config.schedule.group = 12
        config.branching.roots = 6
        config.schedule.micro_batches = 6
        config.schedule.steps = 5 * (1_000 // 64)
