"""The performance difference lemma, the surrogate, and the bounds, on random MDPs."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from small_mdps import ACTIONS, STATES, distributions, logits, mdps, problems

from gpg_jax.estimators import conservative
from gpg_jax.losses.gates import no_gate
from gpg_jax.theory import improvement, values
from gpg_jax.theory.episodes import episode_performance
from gpg_jax.theory.mdp import softmax_policy

performance = jax.jit(values.performance)
episode_terms = jax.jit(improvement.conservative_terms, static_argnums=3)
episode = jax.jit(episode_performance, static_argnames="horizon")
alphas = st.integers(0, 20).map(lambda count: count / 20)


class Comparison(NamedTuple):
    """All that is said of a pair of policies."""

    difference: jax.Array
    surrogate: jax.Array
    penalty: jax.Array
    bound: jax.Array
    terms: improvement.Conservative


@jax.jit
def compare(mdp, policy, new):
    return Comparison(
        improvement.performance_difference(mdp, policy, new),
        improvement.surrogate(mdp, policy, new),
        improvement.shift_penalty(mdp, policy, new),
        improvement.shift_bound(mdp, policy, new),
        improvement.conservative_terms(mdp, policy, new),
    )


def tolerance(mdp):
    """1e-12 of the largest |J| there can be, times the 1/(1 − γ) that a linear solve may lose."""
    return 1e-12 * 5 / (1 - float(mdp.discount)) ** 2


@given(problems())
def test_the_performance_difference_lemma(problem):
    """J(π′) − J(π) = 1/(1 − γ) E_{d_π′, π′} A^π for any two policies, deterministic ones included."""
    mdp, policy, new = problem
    actual = performance(mdp, new) - performance(mdp, policy)
    np.testing.assert_allclose(compare(mdp, policy, new).difference, actual, atol=tolerance(mdp))


@given(problems())
def test_the_surrogate_and_the_penalty_add_up(problem):
    """J(π′) = L + DSP, |DSP| ≤ its bound, and L(π) = J(π), DSP(π) = 0."""
    mdp, policy, new = problem
    found, same = compare(mdp, policy, new), compare(mdp, policy, policy)
    total = found.surrogate + found.penalty
    np.testing.assert_allclose(total, performance(mdp, new), atol=tolerance(mdp))
    assert abs(found.penalty) <= found.bound + tolerance(mdp)
    np.testing.assert_allclose(same.surrogate, performance(mdp, policy), atol=tolerance(mdp))
    np.testing.assert_allclose(same.penalty, 0, atol=tolerance(mdp))


@given(problems(), distributions((STATES, ACTIONS), positive=True))
def test_importance_weights_give_the_same_surrogate(problem, policy):
    """E_{a~π}[π′/π · A] = E_{a~π′} A where π takes every action: L − J is the ungated objective."""
    mdp, _, new = problem
    policy = np.where(np.asarray(mdp.legal), policy, 0) / np.where(mdp.legal, policy, 0).sum(1, keepdims=True)
    gain = compare(mdp, policy, new).terms.gain
    np.testing.assert_allclose(_ungated(mdp, policy, new), gain, atol=tolerance(mdp))


_ungated = jax.jit(lambda mdp, policy, new: improvement.gated_surrogate(mdp, policy, new, no_gate))


@given(mdps(), logits())
def test_the_surrogate_has_the_gradient_of_performance(mdp, table):
    """∇L_π(π_θ) = ∇J(θ) at π_θ = π, whence small steps are safe."""
    of_surrogate, of_performance = _gradients(jnp.asarray(table), mdp)
    np.testing.assert_allclose(of_surrogate, of_performance, atol=5 * tolerance(mdp))


@jax.jit
def _gradients(table, mdp):
    policy = softmax_policy(mdp, table)
    surrogate_at = jax.grad(lambda x: improvement.surrogate(mdp, policy, softmax_policy(mdp, x)))
    return surrogate_at(table), jax.grad(lambda x: values.performance(mdp, softmax_policy(mdp, x)))(table)


@given(problems(), alphas)
def test_mixtures(problem, alpha):
    """TV(π, π_α) = α·TV(π, π′) ≤ α, and L(π_α) = J + α·g is linear."""
    mdp, policy, new = problem
    mixed = np.asarray(improvement.mixture(policy, new, alpha))
    np.testing.assert_allclose(mixed.sum(1), 1, rtol=1e-14)
    distance = improvement.total_variation(policy, new)
    np.testing.assert_allclose(improvement.total_variation(policy, mixed), alpha * distance, atol=1e-15)
    linear = performance(mdp, policy) + alpha * compare(mdp, policy, new).terms.gain
    np.testing.assert_allclose(compare(mdp, policy, mixed).surrogate, linear, atol=tolerance(mdp))


@given(problems(), alphas)
def test_the_ratios_of_a_mixture(problem, alpha):
    """Eq. 56: π_α/π = (1 − α) + α·π′/π where π > 0, of tables and of log-probabilities of choices."""
    _, policy, new = problem
    taken = np.asarray(policy) > 0
    wanted = ((1 - alpha) + alpha * new / np.where(taken, policy, 1))[taken]
    of_tables = improvement.mixture(policy, new, alpha)[taken] / policy[taken]
    np.testing.assert_allclose(of_tables, wanted, rtol=1e-13)
    old, improved = (
        jnp.where(table > 0, jnp.log(np.where(table > 0, table, 1)), -jnp.inf) for table in problem[1:]
    )
    of_choices = _mixture_log_prob(old, improved, alpha)
    np.testing.assert_allclose(jnp.exp(of_choices - old)[taken], wanted, rtol=1e-12)


@jax.jit
def _mixture_log_prob(old, new, alpha):
    return conservative.mixture_log_prob([old, new], jnp.stack([1 - alpha, alpha]))


@given(problems(), alphas)
def test_the_conservative_bound_holds(problem, alpha):
    """J(π_α) − J(π) ≥ αg − 2γεα²/(1 − γ)², at every α and, with what is promised, at α*."""
    mdp, policy, new = problem
    found = compare(mdp, policy, new).terms
    cost = conservative.discounted_shift_cost(found.worst, float(mdp.discount))
    best = float(conservative.step_size(found.gain, cost))
    for share in (alpha, best):
        mixed = improvement.mixture(policy, new, share)
        actual = performance(mdp, mixed) - performance(mdp, policy)
        promised = conservative.improvement_bound(share, found.gain, cost)
        assert actual >= promised - tolerance(mdp)
    assert found.gain > 0 or best == 0


@given(problems(discount=st.sampled_from([1.0, 0.9])), alphas)
def test_the_conservative_bound_of_episodes_holds(problem, alpha):
    """J_H(π_α) − J_H(π) ≥ αg − α²εH(H − 1), H = 4: after t steps the states differ by 2αt at most."""
    mdp, policy, new = problem
    found = episode_terms(mdp, policy, new, 4)
    cost = conservative.horizon_shift_cost(found.worst, 4)
    for share in (alpha, float(conservative.step_size(found.gain, cost))):
        mixed = improvement.mixture(policy, new, share)
        actual = episode(mdp, mixed, horizon=4) - episode(mdp, policy, horizon=4)
        assert actual >= conservative.improvement_bound(share, found.gain, cost) - 1e-12


@given(problems(discount=st.sampled_from([1.0, 0.5])))
def test_the_gain_of_episodes(problem):
    """g = d/dα J_H(π_α) at α = 0, by a central difference (J_H is a polynomial in α)."""
    mdp, policy, new = problem
    ahead, behind = (
        episode(mdp, improvement.mixture(policy, new, alpha), horizon=4) for alpha in (1e-4, -1e-4)
    )
    np.testing.assert_allclose(episode_terms(mdp, policy, new, 4).gain, (ahead - behind) / 2e-4, atol=1e-4)
