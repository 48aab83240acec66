"""A critic's values are those of a plain forward pass, on the policy's trunk and on one of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from gpg_jax.policies.critic import head_critic, trunk_critic
from gpg_jax.policies.score import score

WIDTH = small.ARCHITECTURE.width


def head(seed):
    return {
        "weight": jnp.asarray(np.random.default_rng(seed).normal(size=WIDTH), jnp.float32),
        "bias": jnp.float32(0.3),
    }


def states(params, rows):
    """Hidden states of whole rows, one plain forward."""
    position = jnp.broadcast_to(jnp.arange(rows.tokens.shape[1])[None], rows.tokens.shape)
    position = jnp.where(position < rows.length[:, None], position, -1)
    return small.policy().hidden(params, rows.tokens, position, ())[0]


@pytest.fixture(scope="module")
def rows():
    """Some rows are as long as they can be: what is behind their last token has a slot as well."""
    rows = small.rollout()
    assert (rows.length - rows.prompt_length == small.LAYOUT.new_slots).any()
    return rows


@pytest.mark.parametrize("kind", ["head", "trunk"])
def test_values_are_those_of_a_plain_forward(rows, kind):
    own = jax.tree.map(
        lambda leaf: leaf + 0.1 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), small.params()
    )
    if kind == "head":
        critic, params, read = head_critic(WIDTH), head(1), small.params()
    else:
        critic, params, read = trunk_critic(small.policy(), WIDTH), {**head(1), "trunk": own}, own

    @jax.jit
    def scored(policy_params, critic_params):
        return score(
            small.policy(),
            policy_params,
            rows.tokens,
            rows.prompt_length,
            rows.length,
            small.LAYOUT,
            temperature=0.7,
            critic=(critic, critic_params),
        )

    found = scored(small.params(), params)
    plain = states(read, rows) @ params["weight"] + params["bias"]
    before = jnp.pad(plain, ((0, 0), (1, 0)))[:, :-1]
    np.testing.assert_allclose(
        np.where(rows.action_mask, found.value, 0), np.where(rows.action_mask, before, 0), atol=5e-5
    )
    last = jnp.take_along_axis(plain, rows.length[:, None] - 1, axis=1)[:, 0]
    np.testing.assert_allclose(found.bootstrap, last, atol=5e-5)
    without = score(
        small.policy(),
        small.params(),
        rows.tokens,
        rows.prompt_length,
        rows.length,
        small.LAYOUT,
        temperature=0.7,
    )
    acted = rows.action_mask
    np.testing.assert_allclose(found.log_prob[acted], without.log_prob[acted], atol=1e-5)

    def squares(policy_params, critic_params):
        return jnp.sum(jnp.where(rows.action_mask, scored(policy_params, critic_params).value, 0) ** 2)

    of_policy, of_critic = jax.grad(squares, argnums=(0, 1))(small.params(), params)
    moved = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(of_policy))
    assert (moved > 0) == (kind == "head")
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(of_critic))


def test_a_critic_begins_at_nothing_and_its_trunk_at_the_policy():
    critic = trunk_critic(small.policy(), WIDTH)
    params = critic.init(jax.random.key(0), small.params())
    assert float(jnp.abs(params["weight"]).max()) == float(params["bias"]) == 0
    for one, two in zip(jax.tree.leaves(params["trunk"]), jax.tree.leaves(small.params()), strict=True):
        np.testing.assert_array_equal(one, two)
    other = trunk_critic(small.policy(), WIDTH, from_policy=False).init(jax.random.key(0), small.params())
    assert float(jnp.abs(other["trunk"]["embedding"] - small.params()["embedding"]).max()) > 0
    assert set(head_critic(WIDTH).init(jax.random.key(0), small.params())) == {"weight", "bias"}
