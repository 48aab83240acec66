"""The head: scores without cancellation or NaN, and products that are not rounded unasked."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gpg_jax.estimators import divergences
from gpg_jax.policies.head import Frozen, score_hidden
from gpg_jax.policies.outside import from_logits
from gpg_jax.policies.policy import Policy
from gpg_jax.policies.precision import einsum
from gpg_jax.policies.score import Layout, score

NEEDS = frozenset({"entropy", "score_square", "kl_ref"})
LOGITS = Policy(
    init=lambda key: {},
    hidden=lambda *arguments: (arguments[1], ()),
    unembed=lambda params, logits: logits,
    init_cache=lambda rows, slots: (),
    for_decoding=lambda params: params,
    vocab_size=4,
)
"""A policy whose hidden states are its logits."""


def scores(logits, target, reference=None, **options):
    frozen = None if reference is None else Frozen({}, reference)
    options = {"temperature": 1.0, "needs": NEEDS, "reference": frozen} | options
    return score_hidden(LOGITS, {}, logits, target, **options)


@pytest.mark.parametrize("probability", [0.3, 0.9, 0.9997, 0.99996, 1 - 1e-6])
def test_the_score_of_a_sure_token_keeps_its_digits(probability):
    """(1 − p)² + Σ_{v≠y} p_v², in float64 from the same float32 logits."""
    rest = (1 - probability) / 6
    logits = jnp.log(jnp.array([[[rest, probability, 2 * rest, 3 * rest]]], jnp.float32))
    weight = np.exp(np.asarray(logits, np.float64))[0, 0]
    others = np.delete(weight / weight.sum(), 1)
    for target, expected in ((1, others.sum() ** 2 + (others**2).sum()), (0, None)):
        square = scores(logits, jnp.array([[target]]), needs=frozenset({"score_square"})).score_square
        if expected is None:
            p = weight / weight.sum()
            expected = (1 - p[0]) ** 2 + (p[1:] ** 2).sum()
        np.testing.assert_allclose(square, [[expected]], rtol=2e-5)


def test_tokens_outside_of_the_vocabulary_leave_every_score_finite():
    """Logits of −∞ in the policy and in both policies: values by hand, gradients finite and 0 there."""
    logits = jnp.array([[[0.0, 0.0, -jnp.inf, -jnp.inf], [0.0, 1.0, 2.0, -jnp.inf]]])
    reference = jnp.array([[[0.0, 0.0, 0.0, -jnp.inf], [0.0, 1.0, 2.0, 5.0]]])
    target = jnp.array([[1, 2]])
    seen = scores(logits, target, reference)
    np.testing.assert_allclose(seen.entropy[0, 0], np.log(2), rtol=1e-6)
    np.testing.assert_allclose(seen.kl_ref[0, 0], np.log(1.5), rtol=1e-6)
    np.testing.assert_allclose(seen.score_square[0, 0], 0.5, rtol=1e-6)

    def total(logits):
        fields = scores(logits, target, reference)
        return sum(jnp.sum(field) for field in fields if field is not None)

    value, gradient = jax.value_and_grad(total)(logits)
    assert np.isfinite(value) and np.all(np.isfinite(gradient)) and np.abs(gradient).max() > 0.1
    np.testing.assert_array_equal(gradient[jnp.isneginf(logits)], 0)


class Masked(nnx.Module):
    """An embedding whose last token is taken out of the vocabulary."""

    def __init__(self) -> None:
        self.table = nnx.Param(jax.random.normal(jax.random.key(0), (5, 5)))

    def __call__(self, tokens):
        return jnp.where(jnp.arange(5)[None, None] == 4, -jnp.inf, self.table[...][tokens])


def test_an_outside_module_may_mask_its_logits():
    policy, params = from_logits(Masked(), 5)
    tokens, layout = jnp.array([[1, 2, 3, 0], [1, 0, 2, 2]]), Layout(1, 3, 2)

    @functools.partial(jax.jit, static_argnames="chunk")
    @jax.value_and_grad
    def total(params, chunk):
        fields = score(
            policy,
            params,
            tokens,
            jnp.array([1, 1]),
            jnp.array([4, 4]),
            layout,
            temperature=0.7,
            needs=NEEDS,
            reference=jax.tree.map(lambda leaf: 0.5 * leaf, params),
            chunk=chunk,
        )
        return jnp.sum(fields.entropy + 2 * fields.kl_ref)

    for chunk in (0, 2):
        value, gradient = total(params, chunk=chunk)
        assert np.isfinite(value) and all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
        table = params["table"]
        plain = jnp.where(jnp.arange(5)[None] == 4, -jnp.inf, table) / 0.7
        half = jnp.where(jnp.arange(5)[None] == 4, -jnp.inf, 0.5 * table) / 0.7
        before = tokens[:, :3]
        expected = divergences.entropy(plain)[before] + 2 * divergences.full_kl(plain, half)[before]
        np.testing.assert_allclose(value, jnp.sum(expected), rtol=1e-5)


@pytest.mark.parametrize(("dtype", "count"), [("float32", 3), ("bfloat16", 0)])
def test_float32_is_multiplied_as_it_is(dtype, count):
    """The forward product and both of the backward pass: three of the highest precision, or none."""
    left, right = jax.random.normal(jax.random.key(0), (3, 4)), jax.random.normal(jax.random.key(1), (4, 5))

    def product(left, right):
        return jnp.sum(jnp.sin(einsum("ab,bc->ac", jnp.dtype(dtype), left, right)))

    program = str(jax.make_jaxpr(jax.value_and_grad(product, (0, 1)))(left, right))
    assert program.count("dot_general[") == 3
    assert sum("HIGHEST" in line for line in program.splitlines()) == count, program
    if dtype == "float32":
        ours, plain = (
            jax.grad(function, (0, 1))(left, right)
            for function in (product, lambda left, right: jnp.sum(jnp.sin(left @ right)))
        )
        for one, other in zip(ours, plain, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_float32_has_a_forward_derivative_to_any_order():
    """Forward over reverse is reverse over reverse; a lower type has a backward pass of its own alone."""
    left, right, *ways = (jax.random.normal(jax.random.key(n), (3, 3)) for n in range(4))

    def total(dtype):
        return lambda left, right: jnp.sum(jnp.sin(einsum("ab,bc->ac", jnp.dtype(dtype), left, right)))

    slope = jax.grad(total("float32"), (0, 1))
    forward = jax.jvp(slope, (left, right), tuple(ways))[1]
    backward = jax.vjp(slope, left, right)[1](tuple(ways))
    for one, other in zip(forward, backward, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(total("bfloat16"), (left, right), tuple(ways))
