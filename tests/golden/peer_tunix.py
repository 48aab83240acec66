"""Golden numbers of tunix: its registered losses and estimators, without the model's forward pass."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import MagicMock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from peer_record import GROUP, INPUTS, ROWS, Record
from tunix.rl import common, function_registry
from tunix.rl.agentic.agentic_grpo_learner import GRPOConfig as AgenticConfig
from tunix.rl.agentic.agentic_grpo_learner import GRPOLearner
from tunix.rl.grpo.dapo_learner import DAPOConfig, reward_shaping
from tunix.rl.grpo.drgrpo_learner import DrGRPOConfig
from tunix.rl.grpo.grpo_learner import GRPOConfig
from tunix.rl.ppo.ppo_learner import PPOConfig

VERSIONS = ["google-tunix", "jax", "flax"]
EOS = 1


def loss_of(config, rows: dict, weight=None, function: str = "grpo") -> dict:
    """The registered policy loss; only the model's forward pass is replaced."""
    array = {name: jnp.asarray(value) for name, value in rows.items()}
    mask, advantage = array["mask"], array["advantage"]
    if function == "ppo" and advantage.ndim == 1:
        advantage = jnp.broadcast_to(advantage[:, None], mask.shape)
    example = common.TrainExample(
        prompt_ids=mask[:, :1],
        prompt_mask=mask[:, :1],
        completion_ids=mask,
        completion_mask=mask,
        advantages=advantage,
        old_per_token_logps=array["old"],
        ref_per_token_logps=array.get("reference"),
        sampler_is_weights=weight,
    )

    def loss(new):
        common.compute_per_token_logps = lambda *_, **__: (new, jnp.zeros((*new.shape, 2)))
        call = function_registry.get_policy_loss_fn(function)
        return call(nnx.Module(), example, algo_config=config, pad_id=0, eos_id=EOS)[0]

    value, gradient = jax.value_and_grad(loss)(array["new"])
    return {"loss": float(value), "gradient": gradient}


def config_of(kind: str, **settings):
    kinds = {"grpo": GRPOConfig, "drgrpo": DrGRPOConfig, "dapo": DAPOConfig, "ppo": PPOConfig}
    late = {
        name: settings.pop(name)
        for name in ("epsilon_high", "epsilon_c")
        if name in settings and kind == "grpo"
    }
    config = kinds[kind](**settings)
    for name, value in late.items():  # read by the loss, but no fields of GRPOConfig
        setattr(config, name, value)
    if kind != "ppo":
        config.temperature = 1.0  # the learner copies it from the rollout's settings
    return config


LOSSES = {
    "grpo": ("grpo", {}, "rows", "the default: beta 0.04 times k1 in the loss, whose expected gradient is 0"),
    "grpo_unregularised": ("grpo", {"beta": 0.0}, "rows", ""),
    "grpo_k3": ("grpo", {"kl_loss_mode": "low_var_kl"}, "rows", "beta 0.04"),
    "grpo_extreme": ("grpo", {"beta": 0.0}, "rows_extreme", "log-ratio clamped to 20"),
    "grpo_empty": ("grpo", {"beta": 0.0}, "rows_empty", "empty rows do not count"),
    "grpo_dual": (
        "grpo",
        {"beta": 0.0, "epsilon_c": 3.0},
        "rows",
        "epsilon_c is read, but no field of GRPOConfig",
    ),
    "gspo_default": ("grpo", {"loss_algo": "gspo-token"}, "rows", "beta 0.04 times k1"),
    "gspo": ("grpo", {"beta": 0.0, "loss_algo": "gspo-token"}, "rows", "token form, clip 0.2"),
    "gspo_paper": (
        "grpo",
        {"beta": 0.0, "loss_algo": "gspo-token", "epsilon": 3e-4, "epsilon_high": 4e-4},
        "rows",
        "epsilon_high is read, but no field of GRPOConfig",
    ),
    "gspo_varying": ("grpo", {"beta": 0.0, "loss_algo": "gspo-token"}, "rows_varying", "token form"),
    "gspo_extreme": (
        "grpo",
        {"beta": 0.0, "loss_algo": "gspo-token"},
        "rows_extreme",
        "each log-ratio is clamped to 20 before the mean, which changes the ratio",
    ),
    "dr_grpo": (
        "drgrpo",
        {},
        "rows",
        "beta 0.04 times k1; mean over rows of the token sums / the width of the mask",
    ),
    "dr_grpo_unregularised": ("drgrpo", {"beta": 0.0}, "rows", ""),
    "dapo": ("dapo", {}, "rows", "clip 0.2 and 0.28, token-mean, no KL"),
    "ppo": ("ppo", {}, "rows", "no clamp, no dual clip; token-mean with 1e-8 in the denominator"),
    "ppo_dual": ("ppo", {"epsilon_c": 3.0}, "rows", ""),
    "ppo_extreme": ("ppo", {}, "rows_extreme", ""),
}


def run() -> Record:
    record = Record("tunix")
    advantages(record)
    names = {"ppo": "ppo_policy_loss_fn", "grpo": "grpo_loss_fn"}
    for name, (kind, settings, inputs, note) in LOSSES.items():
        function = "ppo" if kind == "ppo" else "grpo"
        outputs = loss_of(config_of(kind, **settings), INPUTS[inputs], function=function)
        settings = {"config": type(config_of(kind)).__name__} | settings
        record.add(f"loss/{name}", f"algo_core.{names[function]}", settings, inputs, note, **outputs)
    kl_and_aggregate(record)
    correction(record)

    given = INPUTS["lengths"]
    overlong = {
        "overlong_buffer_length": given["cache"],
        "overlong_buffer_penalty": 1.0,
        "max_response_length": given["maximum"],
    }
    penalty = reward_shaping([], ["c" * n for n in given["length"]], None, overlong)
    record.add(
        "overlong/dapo",
        "dapo_learner.reward_shaping",
        overlong,
        "lengths",
        "no floor beyond the maximum; the learner hands it strings, so its lengths are characters",
        penalty=[float(value) for value in penalty],
    )
    return record


def advantages(record: Record) -> None:
    notes = {
        "grpo": "std with ddof 1, + 1e-6 outside; a group of one would be NaN and is refused by GRPOConfig"
    }
    reward = np.asarray(INPUTS["rewards"]["reward"], np.float32)
    for name in ("grpo", "rloo", "drgrpo"):
        advantage = function_registry.get_advantage_estimator(name)(reward, GROUP)
        record.add(
            f"advantage/{name}",
            f"function_registry.get_advantage_estimator({name!r})",
            {},
            "rewards",
            notes.get(name, ""),
            advantage=advantage,
        )
    single = function_registry.get_advantage_estimator("rloo")(
        np.asarray(INPUTS["singletons"]["reward"], np.float32), num_generations=1
    )
    record.add(
        "advantage/rloo_singleton",
        "function_registry.get_advantage_estimator('rloo')",
        {},
        "singletons",
        advantage=single,
    )


def kl_and_aggregate(record: Record) -> None:
    new, reference = (jnp.asarray(INPUTS["kl_points"][name]) for name in ("new", "reference"))
    for method in ("kl", "mse_kl", "low_var_kl"):
        gradient = jax.vmap(jax.grad(lambda x, y, method=method: common.compute_kl_divergence(x, y, method)))
        record.add(
            f"kl/{method}",
            "common.compute_kl_divergence",
            {"method": method},
            "kl_points",
            "no clamp",
            value=common.compute_kl_divergence(new, reference, method),
            gradient=gradient(new, reference),
        )
    modes = {
        "token-mean": "",
        "sequence-mean-token-mean": "",
        "seq-mean-token-sum": "",
        "sequence-mean-token-scale": "/ width of the mask, mean over rows that are not empty",
        "sequence-mean-token-sum-norm": "despite its name only / rows that are not empty",
    }
    for inputs in ("rows", "rows_empty"):
        rows = {name: jnp.asarray(value) for name, value in INPUTS[inputs].items()}
        for mode, note in modes.items():
            record.add(
                f"aggregate/{mode}" + "_empty" * (inputs == "rows_empty"),
                "common.aggregate_loss",
                {"loss_agg_mode": mode},
                inputs,
                note,
                loss=common.aggregate_loss(rows["new"], rows["mask"], mode),
            )


def trajectory(mask: list[int], rollout: list[float]) -> SimpleNamespace:
    held = {"prompt_tokens": np.array([3]), "conversation_tokens": np.full(len(mask), 3), "policy_version": 0}
    held |= {"conversation_masks": np.array(mask), "old_logprobs": np.array(rollout, np.float32)}
    return SimpleNamespace(traj=held | {"original_input": {"prompts": ["w"]}})


def correction(record: Record) -> None:
    """`GRPOLearner._process_results` of the agentic learner on trajectories that hold the rows."""
    learner, width = MagicMock(), len(ROWS["mask"][0])
    learner.algo_config = AgenticConfig(sampler_is="token", max_response_length=width, beta=0.0)
    learner.rl_cluster.rollout.pad_id.return_value = 0
    learner.rl_cluster.rollout.eos_id.return_value = EOS
    learner.rl_cluster.cluster_config.rollout_config = SimpleNamespace(max_prompt_length=1)
    learner.rl_cluster.get_actor_per_token_logps.return_value = jnp.asarray(ROWS["old"])
    learner._compute_rewards.return_value = np.asarray(ROWS["advantage"], np.float32)
    learner.metric_fns = []
    rows = zip(ROWS["mask"], ROWS["rollout"], strict=True)
    (example,) = GRPOLearner._process_results(learner, [trajectory(*row) for row in rows])
    weight = example.sampler_is_weights
    settings = {"sampler_is": "token", "sampler_is_threshold": 2.0}
    record.add(
        "correction/token",
        "agentic_grpo_learner.GRPOLearner._process_results",
        settings,
        "rows",
        "truncated at 2",
        weight=weight,
    )
    outputs = loss_of(config_of("grpo", beta=0.0), ROWS, weight)
    record.add(
        "loss/grpo_correction",
        "algo_core.grpo_loss_fn",
        settings | {"beta": 0.0},
        "rows",
        "times correction/token",
        **outputs,
    )
