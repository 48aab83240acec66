"""Golden numbers of TRL: real trainers, which are handed completions, rewards and log-probs."""

from __future__ import annotations

import tempfile

import torch
import trl
from datasets import Dataset
from peer_record import GROUP, INPUTS, ROWS, Record
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl.rewards import get_soft_overlong_punishment

VERSIONS = ["trl", "torch", "transformers"]
EOS = 1


def build_trainer(kind: str, rows: int, **settings):
    """A real trainer around a model of one tiny layer, which is never asked anything."""
    words = {"<pad>": 0, "<eos>": EOS, "<unk>": 2, "w": 3}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")),
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
    )
    folder = tempfile.mkdtemp()  # on disk, so that the trainer can load its reference model
    shape = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4}
    LlamaForCausalLM(LlamaConfig(**shape, vocab_size=4)).save_pretrained(folder)
    settings = {"per_device_train_batch_size": rows, "num_generations": GROUP} | settings
    config = getattr(trl, f"{kind}Config")(
        output_dir=folder, use_cpu=True, bf16=False, report_to=[], **settings
    )
    trainer = getattr(trl, f"{kind}Trainer")(
        model=folder,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "w"}] * rows),
        processing_class=tokenizer,
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = config.gradient_accumulation_steps
    return trainer


def score_of(trainer, completions: list[list[int]], rewards: list[float], **given) -> dict:
    """`_generate_and_score_completions` on given completions and rewards: advantages, correction."""
    trainer.reward_funcs = [lambda completions, **_: rewards]
    prompts = [[3]] * len(completions)
    texts = ["w"] * len(completions)
    masks, sampled = given.get("masks"), given.get("sampled")
    answer = (prompts, completions, masks, texts, sampled, {}, None, None)
    trainer._generate = lambda _: (
        answer if type(trainer).__name__ == "GRPOTrainer" else (prompts, completions, texts)
    )
    zeros = torch.zeros(len(completions), max(map(len, completions)))
    new, reference = given.get("log_prob", zeros), given.get("reference", zeros)
    trainer._get_per_token_logps_and_entropies = lambda model, *_, **__: (
        (reference if model is trainer.ref_model else new),
        None,
        None,
    )
    return trainer._generate_and_score_completions([{"prompt": "w"} for _ in completions])


def loss_of(trainer, rows: dict, **extra):
    """`_compute_loss` and its gradient with respect to the log-probs."""
    mask = torch.tensor(rows["mask"])
    new = torch.tensor(rows["new"], requires_grad=True)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (new, torch.zeros_like(new), None)
    ids = torch.full(mask.shape, 3)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": torch.ones_like(ids[:, :1]),
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": torch.tensor(rows["advantage"]),
        "old_per_token_logps": torch.tensor(rows["old"]),
        "num_items_in_batch": mask.sum(),
    }
    if "reference" in rows:
        inputs["ref_per_token_logps"] = torch.tensor(rows["reference"])
    loss = trainer._compute_loss(trainer.model, inputs | extra)
    (gradient,) = torch.autograd.grad(loss, new)
    return {"loss": loss.item(), "gradient": gradient}


LOSSES = {
    "dapo_default": (
        {},
        "rows",
        "the default loss: clip 0.2 on both sides, mean over the tokens of the batch",
    ),
    "dapo": ({"epsilon_high": 0.28}, "rows", ""),
    "grpo": ({"loss_type": "grpo"}, "rows", ""),
    "grpo_extreme": ({"loss_type": "grpo"}, "rows_extreme", "no clamp of the log-ratio"),
    "grpo_empty": ({"loss_type": "grpo"}, "rows_empty", "an empty row counts in the mean over rows"),
    "dapo_empty": ({}, "rows_empty", ""),
    "dr_grpo_empty": ({"loss_type": "dr_grpo", "max_completion_length": 8}, "rows_empty", ""),
    "grpo_kl": ({"loss_type": "grpo", "beta": 0.04}, "rows", "k3 times the ratio, the ratio differentiated"),
    "grpo_kl_unweighted": (
        {"loss_type": "grpo", "beta": 0.04, "use_bias_correction_kl": False},
        "rows",
        "plain k3",
    ),
    "grpo_delta": ({"loss_type": "grpo", "delta": 3.0}, "rows", "two-sided: the ratio is capped where A < 0"),
    "bnpo": ({"loss_type": "bnpo"}, "rows", "mean over the tokens of the micro-batch"),
    "dr_grpo": (
        {"loss_type": "dr_grpo", "max_completion_length": 8},
        "rows",
        "/ (rows * max_completion_length)",
    ),
    "gspo": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},
        "rows",
        "clip 0.2, not the paper's",
    ),
    "gspo_paper": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
        "rows",
        "the settings that TRL's paper index gives",
    ),
    "gspo_token_mean": (
        {"importance_sampling_level": "sequence"},
        "rows",
        "default loss_type: rows weigh by length",
    ),
    "gspo_kl": (
        {"importance_sampling_level": "sequence", "beta": 0.04},
        "rows",
        "k3 times the ratio of the sequence, differentiated through its mean",
    ),
    "gspo_extreme": ({"loss_type": "grpo", "importance_sampling_level": "sequence"}, "rows_extreme", ""),
    "gspo_varying": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},
        "rows_varying",
        "sequence form: differentiated through the mean, which averages a varying advantage",
    ),
    "sapo": ({"loss_type": "sapo"}, "rows", "mean over rows of token means"),
    "sapo_extreme": ({"loss_type": "sapo"}, "rows_extreme", ""),
}


def run() -> Record:
    record = Record("trl")
    rewards = INPUTS["rewards"]["reward"]
    full = [[3, EOS]] * len(rewards)
    score = "GRPOTrainer._generate_and_score_completions"
    for scale, note in (
        ("group", "std with ddof 1, + 1e-4 outside"),
        ("batch", "group mean, std of the batch, ddof 1"),
        ("none", ""),
    ):
        result = score_of(build_trainer("GRPO", 16, scale_rewards=scale), full, rewards)
        name = {"group": "grpo", "batch": "batch_std", "none": "dr_grpo"}[scale]
        record.add(
            f"advantage/{name}",
            score,
            {"scale_rewards": scale},
            "rewards",
            note,
            advantage=result["advantages"],
        )
    trainer = build_trainer("GRPO", 2, num_generations=2, num_generations_eval=1)
    trainer.model.eval()
    result = score_of(trainer, full[:2], INPUTS["singletons"]["reward"])
    record.add(
        "advantage/grpo_singleton",
        score,
        {"num_generations_eval": 1},
        "singletons",
        "only evaluation allows it",
        advantage=result["advantages"],
    )
    result = score_of(build_trainer("RLOO", 16, beta=0.0), full, rewards)
    rloo = "RLOOTrainer._generate_and_score_completions"
    record.add("advantage/rloo", rloo, {"beta": 0.0}, "rewards", advantage=result["advantages"])
    result = score_of(build_trainer("RLOO", 16, beta=0.0, normalize_advantages=True), full, rewards)
    record.add(
        "advantage/rloo_normalised",
        rloo,
        {"beta": 0.0, "normalize_advantages": True},
        "rewards",
        "whitened over the batch, ddof 1, + 1e-4",
        advantage=result["advantages"],
    )
    losses(record)
    corrections(record)
    overlong(record)
    return record


def losses(record: Record) -> None:
    for name, (settings, inputs, note) in LOSSES.items():
        rows = INPUTS[inputs]
        trainer = build_trainer("GRPO", len(rows["mask"]), num_generations=2, **settings)
        outputs = loss_of(trainer, rows)
        record.add(f"loss/{name}", "GRPOTrainer._compute_loss", settings, inputs, note, **outputs)
    for name in ("dapo", "grpo", "bnpo"):
        settings = {"loss_type": name, "gradient_accumulation_steps": 2, "steps_per_generation": 2}
        trainer = build_trainer("GRPO", 2, num_generations=2, **settings)
        items = torch.tensor(ROWS["mask"]).sum()
        parts = [
            loss_of(trainer, {key: value[part] for key, value in ROWS.items()}, num_items_in_batch=items)
            for part in (slice(0, 2), slice(2, 4))
        ]
        gradient = torch.cat([part["gradient"] for part in parts])
        record.add(
            f"loss/{name}_accumulated",
            "GRPOTrainer._compute_loss",
            settings,
            "rows",
            "rows 0-1 and 2-3 as two micro-batches of one update",
            loss=sum(part["loss"] for part in parts),
            gradient=gradient,
        )
    # RLOO: the ratio of the whole sequence, a product
    mask, old = (torch.tensor(ROWS[key]) for key in ("mask", "old"))
    trainer = build_trainer("RLOO", 4, num_generations=2)
    outputs = loss_of(trainer, ROWS, old_logps=(old * mask).sum(1))
    record.add(
        "loss/rloo",
        "RLOOTrainer._compute_loss",
        {},
        "rows",
        "product ratio of the sequence, clip 0.2, mean over rows",
        **outputs,
    )
    rows = INPUTS["kl_reward"]
    completions = [[3] * sum(row) for row in rows["mask"]]
    given = {"log_prob": torch.tensor(rows["new"]), "reference": torch.tensor(rows["reference"])}
    result = score_of(build_trainer("RLOO", 4, num_generations=2), completions, rows["reward"], **given)
    record.add(
        "advantage/rloo_kl",
        "RLOOTrainer._generate_and_score_completions",
        {"num_generations": 2},
        "kl_reward",
        "default beta 0.05: the row's sum of k1 is taken from the reward before the baseline",
        advantage=result["advantages"],
    )


def corrections(record: Record) -> None:
    lengths, mask = (2, 4, 1, 4), ROWS["mask"]
    given = {
        "masks": [row[:n] for row, n in zip(mask, lengths, strict=True)],
        "sampled": [row[:n] for row, n in zip(ROWS["rollout"], lengths, strict=True)],
        "log_prob": torch.tensor(ROWS["old"])[:, :4],
    }
    modes = ["sequence_mask", "sequence_truncate", "token_mask", "token_truncate"]
    for mode in modes:
        trainer = build_trainer(
            "GRPO", 4, num_generations=2, vllm_importance_sampling_mode=mode, loss_type="grpo"
        )
        trainer.use_vllm = True
        result = score_of(trainer, [[3] * n for n in lengths], ROWS["advantage"], **given)
        weight = result["importance_sampling_ratio"]
        settings = {"vllm_importance_sampling_mode": mode, "vllm_importance_sampling_clip_max": 3.0}
        note = {"sequence_mask": "the default: product over the row, 0 above 3"}.get(mode, "")
        record.add(
            f"correction/{mode}",
            "GRPOTrainer._generate_and_score_completions",
            settings,
            "rows",
            note,
            weight=weight,
        )
        if mode in ("sequence_mask", "token_truncate"):
            weight = weight if weight.shape[1] == 1 else torch.nn.functional.pad(weight, (0, 1), value=1.0)
            outputs = loss_of(trainer, ROWS, importance_sampling_ratio=weight)
            record.add(
                f"loss/grpo_{mode}",
                "GRPOTrainer._compute_loss",
                settings | {"loss_type": "grpo"},
                "rows",
                "times the correction/ case of the same mode; the KL term would not be",
                **outputs,
            )
    trainer = build_trainer("GRPO", 4, num_generations=2, mask_truncated_completions=True)
    result = score_of(trainer, [[3, EOS], [3, 3, 3, EOS], [3] * 5, [3, 3, EOS]], ROWS["advantage"])
    record.add(
        "advantage/grpo_truncated",
        "GRPOTrainer._generate_and_score_completions",
        {"mask_truncated_completions": True, "num_generations": 2},
        "rows",
        "rewards are `advantage` of the set; row 2 is truncated: no loss, no token in the denominator, but "
        "its reward stays in its group's mean and std",
        advantage=result["advantages"],
        tokens=result["num_items_in_batch"],
    )


def overlong(record: Record) -> None:
    lengths = INPUTS["lengths"]
    punish = get_soft_overlong_punishment(lengths["maximum"], lengths["cache"])
    record.add(
        "overlong/dapo",
        "trl.rewards.get_soft_overlong_punishment",
        {},
        "lengths",
        penalty=punish([[3] * n for n in lengths["length"]]),
    )
