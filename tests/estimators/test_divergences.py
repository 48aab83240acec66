"""O-17 and O-18: values of the KL estimators, and what they become as terms of a loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.estimators.divergences import ESTIMATORS, bounded, entropy, full_kl, k1, k2, k3, k3_plus

THETA = jnp.array([0.2, -0.5, 0.9])
REFERENCE = jax.nn.log_softmax(jnp.array([-0.3, 0.4, 0.1]))


def log_policy(theta):
    return jax.nn.log_softmax(theta)


def forward_kl(theta):
    return full_kl(theta, REFERENCE)


def test_values_at_a_point():
    # d = log π_ref − log π = ±.2: −d, d²/2, e^d − d − 1
    new, up, down = jnp.array(-1.0), jnp.array(-0.8), jnp.array(-1.2)
    np.testing.assert_allclose(k1(new, up), -0.2, rtol=1e-6)
    np.testing.assert_allclose(k2(new, up), 0.02, rtol=1e-5)
    np.testing.assert_allclose(k3(new, up), 0.0214027582, rtol=1e-5)
    np.testing.assert_allclose(k3(new, down), 0.0187307531, rtol=1e-5)
    np.testing.assert_allclose(k3_plus(new, down), 0.0187307531, rtol=1e-5)
    np.testing.assert_allclose(ESTIMATORS["abs"](new, down), 0.2, rtol=1e-6)
    assert k3(new, new + 1e-4) >= 0


def test_expected_values():
    p, log_p = jnp.exp(log_policy(THETA)), log_policy(THETA)
    for estimator in (k1, k3):
        np.testing.assert_allclose(jnp.sum(p * estimator(log_p, REFERENCE)), forward_kl(THETA), rtol=1e-5)

    # k2's bias is of third order: it shrinks by 2³ when the difference halves
    def bias(size):
        near = jax.nn.log_softmax(THETA + size * jnp.array([1.0, -1.0, 0.5]))
        return abs(jnp.sum(p * k2(log_p, near)) - full_kl(THETA, near))

    assert 6 < bias(0.4) / bias(0.2) < 10


@pytest.mark.parametrize(
    ("name", "weighted", "target"),
    [
        ("k1", False, lambda theta: 0.0 * jnp.sum(theta)),
        ("k2", False, forward_kl),
        ("k3", False, lambda theta: full_kl(REFERENCE, log_policy(theta))),
        ("k3+", False, forward_kl),
        ("k1", True, forward_kl),
        ("k3", True, forward_kl),
    ],
)
def test_expected_gradients_in_a_loss(name, weighted, target):
    """Σ_y π_old(y)·∇cost(y) at π_old = π, enumerated (no float64: 1e-6)."""
    old = log_policy(THETA)

    def expected(theta):
        cost = ESTIMATORS[name](log_policy(theta), REFERENCE)
        ratio = jnp.exp(log_policy(theta) - old) if weighted else 1.0
        return jnp.sum(jnp.exp(old) * ratio * cost)

    np.testing.assert_allclose(jax.grad(expected)(THETA), jax.grad(target)(THETA), atol=1e-6)


def test_k1_in_the_reward_has_the_gradient_of_the_kl():
    def score_times_cost(theta):
        log_p = log_policy(theta)
        return jnp.sum(jax.lax.stop_gradient(jnp.exp(log_p) * k1(log_p, REFERENCE)) * log_p)

    np.testing.assert_allclose(jax.grad(score_times_cost)(THETA), jax.grad(forward_kl)(THETA), atol=1e-6)


def test_bounds_hold_value_and_gradient():
    held = bounded(k3, (-2.0, 2.0))
    new, reference = jnp.array([-1.0, -9000.0]), jnp.array([-1.2, 0.0])
    np.testing.assert_allclose(held(new, reference), [0.0187307531, np.exp(2) - 3], rtol=1e-5)
    gradient = jax.grad(lambda x: jnp.sum(held(x, reference)))(new)
    np.testing.assert_allclose(gradient, [1 - np.exp(-0.2), 0], rtol=1e-5)


def test_exact_sums_over_the_vocabulary():
    logits = jnp.array([[0.0, 0.0, -jnp.inf], [1.0, 2.0, 3.0]])
    np.testing.assert_allclose(entropy(logits)[0], np.log(2), rtol=1e-6)
    assert full_kl(logits, logits)[1] == 0
    # KL((.5, .5, 0) ‖ (.25, .25, .5)) = log 2
    reference = jnp.log(jnp.array([[0.25, 0.25, 0.5], [0.25, 0.25, 0.5]]))
    np.testing.assert_allclose(full_kl(logits, reference)[0], np.log(2), rtol=1e-6)
    for function in (lambda x: entropy(x)[0], lambda x: full_kl(x, reference)[0]):
        assert np.all(np.isfinite(jax.grad(function)(logits)))
