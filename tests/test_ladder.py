"""The ladder of identities: what each method is of another, in value or gradient, off-policy and clipped.

Read with the table of methods: a row says which choices of two methods coincide. `off` policies differ by up
to e^±.9 a token, so that every clip binds somewhere; `on` is π_θ = π_old. A factor multiplies the right side.
"""

from __future__ import annotations

import dataclasses
import functools

import examples
import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.algorithms import dapo, dr_grpo, gpg, grpo, gspo, gspo_token, sapo
from gpg_jax.algorithms.compose import compose, each_token, group_advantage, whole_output
from gpg_jax.algorithms.reinforce import (
    reinforce,
    reinforce_batch,
    reinforce_constant,
    reinforce_group,
    reinforce_running,
)
from gpg_jax.algorithms.rloo import rloo
from gpg_jax.algorithms.settings import resolve
from gpg_jax.algorithms.vanilla import vanilla
from gpg_jax.losses.gates import no_gate, soft_gate
from gpg_jax.losses.ratios import no_ratio, unit_geometric_token_ratio
from gpg_jax.types import Batch, Scores

G, T = 4, 8
WIDE = {"clip_low": 1.0, "clip_high": 1e9}
PLAIN = {"kl_coefficient": 0.0}
SUM = {"aggregation": "sequence_mean_token_sum"}


def importance_sampled(**options):
    """The surrogate of CPI and TRPO: the ratio times the advantage, no gate."""
    settings = resolve(options)
    return compose(settings, advantage=group_advantage(settings, scale=True), gate=no_gate)


def theorem(**options):
    """∇J of the GPG theorem, Σ_T A_i·∇log π(MA_T|MS_T), the mean over rows: no ratio, no length."""
    settings = resolve(options, **SUM)
    return compose(settings, advantage=group_advantage(settings, scale=True), ratio=no_ratio, gate=no_gate)


# left, right, policy, factor, whether the values coincide too
IDENTITIES = {
    "GPG of tokens is GRPO": (gpg(units=each_token), grpo(**PLAIN), "off", 1, True),
    "GPG of one unit is GSPO": (
        gpg(units=whole_output, clip_low=0.1, clip_high=0.2),
        gspo(clip_low=0.1, clip_high=0.2),
        "off",
        1,
        True,
    ),
    "GPG of one unit is GSPO, at the paper's clip": (
        gpg(unit_count=1, clip_low=3e-4, clip_high=4e-4),
        gspo(),
        "off",
        1,
        True,
    ),
    "GPG of tokens by geometric mean is by token": (
        gpg(units=each_token),
        gpg(units=each_token, ratio="token"),
        "off",
        1,
        True,
    ),
    "GPG of tokens by product is by token": (
        gpg(units=each_token, ratio="unit_product"),
        gpg(units=each_token, ratio="token"),
        "off",
        1,
        True,
    ),
    "any units, on-policy": (gpg(unit_count=2), gpg(unit_length=3), "on", 1, True),
    "any ratio, on-policy": (gpg(unit_count=2, ratio="unit_product"), gpg(ratio="token"), "on", 1, True),
    "GSPO is GSPO-token": (gspo(), gspo_token(), "off", 1, True),
    "GSPO is GSPO-token, at a wide clip": (gspo(**WIDE), gspo_token(**WIDE), "off", 1, True),
    "GSPO of one token is GRPO": (
        gspo(clip_low=0.2, clip_high=0.2),
        grpo(**PLAIN),
        "off, one token",
        1,
        True,
    ),
    "DAPO of equal clips is GRPO with the token mean": (
        dapo(clip_high=0.2, dynamic_sampling=False, overlong_cache=None),
        grpo(aggregation="token_mean", **PLAIN),
        "off",
        1,
        True,
    ),
    "DAPO where every group is mixed and none is overlong": (
        dapo(),
        dapo(dynamic_sampling=False, overlong_cache=None),
        "off",
        1,
        True,
    ),
    "the token mean of equal lengths is the sequence mean": (
        grpo(aggregation="token_mean"),
        grpo(aggregation="sequence_mean"),
        "off, equal lengths",
        1,
        True,
    ),
    "RLOO is Dr. GRPO times G/(G−1), on-policy": (
        rloo(),
        dr_grpo(max_length=T),
        "on",
        T * G / (G - 1),
        True,
    ),
    "RLOO is the group mean times G/(G−1)": (rloo(), reinforce_group(), "off", G / (G - 1), True),
    "Dr. GRPO is GRPO for equal lengths and unit std": (
        dr_grpo(max_length=T),
        grpo(**PLAIN),
        "off, equal lengths, unit std",
        1,
        True,
    ),
    "Dr. GRPO is the group mean, on-policy": (dr_grpo(max_length=T), reinforce_group(), "on", 1 / T, True),
    "the batch mean of one group is the group mean": (
        reinforce_batch(),
        reinforce_group(),
        "off, one group",
        1,
        True,
    ),
    "a constant 0 is no baseline": (reinforce_constant(baseline=0.0), reinforce(), "off", 1, True),
    "a running mean starts at 0": (reinforce_running(), reinforce(), "off", 1, True),
    "vanilla of an outcome is REINFORCE": (vanilla(), reinforce_running(), "off", 1, True),
    "CPI is GRPO with an infinite clip": (
        importance_sampled(),
        grpo(clip=1e9, **PLAIN),
        "off",
        1,
        True,
    ),
    "CPI on-policy is REINFORCE with the same advantage": (
        importance_sampled(**SUM),
        gpg(unit_count=1, ratio="unit_product", **SUM),
        "on",
        1,
        True,
    ),
    "SAPO tends to CPI": (
        sapo(temperature_positive=1e-3, temperature_negative=1e-3),
        importance_sampled(),
        "off",
        1,
        False,
    ),
    "SAPO is GRPO, on-policy": (sapo(), grpo(**PLAIN), "on", 1, False),
    "a dual clip at infinity is the clip": (grpo(dual_clip=1e9), grpo(), "off", 1, True),
    "k3+ pushes as k2": (grpo(kl_estimator="k3+"), grpo(kl_estimator="k2"), "off", 1, False),
    "k1+ pushes as k2": (grpo(kl_estimator="k1+"), grpo(kl_estimator="k2"), "off", 1, False),
    "the clipped product of outputs is RLOO, on-policy": (
        rloo(ratio="unit_product"),
        rloo(),
        "on, one token",
        1,
        True,
    ),
    "RLOO by tokens is RLOO, on-policy": (rloo(ratio="token"), rloo(), "on", 1, True),
    "GPG meets the theorem without the lengths, on-policy": (
        gpg(unit_count=2, **SUM),
        theorem(),
        "on",
        1,
        True,
    ),
    "the weighted KL is the KL, in value, on-policy": (
        grpo(kl_importance_weighted=True),
        grpo(),
        "on, value only",
        1,
        True,
    ),
}

DIFFERENCES = {
    "GRPO is not GSPO": (grpo(**PLAIN), gspo(clip_low=0.2, clip_high=0.2), "off"),
    "units matter off-policy": (gpg(unit_count=2), gpg(unit_count=4), "off"),
    "GRPO's 1/|o| is not REINFORCE's sum": (grpo(**PLAIN), grpo(**PLAIN, **SUM), "on"),
    "GPG's default weights are not the theorem's": (gpg(unit_count=2), theorem(), "on"),
    "std divides": (grpo(**PLAIN), dr_grpo(max_length=T), "off, equal lengths"),
    "clip-higher clips higher": (dapo(), dapo(clip_high=1.0), "off"),
    "SAPO is no clip": (sapo(), importance_sampled(), "off"),
}


@functools.cache
def example(policy: str) -> tuple[Batch, Scores]:
    batch, scores = examples.random_batch(seed=11)
    rollout, mask = batch.rollout, np.asarray(batch.rollout.action_mask)
    if "one token" in policy:
        mask = mask & (np.cumsum(mask, axis=1) == 1)
    if "equal lengths" in policy:
        mask = np.broadcast_to(np.arange(mask.shape[1]) > 0, mask.shape)
    if "unit std" in policy:
        rollout = dataclasses.replace(rollout, reward=np.tile(np.float32([1, 3]), 4))
    if "one group" in policy:
        rollout = dataclasses.replace(rollout, group=np.zeros(8, np.int32))
    batch = batch._replace(rollout=dataclasses.replace(rollout, action_mask=mask))
    return batch, batch.old if policy.startswith("on") else scores


def run(method, policy):
    value, coefficients, _ = examples.loss_and_coefficients(method, *example(policy))
    return float(value), np.asarray(coefficients)


@pytest.mark.parametrize("name", IDENTITIES)
def test_identity(name):
    left, right, policy, factor, values = IDENTITIES[name]
    (left_value, left_push), (right_value, right_push) = run(left, policy), run(right, policy)
    assert np.abs(left_push).max() > 1e-4
    if "value only" not in policy:
        tolerance = 2e-5 if "tends" not in name else 1e-3
        np.testing.assert_allclose(left_push, factor * right_push, rtol=tolerance, atol=1e-6)
    if values:
        np.testing.assert_allclose(left_value, factor * right_value, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", DIFFERENCES)
def test_the_ladder_has_power(name):
    left, right, policy = DIFFERENCES[name]
    assert np.abs(run(left, policy)[1] - run(right, policy)[1]).max() > 3e-3


def test_a_method_is_composed_in_a_few_lines():
    """The README's example: REINFORCE's score, a soft gate and the unit's geometric ratio make a method."""

    def soft_units(**options):
        settings = resolve(options, aggregation="unit_mean")
        return compose(
            settings,
            units=whole_output,
            advantage=group_advantage(settings, scale=False),
            ratio=unit_geometric_token_ratio(settings.log_ratio_range),
            gate=soft_gate(1.0, 1.05),
        )

    push = run(soft_units(), "off")[1]
    assert np.all(np.isfinite(push)) and np.abs(push).max() > 1e-3
    same_as_sequence_mean = run(soft_units(aggregation="sequence_mean"), "off")[1]
    np.testing.assert_allclose(push, same_as_sequence_mean, rtol=1e-5, atol=1e-8)


def test_on_policy_grpo_has_a_gradient_and_no_loss():
    """O-19: equal lengths, β = 0: the loss is 0, the gradient is not; with β, ∇log π is weighed by
    A + β(π_ref/π − 1)."""
    batch, scores = example("on, equal lengths")
    value, push, _ = examples.loss_and_coefficients(grpo(**PLAIN), batch, scores)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    assert jnp.abs(push).max() > 1e-2
    with_kl = examples.loss_and_coefficients(grpo(kl_coefficient=0.3), batch, scores)[1]
    mask = np.asarray(batch.rollout.action_mask)
    ratio = np.exp(np.where(mask, batch.reference.log_prob - batch.old.log_prob, 0))
    share = 1 / (8 * mask.sum(1, keepdims=True))
    np.testing.assert_allclose(
        with_kl, push - np.where(mask, 0.3 * (ratio - 1) * share, 0), rtol=1e-4, atol=1e-6
    )
