"""An outside NNX decoder decodes, scores and trains through the same seam."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx

from gpg_jax.decoding.automaton import compile_automaton
from gpg_jax.decoding.loop import decode
from gpg_jax.decoding.rollouts import Prompts, build_rollout, written
from gpg_jax.decoding.sampling import Sampling
from gpg_jax.policies.outside import from_logits
from gpg_jax.policies.score import Layout, score

VOCAB = 32


class Averaging(nnx.Module):
    """A causal decoder that looks nothing like ours: the mean of the embeddings so far, then an MLP."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(VOCAB, 8, rngs=rngs)
        self.inner = nnx.Linear(8, 16, rngs=rngs)
        self.outer = nnx.Linear(16, VOCAB, rngs=rngs)

    def __call__(self, tokens):
        embedded = self.embed(tokens)
        count = jnp.arange(1, tokens.shape[1] + 1, dtype=jnp.float32)[None, :, None]
        return self.outer(jax.nn.gelu(self.inner(jnp.cumsum(embedded, axis=1) / count)))


@pytest.fixture(scope="module")
def outside():
    return from_logits(Averaging(nnx.Rngs(0)), VOCAB)


def test_decoded_log_probs_are_scored_ones(outside):
    policy, params = outside
    prompts = Prompts(np.array([[3, 4, 5], [6, 7, 0]], np.int32), np.array([3, 2], np.int32))
    automaton = compile_automaton([], [b"x"] * VOCAB, stop_tokens=[1])
    responses = jax.jit(
        lambda params, tokens, length: decode(
            policy,
            params,
            tokens,
            length,
            jnp.arange(4),
            jax.random.key(0),
            new_slots=5,
            sampling=Sampling(),
            automaton=automaton,
            bucket=3,
        )
    )(params, *prompts)
    rows = build_rollout(prompts, written(responses), outcome=np.zeros(4), reward=np.zeros(4), version=0)
    scores = jax.jit(
        lambda params, rows: score(
            policy, params, rows.tokens, rows.prompt_length, rows.length, Layout(3, 5, 2), temperature=1.0
        )
    )(params, rows)
    ours = np.where(rows.action_mask, scores.log_prob, 0)
    np.testing.assert_allclose(ours, rows.behaviour_log_prob, atol=1e-5)


def test_gradients_reach_every_parameter(outside):
    policy, params = outside
    rows = small.rollout()

    def total(params):
        scores = score(
            policy, params, rows.tokens, rows.prompt_length, rows.length, small.LAYOUT, temperature=1.0
        )
        return jnp.sum(jnp.where(rows.action_mask, scores.log_prob, 0))

    grads = jax.jit(jax.grad(total))(params)
    assert min(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grads)) > 0
