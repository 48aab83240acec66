"""A reward is that behind a row's last token by a plain forward, whatever lies behind it or beside it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from gpg_jax.policies.critic import head_critic, trunk_critic, value
from gpg_jax.policies.reward import reward
from gpg_jax.policies.score import Layout

WIDTH = small.ARCHITECTURE.width
CRITIC = trunk_critic(small.policy(), WIDTH)


@pytest.fixture(scope="module")
def params():
    weight = np.random.default_rng(2).normal(size=WIDTH)
    return {"weight": jnp.float32(weight), "bias": jnp.float32(0.3), "trunk": small.params()}


@pytest.fixture(scope="module")
def rows():
    return small.rollout(prompts=3)


@jax.jit
def plain(params, tokens, length):
    """One forward of each whole row, read at its last token."""
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
    position = jnp.where(position < length[:, None], position, -1)
    hidden, _ = small.policy().hidden(params["trunk"], tokens, position, ())
    values = value(params, hidden)
    return jnp.take_along_axis(values, length[:, None] - 1, axis=1)[:, 0]


def rewards(params, rows, layout=small.LAYOUT):
    read = jax.jit(reward, static_argnums=(0, 5))
    return read(CRITIC, params, rows.tokens, rows.prompt_length, rows.length, layout)


def test_a_reward_is_that_of_a_plain_forward(params, rows):
    found = rewards(params, rows)
    assert found.dtype == jnp.float32 and found.shape == rows.length.shape
    np.testing.assert_allclose(found, plain(params, rows.tokens, rows.length), atol=5e-5)
    alone = rewards(params, rows, dataclasses.replace(small.LAYOUT, shared=1))
    np.testing.assert_allclose(found, alone, atol=5e-5)


def test_what_lies_behind_a_row_and_in_other_rows_does_not_count(params, rows):
    found = rewards(params, rows)
    behind = np.arange(rows.tokens.shape[1]) >= rows.length[:, None]
    np.testing.assert_array_equal(
        found, rewards(params, rows.replace(tokens=np.where(behind, 7, rows.tokens)))
    )
    padded = rows.replace(tokens=np.pad(rows.tokens, ((0, 0), (0, 3)), constant_values=5))
    wider = Layout(small.LAYOUT.prompt_slots, small.LAYOUT.new_slots + 3, small.LAYOUT.shared)
    np.testing.assert_allclose(found, rewards(params, padded, wider), atol=5e-5)


def test_the_last_token_counts_and_no_token_behind_the_end_is_learnt_from(params, rows):
    last = np.arange(rows.tokens.shape[1]) == rows.length[:, None] - 1
    other = rows.replace(
        tokens=np.where(last, (rows.tokens + 1) % small.ARCHITECTURE.vocab_size, rows.tokens)
    )
    assert np.all(np.abs(rewards(params, rows) - rewards(params, other)) > 1e-4)

    foreign = 2  # no row has it
    behind = np.arange(rows.tokens.shape[1]) >= rows.length[:, None]
    assert behind.any() and not (rows.tokens == foreign).any()
    marked = rows.replace(tokens=np.where(behind, foreign, rows.tokens))
    slope = jax.jit(jax.grad(lambda params: jnp.sum(rewards(params, marked) ** 2)))(params)
    assert not np.any(slope["trunk"]["embedding"][foreign])
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(slope))


def test_a_critic_on_the_policys_states_is_no_reward_model(params, rows):
    with pytest.raises(ValueError, match="a reward model reads a transformer of its own"):
        reward(head_critic(WIDTH), params, rows.tokens, rows.prompt_length, rows.length, small.LAYOUT)
    with pytest.raises(ValueError, match=r"needs rows of 16 tokens, a multiple of 4 of them"):
        reward(CRITIC, params, rows.tokens[:3], rows.prompt_length[:3], rows.length[:3], small.LAYOUT)
