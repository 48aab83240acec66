"""O-18 through the penalties themselves: expected gradients of a KL in the loss, enumerated."""

from __future__ import annotations

import re

import examples
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.estimators.divergences import full_kl
from gpg_jax.losses.penalties import kl_cost, kl_held, kl_penalty
from gpg_jax.losses.weights import token_sum
from gpg_jax.types import Scores

THETA = jnp.array([0.2, -0.5, 0.9])
REFERENCE = jax.nn.log_softmax(jnp.array([-0.3, 0.4, 0.1]))
ROLLOUT = examples.make_rollout(np.tile([False, True], (3, 1)), np.zeros(3), np.zeros(3))


def column(log_prob):
    """Row y is the output of the one token y: `[3, 2]`, the prompt's entry masked."""
    return jnp.stack([jnp.zeros(3), log_prob], axis=1)


BATCH = examples.make_batch(ROLLOUT, column(jax.nn.log_softmax(THETA)), column(REFERENCE))


def expected_gradient(estimator, **options):
    """Σ_y π_old(y)·∇_θ cost(y) at π_θ = π_old."""
    cost = kl_cost(estimator, **options)
    old = jax.nn.softmax(THETA)

    def expected(theta):
        log_prob = jax.nn.log_softmax(theta)
        scores = Scores(column(log_prob), kl_ref=column(jnp.full(3, full_kl(theta, REFERENCE))))
        return jnp.sum(old * cost(scores, BATCH)[:, 1])

    return jax.grad(expected)(THETA)


FORWARD = jax.grad(lambda theta: full_kl(theta, REFERENCE))(THETA)
BACKWARD = jax.grad(lambda theta: full_kl(REFERENCE, theta))(THETA)
WEIGHTED = {"importance_weighted": True}


@pytest.mark.parametrize(
    ("estimator", "options", "target"),
    [
        ("k1", {}, 0 * FORWARD),
        ("k2", {}, FORWARD),
        ("k3", {}, BACKWARD),
        ("k3+", {}, FORWARD),
        ("full", {}, FORWARD),
        ("k1", WEIGHTED, FORWARD),
        ("k3", WEIGHTED, FORWARD),
        ("k3", {**WEIGHTED, "bounds": (-20.0, 20.0)}, FORWARD),
    ],
)
def test_expected_gradients(estimator, options, target):
    np.testing.assert_allclose(expected_gradient(estimator, **options), target, atol=1e-6)


@pytest.mark.parametrize("estimator", ["k2", "abs", "k3+", "full"])
def test_a_weight_that_would_bend_the_gradient_is_refused(estimator):
    with pytest.raises(ValueError, match=re.escape(f"for k1 and k3 alone, got '{estimator}'")):
        kl_penalty(estimator, 0.1, token_sum, importance_weighted=True)


def test_a_weighted_k2_would_be_wrong():
    """Why it is refused: E[∇(r·k2)] = E[k2·∇log π] + ∇KL, and the first term does not vanish."""
    old = jax.nn.softmax(THETA)
    square = kl_cost("k2")

    def expected(theta):
        log_prob = jax.nn.log_softmax(theta)
        ratio = jnp.exp(log_prob - jax.nn.log_softmax(THETA))
        return jnp.sum(old * ratio * square(Scores(column(log_prob)), BATCH)[:, 1])

    assert jnp.abs(jax.grad(expected)(THETA) - FORWARD).max() > 1e-2


def test_bounds_hold_the_difference_and_the_weight_and_say_where():
    """d = (0, 4, −4) and log-ratio (−3, −7, 1) from π_old = e^−1, π_ref = e^−4; bounds ±2."""
    old, reference = jnp.full((3, 2), -1.0), jnp.full((3, 2), -4.0)
    new = Scores(column(jnp.array([-4.0, -8.0, 0.0])))
    batch = examples.make_batch(ROLLOUT, old, reference)
    penalty = kl_penalty("k1", 1.0, token_sum, bounds=(-2.0, 2.0), importance_weighted=True)
    cost = penalty.cost(new, batch, None)[:, 1]
    np.testing.assert_allclose(cost, [0, -2 * np.exp(-2), 2 * np.exp(1)], rtol=1e-6)
    np.testing.assert_array_equal(penalty.held(new, batch)[:, 1], [False, True, True])
    assert kl_held("k3", None, None) is None
