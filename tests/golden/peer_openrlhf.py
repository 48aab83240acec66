"""Golden numbers of OpenRLHF: its losses and its advantages, with its cluster's packages absent."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from peer_record import GROUP, INPUTS, ROWS, Record
from peer_torch import gradient_of, stand_in, torch_rows

VERSIONS = ["openrlhf", "torch"]
stand_in("bitsandbytes", "deepspeed", "flash_attn", "peft", "pylatexenc", "torchdata", "vllm")

from openrlhf.models.loss import PolicyLoss, aggregate_loss  # noqa: E402
from openrlhf.models.utils import compute_approx_kl  # noqa: E402
from openrlhf.trainer.ppo_utils.experience import Experience  # noqa: E402
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker  # noqa: E402
from openrlhf.trainer.ppo_utils.length_penalty import apply_overlong_penalty  # noqa: E402
from openrlhf.utils.loss_utils import iter_grad_accum_global_norm  # noqa: E402


def advantage_of(estimator: str, given: dict, group: int = GROUP):
    """`RemoteExperienceMaker.compute_advantages_and_returns` on one experience of all rows."""
    reward = torch.tensor(given["reward"], dtype=torch.float32)
    mask = torch.tensor(given.get("mask", [[1]] * len(reward)))
    kl = torch.zeros(mask.shape)
    if "reference" in given:
        kl = compute_approx_kl(*torch_rows(given, "new", "reference"), kl_estimator="k1")
    advantage = SimpleNamespace(estimator=estimator, gamma=1.0, lambd=1.0, no_std_norm=False)
    args = SimpleNamespace(
        algo=SimpleNamespace(advantage=advantage),
        rollout=SimpleNamespace(n_samples_per_prompt=group),
        reward=SimpleNamespace(clip_range=(-10, 10)),
    )
    maker = SimpleNamespace(strategy=SimpleNamespace(args=args), advantage_estimator=estimator)
    maker.kl_ctl = SimpleNamespace(value=0.01)
    maker.get_cumulative_returns = lambda *call: RemoteExperienceMaker.get_cumulative_returns(maker, *call)
    experience = Experience(rewards=reward, action_mask=mask, kl=kl, index=list(range(len(reward))))
    experiences = RemoteExperienceMaker.compute_advantages_and_returns(maker, [experience])
    return experiences[0].advantages


def loss_of(rows: dict, micro_batches: int = 1, **settings) -> dict:
    """`PolicyLoss`, with the denominators that the trainer hands it, summed over micro-batches."""
    mask, old, new, advantage = torch_rows(rows, "mask", "old", "new", "advantage")
    advantage = advantage if advantage.ndim == 2 else advantage[:, None].expand_as(mask)
    rollout = torch_rows(rows, "rollout")[0] if "rollout" in rows else None
    new.requires_grad_(True)
    parts = torch.arange(len(mask)).chunk(micro_batches)
    loss = 0.0
    for part, info in iter_grad_accum_global_norm(parts, None, micro_batches, lambda part: mask[part]):
        given = (
            new[part],
            old[part],
            advantage[part],
            mask[part],
            None if rollout is None else rollout[part],
        )
        loss += PolicyLoss(**settings)(*given, **info)[0] / micro_batches  # DeepSpeed's division
    return gradient_of(loss, new)


LOSSES = {
    "ppo": ({}, "rows", "the default: clip 0.2, no dual clip, mean over the tokens of the batch"),
    "ppo_dual": ({"dual_clip": 3.0}, "rows", ""),
    "ppo_extreme": ({}, "rows_extreme", "log-ratio clamped to 20: no gradient beyond"),
    "ppo_empty": ({}, "rows_empty", ""),
    "dapo": ({"clip_eps_high": 0.28}, "rows", ""),
    "grpo": ({"token_level_loss": False}, "rows", "the paper's aggregate"),
    "grpo_empty": ({"token_level_loss": False}, "rows_empty", "empty rows do not count"),
    "gspo": ({"policy_loss_type": "gspo"}, "rows", "sequence form, clip 0.2, always mean over rows"),
    "gspo_paper": ({"policy_loss_type": "gspo", "clip_eps_low": 3e-4, "clip_eps_high": 4e-4}, "rows", ""),
    "gspo_varying": ({"policy_loss_type": "gspo"}, "rows_varying", "differentiated through the mean"),
    "gspo_extreme": ({"policy_loss_type": "gspo"}, "rows_extreme", "no clamp"),
    "gspo_correction": (
        {"policy_loss_type": "gspo", "is_correction_level": "token"},
        "rows",
        "the correction turns the ratio's denominator into `rollout`, whatever its mode",
    ),
    "ppo_tis": (
        {"is_correction_level": "token", "is_correction_mode": "clip"},
        "rows",
        "the trainer / rollout ratio clamped into [0.5, 5]: from below too",
    ),
    "ppo_icepop": ({"is_correction_level": "token"}, "rows", "the mode's default, mask: 0 outside [0.5, 5]"),
    "ppo_sequence_mask": (
        {"is_correction_level": "seq", "is_correction_threshold": (0.5, 1.5)},
        "rows",
        "rows whose geometric mean is outside are dropped, the others keep token weights",
    ),
}


def run() -> Record:
    record = Record("openrlhf")
    function = "RemoteExperienceMaker.compute_advantages_and_returns"
    notes = {
        "group_norm": "std with ddof 1, + 1e-9 outside; the reward clip at 10 comes after it",
        "reinforce_baseline": "group mean, then whitened over all tokens: population variance, at least 1e-8",
    }
    for estimator in ("group_norm", "dr_grpo", "rloo", "reinforce_baseline"):
        advantage = advantage_of(estimator, INPUTS["rewards"])[:, 0]
        record.add(
            f"advantage/{estimator}",
            function,
            {"estimator": estimator},
            "rewards",
            notes.get(estimator, ""),
            advantage=advantage,
        )
    for estimator in ("rloo", "group_norm"):
        record.add(
            f"advantage/{estimator}_kl",
            function,
            {"estimator": estimator, "n_samples_per_prompt": 2, "kl.init_coef": 0.01},
            "kl_reward",
            "[B, T]: baseline first, clip at 10, then - 0.01 k1 a token, undiscounted reward-to-go",
            advantage=advantage_of(estimator, INPUTS["kl_reward"], 2),
        )
    for name, (settings, inputs, note) in LOSSES.items():
        record.add(
            f"loss/{name}",
            "models.loss.PolicyLoss",
            settings,
            inputs,
            note,
            **loss_of(INPUTS[inputs], **settings),
        )
    for name, settings in {"ppo": {}, "grpo": {"token_level_loss": False}}.items():
        record.add(
            f"loss/{name}_accumulated",
            "models.loss.PolicyLoss",
            settings,
            "rows",
            "rows 0-1 and 2-3 as two micro-batches of one update",
            **loss_of(ROWS, 2, **settings),
        )
    rest(record)
    return record


def rest(record: Record) -> None:
    for unbiased in (False, True):
        for kind in ("k1", "k2", "k3"):
            new, reference = torch_rows(INPUTS["kl_points"], "new", "reference")
            new.requires_grad_(True)
            value = compute_approx_kl(new, reference, kl_estimator=kind, unbiased_gradient=unbiased)
            gradient = torch.autograd.grad(value.sum(), new)[0]
            note = "value clamped to 10 and the gradient is k2's" if unbiased else "value clamped to 10"
            record.add(
                f"kl/{kind}" + "_unbiased" * unbiased,
                "models.utils.compute_approx_kl",
                {"kl_estimator": kind, "unbiased_gradient": unbiased},
                "kl_points",
                note,
                value=value,
                gradient=gradient,
            )
    new, old, reference = torch_rows(ROWS, "new", "old", "reference")
    new.requires_grad_(True)
    value = compute_approx_kl(new, reference, old, kl_estimator="k3", unbiased_gradient=True)
    record.add(
        "kl/k3_unbiased_off_policy",
        "models.utils.compute_approx_kl",
        {"kl_estimator": "k3", "unbiased_gradient": True},
        "rows",
        "value of k3; gradient = min(new/old, 10) * k1 * d log-prob",
        value=value,
        gradient=torch.autograd.grad(value.sum(), new)[0],
    )
    for inputs in ("rows", "rows_empty"):
        new, mask = torch_rows(INPUTS[inputs], "new", "mask")
        for level in (True, False):
            name = ("token-mean" if level else "seq-mean-token-mean") + "_empty" * (inputs == "rows_empty")
            record.add(
                f"aggregate/{name}",
                "models.loss.aggregate_loss",
                {"token_level_loss": level},
                inputs,
                loss=aggregate_loss(new, mask, level),
            )
    given = INPUTS["lengths"]
    rows = SimpleNamespace(
        response_length=torch.tensor(given["length"]), rewards=torch.zeros(len(given["length"]))
    )
    apply_overlong_penalty([rows], given["maximum"], given["cache"])
    record.add("overlong/dapo", "length_penalty.apply_overlong_penalty", {}, "lengths", penalty=rows.rewards)
