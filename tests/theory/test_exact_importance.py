"""O-1 and O-6: estimators by importance sampling, every sample listed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_mdps import distributions, mdps

from gpg_jax.estimators.importance import importance_estimate, self_normalised_estimate
from gpg_jax.theory import importance
from gpg_jax.theory.examples import bernoulli_chain, bernoulli_policy, random_mdp
from gpg_jax.theory.trajectories import enumerate_trajectories, trajectory_probability, trajectory_weight


@settings(max_examples=10)
@given(
    mdps(masked=False, positive=True, discount=st.just(0.9)),
    distributions((3, 2), positive=True),
    distributions((3, 2)),
)
def test_the_variance_of_trajectory_weights(mdp, behaviour, target):
    """ρ₀ᵀ M^H 1 − 1 is the sum over all trajectories, whose weights have the mean 1."""
    every = enumerate_trajectories(mdp, 3)
    probability, weight = _listed(every, behaviour, target)
    np.testing.assert_allclose(probability @ weight, 1, rtol=1e-12)
    variance = probability @ (weight - 1) ** 2
    np.testing.assert_allclose(importance.weight_variance(mdp, behaviour, target, 3), variance, atol=1e-10)


@jax.jit
def _listed(every, behaviour, target):
    return trajectory_probability(every, behaviour), trajectory_weight(every, behaviour, target)


@given(distributions((4, 3), positive=True), distributions((4, 3)))
def test_second_moments_are_one_plus_chi_square(behaviour, target):
    chi_square = np.sum((target - behaviour) ** 2 / behaviour, axis=1)
    np.testing.assert_allclose(importance.second_moment(behaviour, target), 1 + chi_square, rtol=1e-12)


def test_what_is_never_sampled_cannot_be_corrected():
    behaviour, target = np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]])
    assert importance.second_moment(behaviour, target)[0] == np.inf
    np.testing.assert_array_equal(importance.second_moment(target, behaviour), [2])
    chain = bernoulli_chain(2, 0.9)
    never, sometimes = bernoulli_policy(chain, 0.0), bernoulli_policy(chain, 0.5)
    with pytest.raises(ValueError, match=r"never takes \(state, action\) \[\[0, 1\], \[1, 1\]\]"):
        importance.weight_variance(chain, never, sometimes, 2)
    np.testing.assert_allclose(importance.weight_variance(chain, sometimes, never, 2), 4 - 1)


def test_moments_by_hand():
    """A coin of .3 thrown N times: mean .3 and variance .21/N; then what cannot be listed."""
    heads, probability = jnp.array([0.0, 1.0]), jnp.array([0.7, 0.3])
    for samples in (1, 3):
        moments = importance.estimator_moments(lambda x: jnp.mean(heads[x]), probability, samples)
        np.testing.assert_allclose(moments, [0.3, 0.21 / samples], rtol=1e-13)
    for samples in (0, 20):
        with pytest.raises(ValueError, match=f"got {samples} samples of 2 outcomes"):
            importance.estimator_moments(jnp.mean, probability, samples)
    with pytest.raises(ValueError, match="the estimator returns float32"):
        importance.estimator_moments(jnp.mean, probability, 2)  # of integers


def test_importance_sampling_is_unbiased_and_self_normalising_is_not():
    """Three outcomes, off the target: the mean is μ for every N; SNIS starts at E_q f and tends to μ."""
    target, proposal, values = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.3, 0.5]), np.array([1.0, -2, 4])
    f, log_weight = jnp.asarray(values), jnp.log(target / proposal)
    plain, normalised = [], []
    for samples in (1, 2, 6):
        for estimate, found in ((importance_estimate, plain), (self_normalised_estimate, normalised)):
            found.append(
                importance.estimator_moments(
                    lambda x, of=estimate: of(f[x], log_weight[x], jnp.ones(len(x), bool)),
                    proposal,
                    samples,
                )
            )
    weighted = target / proposal * values
    spread = proposal @ weighted**2 - (target @ values) ** 2
    for samples, found in zip((1, 2, 6), plain, strict=True):
        np.testing.assert_allclose(found, [target @ values, spread / samples], rtol=1e-12)
    np.testing.assert_allclose(normalised[0].mean, proposal @ values, rtol=1e-12)
    bias = [abs(float(found.mean) - target @ values) for found in normalised]
    assert bias[0] > bias[1] > bias[2] > 0.01


def test_exponential_growth_in_an_mdp():
    """log(1 + Var) grows by the logarithm of M's largest eigenvalue a step, sooner or later."""
    mdp = random_mdp(0, 3, 2, 0.9)
    draw = np.random.default_rng(4)
    behaviour, target = draw.dirichlet(np.ones(2), size=(2, 3))
    step = np.einsum("sa,sat->st", target**2 / behaviour, mdp.transition)
    growth = np.abs(np.linalg.eigvals(step)).max()
    longer, shorter = (1 + float(importance.weight_variance(mdp, behaviour, target, h)) for h in (41, 40))
    np.testing.assert_allclose(longer / shorter, growth, rtol=1e-9)
    assert growth > 1
