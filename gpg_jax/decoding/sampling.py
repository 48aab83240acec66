"""Draws one token a row, by inverse CDF from one uniform number a row, named by row and token.

Every truncation is a least weight that a token must have, so that ties at the edge are all kept and
the kept set does not depend on the order of the vocabulary. The CDF is never written out: blocks of
the vocabulary are summed, one block is chosen, then one token inside it. The maximum and the sum
serve the log-softmax too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gpg_jax.types import Array

_BLOCK = 256
"""Tokens of a block: near the square root of today's vocabularies, and a multiple of TPU lanes."""


@dataclass(frozen=True)
class Sampling:
    """How the policy's logits become the distribution that is sampled from; static under `jax.jit`.

    Applied in this order, each to what the one before it left:

      temperature  p ∝ exp(logits / temperature); 0 is greedy, which no truncation changes
      top-k        the k most probable tokens (Fan et al. 2018, arXiv 1805.04833)
      top-p        the most probable tokens whose mass first reaches p, of the mass that top-k left
                   (Holtzman et al. 2019, arXiv 1904.09751, eq. 2)
      min-p        tokens with at least min_p times the largest probability
                   (Nguyen et al. 2024, arXiv 2407.01082)

    Tokens as probable as the last one kept are all kept: top-k may keep more than k.

    Attributes:
      temperature: at least 0.
      top_k: tokens kept, 0 for all.
      top_p: mass kept, in (0, 1]; 1 for all.
      min_p: in [0, 1]; 0 for all.

    Raises:
      ValueError: for a value outside its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature must be finite and at least 0 (greedy), got {self.temperature}")
        if not isinstance(self.top_k, int) or self.top_k < 0:
            raise ValueError(f"top_k must be an integer of at least 0 (0 keeps all), got {self.top_k!r}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1] (1 keeps all), got {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must be in [0, 1] (0 keeps all), got {self.min_p}")

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is always taken."""
        return self.temperature == 0

    @property
    def truncated(self) -> bool:
        """Whether tokens may be left out."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


class Sample(NamedTuple):
    """One token a row, and how probable it was.

    Attributes:
      token: `int32[B]`.
      log_prob: `float32[B]`, under the distribution really sampled from, renormalised over the kept
        tokens; 0 when greedy.
      log_kept: `float32[B]`, log S of the mass S that truncation kept, so that
        `log_prob + log_kept` is the token's log-probability over the full vocabulary at the sampling
        temperature; 0 when nothing was left out, and when greedy.
    """

    token: Array
    log_prob: Array
    log_kept: Array


def uniforms(key: Array, uid: Array, index: Array) -> Array:
    """One uniform number a row, by name: fold_in(fold_in(key, uid), index).

    The number depends on nothing but key, row and token, whatever the other rows do. It is the
    middle of one of 2²³ equal cells and so never 0: otherwise the first token would be drawn once in
    2²³ draws however improbable it was.

    Args:
      key: one typed key of the rollout, `jax.random.key(seed)`; threefry.
      uid: `int32[B]` or `uint32[B]`, the rows' names.
      index: `int32[B]`, index of the token that is drawn.

    Returns:
      `float32[B]` in (0, 1).

    Raises:
      ValueError: for a key that is not one typed threefry key.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape != ():
        raise ValueError(f"key must be one typed key, jax.random.key(seed), got {key.dtype}{list(key.shape)}")
    if str(jax.random.key_impl(key)) != "threefry2x32":  # others draw a batch from its first key alone
        raise ValueError(f"key must be a threefry2x32 key, got {jax.random.key_impl(key)}")

    def draw(uid: Array, index: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, uid), index))

    return jax.vmap(draw)(uid, index) + 2.0**-24


def sample(logits: Array, uniform: Array, sampling: Sampling) -> Sample:
    """Draws the token at which the CDF of the truncated distribution passes the uniform number.

        w_v = exp((logits_v − max) / temperature),  p_v = w_v 1[v kept] / Σ_kept w

    Tokens are in the order of their ids, so the token never decreases when the uniform number grows.
    A token of weight 0 (a logit of −inf) is never drawn. A row with a NaN, a +inf or without a finite
    logit gives a NaN log_prob.

    Args:
      logits: `float32[B, V]`.
      uniform: `float32[B]` in [0, 1), one a row.
      sampling: temperature and truncation.

    Returns:
      A `Sample`.

    Raises:
      ValueError: for shapes that do not fit, or a top_k beyond the vocabulary.
    """
    _check(logits, uniform, sampling)
    top = jnp.max(logits, axis=-1, keepdims=True)
    if sampling.greedy:
        zero = top[:, 0] - top[:, 0]  # NaN where there is no finite maximum
        return Sample(_first(logits == top, logits.shape[1] - 1), zero, zero)
    weights = jnp.exp((logits - top) / sampling.temperature)
    kept = _truncate(weights, sampling)
    token, mass = _invert(kept, uniform)
    log_prob = (_take(logits, token) - top[:, 0]) / sampling.temperature - jnp.log(mass)
    log_kept = jnp.log(mass / jnp.sum(weights, axis=-1)) if sampling.truncated else jnp.zeros_like(mass)
    return Sample(token, log_prob, log_kept)


def _check(logits: Array, uniform: Array, sampling: Sampling) -> None:
    if logits.ndim != 2 or logits.dtype != jnp.float32:
        raise ValueError(f"logits must be float32[B, V], got {logits.dtype}{list(logits.shape)}")
    if uniform.shape != logits.shape[:1]:
        raise ValueError(f"uniform must be [B] = [{logits.shape[0]}], got {list(uniform.shape)}")
    if sampling.top_k > logits.shape[1]:
        raise ValueError(f"top_k = {sampling.top_k} is beyond the {logits.shape[1]} tokens of the vocabulary")


def _truncate(weights: Array, sampling: Sampling) -> Array:
    """Weights `[B, V]`, whose largest is 1, with those of the tokens left out put to 0."""
    candidates = weights
    if sampling.top_k:
        candidates = lax.top_k(weights, sampling.top_k)[0]
        # The minimum, not the last column: XLA:CPU compiles a slice of top_k to a sort of the vocabulary.
        weights = _at_least(weights, jnp.min(candidates, axis=-1))
    least = jnp.full_like(weights[:, 0], sampling.min_p)
    if sampling.top_p < 1:
        # Further ties of the k-th are in the goal but not among the candidates: where the goal needs
        # them it is not reached, the cut is 0, and all of them stay.
        goal = sampling.top_p * jnp.sum(weights, axis=-1)
        least = jnp.maximum(least, _cut(candidates, goal))
    return _at_least(weights, least) if sampling.top_p < 1 or sampling.min_p > 0 else weights


def _at_least(weights: Array, least: Array) -> Array:
    return jnp.where(weights >= least[:, None], weights, 0.0)


def _cut(weights: Array, goal: Array) -> Array:
    """The largest c with Σ_v w_v 1[w_v ≥ c] ≥ goal, 0 without one; by bisection over float32's bits.

    Bits of non-negative floats are in the order of the floats, and weights are at most 1, so 30 halvings
    find c exactly; on CPU that is 30 times faster than to sort a vocabulary.
    """

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        least = lax.bitcast_convert_type(middle, jnp.float32)
        reached = jnp.sum(_at_least(weights, least), axis=-1) >= goal
        return jnp.where(reached, middle, low), jnp.where(reached, high, middle)

    low = lax.bitcast_convert_type(jnp.zeros_like(goal), jnp.int32)
    high = lax.bitcast_convert_type(jnp.ones_like(goal), jnp.int32) + 1
    return lax.bitcast_convert_type(lax.fori_loop(0, 30, halve, (low, high))[0], jnp.float32)


def _invert(weights: Array, uniform: Array) -> tuple[Array, Array]:
    """Token `int32[B]` at which the CDF passes the uniform number, and the total weight `[B]`."""
    rows, vocabulary = weights.shape
    blocks = jnp.pad(weights, ((0, 0), (0, -vocabulary % _BLOCK))).reshape(rows, -1, _BLOCK)
    sums = jnp.sum(blocks, axis=-1)
    ends = jnp.cumsum(sums, axis=-1)
    total = ends[:, -1]
    target = uniform * total
    block = _passes(sums, ends, target)
    start, end = _take(ends - sums, block), _take(ends, block)
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    within = jnp.cumsum(inside, axis=-1)
    # The uniform number inside the block, so that the rounding of `ends` cannot favour its last tokens.
    fraction = (target - start) / (end - start)
    return block * _BLOCK + _passes(inside, within, fraction * within[:, -1]), total


def _passes(weights: Array, ends: Array, target: Array) -> Array:
    """First index with a positive weight whose cumulative sum exceeds the target, else the last positive.

    Cumulative sums are rounded and need not be monotone: their steps alone could choose a weight of 0.
    """
    positive = weights > 0
    last = jnp.max(jnp.where(positive, jnp.arange(weights.shape[1])[None], 0), axis=-1, keepdims=True)
    return _first(positive & (ends > target[:, None]), last)


def _first(mask: Array, otherwise: Array | int) -> Array:
    """Index `int32[B]` of the first True; as a minimum, which XLA:CPU vectorises and an argmax not."""
    return jnp.min(jnp.where(mask, jnp.arange(mask.shape[1])[None], otherwise), axis=-1).astype(jnp.int32)


def _take(values: Array, index: Array) -> Array:
    return jnp.take_along_axis(values, index[:, None], axis=1)[:, 0]
