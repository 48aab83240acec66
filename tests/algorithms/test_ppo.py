"""PPO's two bounds, its two controllers under their own names, and what halts it."""

import examples
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.algorithms.ppo import Coefficients, ppo
from gpg_jax.losses import objective
from gpg_jax.losses.metrics import reduce, row_metrics, state_metrics
from gpg_jax.types import STOP_LENGTH

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
    assert after == Coefficients(old=3.0 * factor, reference=None, old_held=0.0)


def test_a_bound_of_the_penalty_is_told_where_it_binds():
    method = ppo(bound="kl", old_kl_range=(0.5, 4.0))
    state, told = method.state, []
    for kl in (0.0, 0.0, 0.01, 1.0, 1.0, 1.0, 1.0, 0.0):
        state = method.after(state, {"kl_old_after": jnp.float32(kl)})
        told.append((float(state.old), float(state.old_held)))
    assert told == [(0.5, 0), (0.5, 1), (0.5, 0), (1, 0), (2, 0), (4, 0), (4, 1), (2, 0)]
    assert state_metrics(state).keys() == {"state/old", "state/old_held"}


@pytest.mark.parametrize(("kl", "bound"), [(1e-4, 2.0**-20), (9.0, 2.0**20)])
def test_the_penalty_comes_back_from_any_row_of_one_sided_rollouts(kl, bound):
    """Free, β is 0 behind 150 halvings and stays there."""
    method = ppo(bound="kl")

    @jax.jit
    def after(state, kl, rollouts):
        return jax.lax.fori_loop(0, rollouts, lambda _, s: method.after(s, {"kl_old_after": kl}), state)

    far = after(method.state, jnp.float32(kl), 300)
    assert far.old == bound and far.old_held == 1
    back = after(far, jnp.float32(9.0 if kl < TARGET else 1e-4), 20)
    assert back.old == 1 and back.old_held == 0


def test_the_penalty_is_the_kl_from_the_old_policy_and_nothing_is_clipped():
    """∂/∂log π of β·k3(π_old‖π_θ) is β(r − 1) a token, beside −A·r: at β = 2 against β = 0."""
    batch, scores = examples.random_batch(4)
    actions = np.asarray(batch.rollout.action_mask)
    ratio = np.exp(np.where(actions, scores.log_prob - batch.old.log_prob, 0))
    wide = {"old_kl_range": (1e-9, 2.0)}
    free, bound = (
        np.asarray(objective.coefficients(ppo(bound="kl", old_kl_coefficient=beta, **wide), batch, scores))
        for beta in (1e-9, 2.0)
    )
    wanted = np.where(actions, 2 * (ratio - 1), 0) / actions.sum()
    np.testing.assert_allclose(bound - free, wanted, rtol=1e-4, atol=1e-6)
    estimate, _ = objective.estimate(ppo(bound="kl"), batch, ppo(bound="kl").state)
    np.testing.assert_allclose(free, -estimate.advantage * ratio / actions.sum(), rtol=1e-4, atol=1e-6)


def test_the_penalty_is_held_where_ratios_are():
    """Log-ratios of ±30 and ±2 in ±10: the first move nothing, and are told."""
    batch, scores = examples.random_batch(4)
    far = np.where(np.arange(9) % 2, 30, 2) * np.where(np.arange(8) % 2, 1, -1)[:, None]
    scores = scores._replace(log_prob=(batch.old.log_prob + far).astype(np.float32))
    method = ppo(bound="kl", log_ratio_range=(-10.0, 10.0), whiten=False)
    _, coefficients, seen = examples.loss_and_coefficients(method, batch, scores)
    actions = np.asarray(batch.rollout.action_mask)
    held = actions & (np.abs(far) == 30)
    assert 0 < held.sum() < actions.sum()
    np.testing.assert_array_equal(np.asarray(coefficients)[held], 0)
    assert np.all(np.asarray(coefficients)[actions & ~held] != 0)
    for name in ("kl_clamped", "log_ratio_clamped"):
        np.testing.assert_allclose(seen[name], held.sum() / actions.sum(), rtol=1e-6)


@pytest.mark.parametrize(("kl", "factor"), [(6.6, 1.01), (60.0, 1.02), (0.0, 0.98), (5.4, 0.99)])
def test_the_kl_to_the_reference_is_steered_in_proportion_and_by_a_fifth_at_most(kl, factor):
    """Ziegler et al.: β ← β(1 + K·clip(KL/target − 1, ±0.2)) with K = 0.1 and a target of 6 nats."""
    method = ppo(kl_coefficient=0.2, kl_placement="reward", kl_target=6.0)
    after = method.after(method.state, {"kl_response": jnp.float32(kl)})
    np.testing.assert_allclose(after.reference, 0.2 * factor, rtol=1e-6)
    assert after.old is None


def test_the_steered_coefficient_is_what_the_reward_is_charged_with():
    batch, _ = examples.random_batch(4)
    method = ppo(kl_coefficient=0.2, kl_placement="reward", kl_target=6.0)
    plain = ppo(kl_coefficient=0.5, kl_placement="reward", kl_estimator="k1")
    charged = method.shape(batch, Coefficients(None, jnp.float32(0.5)))
    np.testing.assert_array_equal(charged, plain.shape(batch, plain.state))
    unit_ids = method.objective.units(batch)
    watched = method.watch(objective.hide_masked(batch), unit_ids)["kl_response"]
    rewards = method.shape(batch, Coefficients(None, jnp.float32(1.0))) - method.shape(
        batch, Coefficients(None, jnp.float32(0.0))
    )
    np.testing.assert_allclose(watched, -np.sum(rewards, axis=1), rtol=1e-5)


def kl_response(batch, **options):
    method = ppo(kl_coefficient=0.2, kl_target=6.0, **options)
    return np.asarray(
        method.watch(objective.hide_masked(batch), method.objective.units(batch))["kl_response"]
    )


def test_rows_that_are_not_trained_on_are_charged_and_steer_as_well():
    """Every second row cut off, and dropped: their KL is that of the others' policy all the same."""
    batch, _ = examples.random_batch(4)
    stop = np.where(np.arange(8) % 2, STOP_LENGTH, 0).astype(np.int32)
    batch = batch._replace(rollout=batch.rollout.replace(stop=stop))
    actions = np.asarray(batch.rollout.action_mask)
    gap = np.where(actions, batch.old.log_prob - batch.reference.log_prob, 0)
    for placement in ("reward", "loss"):
        options = {"kl_placement": placement, "kl_estimator": "k1"}
        for dropped in (False, True):
            found = kl_response(batch, drop_truncated=dropped, **options)
            np.testing.assert_allclose(found, gap.sum(1), rtol=1e-5)
    assert np.all(gap.sum(1)[1::2] != 0)


@pytest.mark.parametrize(("leaves", "kl"), [(1.0, 42 / 5), (0.25, 6.0), (0.0, 2.0)])
def test_a_trees_leaves_steer_by_their_weights(leaves, kl):
    """Four leaves of 10 nats and a row of 2: one tree of 10 by a quarter each, and none where it was late."""
    mask = np.tile([False, True], (5, 1))
    rollout = examples.make_rollout(mask, np.zeros(5), np.zeros(5))
    rollout = rollout.replace(leaf_weight=np.float32([leaves] * 4 + [1]))
    reference = rollout.behaviour_log_prob - np.array([10, 10, 10, 10, 2])[:, None]
    batch = examples.make_batch(rollout, reference=reference)
    method = ppo(kl_coefficient=0.2, kl_placement="reward", kl_target=7.0)
    watched = method.watch(objective.hide_masked(batch), method.objective.units(batch))
    told = reduce(row_metrics(watched, rollout))
    np.testing.assert_allclose(told["kl_response"], kl, rtol=1e-6)
    assert (method.after(method.state, told).reference > np.float32(0.2)) == (kl > 7)


def test_what_is_held_steers_as_it_is_charged():
    """A reference 50 nats below at one token, held at 20; in the loss the estimator that stands there."""
    batch, _ = examples.random_batch(4)
    actions = np.asarray(batch.rollout.action_mask)
    first = actions & (np.cumsum(actions, axis=1) == 1)
    reference = np.where(first, batch.old.log_prob - 50, batch.reference.log_prob).astype(np.float32)
    batch = batch._replace(reference=batch.reference._replace(log_prob=reference))
    gap = np.where(actions, np.clip(batch.old.log_prob - reference, -20, 20), 0).astype(np.float64)
    np.testing.assert_allclose(kl_response(batch, kl_placement="reward"), gap.sum(1), rtol=1e-5)
    np.testing.assert_allclose(kl_response(batch, kl_estimator="full"), gap.sum(1), rtol=1e-5)
    low_variance = np.where(actions, np.expm1(-gap) + gap, 0).sum(1)
    np.testing.assert_allclose(kl_response(batch), low_variance, rtol=1e-5)


def test_without_controllers_there_is_no_state():
    method = ppo()
    assert method.state == Coefficients(None, None) and "after" not in method.needs and method.halt is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kl_target": 6.0}, "stays at 0 for ever"),
        ({"kl_target": 0.0, "kl_coefficient": 0.1}, "kl_target must be above 0"),
        ({"kl_target": float("inf"), "kl_coefficient": 0.1}, "kl_target must be a finite number"),
        ({"halt_kl": 0.0}, "halt_kl must be above 0"),
        ({"halt_kl": -1.0}, "halt_kl must not be negative"),
        ({"kl_gain": 0.3}, "kl_gain is read only with a kl_target"),
        ({"kl_gain": 0.0, "kl_target": 6.0, "kl_coefficient": 0.1}, "kl_gain must be above 0"),
        ({"kl_gain": 5.0, "kl_target": 6.0, "kl_coefficient": 0.1}, "kl_gain must be a finite number in"),
        ({"old_kl_coefficient": 5.0}, 'old_kl_coefficient is read only with bound="kl"'),
        ({"old_kl_target": 0.02}, 'old_kl_target is read only with bound="kl"'),
        ({"old_kl_range": (0.1, 1.0)}, 'old_kl_range is read only with bound="kl"'),
        ({"bound": "kl", "clip_low": -7.0}, 'clip_low is read only with bound="clip"'),
        ({"bound": "kl", "clip_high": 0.2}, 'clip_high is read only with bound="clip"'),
        ({"bound": "kl", "dual_clip": 3.0}, "does not read 'dual_clip'"),
        ({"bound": "kl", "old_kl_coefficient": 0.0}, "old_kl_coefficient must be above 0"),
        ({"bound": "kl", "old_kl_coefficient": -1.0}, "old_kl_coefficient must not be negative"),
        ({"bound": "kl", "old_kl_target": -1.0}, "old_kl_target must not be negative"),
        ({"bound": "kl", "old_kl_target": float("nan")}, "old_kl_target must be a finite number"),
        ({"bound": "kl", "old_kl_range": (0.0, 1.0)}, "lower bound of old_kl_range must be above 0"),
        ({"bound": "kl", "old_kl_range": (0.5, float("inf"))}, "old_kl_range must be a finite number"),
        ({"bound": "kl", "old_kl_range": (2.0, 0.5)}, "a low and a high, in this order"),
        ({"bound": "kl", "old_kl_range": 2.0}, "old_kl_range must be a low and a high"),
        ({"bound": "kl", "old_kl_range": (2.0, 4.0)}, "old_kl_coefficient must be a finite number in"),
        ({"clip_low": -7.0}, "clip ranges must not be negative"),
        ({"value_clip": float("inf")}, "value_clip must be a finite number"),
        ({"bound": "both"}, "bound"),
        ({"value_clip": 0.0}, "value_clip must be above 0"),
        ({"ddof": 1}, "does not read 'ddof'"),
        ({"lambda_": 1.5}, "lambda_ must be a finite number in"),
    ],
)
def test_what_cannot_be(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        ALGORITHMS["ppo"](**options)
