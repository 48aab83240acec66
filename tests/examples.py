"""Rollouts for the tests: small, of varying lengths, with tool results inside and noise under the mask."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.losses import objective
from gpg_jax.losses.metrics import reduce
from gpg_jax.types import STOP_EOS, STOP_LENGTH, Batch, Method, Rollout, Scores

NOISE = -7.0


def make_rollout(action_mask, reward, group, **fields) -> Rollout:
    """A rollout around an action mask `[B, L]`; what is not given is plain."""
    mask = np.asarray(action_mask, bool)
    rows, length = mask.shape
    first = np.where(mask.any(1), mask.argmax(1), length).astype(np.int32)
    last = np.where(mask.any(1), length - mask[:, ::-1].argmax(1), 0).astype(np.int32)
    plain = {
        "tokens": np.ones((rows, length), np.int32),
        "action_mask": mask,
        "prompt_length": first,
        "length": last,
        "behaviour_log_prob": np.where(mask, -1.0, 0.0).astype(np.float32),
        "group": np.asarray(group, np.int32),
        "parent": np.arange(rows, dtype=np.int32),
        "fork": first,
        "leaf_weight": np.ones(rows, np.float32),
        "stop": np.full(rows, STOP_EOS, np.int32),
        "version": np.zeros(rows, np.int32),
        "outcome": np.asarray(reward, np.float32),
        "reward": np.asarray(reward, np.float32),
    }
    return Rollout(**(plain | fields))


def make_batch(rollout: Rollout, old=None, reference=None, **old_fields) -> Batch:
    """A batch around log-probs `[B, L]`; the old ones are the sampler's for None."""
    old = rollout.behaviour_log_prob if old is None else np.asarray(old, np.float32)
    reference = None if reference is None else Scores(np.asarray(reference, np.float32))
    return Batch(rollout=rollout, old=Scores(old, **old_fields), reference=reference)


def random_batch(seed: int = 0, prompts: int = 2, group: int = 4, length: int = 9) -> tuple[Batch, Scores]:
    """A batch, the last row of every group cut off, and the scores of an off-policy new policy.

    Log-ratios of a token lie in ±0.05 or ±(0.3 to 0.9): on both sides of every usual clip range, for both
    signs of the advantage, and none at a boundary.
    """
    rng = np.random.default_rng(seed)
    rows = prompts * group
    mask = np.zeros((rows, length), bool)
    for row in range(rows):
        start = rng.integers(1, 3)
        mask[row, start : rng.integers(start + 1, length + 1)] = True
        if mask[row].sum() > 3:
            mask[row, start + 2] = False  # a tool's token

    def log_probs() -> np.ndarray:
        return np.where(mask, -rng.uniform(0.2, 3.0, mask.shape), NOISE).astype(np.float32)

    sizes = np.where(
        rng.random(mask.shape) < 0.5, rng.uniform(0.0, 0.05, mask.shape), rng.uniform(0.3, 0.9, mask.shape)
    )
    old = log_probs()
    new = np.where(mask, old + sizes * rng.choice([-1, 1], mask.shape), NOISE + 1).astype(np.float32)
    reward = rng.normal(size=rows).astype(np.float32)
    outcome = np.concatenate([rng.permutation([0.0, 1.0] + [0.0] * (group - 2)) for _ in range(prompts)])
    rollout = make_rollout(
        mask,
        reward,
        np.repeat(rng.permutation(prompts), group),
        outcome=outcome.astype(np.float32),
        behaviour_log_prob=np.where(mask, old + rng.normal(0, 0.3, mask.shape), 0).astype(np.float32),
        stop=np.where(np.arange(rows) % group == group - 1, STOP_LENGTH, STOP_EOS).astype(np.int32),
    )
    square = rng.uniform(0.1, 1.5, mask.shape).astype(np.float32)
    entropy = rng.uniform(0.1, 2.0, mask.shape).astype(np.float32)
    value = np.where(mask, rng.normal(size=mask.shape), NOISE).astype(np.float32)
    values = {"value": value, "bootstrap": rng.normal(size=rows).astype(np.float32)}
    batch = make_batch(rollout, old, log_probs(), entropy=entropy, score_square=square, **values)
    return batch, Scores(
        log_prob=new, entropy=entropy * 0.9, score_square=square, value=new_value(value).astype(np.float32)
    )


def new_value(value: np.ndarray) -> np.ndarray:
    """What the critic of the new scores says where the old one said `value`: often more than 0.2 apart."""
    return 1.3 * value + 0.1


def loss_and_coefficients(method: Method, batch: Batch, scores: Scores, state=None):
    """The loss of a rollout taken as one minibatch, ∂loss/∂log π `[B, L]`, and the reduced metrics."""
    state = method.state if state is None else state
    estimated, _ = objective.estimate(method, batch, state)
    weights, penalty_weights = objective.weigh(method.objective, batch.rollout, estimated)
    scales = objective.penalty_coefficients(method.objective, state)

    def of_log_prob(log_prob):
        new = scores._replace(log_prob=log_prob)
        return objective.loss(method.objective, new, batch, estimated, weights, penalty_weights, scales)

    gradient = jax.value_and_grad(of_log_prob, has_aux=True)
    (value, metrics), coefficients = gradient(jnp.asarray(scores.log_prob))
    return value, coefficients, reduce(metrics)


@functools.cache
def compiled(name: str, **options):
    """`loss_and_coefficients` of a named method, by default or with options, compiled once for all tests."""
    method = ALGORITHMS[name](**options)
    return jax.jit(lambda batch, scores: loss_and_coefficients(method, batch, scores))
