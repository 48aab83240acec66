"""The conventions against numbers that the peers' own code gave (`tests/golden/generate_peers.py`).

A method is the constructor's with the peer's convention, and with options where the case has settings of its
own. Every case of `peers.json` is either reproduced so or named in `DIFFERENT` with the reason.
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
from gpg_jax.losses.objective import estimate, loss, penalty_coefficients, weigh
from gpg_jax.types import STOP_EOS, STOP_LENGTH, Batch, Method, Rollout, Scores

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "peers.json").read_text())
CASES = {case["id"]: case for case in GOLDEN["cases"]}
Choice = tuple[str, dict[str, Any]]

ROW_MEAN = {"aggregation": "sequence_mean"}
TOKEN_MEAN = {"aggregation": "token_mean"}
PAPER_CLIP = {"clip_low": 3e-4, "clip_high": 4e-4}
NO_KL = {"kl_coefficient": 0.0}
REWARD_KL = {"kl_placement": "reward", "kl_coefficient": 0.05}

ADVANTAGES: dict[str, Choice] = {
    "trl/advantage/grpo": ("grpo", {}),
    "trl/advantage/batch_std": ("grpo", {"std_over": "batch"}),
    "trl/advantage/dr_grpo": ("dr_grpo", {}),
    "trl/advantage/grpo_singleton": ("grpo", {}),
    "trl/advantage/rloo": ("rloo", NO_KL),
    "trl/advantage/rloo_kl": ("rloo", {}),
    "verl/advantage/grpo": ("grpo", {}),
    "verl/advantage/grpo_singleton": ("grpo", {}),
    "verl/advantage/grpo_vectorized": ("grpo", {}),
    "verl/advantage/grpo_vectorized_singleton": ("grpo", {}),
    "verl/advantage/dr_grpo": ("dr_grpo", {}),
    "verl/advantage/dr_grpo_singleton": ("dr_grpo", {}),
    "verl/advantage/rloo": ("rloo", {}),
    "verl/advantage/rloo_singleton": ("rloo", {}),
    "verl/advantage/rloo_vectorized": ("rloo", {}),
    "verl/advantage/rloo_vectorized_singleton": ("rloo", {"singleton": "zero"}),
    "verl/advantage/grpo_kl": ("grpo", REWARD_KL),
    "verl/advantage/dr_grpo_kl": ("dr_grpo", REWARD_KL),
    "verl/advantage/rloo_kl": ("rloo", REWARD_KL),
    "tunix/advantage/grpo": ("grpo", {}),
    "tunix/advantage/rloo": ("rloo", {}),
    "tunix/advantage/rloo_singleton": ("rloo", {}),
    "tunix/advantage/drgrpo": ("dr_grpo", {}),
    "openrlhf/advantage/group_norm": ("grpo", {}),
    "openrlhf/advantage/group_norm_kl": ("grpo", {}),
    "openrlhf/advantage/dr_grpo": ("dr_grpo", {}),
    "openrlhf/advantage/rloo": ("rloo", {}),
    "openrlhf/advantage/rloo_kl": ("rloo", {}),
    "oat/advantage/grpo": ("grpo", {}),
    "oat/advantage/dr_grpo": ("dr_grpo", {}),
    "oat/advantage/grpo_kl": ("grpo", REWARD_KL),
    "oat/advantage/dr_grpo_kl": ("dr_grpo", REWARD_KL),
}

LOSSES: dict[str, Choice] = {
    "trl/loss/dapo_default": ("grpo", {}),
    "trl/loss/dapo_accumulated": ("grpo", {}),
    "trl/loss/dapo_empty": ("grpo", {}),
    "trl/loss/bnpo": ("grpo", {}),
    "trl/loss/dapo": ("dapo", {}),
    "trl/loss/grpo": ("grpo", ROW_MEAN),
    "trl/loss/grpo_accumulated": ("grpo", ROW_MEAN),
    "trl/loss/grpo_extreme": ("grpo", ROW_MEAN),
    "trl/loss/grpo_kl": ("grpo", ROW_MEAN | {"kl_coefficient": 0.04}),
    "trl/loss/grpo_kl_unweighted": (
        "grpo",
        ROW_MEAN | {"kl_coefficient": 0.04, "kl_importance_weighted": False},
    ),
    "trl/loss/grpo_delta": ("grpo", ROW_MEAN | {"dual_clip": 3.0}),
    "trl/loss/grpo_sequence_mask": ("grpo", ROW_MEAN | {"correction": "sequence_mask"}),
    "trl/loss/grpo_token_truncate": ("grpo", ROW_MEAN | {"correction": "token"}),
    "trl/loss/dr_grpo": ("dr_grpo", {"max_length": 8}),
    "trl/loss/gspo": ("gspo", ROW_MEAN),
    "trl/loss/gspo_paper": ("gspo", ROW_MEAN | PAPER_CLIP),
    "trl/loss/gspo_token_mean": ("gspo", {}),
    "trl/loss/gspo_kl": ("gspo", {"kl_coefficient": 0.04}),
    "trl/loss/gspo_extreme": ("gspo", ROW_MEAN),
    "trl/loss/gspo_varying": ("gspo", ROW_MEAN),
    "trl/loss/sapo": ("sapo", {}),
    "trl/loss/sapo_extreme": ("sapo", {}),
    "trl/loss/rloo": ("rloo", {}),
    "verl/loss/ppo": ("grpo", {}),
    "verl/loss/ppo_accumulated": ("grpo", {}),
    "verl/loss/ppo_extreme": ("grpo", {}),
    "verl/loss/ppo_token_correction": ("grpo", {"correction": "token"}),
    "verl/loss/grpo": ("grpo", ROW_MEAN),
    "verl/loss/grpo_empty": ("grpo", ROW_MEAN),
    "verl/loss/grpo_kl": ("grpo", ROW_MEAN | {"kl_coefficient": 0.04}),
    "verl/loss/grpo_kl_default": ("grpo", {"kl_coefficient": 0.001}),
    "verl/loss/dapo": ("dapo", {}),
    "verl/loss/dr_grpo": ("dr_grpo", {"max_length": 5}),
    "verl/loss/dr_grpo_trainer": ("dr_grpo", {"max_length": 8}),
    "verl/loss/gspo": ("gspo", ROW_MEAN),
    "verl/loss/gspo_default": ("gspo", {}),
    "verl/loss/gspo_paper": ("gspo", ROW_MEAN | PAPER_CLIP),
    "verl/loss/gspo_varying": ("gspo_token", ROW_MEAN),
    "verl/loss/gspo_extreme": ("gspo", ROW_MEAN),
    "verl/loss/sapo": ("sapo", {}),
    "verl/loss/sapo_kl": ("sapo", {"kl_coefficient": 0.04}),
    "verl/loss/sapo_extreme": ("sapo", {}),
    "tunix/loss/grpo": ("grpo", {}),
    "tunix/loss/grpo_unregularised": ("grpo", NO_KL),
    "tunix/loss/grpo_k3": ("grpo", {"kl_estimator": "k3"}),
    "tunix/loss/grpo_extreme": ("grpo", NO_KL),
    "tunix/loss/grpo_empty": ("grpo", NO_KL),
    "tunix/loss/grpo_dual": ("grpo", NO_KL | {"dual_clip": 3.0}),
    "tunix/loss/grpo_correction": ("grpo", NO_KL | {"correction": "token"}),
    "tunix/loss/gspo_default": ("gspo", {}),
    "tunix/loss/gspo": ("gspo", NO_KL),
    "tunix/loss/gspo_paper": ("gspo", NO_KL | PAPER_CLIP),
    "tunix/loss/gspo_varying": ("gspo_token", NO_KL),
    "tunix/loss/gspo_extreme": ("gspo", NO_KL),
    "tunix/loss/dr_grpo": ("dr_grpo", {"max_length": 5}),
    "tunix/loss/dr_grpo_unregularised": ("dr_grpo", NO_KL | {"max_length": 5}),
    "tunix/loss/dapo": ("dapo", {}),
    "tunix/loss/ppo": ("grpo", TOKEN_MEAN | NO_KL),
    "tunix/loss/ppo_dual": ("grpo", TOKEN_MEAN | NO_KL | {"dual_clip": 3.0}),
    "tunix/loss/ppo_extreme": ("grpo", TOKEN_MEAN | NO_KL | {"log_ratio_range": None}),
    "openrlhf/loss/ppo": ("grpo", {}),
    "openrlhf/loss/ppo_accumulated": ("grpo", {}),
    "openrlhf/loss/ppo_empty": ("grpo", {}),
    "openrlhf/loss/ppo_dual": ("grpo", {"dual_clip": 3.0}),
    "openrlhf/loss/ppo_extreme": ("grpo", {}),
    "openrlhf/loss/ppo_tis": ("grpo", {"correction": "token"}),
    "openrlhf/loss/ppo_icepop": ("grpo", {"correction": "token_mask"}),
    "openrlhf/loss/dapo": ("dapo", {}),
    "openrlhf/loss/grpo": ("grpo", ROW_MEAN),
    "openrlhf/loss/grpo_accumulated": ("grpo", ROW_MEAN),
    "openrlhf/loss/grpo_empty": ("grpo", ROW_MEAN),
    "openrlhf/loss/gspo": ("gspo", {}),
    "openrlhf/loss/gspo_paper": ("gspo", PAPER_CLIP),
    "openrlhf/loss/gspo_varying": ("gspo", {}),
    "openrlhf/loss/gspo_extreme": ("gspo", {}),
    "oat/loss/dr_grpo": ("dr_grpo", {"max_length": 8}),
    "oat/loss/grpo": ("grpo", {}),
    "oat/loss/grpo_extreme": ("grpo", {}),
    "oat/loss/grpo_uncorrected": ("grpo", {"correction": "none"}),
    "oat/loss/grpo_kl": ("grpo", {"kl_coefficient": 0.04}),
}
# in these systems RLOO is an estimator of advantages, and the loss is the one of the rest
THE_SAME_LOSS = {"verl/loss/ppo": "rloo", "tunix/loss/grpo": "rloo", "openrlhf/loss/ppo": "rloo"}

CORRECTIONS: dict[str, dict[str, Any]] = {
    "trl/correction/sequence_mask": {"correction": "sequence_mask"},
    "trl/correction/sequence_truncate": {"correction": "sequence"},
    "trl/correction/token_mask": {"correction": "token_mask"},
    "trl/correction/token_truncate": {"correction": "token"},
    "verl/correction/token": {"correction": "token"},
    "verl/correction/sequence": {"correction": "sequence"},
    "verl/correction/icepop": {
        "correction": "token_mask",
        "correction_floor": 0.5,
        "correction_cap": 5.0,
    },
    "tunix/correction/token": {"correction": "token"},
}

ESTIMATORS = {
    "verl/kl/k1": "k1",
    "verl/kl/abs": "abs",
    "verl/kl/k2": "k2",
    "verl/kl/k3": "k3",
    "verl/kl/k1+": "k1+",
    "verl/kl/abs+": "abs+",
    "verl/kl/k3+": "k3+",
    "tunix/kl/kl": "k1",
    "tunix/kl/mse_kl": "k2",
    "tunix/kl/low_var_kl": "k3",
    "openrlhf/kl/k1": "k1",
    "openrlhf/kl/k2": "k2",
    "openrlhf/kl/k3": "k3",
    "openrlhf/kl/k1_unbiased": "k1+",
    "openrlhf/kl/k2_unbiased": "k2+",
    "openrlhf/kl/k3_unbiased": "k3+",
}

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

OWN_TEST = ("trl/advantage/grpo_truncated",)

_EMPTY = (
    "its mean over rows counts a row without actions, 4 for 3; here none counts, so padding changes nothing"
)
DIFFERENT = {
    "trl/advantage/rloo_normalised": "whitening over the batch after the baseline",
    "trl/loss/grpo_empty": _EMPTY,
    "trl/loss/dr_grpo_empty": _EMPTY,
    "trl/loss/bnpo_accumulated": "a mean over micro-batches of their token means: depends on the split",
    "verl/loss/reinforce": "-log_prob * advantage: has its own test below, the value is another one",
    "verl/correction/token_normalised": "weights divided by their mean over the batch",
    "verl/correction/seq_mean_k1": "rejection",
    "verl/correction/token_k1": "rejection",
    "verl/correction/seq_mean_k3": "rejection",
    "openrlhf/advantage/reinforce_baseline": "whitening over the tokens of the batch: the constructor raises",
    "openrlhf/loss/ppo_sequence_mask": "token weights, rejected by the row's geometric mean: it raises",
    "openrlhf/loss/gspo_correction": "the sampler stands in the place of the old policy: it raises",
    "openrlhf/kl/k3_unbiased_off_policy": "a detached ratio on the gradient of k2, the value not weighted",
}


def method_of(name: str, choice: Choice) -> Method:
    constructor, options = choice
    return ALGORITHMS[constructor](convention=name.split("/")[0], **options)


def behind_a_prompt(values: list[list[float]]) -> np.ndarray:
    """[B, T] -> [B, 1 + T]: position 0 is the prompt's."""
    return np.pad(np.asarray(values, np.float32), ((0, 0), (1, 0)))


def batch_of(inputs: dict[str, Any]) -> Batch:
    """The rows of a set of inputs; where it names none, rewards are 0, groups are pairs.

    The reference is then π_old. Outcomes differ, so that dynamic sampling keeps every row.
    """
    rows = len(inputs["reward"] if "reward" in inputs else inputs["mask"])
    mask = behind_a_prompt(inputs.get("mask", [[1]] * rows)) > 0
    zeros, index = np.zeros(rows, np.float32), np.arange(rows, dtype=np.int32)
    names = {"old", "new", "reference", "rollout"} & inputs.keys()
    scored = {name: behind_a_prompt(inputs[name]) for name in names}
    old_log_prob = scored.get("old", scored.get("new", np.zeros(mask.shape, np.float32)))
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
        outcome=index.astype(np.float32),
        reward=reward,
    )
    return Batch(rollout, Scores(old_log_prob), Scores(scored.get("reference", old_log_prob)))


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


def of_kind(kind: str) -> list[str]:
    return [name for name in CASES if name.split("/")[1] == kind]


def test_every_case_is_reproduced_or_named_as_different():
    tables = [ADVANTAGES, LOSSES, CORRECTIONS, ESTIMATORS, OWN_TEST]
    reproduced = [name for table in tables for name in table] + of_kind("aggregate") + of_kind("overlong")
    assert sorted(reproduced + list(DIFFERENT)) == sorted(CASES)


def test_a_case_of_the_peers_defaults_is_the_constructor_alone():
    for name, (method, options) in (ADVANTAGES | LOSSES).items():
        settings = CASES[name]["settings"].keys() - {"gradient_accumulation_steps", "steps_per_generation"}
        # Dr. GRPO's length is a part of every system's settings, the vectorised estimator one of verl's
        if not settings and method != "dr_grpo" and "vectorized" not in name:
            assert options == {}, name


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("reinforce_group", {}),
        ("reinforce", {}),
        ("grpo", {"correction": "sequence_mask"}),
        ("gspo", {"correction": "token"}),
    ],
)
def test_what_openrlhf_does_otherwise_is_refused(name, options):
    with pytest.raises(ValueError, match="OpenRLHF"):
        ALGORITHMS[name](convention="openrlhf", **options)


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


@pytest.mark.parametrize(
    ("name", "choice"),
    [*LOSSES.items(), *((name, (method, {})) for name, method in THE_SAME_LOSS.items())],
)
def test_losses_and_gradients(name, choice):
    case = CASES[name]
    inputs = GOLDEN["inputs"][case["inputs"]]
    total, gradient = loss_and_gradient(method_of(name, choice), batch_of(inputs), inputs)
    chex.assert_trees_all_close(total, case["outputs"]["loss"], rtol=2e-5, atol=3e-7)
    chex.assert_trees_all_close(gradient, np.asarray(case["outputs"]["gradient"]), rtol=2e-5, atol=3e-7)


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
    method = method_of(name, ("grpo", CORRECTIONS[name]))
    actual = method.objective.correction(gap, np.where(mask, 0, -1))
    expected = np.asarray(CASES[name]["outputs"]["weight"])
    expected = np.broadcast_to(expected, mask.shape) if expected.shape[1] == 1 else expected
    inside = mask[:, : expected.shape[1]]  # what a peer writes under the mask differs and counts nowhere
    actual = np.asarray(actual)[:, : expected.shape[1]]
    chex.assert_trees_all_close(actual[inside], expected[inside], rtol=1e-5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_kl_estimators(name):
    case = CASES[name]
    options = {"kl_estimator": ESTIMATORS[name], "kl_coefficient": 1.0, "kl_placement": "loss"}
    (penalty,) = method_of(name, ("grpo", options)).objective.penalties
    points = GOLDEN["inputs"]["kl_points"]
    batch = batch_of({"mask": [[1] * 7], "new": [points["new"]], "reference": [points["reference"]]})

    def value(log_prob):
        return penalty.cost(Scores(log_prob), batch, None)

    new = jnp.asarray(behind_a_prompt([points["new"]]))
    gradient = jax.grad(lambda log_prob: jnp.sum(value(log_prob)))(new)
    for actual, output in ((value(new), "value"), (gradient, "gradient")):
        expected = np.asarray(case["outputs"][output])
        chex.assert_trees_all_close(actual[0, 1:], expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("name", of_kind("aggregate"))
def test_aggregates(name):
    case = CASES[name]
    inputs = GOLDEN["inputs"][case["inputs"]]
    batch = batch_of(inputs)
    kind = AGGREGATES[name.split("/")[2].removesuffix("_empty")]
    options = {"max_length": len(inputs["mask"][0])} if kind == "constant_length" else {}
    weights = method_of(name, ("grpo", {"aggregation": kind, **options})).objective.weights
    weight = weights(batch.rollout, np.where(batch.rollout.action_mask, 0, -1))
    total = jnp.sum(weight * behind_a_prompt(inputs["new"]))
    chex.assert_trees_all_close(total, np.float32(case["outputs"]["loss"]), rtol=1e-5)


@pytest.mark.parametrize("name", of_kind("overlong"))
def test_overlong_shaping(name):
    given = GOLDEN["inputs"]["lengths"]
    options = {"max_response": given["maximum"], "overlong_cache": given["cache"]}
    width = max(given["length"])
    batch = batch_of({"mask": [[1] * n + [0] * (width - n) for n in given["length"]]})
    penalty = method_of(name, ("dapo", options)).shape(batch, ()).sum(axis=1)
    chex.assert_trees_all_close(penalty, np.asarray(CASES[name]["outputs"]["penalty"]), rtol=1e-5)
