"""PPO's two bounds, its two controllers under their own names, and what halts it."""

import examples
import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.algorithms.ppo import Coefficients, ppo
from gpg_jax.losses import objective

TARGET = 0.01


@pytest.mark.parametrize(
    ("kl", "factor"),
    [
        (TARGET / 1.5 * 0.999, 0.5),
        (TARGET / 1.5 * 1.001, 1.0),
        (TARGET * 1.5 * 0.999, 1.0),
        (TARGET * 1.5 * 1.001, 2.0),
    ],
)
def test_the_penalised_form_doubles_and_halves_by_the_kl_behind_its_updates(kl, factor):
    method = ppo(bound="kl", old_kl_target=TARGET, old_kl_coefficient=3.0)
    after = method.after(method.state, {"kl_old_after": jnp.float32(kl)})
    assert after == Coefficients(old=3.0 * factor, reference=None)


def test_the_penalty_is_the_kl_from_the_old_policy_and_nothing_is_clipped():
    """∂/∂log π of β·k3(π_old‖π_θ) is β(r − 1) a token, beside −A·r: at β = 2 against β = 0."""
    batch, scores = examples.random_batch(4)
    actions = np.asarray(batch.rollout.action_mask)
    ratio = np.exp(np.where(actions, scores.log_prob - batch.old.log_prob, 0))
    free, bound = (
        np.asarray(objective.coefficients(ppo(bound="kl", old_kl_coefficient=beta), batch, scores))
        for beta in (1e-9, 2.0)
    )
    wanted = np.where(actions, 2 * (ratio - 1), 0) / actions.sum()
    np.testing.assert_allclose(bound - free, wanted, rtol=1e-4, atol=1e-6)
    estimate, _ = objective.estimate(ppo(bound="kl"), batch, ppo(bound="kl").state)
    np.testing.assert_allclose(free, -estimate.advantage * ratio / actions.sum(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kl", "factor"), [(6.6, 1.01), (60.0, 1.02), (0.0, 0.98), (5.4, 0.99)])
def test_the_kl_to_the_reference_is_steered_in_proportion_and_by_a_fifth_at_most(kl, factor):
    """Ziegler et al.: β ← β(1 + K·clip(KL/target − 1, ±0.2)) with K = 0.1 and a target of 6 nats."""
    method = ppo(kl_coefficient=0.2, kl_placement="reward", kl_target=6.0)
    after = method.after(method.state, {"kl_response": jnp.float32(kl)})
    np.testing.assert_allclose(after.reference, 0.2 * factor, rtol=1e-6)
    assert after.old is None


def test_the_steered_coefficient_is_what_the_reward_is_charged_with():
    batch, _ = examples.random_batch(4)
    method = ppo(kl_coefficient=0.2, kl_placement="reward", kl_estimator="k1", kl_target=6.0)
    plain = ppo(kl_coefficient=0.5, kl_placement="reward", kl_estimator="k1")
    charged = method.shape(batch, Coefficients(None, jnp.float32(0.5)))
    np.testing.assert_array_equal(charged, plain.shape(batch, plain.state))
    unit_ids = method.objective.units(batch)
    watched = method.watch(objective.hide_masked(batch), unit_ids)["kl_response"]
    rewards = method.shape(batch, Coefficients(None, jnp.float32(1.0))) - method.shape(
        batch, Coefficients(None, jnp.float32(0.0))
    )
    np.testing.assert_allclose(watched, -np.sum(rewards, axis=1), rtol=1e-5)


def test_without_controllers_there_is_no_state():
    method = ppo()
    assert method.state == Coefficients(None, None) and "after" not in method.needs and method.halt is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kl_target": 6.0}, "stays at 0 for ever"),
        ({"kl_target": 0.0, "kl_coefficient": 0.1}, "kl_target must be above 0"),
        ({"halt_kl": -1.0}, "halt_kl must be above 0"),
        ({"bound": "both"}, "bound"),
        ({"value_clip": 0.0}, "value_clip must be above 0"),
        ({"ddof": 1}, "does not read 'ddof'"),
        ({"lambda_": 1.5}, "lambda_ must be a finite number in"),
    ],
)
def test_what_cannot_be(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        ALGORITHMS["ppo"](**options)
