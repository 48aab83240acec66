"""O-40: every method learns a contextual bandit of two tokens, off-policy for one extra epoch a rollout."""

from __future__ import annotations

from typing import NamedTuple

import examples
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.estimators.divergences import entropy, full_kl
from gpg_jax.losses import objective
from gpg_jax.types import Batch, Scores

CONTEXTS, GROUP, VOCABULARY, STEPS = 4, 8, 3, 120
ROWS = CONTEXTS * GROUP
CONTEXT = np.repeat(np.arange(CONTEXTS), GROUP)
TARGET = jnp.array([[0, 1], [2, 2], [1, 0], [2, 1]])  # the two tokens that each context asks for
MASK = np.tile([False, True, True], (ROWS, 1))
ROLLOUT = examples.make_rollout(MASK, np.zeros(ROWS), CONTEXT)

OPTIONS = {
    "reinforce_constant": {"baseline": 0.3},
    "dr_grpo": {"max_length": 2},
    "gpg": {"unit_count": 2},
    "grpo": {"kl_coefficient": 0.01},
}


class Tables(NamedTuple):
    """A policy `[context, position, token]`, whose second token does not see the first, and a critic."""

    logits: jax.Array
    value: jax.Array


def scores_of(tables: Tables, tokens) -> Scores:
    rows = tables.logits[CONTEXT]
    picked = jnp.take_along_axis(jax.nn.log_softmax(rows), tokens[:, :, None], axis=2)[:, :, 0]
    p = jax.nn.softmax(rows)
    token = jnp.exp(picked)
    fields = {
        "log_prob": picked,
        "entropy": entropy(rows),
        "score_square": 1 - 2 * token + jnp.sum(p**2, axis=2),
        "kl_ref": full_kl(rows, jnp.zeros_like(rows)),
        "value": tables.value[CONTEXT],
    }
    padded = {name: jnp.pad(x, ((0, 0), (1, 0))) for name, x in fields.items()}
    return Scores(**padded, bootstrap=jnp.zeros(ROWS))


def success(logits):
    """The probability that both tokens are right, mean over contexts; the optimum is 1."""
    p = jnp.take_along_axis(jax.nn.softmax(logits), TARGET[:, :, None], axis=2)[:, :, 0]
    return jnp.mean(jnp.prod(p, axis=1))


def train(method, seed: int):
    optimizer = optax.adam(0.1)

    def rollout_step(carry, key):
        tables, moments, state = carry
        tokens = jax.random.categorical(key, tables.logits[CONTEXT], axis=2)
        outcome = jnp.mean(tokens == TARGET[CONTEXT], axis=1) == 1
        old = scores_of(tables, tokens)
        rows = ROLLOUT.replace(
            outcome=outcome.astype(jnp.float32),
            reward=outcome.astype(jnp.float32),
            behaviour_log_prob=old.log_prob,
        )
        batch = Batch(rows, old, scores_of(jax.tree.map(jnp.zeros_like, tables), tokens))
        estimated, state = objective.estimate(method, batch, state)
        weights = objective.weigh(method.objective, rows, estimated)
        scales = objective.penalty_coefficients(method.objective, state)

        def epoch(carry, _):
            tables, moments = carry

            def of_tables(tables):
                new = scores_of(tables, tokens)
                return objective.loss(method.objective, new, batch, estimated, *weights, scales)[0]

            updates, moments = optimizer.update(jax.grad(of_tables)(tables), moments)
            return (optax.apply_updates(tables, updates), moments), None

        (tables, moments), _ = jax.lax.scan(epoch, (tables, moments), None, length=2)
        return (tables, moments, state), None

    tables = Tables(jnp.zeros((CONTEXTS, 2, VOCABULARY)), jnp.zeros((CONTEXTS, 2)))
    keys = jax.random.split(jax.random.key(seed), STEPS)
    start = (tables, optimizer.init(tables), method.state)
    return success(jax.lax.scan(rollout_step, start, keys)[0][0].logits)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_bandit_is_learnt(name):
    method = ALGORITHMS[name](**OPTIONS.get(name, {}))
    reached = jax.jit(jax.vmap(lambda seed: train(method, seed)))(jnp.arange(3))
    assert jnp.min(reached) >= 0.95, reached


def test_the_bandit_is_not_solved_at_the_start():
    np.testing.assert_allclose(success(jnp.zeros((CONTEXTS, 2, VOCABULARY))), 1 / 9, rtol=1e-6)
