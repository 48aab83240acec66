"""Scores of rows: the shared prompt, the chunked head and every field against a plain forward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from gpg_jax.estimators.divergences import full_kl
from gpg_jax.policies.score import Layout, score

NEEDS = frozenset({"entropy", "score_square", "kl_ref"})
KL = frozenset({"kl_ref"})
TEMPERATURE = 0.7


@pytest.fixture(scope="module")
def rows():
    return small.rollout()


@pytest.fixture(scope="module")
def reference():
    return jax.tree.map(
        lambda leaf: leaf + 0.05 * jnp.sin(jnp.arange(leaf.size).reshape(leaf.shape)), small.params()
    )


@functools.partial(jax.jit, static_argnames=("shared", "chunk", "needs"))
def scored(params, rows, reference=None, *, shared=4, chunk=0, needs=NEEDS):
    layout = Layout(small.LAYOUT.prompt_slots, small.LAYOUT.new_slots, shared)
    return score(
        small.policy(),
        params,
        rows.tokens,
        rows.prompt_length,
        rows.length,
        layout,
        temperature=TEMPERATURE,
        needs=needs,
        reference=reference,
        chunk=chunk,
    )


@jax.jit
def log_probs(params, rows):
    """log π(v | tokens before t) for every row, token and v: one plain forward of whole rows."""
    position = jnp.broadcast_to(jnp.arange(rows.tokens.shape[1])[None], rows.tokens.shape)
    position = jnp.where(position < rows.length[:, None], position, -1)
    hidden, _ = small.policy().hidden(params, rows.tokens, position, ())
    logits = small.policy().unembed(params, hidden) / TEMPERATURE
    return jnp.pad(jax.nn.log_softmax(logits), ((0, 0), (1, 0), (0, 0)))[:, :-1]


def test_every_field_equals_the_plain_forward(rows, reference):
    scores = scored(small.params(), rows, reference)
    new, old = log_probs(small.params(), rows), log_probs(reference, rows)
    prob = jnp.exp(new)
    onehot = jax.nn.one_hot(rows.tokens, 32)
    expected = {
        "log_prob": jnp.sum(onehot * new, -1),
        "entropy": -jnp.sum(prob * new, -1),
        "score_square": jnp.sum(jnp.square(onehot - prob), -1),
        "kl_ref": jnp.sum(prob * (new - old), -1),
    }
    for name, values in expected.items():
        ours = np.where(rows.action_mask, getattr(scores, name), 0)
        np.testing.assert_allclose(ours, np.where(rows.action_mask, values, 0), atol=5e-5, err_msg=name)


def test_sharing_and_chunks_change_nothing(rows, reference):
    whole = scored(small.params(), rows, reference)
    for options in ({"shared": 1}, {"shared": 2}, {"chunk": 96}, {"chunk": 1}):
        other = scored(small.params(), rows, reference, **options)
        for one, two in zip(jax.tree.leaves(whole), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(
                np.where(rows.action_mask, one, 0), np.where(rows.action_mask, two, 0), atol=5e-5
            )


def test_gradients_through_a_shared_prompt_are_those_of_rows_alone(rows):
    pull = np.where(rows.action_mask, np.random.default_rng(0).normal(size=rows.action_mask.shape), 0)

    def gradient(shared, chunk):
        def total(params):
            return jnp.sum(
                pull * scored(params, rows, shared=shared, chunk=chunk, needs=frozenset()).log_prob
            )

        return jax.jit(jax.grad(total))(small.params())

    alone = gradient(1, 0)
    for shared, chunk in ((4, 0), (2, 64)):
        for one, two in zip(jax.tree.leaves(alone), jax.tree.leaves(gradient(shared, chunk)), strict=True):
            np.testing.assert_allclose(one, two, atol=2e-4 * float(jnp.abs(one).max()))


@pytest.mark.parametrize("chunk", [0, 96])
def test_the_gradient_of_the_full_kl_is_that_of_the_plain_sum(rows, reference, chunk):
    pull = np.where(rows.action_mask, np.random.default_rng(1).normal(size=rows.action_mask.shape), 0)

    def through_score(params):
        return jnp.sum(pull * scored(params, rows, reference, chunk=chunk, needs=KL).kl_ref)

    def plain(params):
        return jnp.sum(pull * full_kl(log_probs(params, rows), log_probs(reference, rows)))

    ours, theirs = (jax.jit(jax.grad(total))(small.params()) for total in (through_score, plain))
    for one, two in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, two, atol=3e-4 * float(jnp.abs(two).max()))


def test_padding_is_not_read(rows):
    before = scored(small.params(), rows, needs=frozenset()).log_prob
    index = np.arange(rows.tokens.shape[1])[None]
    other = rows.replace(tokens=np.where(index < rows.length[:, None], rows.tokens, 31).astype(np.int32))
    after = scored(small.params(), other, needs=frozenset()).log_prob
    np.testing.assert_array_equal(np.where(rows.action_mask, before, 0), np.where(rows.action_mask, after, 0))


def test_bad_shapes_and_missing_reference_are_refused(rows):
    with pytest.raises(ValueError, match="needs rows of 15 tokens"):
        score(
            small.policy(),
            small.params(),
            rows.tokens,
            rows.prompt_length,
            rows.length,
            Layout(6, 9, 4),
            temperature=1.0,
        )
    with pytest.raises(ValueError, match="no reference policy"):
        scored(small.params(), rows, None)
