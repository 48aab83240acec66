"""Golden numbers of verl: its functions of tensors, and the actor's whole loss."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import torch
from omegaconf import OmegaConf
from peer_record import GROUP, INPUTS, ROWS, Record
from peer_torch import gradient_of, stand_in, torch_rows
from tensordict import TensorDict
from verl import DataProto
from verl.experimental.reward_loop.reward_manager.dapo import DAPORewardManager
from verl.trainer.ppo.core_algos import (
    FixedKLController,
    agg_loss,
    get_adv_estimator_fn,
    get_policy_loss_fn,
    kl_penalty,
)
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_rejection_mask as correct
from verl.workers.config import ActorConfig, PolicyLossConfig
from verl.workers.utils import losses

stand_in("fastapi", "uvicorn", "accelerate", "cachetools", "peft", "torchdata")

from verl.trainer.ppo.ray_trainer import apply_kl_penalty  # noqa: E402

VERSIONS = ["verl", "torch", "tensordict"]


def actor_config(**settings):
    return ActorConfig(strategy="fsdp", rollout_n=GROUP, ppo_micro_batch_size_per_gpu=4, **settings)


def loss_of(mode: str, rows: dict, weight=None, **settings) -> dict:
    """The registered policy loss under an `ActorConfig`."""
    mask, old, new, advantage = torch_rows(rows, "mask", "old", "new", "advantage")
    advantage = advantage if advantage.ndim == 2 else advantage[:, None].expand_as(mask)
    config = actor_config(**settings)
    new.requires_grad_(True)
    loss, _ = get_policy_loss_fn(mode)(old, new, advantage, mask, config.loss_agg_mode, config, weight)
    return gradient_of(loss, new)


def trainer_loss(rows: dict, micro_batches: int = 1, **settings) -> dict:
    """`ppo_loss`, the actor's whole loss: policy loss and KL; only its unpadding is left out."""
    losses.no_padding_2_padding = lambda tensor, _: tensor
    mask, old, new, reference, advantage = torch_rows(rows, "mask", "old", "new", "reference", "advantage")
    new.requires_grad_(True)
    whole = {"response_mask": mask, "old_log_probs": old, "ref_log_prob": reference}
    whole["advantages"] = advantage[:, None].expand_as(mask)
    loss = 0.0
    for part in torch.arange(len(mask)).chunk(micro_batches):
        data = TensorDict({name: value[part] for name, value in whole.items()}, batch_size=len(part))
        totals = {"dp_size": 1, "batch_num_tokens": int(mask.sum()), "global_batch_size": len(mask)}
        for name, value in totals.items():
            data.set_non_tensor(name, value)
        loss += losses.ppo_loss(actor_config(**settings), {"log_probs": new[part]}, data)[0]
    return gradient_of(loss, new)


LOSSES = {
    "ppo": ("vanilla", {}, "rows", "the default: dual clip c = 3 always on, clip 0.2, token-mean"),
    "ppo_extreme": ("vanilla", {}, "rows_extreme", "log-ratio clamped to 20 before the exponential"),
    "grpo": (
        "vanilla",
        {"loss_agg_mode": "seq-mean-token-mean"},
        "rows",
        "the paper's aggregate, dual clip still on",
    ),
    "grpo_empty": (
        "vanilla",
        {"loss_agg_mode": "seq-mean-token-mean"},
        "rows_empty",
        "empty rows do not count",
    ),
    "dapo": (
        "vanilla",
        {"clip_ratio_high": 0.28, "clip_ratio_c": 10.0},
        "rows",
        "the DAPO recipe's settings",
    ),
    "dr_grpo": (
        "vanilla",
        {"loss_agg_mode": "seq-mean-token-sum-norm", "loss_scale_factor": 8},
        "rows",
        "called by itself the factor is not passed on: it is the width of the mask, 5",
    ),
    "gspo": ("gspo", {"loss_agg_mode": "seq-mean-token-mean"}, "rows", "token form, clip 0.2, no dual clip"),
    "gspo_default": ("gspo", {}, "rows", "loss_agg_mode is honoured, and its default is token-mean"),
    "gspo_paper": (
        "gspo",
        {"loss_agg_mode": "seq-mean-token-mean", "clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4},
        "rows",
        "",
    ),
    "gspo_varying": ("gspo", {"loss_agg_mode": "seq-mean-token-mean"}, "rows_varying", "token form"),
    "gspo_extreme": (
        "gspo",
        {"loss_agg_mode": "seq-mean-token-mean"},
        "rows_extreme",
        "only the mean is clamped, at 10",
    ),
    "sapo": ("sapo", {}, "rows", "always seq-mean-token-mean, whatever loss_agg_mode says"),
    "sapo_extreme": ("sapo", {}, "rows_extreme", ""),
    "reinforce": ("gpg", {}, "rows", "verl's `gpg` is not this project's: -log_prob * advantage, token-mean"),
}


def run() -> Record:
    record = Record("verl")
    advantages(record)
    kl_in_reward(record)
    for name, (mode, settings, inputs, note) in LOSSES.items():
        outputs = loss_of(mode, INPUTS[inputs], **settings)
        record.add(
            f"loss/{name}", f"core_algos.get_policy_loss_fn({mode!r})", settings, inputs, note, **outputs
        )
    whole = {
        "grpo_kl": ({"use_kl_loss": True, "kl_loss_coef": 0.04, "loss_agg_mode": "seq-mean-token-mean"}, ""),
        "grpo_kl_default": ({"use_kl_loss": True}, "coefficient 0.001, low_var_kl, token-mean"),
        "dr_grpo_trainer": (
            {"loss_agg_mode": "seq-mean-token-sum-norm", "loss_scale_factor": 8},
            "mean over rows / 8",
        ),
        "sapo_kl": (
            {"policy_loss": PolicyLossConfig(loss_mode="sapo"), "use_kl_loss": True, "kl_loss_coef": 0.04},
            "the surrogate by rows, the KL by loss_agg_mode",
        ),
        "ppo_accumulated": (
            {},
            "rows 0-1 and 2-3 as two micro-batches of one update: the whole batch's denominators",
        ),
    }
    for name, (settings, note) in whole.items():
        outputs = trainer_loss(ROWS, 2 if name.endswith("accumulated") else 1, **settings)
        if "policy_loss" in settings:
            settings = settings | {"policy_loss": {"loss_mode": settings["policy_loss"].loss_mode}}
        record.add(f"loss/{name}", "workers.utils.losses.ppo_loss", settings, "rows", note, **outputs)
    kl_and_aggregate(record)
    corrections(record)
    overlong(record)
    return record


def advantages(record: Record) -> None:
    calls = {
        "grpo": ("grpo", {}, "std with ddof 1, + 1e-6 outside"),
        "grpo_vectorized": ("grpo_vectorized", {}, "equals grpo: the variance is centred and has no floor"),
        "dr_grpo": ("grpo", {"norm_adv_by_std_in_grpo": False}, ""),
        "rloo": ("rloo", {}, ""),
        "rloo_vectorized": ("rloo_vectorized", {}, ""),
    }
    for name, (estimator, settings, note) in calls.items():
        for inputs in ("rewards", "singletons"):
            given = INPUTS[inputs]
            reward = torch.tensor(given["reward"], dtype=torch.float32)[:, None]
            advantage, _ = get_adv_estimator_fn(estimator)(
                token_level_rewards=reward,
                response_mask=torch.ones_like(reward),
                index=np.array(given["group"]),
                **settings,
            )
            single = {"rloo_vectorized": "0"}.get(name, "a row alone keeps its raw reward")
            record.add(
                f"advantage/{name}" + "_singleton" * (inputs == "singletons"),
                f"core_algos.get_adv_estimator_fn({estimator!r})",
                settings,
                inputs,
                note if inputs == "rewards" else single,
                advantage=advantage[:, 0],
            )


def kl_in_reward(record: Record) -> None:
    """`apply_kl_penalty`, then the estimator on the sums of what it leaves."""
    calls = {
        "grpo_kl": ("grpo", {}, "kl_reward_group"),
        "dr_grpo_kl": ("grpo", {"norm_adv_by_std_in_grpo": False}, "kl_reward"),
        "rloo_kl": ("rloo", {}, "kl_reward"),
    }
    for name, (estimator, settings, inputs) in calls.items():
        mask, new, reference = torch_rows(INPUTS[inputs], "mask", "new", "reference")
        score = torch.zeros(mask.shape)
        last = mask.sum(1).long() - 1
        score[torch.arange(len(mask)), last] = torch.tensor(INPUTS[inputs]["reward"])
        whole = {"response_mask": mask, "token_level_scores": score}
        data = DataProto.from_dict(tensors=whole | {"old_log_probs": new, "ref_log_prob": reference})
        data, _ = apply_kl_penalty(data, FixedKLController(kl_coef=0.05))
        advantage, _ = get_adv_estimator_fn(estimator)(
            token_level_rewards=data.batch["token_level_rewards"],
            response_mask=mask,
            index=np.array(INPUTS[inputs]["group"]),
            **settings,
        )
        record.add(
            f"advantage/{name}",
            f"ray_trainer.apply_kl_penalty, core_algos.get_adv_estimator_fn({estimator!r})",
            settings | {"use_kl_in_reward": True, "kl_ctrl.kl_coef": 0.05},
            inputs,
            "default kl_penalty, k1: the row's sum is taken from the reward before the comparison",
            advantage=advantage[:, 0],
        )


def kl_and_aggregate(record: Record) -> None:
    for kind in ("k1", "abs", "k2", "k3", "k1+", "abs+", "k3+"):
        new, reference = torch_rows(INPUTS["kl_points"], "new", "reference")
        new.requires_grad_(True)
        value = kl_penalty(new, reference, kind)
        gradient = torch.autograd.grad(value.sum(), new)[0]
        note = {"k3": "exponent clamped to 20, value to 10", "k3+": "value of k3, gradient of k2"}.get(
            kind, ""
        )
        record.add(
            f"kl/{kind}",
            "core_algos.kl_penalty",
            {"kl_penalty": kind},
            "kl_points",
            note,
            value=value,
            gradient=gradient,
        )
    modes = [
        "token-mean",
        "token-sum",
        "seq-mean-token-sum",
        "seq-mean-token-mean",
        "seq-mean-token-sum-norm",
    ]
    for inputs in ("rows", "rows_empty"):
        new, mask = torch_rows(INPUTS[inputs], "new", "mask")
        for mode in modes:
            note = "/ rows that are not empty, / width of the mask" if mode.endswith("norm") else ""
            record.add(
                f"aggregate/{mode}" + "_empty" * (inputs == "rows_empty"),
                "core_algos.agg_loss",
                {"loss_agg_mode": mode},
                inputs,
                note,
                loss=agg_loss(new, mask, mode),
            )


def corrections(record: Record) -> None:
    mask, old, rollout = torch_rows(ROWS, "mask", "old", "rollout")
    calls = {
        "token": ({"rollout_is": "token"}, "truncated at 2, the default"),
        "sequence": ({"rollout_is": "sequence"}, "product over the row, truncated at 2"),
        "icepop": ({"rollout_is": "token", "rollout_is_threshold": "0.5_5.0"}, "0 outside [0.5, 5]"),
        "token_normalised": (
            {"rollout_is": "token", "rollout_is_batch_normalize": True},
            "self-normalised: mean 1",
        ),
    }
    for name, (settings, note) in calls.items():
        weight, _, _ = correct(old, rollout, mask, **settings)
        weight = weight.batch["rollout_is_weights"]
        record.add(
            f"correction/{name}",
            "rollout_corr_helper.compute_rollout_correction_and_rejection_mask",
            settings,
            "rows",
            note,
            weight=weight,
        )
        if name == "token":
            record.add(
                "loss/ppo_token_correction",
                "core_algos.get_policy_loss_fn('vanilla')",
                settings,
                "rows",
                "times correction/token",
                **loss_of("vanilla", ROWS, weight),
            )
    for option, bound in (("seq_mean_k1", "0.9_1.2"), ("token_k1", "0.5_2.0"), ("seq_mean_k3", "0.2")):
        settings = {"rollout_rs": option, "rollout_rs_threshold": bound}
        _, kept, _ = correct(old, rollout, mask, **settings)
        record.add(
            f"correction/{option}",
            "rollout_corr_helper.compute_rollout_correction_and_rejection_mask",
            settings,
            "rows",
            "rejection: `weight` is the mask that is left; k1's bounds are on rollout / trainer",
            weight=kept,
        )


def overlong(record: Record) -> None:

    given = INPUTS["lengths"]
    overlong = {"enable": True, "len": given["cache"], "penalty_factor": 1.0, "log": False}
    settings = {"overlong_buffer_cfg": overlong, "max_resp_len": given["maximum"]}
    config = OmegaConf.create({"reward": {"reward_kwargs": settings}})
    tokenizer = SimpleNamespace(decode=lambda *_, **__: "")

    async def penalties() -> list[float]:
        manager = DAPORewardManager(config, tokenizer, compute_score=lambda **_: 0.0)
        return [(await manager.run_single(row(length)))["reward_score"] for length in given["length"]]

    def row(length: int) -> DataProto:
        mask = (torch.arange(given["length"][-1]) < length).long()[None]
        return DataProto.from_dict(
            tensors={"responses": torch.ones_like(mask), "attention_mask": mask},
            non_tensors={"data_source": ["none"], "reward_model": [{"ground_truth": ""}]},
        )

    values = [float(value) for value in asyncio.run(penalties())]
    record.add(
        "overlong/dapo",
        "DAPORewardManager.run_single",
        settings,
        "lengths",
        "no floor beyond the maximum",
        penalty=values,
    )
