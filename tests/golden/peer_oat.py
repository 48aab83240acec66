"""Golden numbers of oat: the learner's whole step, with its models, its cluster and its sampler absent."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from peer_record import GROUP, INPUTS, Record
from peer_torch import stand_in

stand_in(
    *("bitsandbytes", "deepspeed", "fire", "flash_attn", "launchpad", "Levenshtein", "liger_kernel"),
    *(
        "llm_blender",
        "math_verify",
        "ml_collections",
        "msgspec",
        "openai",
        "peft",
        "pylatexenc",
        "scipy",
        "sklearn",
    ),
    *(
        "torchdata",
        "transformers_stream_generator",
        "tree",
        "vllm",
        "wandb",
        "tenacity",
        "latex2sympy2_extended",
        "tyro",
        "pyarrow.plasma",
        "einops",
    ),
)

from oat.algorithms import ppo  # noqa: E402
from oat.experiment import run_math_rl  # noqa: E402

VERSIONS = ["oat-llm", "torch"]
SETTINGS = {
    "critic_type": "drgrpo",
    "cliprange": 0.2,
    "tis_c": 2.0,
    "kl_penalty_coef": 0.0,
    "beta": 0.0,
    "num_ppo_epochs": 1,
    "reward_scale": 1.0,
    "reinforce_update": False,
    "remove_std_bias": False,
    "remove_len_bias": False,
    "generate_max_length": 8,
    "temperature": 1.0,
    "eval_data": "",
    "test_split": "all",
}
"""The defaults, but for `beta`, which its recipes for mathematics set to 0, and the length."""


def learner_of(rows: int, group: int, **settings):
    """A real learner around no model: only what its steps read is there."""
    ppo.RLLearner._init = lambda *_: None
    run_math_rl.load_data_from_disk_or_hf = lambda _: {}
    learner = object.__new__(run_math_rl.ZeroMathLearner)
    given = SETTINGS | {"num_samples": group, "train_batch_size_per_device": rows} | settings
    learner._init(SimpleNamespace(**given), [])
    return learner


def advantage_of(inputs: str, **settings):
    """`compute_monte_carlo_advantages` on rewards alone."""
    reward = torch.tensor(INPUTS[inputs]["reward"], dtype=torch.float32)[:, None]
    return learner_of(len(reward), GROUP, **settings).compute_monte_carlo_advantages(reward, None)


def step_of(rows: dict, group: int = GROUP, **settings) -> dict:
    """`learning_step`: the loss of its backward pass and the gradient, and the advantages it made."""
    mask, seen = torch.tensor(rows["mask"]), {}
    learner = learner_of(len(mask), group, **settings)
    scored = {name: torch.tensor(rows.get(name, rows["new"])) for name in ("new", "old", "reference")}
    new = scored["new"].requires_grad_(True)

    def log_probs(model, input_ids, att_mask, temperature, compute_entropy):
        name = "reference" if model == "reference" else "new" if compute_entropy else "old"
        row, width = input_ids[:, 0], input_ids.shape[1] - 1
        return scored[name][row, :width], torch.zeros(len(row), width)

    def advantages(rewards, response_masks):
        seen["advantage"] = type(learner).compute_monte_carlo_advantages(learner, rewards, response_masks)
        return torch.tensor(rows["advantage"]) if "advantage" in rows else seen["advantage"]

    def backward(loss, *_) -> None:
        seen["loss"] = loss.item()
        seen["gradient"] = torch.autograd.grad(loss, new)[0]

    learner.model, learner.ref_model, learner.critic = "policy", "reference", None
    learner.optimizer = learner.scheduler = None
    learner.get_batch_logps, learner.compute_monte_carlo_advantages = log_probs, advantages
    learner.strategy = SimpleNamespace(grad_acc_step=1, backward=backward)
    learner.strategy.optimizer_step = lambda *_: None
    learner.strategy.get_gradient_norm = lambda _: 0.0
    torch.cuda.current_device = lambda: "cpu"
    np.random.seed(0)  # it permutes the rows
    pairs = zip(rows.get("rollout", rows.get("old", rows["new"])), rows["mask"], strict=True)
    learner.learning_step(
        {
            # the tokens of a row are its number, by which the scores are found
            "input_ids": torch.arange(len(mask))[:, None].expand(-1, mask.shape[1] + 1),
            "attention_mask": torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1),
            "prompt_ids_lens": [1] * len(mask),
            "rewards": [[reward] for reward in rows.get("reward", [0.0] * len(mask))],
            "action_logprobs": [[x for x, acts in zip(*pair, strict=True) if acts] for pair in pairs],
            "loss_masks": [True] * len(mask),
        }
    )
    return seen


LOSSES = {
    "dr_grpo": ({}, "rows", "the default: / generate_max_length, truncated correction at 2"),
    "grpo": ({"critic_type": "grpo"}, "rows", "mean over rows of token means, truncated correction at 2"),
    "grpo_extreme": ({"critic_type": "grpo"}, "rows_extreme", "no clamp of the log-ratio"),
    "grpo_uncorrected": ({"critic_type": "grpo", "tis_c": None}, "rows", ""),
    "grpo_kl": ({"critic_type": "grpo", "beta": 0.04}, "rows", "k3, its exponent clamped to 40"),
}


def run() -> Record:
    record = Record("oat")
    estimator = "ZeroMathLearner.compute_monte_carlo_advantages"
    for kind, note in (("grpo", "std with ddof 1, + 1e-8 outside"), ("drgrpo", "")):
        name, settings = {"drgrpo": "dr_grpo"}.get(kind, kind), {"critic_type": kind}
        advantage = advantage_of("rewards", **settings)
        record.add(f"advantage/{name}", estimator, settings, "rewards", note, advantage=advantage)
    for kind, inputs, group in (("grpo", "kl_reward_group", 4), ("drgrpo", "kl_reward", 2)):
        name, settings = {"drgrpo": "dr_grpo"}.get(kind, kind), {"critic_type": kind, "kl_penalty_coef": 0.05}
        record.add(
            f"advantage/{name}_kl",
            "PPOLearner.learning_step",
            settings,
            inputs,
            "the row's sum of k1 is taken from the reward before the comparison",
            advantage=step_of(INPUTS[inputs], group, **settings)["advantage"],
        )
    for name, (settings, inputs, note) in LOSSES.items():
        outputs = step_of(INPUTS[inputs], 2, **settings)
        del outputs["advantage"]
        record.add(f"loss/{name}", "PPOLearner.learning_step", settings, inputs, note, **outputs)
    return record
