"""Advantages: which rows a baseline sees, what varies inside a row, and what is refused."""

from __future__ import annotations

import examples
import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.decoding.units import token_units
from gpg_jax.environments.shaping import reward_at_last_action
from gpg_jax.estimators import advantages
from gpg_jax.estimators.filters import finished
from gpg_jax.types import STOP_EOS, STOP_LENGTH

MASK = np.array([[0, 1, 1, 0, 1], [0, 1, 0, 0, 0], [0, 1, 1, 1, 0]], bool)
BATCH = examples.make_batch(examples.make_rollout(MASK, [1.0, 0.0, 4.0], [0, 0, 0]))
UNITS = token_units(jnp.asarray(MASK))


def test_a_row_is_credited_on_every_action():
    rewards = reward_at_last_action(BATCH.rollout.reward, MASK)
    advantage, target, state = advantages.outcome_advantage(advantages.minus_leave_one_out)(
        BATCH, UNITS, rewards, ()
    )
    # others' means 2, 2.5, .5
    np.testing.assert_allclose(advantage, np.where(MASK, [[-1.0], [-2.5], [3.5]], 0))
    assert target is None and state == ()


def test_reward_to_go_less_a_baseline():
    rewards = jnp.array([[9.0, 1.0, 2.0, 9.0, 4.0], [0, 3.0, 0, 0, 0], [0.0] * 5])
    function = advantages.return_advantage(advantages.minus_constant(1.0), 0.5)
    advantage = function(BATCH, UNITS, rewards, ())[0]
    # row 0: 4; 2 + 2 = 4; 1 + 2 = 3, each less 1; the tool's token is not a step
    np.testing.assert_allclose(advantage, [[0, 2, 3, 0, 3], [0, 2, 0, 0, 0], [0, -1, -1, -1, 0]])
    function = advantages.return_advantage(advantages.minus_constant(1.0), 0.5, discount_state=True)
    discounted = function(BATCH, UNITS, rewards, ())[0]
    np.testing.assert_allclose(discounted[0], [0, 2, 1.5, 0, 0.75])


def test_each_token_is_held_by_itself():
    """Returns-to-go (7, 6, 4) less 1, held in ±5: (5, 5, 3); held at its first token the row would lose 1."""
    rewards = jnp.array([[9.0, 1.0, 2.0, 9.0, 4.0], [0, -8.0, 0, 0, 0], [0.0] * 5])
    function = advantages.return_advantage(advantages.minus_constant(1.0), bounds=(-5.0, 5.0))
    advantage = function(BATCH, UNITS, rewards, ())[0]
    np.testing.assert_allclose(advantage, [[0, 5, 5, 0, 3], [0, -5, 0, 0, 0], [0, -1, -1, -1, 0]])


def test_what_is_charged_by_token_stays_outside_of_the_group():
    rewards = reward_at_last_action(BATCH.rollout.reward, MASK) - jnp.where(MASK, 0.5, 0)
    function = advantages.outcome_and_rest_advantage(
        advantages.group_centred(), lambda batch: jnp.asarray(batch.rollout.reward)
    )
    advantage = function(BATCH, UNITS, rewards, ())[0]
    mean = 5 / 3
    np.testing.assert_allclose(advantage[0], [0, 1 - mean - 1.5, 1 - mean - 1, 0, 1 - mean - 0.5], rtol=1e-6)


def test_truncated_rows_may_leave_the_statistics():
    rollout = BATCH.rollout.replace(stop=np.array([STOP_EOS, STOP_EOS, STOP_LENGTH], np.int32))
    batch, returns = BATCH._replace(rollout=rollout), jnp.asarray(rollout.reward)
    inside = advantages.group_centred()(returns, batch, ())[0]
    outside = advantages.group_centred(statistics=finished)(returns, batch, ())[0]
    np.testing.assert_allclose(inside, [-2 / 3, -5 / 3, 7 / 3], rtol=1e-6)
    np.testing.assert_allclose(outside, [0.5, -0.5, 3.5], rtol=1e-6)
    normalised = advantages.group_normalised(statistics=finished)(returns, batch, ())[0]
    np.testing.assert_allclose(normalised, [1, -1, 7], rtol=1e-6)


def test_exact_norms_may_replace_the_proxy():
    rows = advantages.minus_optimal(lambda batch: jnp.array([1.0, 1.0, 3.0]))
    advantage = rows(jnp.asarray(BATCH.rollout.reward), BATCH, ())[0]
    np.testing.assert_allclose(advantage, [1 - 3, 0 - 13 / 4, 4 - 0.5])
    with pytest.raises(ValueError, match=r"Scores\.score_square"):
        advantages.minus_optimal()(jnp.zeros(3), BATCH, ())


def test_advantages_are_held_where_asked():
    rows = advantages.held(advantages.without_baseline, (-1.0, 2.0))
    np.testing.assert_array_equal(rows(jnp.array([-5.0, 1.0, 9.0]), BATCH, ())[0], [-1, 1, 2])
    assert advantages.held(advantages.without_baseline, None) is advantages.without_baseline
