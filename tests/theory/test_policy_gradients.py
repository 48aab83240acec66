"""O-7: three forms of the policy gradient are jax.grad of J, and a fourth is not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from small_mdps import logits, mdps, problems

from gpg_jax.estimators.generalized_advantage import generalized_advantage
from gpg_jax.theory import gradients
from gpg_jax.theory.episodes import discounts, unroll
from gpg_jax.theory.examples import bandit, random_mdp
from gpg_jax.theory.mdp import softmax_policy
from gpg_jax.theory.occupancies import state_occupancy
from gpg_jax.theory.trajectories import Trajectories, enumerate_trajectories
from gpg_jax.theory.values import evaluate, performance

HORIZON, ROWS = 3, 3 * 3 + 1
by_autodiff = jax.jit(jax.grad(lambda logits, mdp: performance(mdp, softmax_policy(mdp, logits))))
by_occupancy = jax.jit(lambda mdp, logits: gradients.occupancy_gradient(mdp, softmax_policy(mdp, logits)))


@given(mdps(), logits())
def test_the_occupancy_form_is_the_gradient(mdp, table):
    """1/(1 − γ) E_d[Q ∇log π] = ∇J; |J| is 500 at most (|r| ≤ 5, γ = .99), so 1e-12 of it is 5e-10."""
    gradient = by_autodiff(jnp.asarray(table), mdp)
    tolerance = 1e-12 * 5 / (1 - float(mdp.discount)) ** 2
    np.testing.assert_allclose(by_occupancy(mdp, table), gradient, atol=tolerance, rtol=0)


@settings(max_examples=8)
@given(mdps(discount=st.sampled_from([0.3, 0.9]), positive=True, masked=False), logits((ROWS, 2)))
def test_all_three_forms_are_the_gradient(mdp, table):
    """On an MDP that ends: 216 trajectories, a policy that depends on the time.

    E[G_0 Σ score] = E[Σ γ^t G_t score] = occupancy form = jax.grad(J) = central differences.
    """
    ending = unroll(mdp, HORIZON)
    policy = softmax_policy(ending, table)
    every = enumerate_trajectories(ending, HORIZON)
    gradient = by_autodiff(jnp.asarray(table), ending)
    for form in (whole_return(policy, every), to_go(ending, policy, every), by_occupancy(ending, table)):
        np.testing.assert_allclose(form, gradient, atol=1e-12, rtol=0)
    step = np.zeros((ROWS, 2))
    step[1, 0] = 1e-5
    ahead, behind = (worth(ending, table + side * step) for side in (1, -1))
    np.testing.assert_allclose((ahead - behind) / 2e-5, gradient[1, 0], atol=1e-8)


whole_return = jax.jit(gradients.trajectory_gradient)
to_go = jax.jit(lambda *a: gradients.reward_to_go_gradient(*a, discount_state=True))
without = jax.jit(lambda *a: gradients.reward_to_go_gradient(*a, discount_state=False))
worth = jax.jit(lambda mdp, logits: performance(mdp, softmax_policy(mdp, logits)))


def test_without_the_state_discount_it_is_another_vector():
    """Equal at γ = 1 alone: at .9 it differs, in direction too, and each form keeps to its own sum."""
    draw = np.random.default_rng(0)
    for discount, equal in [(1.0, True), (0.9, False)]:
        mdp = random_mdp(5, 3, 2, discount)
        policy = softmax_policy(mdp, draw.normal(size=(3, 2)))
        every = enumerate_trajectories(mdp, HORIZON)
        exact, common = to_go(mdp, policy, every), without(mdp, policy, every)
        np.testing.assert_allclose(whole_return(policy, every), exact, atol=1e-13)
        assert np.allclose(exact, common, atol=1e-12) == equal
        cosine = jnp.vdot(exact, common) / jnp.linalg.norm(exact) / jnp.linalg.norm(common)
        assert np.isclose(cosine, 1, atol=1e-6) == equal


def test_the_variance_of_a_bandit_by_hand():
    """R = (1, 3), π = ½: g = ±R/2 on (θ_0, θ_1), E g = (−½, ½), E‖g‖² = ½(½ + 4½) = 2½, Var = 2."""
    mdp = bandit([1.0, 3.0])
    policy = np.full((1, 2), 0.5)
    every = enumerate_trajectories(mdp, 1)
    moments = gradients.credited_moments(policy, every, every.to_go)
    np.testing.assert_allclose(moments.mean, [[-0.5, 0.5]], atol=1e-15)
    np.testing.assert_allclose(moments.variance, 2, rtol=1e-15)


@settings(max_examples=8)
@given(problems(policies=1, masked=False, positive=True, discount=st.just(0.9)), logits((3,)))
def test_baselines_and_critics(problem, critic):
    """A baseline b(s) changes no mean; GAE with λ = 1 neither; with V^π no λ changes it."""
    mdp, policy = problem
    every = Trajectories(*map(np.asarray, enumerate_trajectories(mdp, HORIZON)))
    weight = np.asarray(discounts(mdp, HORIZON))[None]
    exact = to_go(mdp, policy, every)
    baseline = weight * (every.to_go - critic[every.state])
    np.testing.assert_allclose(moments(policy, every, baseline).mean, exact, atol=1e-12)
    monte_carlo = weight * advantages(every, critic[every.state], 1.0)
    np.testing.assert_allclose(monte_carlo, baseline, atol=1e-12)


moments = jax.jit(gradients.credited_moments)
advantages = jax.jit(
    lambda every, values, lambda_: generalized_advantage(
        every.reward, values, jnp.zeros(len(values)), jnp.ones(values.shape, bool), lambda_, 0.9
    )
)


def test_a_right_critic_makes_every_lambda_right():
    mdp = random_mdp(2, 3, 2, 0.9)
    ending = unroll(mdp, HORIZON)
    policy = softmax_policy(ending, np.random.default_rng(1).normal(size=(ROWS, 2)))
    every = enumerate_trajectories(ending, HORIZON)
    exact = gradients.occupancy_gradient(ending, policy)
    right = evaluate(ending, policy).state
    weight = discounts(ending, HORIZON)[None]
    seen = []
    for lambda_ in (0.0, 0.5, 1.0):
        found = moments(policy, every, weight * advantages(every, right[every.state], lambda_))
        np.testing.assert_allclose(found.mean, exact, atol=1e-13)
        seen.append(float(found.variance))
    assert seen[0] < seen[1] < seen[2]
    wrong = moments(policy, every, weight * advantages(every, right[every.state] + every.state, 0.0))
    assert not np.allclose(wrong.mean, exact, atol=1e-3)


def test_the_two_masses_in_the_gradient():
    """The mean over the normalised d is (1 − γ) of the sum over the measure."""
    mdp = random_mdp(4, 3, 2, 0.8)
    policy = np.random.default_rng(3).dirichlet(np.ones(2), size=3)
    action = np.asarray(evaluate(mdp, policy).action)
    exact = gradients.occupancy_gradient(mdp, policy)
    for normalise, factor in [(True, 1 / (1 - 0.8)), (False, 1)]:
        visits = np.asarray(state_occupancy(mdp, policy, normalise=normalise))
        summed = np.zeros((3, 2))
        for s in range(3):
            for a in range(2):
                score = (np.arange(2) == a) - policy[s]
                summed[s] += factor * visits[s] * policy[s, a] * action[s, a] * score
        np.testing.assert_allclose(summed, exact, atol=1e-13)
