"""O-9: the baseline of least variance."""

from __future__ import annotations

import jax
import numpy as np
from hypothesis import given
from small_mdps import ACTIONS, STATES, logits, mdps

from gpg_jax.estimators.baselines import score_norms
from gpg_jax.theory import baselines, values
from gpg_jax.theory.mdp import softmax_policy

optimal = jax.jit(lambda mdp, logits: baselines.optimal_baseline(mdp, softmax_policy(mdp, logits)))
variance = jax.jit(
    lambda mdp, logits, baseline: baselines.gradient_variance(mdp, softmax_policy(mdp, logits), baseline)
)
evaluate = jax.jit(values.evaluate)
value = jax.jit(lambda mdp, logits: values.evaluate(mdp, softmax_policy(mdp, logits)).state)


@given(mdps(), logits(), logits((STATES,)))
def test_no_baseline_has_less_variance(mdp, table, shift):
    """Var(b* + x) − Var(b*) = 1/(1 − γ)² Σ_s d(s) x(s)² E‖s‖² ≥ 0, so b* is the minimum, state by state."""
    best = np.asarray(optimal(mdp, table))
    least = float(variance(mdp, table, best))
    scale = 1e-11 * (1 + least)
    assert float(variance(mdp, table, best + shift)) >= least - scale
    assert float(variance(mdp, table, value(mdp, table))) >= least - scale
    for state in range(STATES):
        alone = shift * (np.arange(STATES) == state)
        assert float(variance(mdp, table, best + alone)) >= least - scale


@given(mdps(), logits())
def test_the_optimal_baseline_by_hand(mdp, table):
    """E[Q n]/E[n] and V + Cov(Q, n)/E[n] with n = ‖onehot − π‖²; V where there is one action."""
    policy = np.asarray(softmax_policy(mdp, table))
    every = evaluate(mdp, policy)
    best = optimal(mdp, table)
    for s in range(STATES):
        norms = np.array([np.sum((np.eye(ACTIONS)[a] - policy[s]) ** 2) for a in range(ACTIONS)])
        mean = policy[s] @ norms
        if mean == 0:
            np.testing.assert_allclose(best[s], every.state[s], rtol=1e-12)
            continue
        action = np.asarray(every.action[s])
        ratio = policy[s] @ (action * norms) / mean
        covariance = policy[s] @ (action * norms) - (policy[s] @ action) * mean
        np.testing.assert_allclose(best[s], ratio, atol=1e-9)
        np.testing.assert_allclose(best[s], policy[s] @ action + covariance / mean, atol=1e-9)


@given(logits())
def test_norms_are_those_of_the_estimator(table):
    """‖∇_θ log π‖² in closed form is what `score_norms` differentiates out."""
    policy = np.asarray(jax.nn.softmax(table))
    exact = _norms(table).reshape(STATES, ACTIONS)
    np.testing.assert_allclose(baselines.score_squares(policy), exact, atol=1e-14)


@jax.jit
def _norms(table):
    pairs = np.indices((STATES, ACTIONS)).reshape(2, -1)
    return score_norms(lambda logits, pair: jax.nn.log_softmax(logits)[pair[0], pair[1]], table, pairs.T)
