"""The transformer at its seam: causal, position-true, and the same whichever way a row is read."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from gpg_jax.policies.architecture import Architecture
from gpg_jax.policies.policy import Context
from gpg_jax.policies.transformer import rms_norm, transformer


@pytest.fixture(scope="module")
def tokens():
    return jax.random.randint(jax.random.key(1), (4, 10), 0, small.ARCHITECTURE.vocab_size)


def positions(tokens, start=0):
    return jnp.broadcast_to(jnp.arange(start, start + tokens.shape[1], dtype=jnp.int32)[None], tokens.shape)


@functools.partial(jax.jit, static_argnums=0)
def read(policy, params, tokens, position, contexts=()):
    return policy.hidden(params, tokens, position, contexts)


def whole(policy, tokens):
    return read(policy, small.params(), tokens, positions(tokens))[0]


def test_a_token_sees_itself_and_what_came_before(tokens):
    changed = tokens.at[:, 6].add(1) % small.ARCHITECTURE.vocab_size
    before, after = (whole(small.policy(), rows) for rows in (tokens, changed))
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert np.abs(before[:, 6:] - after[:, 6:]).min(axis=(0, 2)).max() > 1e-4


def test_order_matters(tokens):
    swapped = tokens.at[:, 0].set(tokens[:, 1]).at[:, 1].set(tokens[:, 0])
    assert np.abs(whole(small.policy(), tokens)[:, -1] - whole(small.policy(), swapped)[:, -1]).max() > 1e-4


@pytest.mark.parametrize("split", [1, 4, 9])
def test_reading_in_two_calls_is_reading_in_one(tokens, split):
    policy = small.policy()
    head, tail = tokens[:, :split], tokens[:, split:]
    _, cache = read(policy, small.params(), head, positions(head))
    context = Context(cache, positions(head))
    hidden, _ = read(policy, small.params(), tail, positions(tail, split), (context,))
    np.testing.assert_allclose(hidden, whole(policy, tokens)[:, split:], atol=2e-5)


def test_a_shared_context_is_read_by_its_group(tokens):
    policy = small.policy()
    shared = tokens.at[1, :6].set(tokens[0, :6]).at[3, :6].set(tokens[2, :6])
    head, tail = shared[::2, :6], shared[:, 6:]
    _, cache = read(policy, small.params(), head, positions(head))
    hidden, _ = read(policy, small.params(), tail, positions(tail, 6), (Context(cache, positions(head)),))
    np.testing.assert_allclose(hidden, whole(policy, shared)[:, 6:], atol=2e-5)


def test_empty_slots_are_not_seen(tokens):
    policy = small.policy()
    head, tail = tokens[:, :6], tokens[:, 6:]
    _, cache = read(policy, small.params(), head, positions(head))
    padded = jax.tree.map(
        lambda leaf: jnp.pad(leaf, [(0, 0)] * 3 + [(0, 3), (0, 0)], constant_values=7.0), cache
    )
    position = jnp.pad(positions(head), ((0, 0), (0, 3)), constant_values=-1)
    hidden, _ = read(policy, small.params(), tail, positions(tail, 6), (Context(padded, position),))
    np.testing.assert_allclose(hidden, whole(policy, tokens)[:, 6:], atol=2e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_parameters_for_decoding_give_the_same_values(tokens, dtype):
    policy = small.policy(dtype=dtype)
    rounded = policy.for_decoding(small.params())
    hidden, cache = read(policy, rounded, tokens, positions(tokens))
    np.testing.assert_allclose(hidden, whole(policy, tokens), atol=1e-5)
    empty = policy.init_cache(4, 10)
    chex.assert_trees_all_equal_shapes_and_dtypes(empty, cache)


def gradient(policy, tokens):
    def loss(params):
        hidden, _ = policy.hidden(params, tokens, positions(tokens), ())
        return jnp.mean(jax.nn.log_softmax(policy.unembed(params, hidden))[:, :, 3])

    return jax.jit(jax.grad(loss))(small.params())


def cosine(one, other):
    return jnp.vdot(one, other) / (jnp.linalg.norm(one) * jnp.linalg.norm(other))


def test_rematerialised_gradients_are_the_same(tokens):
    plain, again = gradient(small.policy(), tokens), gradient(small.policy(remat=True), tokens)
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * float(jnp.abs(one).max()))


def test_bfloat16_computes_near_float32_and_keeps_float32_gradients(tokens):
    exact = gradient(small.policy(), tokens)
    rounded = gradient(small.policy(dtype=jnp.bfloat16), tokens)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(rounded))
    assert min(jax.tree.leaves(jax.tree.map(cosine, exact, rounded))) > 0.97


@pytest.mark.parametrize(
    "changes",
    [{"tied": False}, {"attention_bias": True}, {"query_key_norm": True}],
    ids=["untied", "bias", "query_key_norm"],
)
def test_every_parameter_of_a_variant_moves_the_logits(tokens, changes):
    policy = transformer(dataclasses.replace(small.ARCHITECTURE, layers=2, **changes))
    params = jax.tree.map(lambda leaf: leaf + 0.02, policy.init(jax.random.key(0)))

    def logits(params):
        hidden, _ = policy.hidden(params, tokens, positions(tokens), ())
        return policy.unembed(params, hidden)

    wave = jnp.sin(jnp.arange(32.0))[None, None]
    pull = jax.jit(jax.grad(lambda params: jnp.sum(wave * logits(params))))(params)
    assert min(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(pull)) > 0


def test_rms_norm_by_hand():
    # mean square of (3, 4) is 12.5; 3/sqrt(12.5) = .848528, 4/sqrt(12.5) = 1.131371; scale (1, 2).
    normed = rms_norm(jnp.array([[3.0, 4.0]]), jnp.array([1.0, 2.0]), 0.0)
    np.testing.assert_allclose(normed, [[0.8485281, 2.2627417]], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"layers": 0}, "layers is 0"),
        ({"kv_heads": 3}, "kv_heads=3 does not divide heads=4"),
        ({"head_dim": 5}, "head_dim=5 is odd"),
    ],
)
def test_impossible_sizes_are_refused(changes, sentence):
    sizes = dict(vocab_size=8, width=8, layers=1, heads=4, kv_heads=2, head_dim=4, mlp_width=8)
    with pytest.raises(ValueError, match=sentence):
        Architecture(**{**sizes, **changes})
