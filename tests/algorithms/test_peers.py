"""The conventions against numbers that the peers' own code gave (`tests/golden/generate_peers.py`).

Every case of `peers.json` is either reproduced here or named in `DIFFERENT` with the reason.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.algorithms.compose import (
    AGGREGATIONS,
    clip,
    compose,
    group_advantage,
    scalar_outcome,
    whole_output,
)
from gpg_jax.algorithms.settings import Settings, resolve
from gpg_jax.environments.shaping import soft_overlong
from gpg_jax.estimators import advantages
from gpg_jax.losses import corrections
from gpg_jax.losses.gates import no_gate
from gpg_jax.losses.objective import estimate, loss, penalty_coefficients, weigh
from gpg_jax.losses.penalties import kl_penalty
from gpg_jax.losses.ratios import no_ratio, unit_product_ratio
from gpg_jax.types import STOP_EOS, STOP_LENGTH, Batch, Method, Rollout, Scores

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "peers.json").read_text())
CASES = {case["id"]: case for case in GOLDEN["cases"]}
Choice = tuple[str, dict[str, Any]]

ROW_MEAN = {"aggregation": "sequence_mean"}
TOKEN_MEAN = {"aggregation": "token_mean"}
PEER_CLIP = {"clip_low": 0.2, "clip_high": 0.2}  # the peers' default for GSPO, not the paper's
REWARD_KL = {"kl_placement": "reward", "kl_estimator": "k1"}
CAP_3 = {"correction_cap": 3.0}
NO_FILTER = {"dynamic_sampling": False, "overlong_cache": None}

ADVANTAGES: dict[str, Choice] = {
    "trl/advantage/grpo": ("grpo", {}),
    "trl/advantage/batch_std": ("grpo", {"std_over": "batch"}),
    "trl/advantage/dr_grpo": ("dr_grpo", {}),
    "trl/advantage/grpo_singleton": ("grpo", {}),
    "trl/advantage/rloo": ("rloo", {}),
    "trl/advantage/rloo_kl": ("rloo", REWARD_KL | {"kl_coefficient": 0.05}),
    "verl/advantage/grpo": ("grpo", {}),
    "verl/advantage/grpo_singleton": ("grpo", {}),
    "verl/advantage/grpo_vectorized": ("grpo", {}),
    "verl/advantage/grpo_vectorized_singleton": ("grpo", {}),
    "verl/advantage/dr_grpo": ("dr_grpo", {}),
    "verl/advantage/dr_grpo_singleton": ("dr_grpo", {}),
    "verl/advantage/rloo": ("rloo", {}),
    "verl/advantage/rloo_vectorized": ("rloo", {}),
    "verl/advantage/rloo_vectorized_singleton": ("rloo", {}),
    "tunix/advantage/grpo": ("grpo", {"kl_coefficient": 0.0}),
    "tunix/advantage/rloo": ("rloo", {}),
    "tunix/advantage/rloo_singleton": ("rloo", {}),
    "tunix/advantage/drgrpo": ("dr_grpo", {}),
    "openrlhf/advantage/group_norm": ("grpo", {"kl_coefficient": 0.0}),
    "openrlhf/advantage/group_norm_kl": ("grpo", {}),
    "openrlhf/advantage/dr_grpo": ("dr_grpo", {}),
    "openrlhf/advantage/rloo": ("rloo", {}),
    "openrlhf/advantage/rloo_kl": ("rloo_and_rest", {"kl_coefficient": 0.01}),
}

LOSSES: dict[str, Choice] = {
    "trl/loss/dapo_default": ("grpo", {}),
    "trl/loss/dapo_accumulated": ("grpo", {}),
    "trl/loss/dapo_empty": ("grpo", {}),
    "trl/loss/bnpo": ("grpo", {}),
    "trl/loss/dapo": ("dapo", NO_FILTER),
    "trl/loss/grpo": ("grpo", ROW_MEAN),
    "trl/loss/grpo_accumulated": ("grpo", ROW_MEAN),
    "trl/loss/grpo_extreme": ("grpo", ROW_MEAN),
    "trl/loss/grpo_empty": ("grpo", ROW_MEAN),
    "trl/loss/grpo_kl": ("grpo", ROW_MEAN | {"kl_coefficient": 0.04}),
    "trl/loss/grpo_kl_unweighted": (
        "grpo",
        ROW_MEAN | {"kl_coefficient": 0.04, "kl_importance_weighted": False},
    ),
    "trl/loss/grpo_delta": ("grpo", ROW_MEAN | {"dual_clip": 3.0}),
    "trl/loss/grpo_sequence_mask": ("grpo", ROW_MEAN | CAP_3 | {"correction": "sequence_mask"}),
    "trl/loss/grpo_token_truncate": ("grpo", ROW_MEAN | CAP_3 | {"correction": "token"}),
    "trl/loss/dr_grpo": ("dr_grpo", {"max_length": 8}),
    "trl/loss/dr_grpo_empty": ("dr_grpo", {"max_length": 8}),
    "trl/loss/gspo": ("gspo", PEER_CLIP),
    "trl/loss/gspo_paper": ("gspo", {}),
    "trl/loss/gspo_token_mean": ("gspo", PEER_CLIP | TOKEN_MEAN),
    "trl/loss/gspo_extreme": ("gspo", PEER_CLIP),
    "trl/loss/gspo_varying": ("gspo", PEER_CLIP),
    "trl/loss/sapo": ("sapo", {}),
    "trl/loss/sapo_extreme": ("sapo", {}),
    "trl/loss/rloo": ("clipped_product", {}),
    "verl/loss/ppo": ("grpo", {}),
    "verl/loss/ppo_accumulated": ("grpo", {}),
    "verl/loss/ppo_extreme": ("grpo", {}),
    "verl/loss/ppo_token_correction": ("grpo", {"correction": "token"}),
    "verl/loss/grpo": ("grpo", ROW_MEAN),
    "verl/loss/grpo_empty": ("grpo", ROW_MEAN),
    "verl/loss/grpo_kl": ("grpo", ROW_MEAN | {"kl_coefficient": 0.04}),
    "verl/loss/grpo_kl_default": ("grpo", {"kl_coefficient": 0.001}),
    "verl/loss/dapo": ("dapo", NO_FILTER | {"dual_clip": 10.0}),
    "verl/loss/dr_grpo": ("dr_grpo", {"max_length": 5}),
    "verl/loss/dr_grpo_trainer": ("dr_grpo", {"max_length": 8}),
    "verl/loss/gspo": ("gspo", PEER_CLIP),
    "verl/loss/gspo_default": ("gspo", PEER_CLIP | TOKEN_MEAN),
    "verl/loss/gspo_paper": ("gspo", {}),
    "verl/loss/gspo_varying": ("gspo_token", PEER_CLIP),
    "verl/loss/gspo_extreme": ("gspo", PEER_CLIP),
    "verl/loss/sapo": ("sapo", {}),
    "verl/loss/sapo_extreme": ("sapo", {}),
    "tunix/loss/grpo": ("grpo", {}),
    "tunix/loss/grpo_unregularised": ("grpo", {"kl_coefficient": 0.0}),
    "tunix/loss/grpo_k3": ("grpo", {"kl_estimator": "k3"}),
    "tunix/loss/grpo_extreme": ("grpo", {"kl_coefficient": 0.0}),
    "tunix/loss/grpo_empty": ("grpo", {"kl_coefficient": 0.0}),
    "tunix/loss/grpo_dual": ("grpo", {"kl_coefficient": 0.0, "dual_clip": 3.0}),
    "tunix/loss/grpo_correction": ("grpo", {"kl_coefficient": 0.0, "correction": "token"}),
    "tunix/loss/gspo": ("gspo", PEER_CLIP),
    "tunix/loss/gspo_paper": ("gspo", {}),
    "tunix/loss/gspo_varying": ("gspo_token", PEER_CLIP),
    "tunix/loss/gspo_extreme": ("gspo", PEER_CLIP),
    "tunix/loss/dr_grpo": ("dr_grpo", {"max_length": 5, "kl_coefficient": 0.04}),
    "tunix/loss/dr_grpo_unregularised": ("dr_grpo", {"max_length": 5}),
    "tunix/loss/dapo": ("dapo", NO_FILTER),
    "tunix/loss/ppo": ("grpo", TOKEN_MEAN | {"kl_coefficient": 0.0}),
    "tunix/loss/ppo_dual": ("grpo", TOKEN_MEAN | {"kl_coefficient": 0.0, "dual_clip": 3.0}),
    "tunix/loss/ppo_extreme": ("grpo", TOKEN_MEAN | {"kl_coefficient": 0.0, "log_ratio_range": None}),
    "openrlhf/loss/ppo": ("grpo", {"kl_coefficient": 0.0}),
    "openrlhf/loss/ppo_accumulated": ("grpo", {"kl_coefficient": 0.0}),
    "openrlhf/loss/ppo_empty": ("grpo", {"kl_coefficient": 0.0}),
    "openrlhf/loss/ppo_dual": ("grpo", {"kl_coefficient": 0.0, "dual_clip": 3.0}),
    "openrlhf/loss/ppo_extreme": ("grpo", {"kl_coefficient": 0.0}),
    "openrlhf/loss/dapo": ("dapo", NO_FILTER),
    "openrlhf/loss/grpo": ("grpo", ROW_MEAN | {"kl_coefficient": 0.0}),
    "openrlhf/loss/grpo_accumulated": ("grpo", ROW_MEAN | {"kl_coefficient": 0.0}),
    "openrlhf/loss/grpo_empty": ("grpo", ROW_MEAN | {"kl_coefficient": 0.0}),
    "openrlhf/loss/gspo": ("gspo", PEER_CLIP),
    "openrlhf/loss/gspo_paper": ("gspo", {}),
    "openrlhf/loss/gspo_varying": ("gspo", PEER_CLIP),
    "openrlhf/loss/gspo_extreme": ("gspo", PEER_CLIP),
    "openrlhf/loss/gspo_correction": ("gspo", PEER_CLIP),
}

# TRL's means over rows count a row without actions, here it counts nowhere: 4 rows for 3
ROWS_COUNTED = {"trl/loss/grpo_empty": 4 / 3, "trl/loss/dr_grpo_empty": 4 / 3}
# tunix's straight-through term is outside of its clamp; here a log-ratio beyond its range has no gradient
VALUE_ALONE = ("tunix/loss/gspo_extreme",)
# the correction of OpenRLHF's GSPO puts the sampler where the old policy stands
OLD = {"openrlhf/loss/gspo_correction": "rollout"}

CORRECTIONS: dict[str, corrections.Correction] = {
    "trl/correction/sequence_mask": corrections.masked_sequence(0.0, 3.0),
    "trl/correction/sequence_truncate": corrections.truncated_sequence(3.0),
    "trl/correction/token_mask": corrections.masked_token(0.0, 3.0),
    "trl/correction/token_truncate": corrections.truncated_token(3.0),
    "verl/correction/token": corrections.truncated_token(2.0),
    "verl/correction/sequence": corrections.truncated_sequence(2.0),
    "verl/correction/icepop": corrections.masked_token(0.5, 5.0),
    "tunix/correction/token": corrections.truncated_token(2.0),
}

ESTIMATORS = {
    "verl/kl/k1": "k1",
    "verl/kl/abs": "abs",
    "verl/kl/k2": "k2",
    "verl/kl/k3": "k3",
    "verl/kl/k3+": "k3+",
    "tunix/kl/kl": "k1",
    "tunix/kl/mse_kl": "k2",
    "tunix/kl/low_var_kl": "k3",
    "openrlhf/kl/k1": "k1",
    "openrlhf/kl/k2": "k2",
    "openrlhf/kl/k3": "k3",
    "openrlhf/kl/k3_unbiased": "k3+",
}
# verl clamps only the value of k3; both leave the gradient of a straight-through estimator unclamped
INSIDE_THE_CLAMPS = ("verl/kl/k1", "verl/kl/abs", "verl/kl/k2", "verl/kl/k3+", "openrlhf/kl/k3_unbiased")

AGGREGATES = {
    "token-mean": "token_mean",
    "token-sum": "token_sum",
    "seq-mean-token-mean": "sequence_mean",
    "sequence-mean-token-mean": "sequence_mean",
    "seq-mean-token-sum": "sequence_mean_token_sum",
    "seq-mean-token-sum-norm": "constant_length",
    "sequence-mean-token-scale": "constant_length",
    "sequence-mean-token-sum-norm": "sequence_mean_token_sum",
}

DIFFERENT = {
    "trl/advantage/rloo_normalised": "whitening over the batch after the baseline",
    "trl/advantage/grpo_truncated": "has its own test below",
    "trl/loss/bnpo_accumulated": "a mean over micro-batches of their token means: depends on the split",
    "verl/advantage/rloo_singleton": "the raw reward of a row alone; here it gets 0, as in rloo_vectorized",
    "verl/loss/reinforce": "-log_prob * advantage: has its own test below, the value is another one",
    "verl/kl/k1+": "the value of k1 under the gradient of k2",
    "verl/correction/token_normalised": "weights divided by their mean over the batch",
    "verl/correction/seq_mean_k1": "rejection",
    "verl/correction/token_k1": "rejection",
    "verl/correction/seq_mean_k3": "rejection",
    "openrlhf/advantage/reinforce_baseline": "whitening over the tokens of the batch",
    "openrlhf/loss/ppo_tis": "a weight truncated from below too",
    "openrlhf/loss/ppo_icepop": "bounds on both sides are in `losses.corrections`, not among the settings",
    "openrlhf/loss/ppo_sequence_mask": "token weights, rejected by the row's geometric mean",
    "openrlhf/kl/k1_unbiased": "the value of k1 under the gradient of k2",
    "openrlhf/kl/k2_unbiased": "is k2, but for the clamp that does not reach the gradient",
    "openrlhf/kl/k3_unbiased_off_policy": "a detached ratio on the gradient of k2, the value not weighted",
}


def rloo_and_rest(**options: Any) -> Method:
    """OpenRLHF's order: leave-one-out, clip, then the KL by reward-to-go."""
    settings = resolve(options, aggregation="sequence_mean_token_sum")
    rows = advantages.held(advantages.minus_leave_one_out, settings.advantage_range)
    advantage = advantages.outcome_and_rest_advantage(rows, scalar_outcome(settings))
    return compose(settings, units=whole_output, advantage=advantage, ratio=no_ratio, gate=no_gate)


def clipped_product(**options: Any) -> Method:
    """TRL's RLOO loss: the clipped importance weight of the whole output, once a row."""
    settings = resolve(options, aggregation="unit_mean")
    advantage, gate = group_advantage(settings, scale=False), clip(settings, 0.2, 0.2)
    return compose(settings, units=whole_output, advantage=advantage, ratio=unit_product_ratio(), gate=gate)


CONSTRUCTORS = ALGORITHMS | {"rloo_and_rest": rloo_and_rest, "clipped_product": clipped_product}


def method_of(name: str, choice: Choice) -> Method:
    constructor, options = choice
    return CONSTRUCTORS[constructor](convention=name.split("/")[0], **options)


def behind_a_prompt(values: list[list[float]]) -> np.ndarray:
    """[B, T] -> [B, 1 + T]: position 0 is the prompt's."""
    return np.pad(np.asarray(values, np.float32), ((0, 0), (1, 0)))


def batch_of(inputs: dict[str, Any], old: str = "old") -> Batch:
    """The rows of a set of inputs; rewards are 0 and groups of two where it names none."""
    rows = len(inputs["reward"] if "reward" in inputs else inputs["mask"])
    mask = behind_a_prompt(inputs.get("mask", [[1]] * rows)) > 0
    zeros, index = np.zeros(rows, np.float32), np.arange(rows, dtype=np.int32)
    names = {"old", "new", "reference", "rollout"} & inputs.keys()
    scored = {name: behind_a_prompt(inputs[name]) for name in names}
    old_log_prob = scored.get(old, scored.get("new", np.zeros(mask.shape, np.float32)))
    reward = np.asarray(inputs.get("reward", zeros), np.float32)
    rollout = Rollout(
        tokens=np.zeros(mask.shape, np.int32),
        action_mask=mask,
        prompt_length=index * 0 + 1,
        length=index * 0 + mask.shape[1],
        behaviour_log_prob=scored.get("rollout", old_log_prob),
        group=np.asarray(inputs.get("group", index // 2), np.int32),
        parent=index,
        fork=index * 0 + 1,
        leaf_weight=zeros + 1,
        stop=index * 0 + STOP_EOS,
        version=index * 0,
        outcome=reward,
        reward=reward,
    )
    reference = Scores(scored["reference"]) if "reference" in scored else None
    return Batch(rollout, Scores(old_log_prob), reference)


def loss_and_gradient(method: Method, batch: Batch, inputs: dict[str, Any]) -> tuple[float, np.ndarray]:
    """The loss under the set's own advantages, and its gradient at the response's tokens."""
    given = np.asarray(inputs["advantage"], np.float32)
    given = given if given.ndim == 2 else np.repeat(given[:, None], len(inputs["mask"][0]), axis=1)
    estimated, _ = estimate(method, batch, method.state)
    estimated = estimated._replace(advantage=jnp.asarray(behind_a_prompt(given.tolist())))
    weights, penalty_weights = weigh(method.objective, batch.rollout, estimated)
    scales = penalty_coefficients(method.objective, method.state)

    def value(log_prob):
        return loss(method.objective, Scores(log_prob), batch, estimated, weights, penalty_weights, scales)[0]

    total, gradient = jax.value_and_grad(value)(jnp.asarray(behind_a_prompt(inputs["new"])))
    return float(total), np.asarray(gradient)[:, 1:]


def test_every_case_is_reproduced_or_named_as_different():
    tables = [ADVANTAGES, LOSSES, CORRECTIONS, ESTIMATORS, DIFFERENT]
    named = [name for table in tables for name in table]
    named += [name for name in CASES if name.split("/")[1] in ("aggregate", "overlong")]
    assert sorted(named) == sorted(CASES)


@pytest.mark.parametrize("name", ADVANTAGES)
def test_advantages(name):
    case = CASES[name]
    batch = batch_of(GOLDEN["inputs"][case["inputs"]])
    method = method_of(name, ADVANTAGES[name])
    advantage = estimate(method, batch, method.state)[0].advantage[:, 1:]
    expected = np.asarray(case["outputs"]["advantage"])
    actual = advantage if expected.ndim == 2 else advantage[:, 0]
    # float32 statistics of the peers: 1e-8 beside rewards of size 1
    chex.assert_trees_all_close(actual, expected, rtol=2e-5, atol=5e-8 if "kl" not in name else 2e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients(name):
    case = CASES[name]
    inputs = GOLDEN["inputs"][case["inputs"]]
    method = method_of(name, LOSSES[name])
    total, gradient = loss_and_gradient(method, batch_of(inputs, OLD.get(name, "old")), inputs)
    scale = ROWS_COUNTED.get(name, 1.0)
    chex.assert_trees_all_close(total, scale * case["outputs"]["loss"], rtol=2e-5, atol=3e-7)
    if name not in VALUE_ALONE:
        expected = scale * np.asarray(case["outputs"]["gradient"])
        chex.assert_trees_all_close(gradient, expected, rtol=2e-5, atol=3e-7)


def test_verl_reinforce_has_the_gradient_of_reinforce():
    inputs = GOLDEN["inputs"]["rows"]
    method = ALGORITHMS["reinforce"](convention="verl", **TOKEN_MEAN)
    _, gradient = loss_and_gradient(method, batch_of(inputs), inputs)
    expected = np.asarray(CASES["verl/loss/reinforce"]["outputs"]["gradient"])
    chex.assert_trees_all_close(gradient, expected, rtol=1e-5)


def test_truncated_rows_stay_in_the_statistics_of_trl():
    inputs = GOLDEN["inputs"]["rows"]
    batch = batch_of(inputs | {"reward": inputs["advantage"]})
    batch = batch._replace(rollout=batch.rollout.replace(stop=np.array([0, 0, STOP_LENGTH, 0], np.int32)))
    method = ALGORITHMS["grpo"](convention="trl", drop_truncated=True)
    advantage = estimate(method, batch, ())[0].advantage[:, 1]
    expected = np.asarray(CASES["trl/advantage/grpo_truncated"]["outputs"]["advantage"])
    kept = np.array([0, 1, 3])
    chex.assert_trees_all_close(advantage[kept], expected[kept], rtol=1e-5)
    assert advantage[2] == 0


@pytest.mark.parametrize("name", CORRECTIONS)
def test_corrections(name):
    inputs = GOLDEN["inputs"]["rows"]
    mask = np.asarray(inputs["mask"]) > 0
    gap = np.where(mask, np.asarray(inputs["old"]) - np.asarray(inputs["rollout"]), 0).astype(np.float32)
    actual = CORRECTIONS[name](gap, np.where(mask, 0, -1))
    expected = np.asarray(CASES[name]["outputs"]["weight"])
    expected = np.broadcast_to(expected, mask.shape) if expected.shape[1] == 1 else expected
    inside = mask[:, : expected.shape[1]]  # what a peer writes under the mask differs and counts nowhere
    actual = np.asarray(actual)[:, : expected.shape[1]]
    chex.assert_trees_all_close(actual[inside], expected[inside], rtol=1e-5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_kl_estimators(name):
    case = CASES[name]
    settings: Settings = resolve({"convention": name.split("/")[0]})
    bounds = {"bounds": settings.kl_range, "cost_bounds": settings.kl_cost_range}
    penalty = kl_penalty(ESTIMATORS[name], 1.0, AGGREGATIONS["token_sum"](settings), **bounds)
    points = GOLDEN["inputs"]["kl_points"]
    batch = batch_of({"mask": [[1] * 7], "new": [points["new"]], "reference": [points["reference"]]})

    def value(log_prob):
        return penalty.cost(Scores(log_prob), batch)

    new = jnp.asarray(behind_a_prompt([points["new"]]))
    gradient = jax.grad(lambda log_prob: jnp.sum(value(log_prob)))(new)
    count = 4 if name in INSIDE_THE_CLAMPS else 7
    for actual, output in ((value(new), "value"), (gradient, "gradient")):
        expected = np.asarray(case["outputs"][output])[:count]
        chex.assert_trees_all_close(actual[0, 1 : 1 + count], expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in CASES if "/aggregate/" in name])
def test_aggregates(name):
    case = CASES[name]
    inputs = GOLDEN["inputs"][case["inputs"]]
    batch = batch_of(inputs)
    kind = AGGREGATES[name.split("/")[2].removesuffix("_empty")]
    weights = AGGREGATIONS[kind](Settings(max_length=len(inputs["mask"][0])))
    weight = weights(batch.rollout, np.where(batch.rollout.action_mask, 0, -1))
    total = jnp.sum(weight * behind_a_prompt(inputs["new"]))
    chex.assert_trees_all_close(total, np.float32(case["outputs"]["loss"]), rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in CASES if "/overlong/" in name])
def test_overlong_shaping(name):
    given = GOLDEN["inputs"]["lengths"]
    floor = None if name.split("/")[0] in ("verl", "tunix") else -1.0
    penalty = soft_overlong(np.asarray(given["length"]), given["maximum"], given["cache"], floor)
    chex.assert_trees_all_close(penalty, np.asarray(CASES[name]["outputs"]["penalty"]), rtol=1e-5)
