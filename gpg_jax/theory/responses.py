"""A language model small enough to list: every response, what it is worth, and how far policies are apart.

There are V symbols, of which 0 ends a response, and a response has at most T of them. A policy is a table of
logits `[P, S, V]`, a row for every prompt and prefix, so that expectations over responses are finite sums and
`jax.grad` of them is the exact gradient.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpg_jax.estimators.divergences import full_kl
from gpg_jax.theory.mdp import require_float64
from gpg_jax.types import Array

LIMIT = 10_000
"""The most responses that are listed."""

HALVINGS = 60
"""How often an interval is halved: a little more than a float64 has digits."""


class Responses(NamedTuple):
    """All N responses to a prompt.

    Attributes:
      token: `int32[N, T]`; 0 behind the end too.
      prefix: `int32[N, T]`, the number of the prefix before each token, 0 .. S−1; 0 is the empty one.
      mask: `bool[N, T]`, true up to the end, the symbol 0 included.
    """

    token: np.ndarray
    prefix: np.ndarray
    mask: np.ndarray


def list_responses(symbols: int, longest: int) -> Responses:
    """Lists the responses, S of which end by the symbol 0 and (V − 1)^T by their length.

    Args:
      symbols: V ≥ 2, the end among them.
      longest: T ≥ 1.

    Returns:
      The responses; S = Σ_{t<T} (V − 1)^t.

    Raises:
      ValueError: too few symbols, no token, or more than `LIMIT` responses.
    """
    if symbols < 2 or longest < 1:
        raise ValueError(f"a response needs 2 symbols and a token at least, got {symbols} and {longest}")
    count = sum((symbols - 1) ** size for size in range(longest + 1))
    if count > LIMIT:
        raise ValueError(f"{symbols} symbols make {count} responses of {longest} tokens, over {LIMIT}")
    words = [list(itertools.product(range(1, symbols), repeat=size)) for size in range(longest + 1)]
    prefixes = {word: number for number, word in enumerate(itertools.chain(*words[:-1]))}
    outputs = [(*word, 0) for word in prefixes] + words[-1]
    token, prefix = np.zeros((2, count, longest), np.int32)
    for row, output in enumerate(outputs):
        token[row, : len(output)] = output
        prefix[row, : len(output)] = [prefixes[output[:place]] for place in range(len(output))]
    length = np.array([len(output) for output in outputs])
    return Responses(token, prefix, np.arange(longest) < length[:, None])


def token_log_prob(responses: Responses, logits: Array) -> Array:
    """log π(y_t | y_<t) of every token of every response, `[P, N, T]`, 0 behind the end."""
    table = jax.nn.log_softmax(logits)
    return jnp.where(responses.mask[None], table[:, responses.prefix, responses.token], 0)


def probabilities(responses: Responses, logits: Array) -> Array:
    """π(o | q) = Π_t π(y_t | y_<t), `[P, N]`."""
    return jnp.exp(jnp.sum(token_log_prob(responses, logits), axis=2))


def expected_reward(responses: Responses, logits: Array, reward: Array) -> Array:
    """J(π) = (1/P) Σ_q Σ_o π(o | q) R(q, o), a scalar whose `jax.grad` is ∇J.

    Args:
      responses: all of them.
      logits: `[P, S, V]`.
      reward: `[P, N]`, R.
    """
    require_float64()
    return jnp.mean(jnp.sum(probabilities(responses, logits) * reward, axis=1))


def visits(responses: Responses, logits: Array) -> Array:
    """The probability that a response goes through each prefix, `[P, S]`; the empty one's is 1."""
    return probabilities(responses, logits) @ _passes(responses, logits)


def prefix_values(responses: Responses, logits: Array, reward: Array) -> Array:
    """V^π(q, y_<t) = E[R | the response begins so], `[P, S]`."""
    passes = _passes(responses, logits)
    probability = probabilities(responses, logits)
    return (probability * reward) @ passes / (probability @ passes)


def divergence(responses: Responses, logits: Array, other: Array) -> Array:
    """(1/P) Σ_q KL(π(· | q) ‖ π′(· | q)) of whole responses, in nats: Σ over prefixes of visits times KL.

    Args:
      responses: all of them.
      logits: `[P, S, V]`, of π.
      other: `[P, S, V]`, of π′.
    """
    return jnp.mean(jnp.sum(visits(responses, logits) * full_kl(logits, other), axis=1))


def token_divergence(responses: Responses, logits: Array, other: Array) -> Array:
    """KL(π ‖ π′) in nats a token: that of whole responses over their mean length under π."""
    length = jnp.mean(jnp.sum(visits(responses, logits), axis=1))
    return divergence(responses, logits, other) / length


def moved(responses: Responses, logits: Array, direction: Array, nats: float) -> Array:
    """The policy θ + s·direction, s ≥ 0, at KL(moved ‖ θ) of so many nats a token.

    Args:
      responses: all of them.
      logits: `[P, S, V]`, θ.
      direction: `[P, S, V]`.
      nats: ≥ 0; 0 is θ itself.

    Returns:
      `[P, S, V]`.

    Raises:
      ValueError: a distance that the direction does not lead to.
    """
    require_float64()
    if nats == 0:
        return jnp.asarray(logits)

    def distance(length: float) -> float:
        return float(_distance(responses, logits, direction, length))

    low, high = 0.0, 1.0
    while distance(high) < nats:
        low, high = high, 2 * high
        if high > 2**20:
            raise ValueError(f"the direction leads no further than {distance(high):.3g} nats, asked: {nats}")
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if distance(middle) < nats else (low, middle)
    return logits + high * direction


@jax.jit
def _distance(responses: Responses, logits: Array, direction: Array, length: float) -> Array:
    return token_divergence(responses, logits + length * direction, logits)


def _passes(responses: Responses, logits: Array) -> Array:
    """Whether a response goes through a prefix, `[N, S]`."""
    numbers = jnp.arange(logits.shape[1])
    through = (responses.prefix[:, :, None] == numbers[None, None]) & responses.mask[:, :, None]
    return jnp.any(through, axis=1).astype(logits.dtype)
