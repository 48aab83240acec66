"""Every method against its own slow NumPy loss: value and finite differences, off-policy and clipped."""

from __future__ import annotations

import examples
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.losses import objective


def test_every_method_has_a_reference():
    assert set(reference.REFERENCES) == set(ALGORITHMS)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_loss_and_gradient_equal_the_loops(name):
    loss = reference.REFERENCES[name]
    batch, scores = examples.random_batch(seed=3)
    value, gradient, _ = examples.compiled(name)(batch, scores)
    new = np.asarray(scores.log_prob, np.float64)
    np.testing.assert_allclose(value, loss(batch, new, new), rtol=2e-5, atol=2e-6)
    finite = reference.finite_difference(loss, batch, scores.log_prob)
    np.testing.assert_allclose(gradient, finite, rtol=2e-4, atol=2e-6)
    assert np.abs(finite).max() > 1e-5


@pytest.mark.parametrize(
    ("name", "options", "loss"),
    [pytest.param(*variant, id=f"{variant[0]} {variant[1]}") for variant in reference.VARIANTS],
)
def test_what_a_method_may_be_besides_equals_the_loops_too(name, options, loss):
    batch, scores = examples.random_batch(seed=3)
    value, gradient, _ = examples.compiled(name, **options)(batch, scores)
    new = np.asarray(scores.log_prob, np.float64)
    np.testing.assert_allclose(value, loss(batch, new, new), rtol=2e-5, atol=2e-6)
    finite = reference.finite_difference(loss, batch, scores.log_prob)
    np.testing.assert_allclose(gradient, finite, rtol=2e-4, atol=2e-6)
    plain = reference.finite_difference(reference.REFERENCES[name], batch, scores.log_prob)
    assert np.abs(finite - plain).max() > 1e-3


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo", "gspo", "gspo_token", "gpg"])
def test_the_example_clips_some_tokens_and_not_others(name):
    batch, scores = examples.random_batch(seed=3)
    _, gradient, metrics = examples.compiled(name)(batch, scores)
    assert 0.05 < metrics["clip_fraction"] < 0.95
    if name != "grpo":  # whose KL pushes clipped tokens too
        actions = np.asarray(batch.rollout.action_mask)
        still = np.asarray(gradient == 0)[actions].mean()
        np.testing.assert_allclose(still, metrics["clip_fraction"], atol=1e-6)


@pytest.mark.parametrize(
    ("estimator", "weighted"),
    [(name, False) for name in ("k1", "k2", "k3", "abs", "k1+", "k2+", "abs+", "k3+")]
    + [("k1", True), ("k3", True)],
)
def test_kl_penalties_equal_the_loops(estimator, weighted):
    batch, scores = examples.random_batch(seed=5)
    method = ALGORITHMS["grpo"](kl_coefficient=0.3, kl_estimator=estimator, kl_importance_weighted=weighted)

    def loss(batch, new, frozen):
        total = reference.grpo(batch, new, frozen, beta=0.0)
        for i in reference.rows_of(batch):
            tokens = reference.actions(batch, i)
            for t in tokens:
                d = float(batch.reference.log_prob[i][t]) - new[i, t]
                costs = {"k1": -d, "k2": d * d / 2, "k3": np.exp(d) - d - 1, "abs": abs(d)}
                # finite differences see the gradient alone: k2's for every "+"
                cost = costs["k2" if estimator.endswith("+") else estimator]
                if weighted:
                    cost *= np.exp(new[i, t] - float(batch.old.log_prob[i][t]))
                total += 0.3 * cost / len(tokens) / len(reference.rows_of(batch))
        return total

    finite = reference.finite_difference(loss, batch, scores.log_prob)
    np.testing.assert_allclose(objective.coefficients(method, batch, scores), finite, rtol=3e-4, atol=3e-6)


def test_unit_product_ratio_equals_the_loops():
    """Σ_T Π r · A · ∇log π(MA_T), a term a unit whatever its length, over |o_i| and G."""
    batch, scores = examples.random_batch(seed=8)
    method = ALGORITHMS["gpg"](unit_length=2, ratio="unit_product", clip_low=1.0, clip_high=1e6)
    advantage = reference.mean_std(batch, reference.returns(batch))
    expected = np.zeros(scores.log_prob.shape)
    for i in reference.rows_of(batch):
        tokens = reference.actions(batch, i)
        for start in range(0, len(tokens), 2):
            unit = tokens[start : start + 2]
            ratio = np.exp(sum(float(scores.log_prob[i][t] - batch.old.log_prob[i][t]) for t in unit))
            for t in unit:
                expected[i, t] = -ratio * advantage[i] / len(tokens) / len(reference.rows_of(batch))
    np.testing.assert_allclose(objective.coefficients(method, batch, scores), expected, rtol=1e-4, atol=1e-6)


def test_discounted_candidates_equal_the_loops():
    """Â_t = γ^(n − 1 − t)·R less the mean of the other rows' γ^(n − 1)·R, n actions a row."""
    batch, scores = examples.random_batch(seed=3)
    method, reward = ALGORITHMS["cpi"](step="discounted", discount=0.8), reference.returns(batch)

    def loss(batch, new, frozen):
        gains = {}
        lengths = [len(reference.actions(batch, i)) for i in reference.rows_of(batch)]
        for i in reference.rows_of(batch):
            others = [0.8 ** (lengths[j] - 1) * reward[j] for j in reference.siblings(batch, i) if j != i]
            gains[i] = [0.8**later * reward[i] - np.mean(others) for later in reversed(range(lengths[i]))]
        return reference.surrogate(batch, new, gains, np.inf, np.inf)

    finite = reference.finite_difference(loss, batch, scores.log_prob)
    np.testing.assert_allclose(objective.coefficients(method, batch, scores), finite, rtol=2e-4, atol=2e-6)


def test_dynamic_sampling_and_overlong_shaping_reach_the_loss():
    """A group whose outcomes agree, rows long enough to be shaped: equal to the loops of DAPO."""
    batch, scores = examples.random_batch(seed=4)
    outcome = np.where(np.asarray(batch.rollout.group) == 1, 1.0, batch.rollout.outcome).astype(np.float32)
    batch = batch._replace(rollout=batch.rollout.replace(outcome=outcome))
    method = ALGORITHMS["dapo"](max_response=5, overlong_cache=3)

    def loss(batch, new, frozen):
        return reference.dapo(batch, new, frozen, limit=5, cache=3)

    finite = reference.finite_difference(loss, batch, scores.log_prob)
    np.testing.assert_allclose(objective.coefficients(method, batch, scores), finite, rtol=2e-4, atol=2e-6)
    assert np.all(finite[np.asarray(batch.rollout.group) == 1] == 0)
    assert np.all(jnp.asarray(method.keep(batch.rollout)) == (np.asarray(batch.rollout.group) != 1))
