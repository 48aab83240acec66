"""O-8: the score-function identity."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from small_mdps import distributions, logits

from gpg_jax.theory import scores


def test_bernoulli_by_hand():
    """∂ log p/∂θ = x/θ − (1 − x)/(1 − θ): −1/.7 and 1/.3 at θ = .3; d/dθ E[f] = f(1) − f(0)."""
    theta = jnp.array([0.3])
    np.testing.assert_allclose(np.exp(scores.bernoulli(theta)), [0.7, 0.3], rtol=1e-14)
    np.testing.assert_allclose(scores.score(scores.bernoulli, theta)[:, 0], [-1 / 0.7, 1 / 0.3], rtol=1e-14)
    for values in ([2.0, 5.0], [1.0, 1.0], [-3.0, 0.5]):
        gradient = scores.score_gradient(scores.bernoulli, theta, jnp.array(values))
        np.testing.assert_allclose(gradient, [values[1] - values[0]], atol=1e-14)


@given(logits((5, 3)), logits((3,)), logits((5,)))
def test_the_identity_for_log_linear_families(features, theta, values):
    """The score is φ − E[φ], has the mean 0, and E[f·score] is jax.grad of E[f]; so is E[(f − b)·score]."""
    probability = np.exp(features @ theta) / np.exp(features @ theta).sum()
    score = _score(features, theta)
    np.testing.assert_allclose(score, features - probability @ features, atol=1e-13)
    np.testing.assert_allclose(probability @ score, 0, atol=1e-13)
    gradient = _gradient(features, theta, values)
    for baseline in (0.0, 7.5):
        with_baseline = _by_scores(features, theta, values - baseline)
        np.testing.assert_allclose(with_baseline, gradient, atol=1e-12)


_by_scores = jax.jit(lambda features, *rest: scores.score_gradient(scores.log_linear(features), *rest))
_score = jax.jit(lambda features, theta: scores.score(scores.log_linear(features), theta))
_gradient = jax.jit(
    jax.grad(lambda features, theta, values: jnp.exp(scores.log_linear(features)(theta)) @ values, argnums=1)
)


@given(distributions((3, 2), positive=True), logits())
def test_scores_of_tables(policy, coefficients):
    """Σ_a c(s, a) ∇log π(a | s), term by term."""
    wanted = np.zeros((3, 2))
    for state in range(3):
        for action in range(2):
            score = (np.arange(2) == action) - policy[state]
            wanted[state] += coefficients[state, action] * score
    np.testing.assert_allclose(scores.table_scores(policy, coefficients), wanted, atol=1e-13)
