"""What a KL in the reward restrains: its exact mean gradient beside −∇KL(π‖π_ref)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.algorithms.conventions import CONVENTIONS, charging_others, method_defaults
from gpg_jax.algorithms.settings import resolve
from gpg_jax.theory.cards import Problem, gradient_moments, without_penalties
from gpg_jax.theory.responses import divergence, list_responses
from gpg_jax.theory.rollouts import independent_rollouts

SUM = {"aggregation": "sequence_mean_token_sum"}
CHARGED = {"kl_coefficient": 1.0, "kl_placement": "reward"}


def share(method, distance):
    """E[g]·d / ‖d‖² and the cosine of both, d = −∇KL(π‖π_ref): rewards are 0, and the KL is all that pushes.

    One prompt, pairs of responses of at most two tokens of three symbols; π_ref lies `distance` away.
    """
    responses = list_responses(3, 2)
    policy, way = jnp.asarray(np.random.default_rng(0).normal(size=(2, 1, 3, 3)))
    reference = policy + distance * way
    asked = Problem(jnp.zeros((1, 7)), policy, policy, policy, reference, jnp.zeros((1, 3)))
    found = gradient_moments(without_penalties(method), responses, independent_rollouts(responses, 1, 2))
    mean = found(asked, method.state).mean
    aim = -jax.grad(lambda logits: divergence(responses, logits, reference))(policy)
    along = jnp.vdot(mean, aim)
    return [float(along / jnp.vdot(aim, aim)), float(along / jnp.linalg.norm(aim) / jnp.linalg.norm(mean))]


@pytest.mark.parametrize("distance", [1.0, 0.1])
@pytest.mark.parametrize(
    ("name", "options"), [("ppo", {"lambda_": 1.0, "whiten": False}), ("a2c", {}), ("reinforce", {})]
)
def test_the_default_in_the_reward_is_the_gradient_of_the_kl(name, options, distance):
    with jax.enable_x64(True):
        made = ALGORITHMS[name](**CHARGED, **SUM, **options)
        np.testing.assert_allclose(share(made, distance), 1, rtol=1e-9)


def test_k3_in_the_reward_lets_go_near_the_reference():
    """Its mean is −∇KL(π‖π_ref) + ∇KL(π_ref‖π) a token, whose first order in the distance cancels."""
    with jax.enable_x64(True):
        made = ALGORITHMS["reinforce"](convention="trl", kl_estimator="k3", **CHARGED)
        shares = [share(made, distance)[0] for distance in (1.0, 0.3, 0.03)]
    assert 0.3 > shares[0] > shares[1] > shares[2] > 0 and shares[2] < 0.03


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_another_estimator_in_the_reward_is_for_systems_that_have_it(convention):
    asked = {"convention": convention, **CHARGED}
    assert resolve(asked).kl_estimator == "k1"
    for estimator in ("k2", "k3", "abs", "k3+"):
        if convention in ("trl", "verl", "tunix", "openrlhf"):
            assert resolve(asked | {"kl_estimator": estimator}).kl_estimator == estimator
        else:
            with pytest.raises(ValueError, match="in the reward has another gradient"):
                resolve(asked | {"kl_estimator": estimator})


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_convention_that_is_named_as_a_way_out_is_one_of_the_method(name):
    """Where no system has the method by that name, k1 is the only one."""
    asked, others = CHARGED | {"kl_estimator": "k3"}, charging_others(name)
    with pytest.raises(ValueError, match="next to none near the reference: take k1") as said:
        ALGORITHMS[name](**asked)
    assert str(said.value).endswith(", ".join(others) or "take k1")
    assert bool(others) == (name not in ("a2c", "cpi", "ppo", "trpo", "vapo"))
    for convention in others:
        assert isinstance(method_defaults(name, {"convention": convention}), dict)
