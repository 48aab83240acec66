"""The toy of the enumerations: three tokens of which 0 ends the output, at most three tokens an output.

There are 15 outputs of lengths 1 to 3 over 7 prefixes. A policy is a table of logits `[7, 3]`; every output
has its probability, so that expectations over one output, or over groups of two (225 pairs), are finite sums.
"""

from __future__ import annotations

import itertools

import examples
import jax
import jax.numpy as jnp
import numpy as np

from gpg_jax.estimators.divergences import full_kl
from gpg_jax.losses import objective
from gpg_jax.types import Batch, Scores

PREFIXES = [(), (1,), (2,), (1, 1), (1, 2), (2, 1), (2, 2)]
OUTPUTS = [(0,), (1, 0), (2, 0)] + [(a, b, c) for a in (1, 2) for b in (1, 2) for c in (0, 1, 2)]
LENGTH = 4  # a prompt token and three actions
N = len(OUTPUTS)
STATE = np.zeros((N, LENGTH), int)
TOKEN = np.zeros((N, LENGTH), np.int32)
MASK = np.zeros((N, LENGTH), bool)
for i, output in enumerate(OUTPUTS):
    for t, token in enumerate(output):
        STATE[i, t + 1], TOKEN[i, t + 1], MASK[i, t + 1] = PREFIXES.index(output[:t]), token, True

_rng = np.random.default_rng(0)
THETA = jnp.asarray(_rng.normal(size=(7, 3)), jnp.float32)
REFERENCE = jnp.asarray(_rng.normal(size=(7, 3)), jnp.float32)
REWARD = jnp.asarray(_rng.normal(size=N) + 1, jnp.float32)
PAIRS = np.array(list(itertools.product(range(N), repeat=2)))
SUM = {"aggregation": "sequence_mean_token_sum"}


def log_probs(theta):
    """log π of every token of every output `[N, LENGTH]`, 0 under the mask."""
    return jnp.where(MASK, jax.nn.log_softmax(theta)[STATE, TOKEN], 0)


def probabilities(theta):
    return jnp.exp(jnp.sum(log_probs(theta), axis=1))


def expected_reward(theta, reward=REWARD):
    return jnp.sum(probabilities(theta) * reward)


def sequence_kl(theta):
    gap = jnp.sum(log_probs(theta) - log_probs(REFERENCE), axis=1)
    return jnp.sum(probabilities(theta) * gap)


def scores(theta, rows) -> Scores:
    p = jax.nn.softmax(theta)
    square = (1 - 2 * p[STATE, TOKEN] + jnp.sum(p**2, axis=1)[STATE]) * MASK
    kl = full_kl(theta, REFERENCE)[STATE] * MASK
    return Scores(log_prob=log_probs(theta)[rows], score_square=square[rows], kl_ref=kl[rows])


def batch_of(rows) -> Batch:
    """The outputs `rows [2]` as the rollout of one group."""
    rollout = examples.make_rollout(MASK[:2], np.zeros(2), np.zeros(2)).replace(
        reward=REWARD[rows],
        outcome=REWARD[rows],
        tokens=jnp.asarray(TOKEN)[rows],
        length=jnp.asarray(1 + MASK.sum(1), jnp.int32)[rows],
        action_mask=jnp.asarray(MASK)[rows],
        behaviour_log_prob=log_probs(THETA)[rows],
    )
    return Batch(rollout, scores(THETA, rows), scores(REFERENCE, rows))


def ascent(method, batch, rows, state=None, at=THETA):
    """−∇_θ loss `[7, 3]`, at π_θ = π_old or elsewhere."""
    state = method.state if state is None else state
    estimated, _ = objective.estimate(method, batch, state)
    weights = objective.weigh(method.objective, batch.rollout, estimated)
    scales = objective.penalty_coefficients(method.objective, state)

    def of_theta(theta):
        return objective.loss(method.objective, scores(theta, rows), batch, estimated, *weights, scales)[0]

    return -jax.grad(of_theta)(at)


def expected(method, state=None, *, at=THETA, make=batch_of, probability=None):
    """E[−∇loss] over groups of two, each group a minibatch of its own."""

    @jax.jit  # one program, where op by op there would be hundreds
    def mean(probability, state, at):
        p = probability[PAIRS]
        pushes = jax.vmap(lambda rows: ascent(method, make(rows), rows, state, at))(jnp.asarray(PAIRS))
        return jnp.einsum("n,nsv->sv", p[:, 0] * p[:, 1], pushes)

    return mean(probabilities(THETA) if probability is None else probability, state, at)


def cosine(x, y):
    return float(jnp.sum(x * y) / jnp.linalg.norm(x) / jnp.linalg.norm(y))


GRADIENT = jax.grad(expected_reward)(THETA)
