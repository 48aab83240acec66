"""From hidden states to scores, a chunk of tokens at a time: the logits of a batch are never whole."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpg_jax.estimators import baselines, divergences
from gpg_jax.policies.policy import Policy
from gpg_jax.types import Array, Params, Scores


class Frozen(NamedTuple):
    """Parameters that are not trained and their hidden states `[N, S, D]` of the same tokens."""

    params: Params
    hidden: Array


def _token_scores(
    policy: Policy,
    params: Params,
    hidden: Array,
    target: Array,
    temperature: float,
    needs: frozenset[str],
    reference: Frozen | None,
    old: Frozen | None,
) -> Scores:
    logits = policy.unembed(params, hidden) / temperature
    log_total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    picked = jnp.take_along_axis(logits, target[..., None], axis=-1)
    log_prob = (picked - log_total)[..., 0]
    entropy = score_square = kl_ref = kl_old = None
    if "entropy" in needs:
        entropy = divergences.entropy(logits)
    if "score_square" in needs:
        score_square = baselines.score_square(jnp.exp(logits - log_total), target)
    if "kl_ref" in needs and reference is not None:
        other = policy.unembed(reference.params, reference.hidden) / temperature
        kl_ref = divergences.full_kl(logits, jax.lax.stop_gradient(other))
    if "kl_old" in needs:
        before = logits if old is None else policy.unembed(old.params, old.hidden) / temperature
        kl_old = divergences.full_kl(jax.lax.stop_gradient(before), logits)
    return Scores(log_prob, entropy=entropy, score_square=score_square, kl_ref=kl_ref, kl_old=kl_old)


def score_hidden(
    policy: Policy,
    params: Params,
    hidden: Array,
    target: Array,
    *,
    temperature: float,
    needs: frozenset[str] = frozenset(),
    reference: Frozen | None = None,
    old: Frozen | None = None,
    chunk: int = 0,
) -> Scores:
    """Scores of the tokens that hidden states predict, at a temperature.

    ``log π(y) = z_y/T − logsumexp(z/T)``; entropy ``−Σ p log p``; squared score norm
    ``(1 − p_y)² + Σ_{v≠y} p_v²``; full KL to the reference ``Σ p (log p − log p_ref)``; full KL from the old
    policy ``Σ p_old (log p_old − log p)``; in float32.

    Args:
      policy: whose `unembed` makes the logits.
      params: its parameters.
      hidden: `[N, S, D]`, state before the token.
      target: `int32[N, S]`, the token.
      temperature: T, at which the tokens were sampled.
      needs: fields of `Scores` beyond `log_prob`: "entropy", "score_square", "kl_ref", "kl_old".
      reference: the reference policy's parameters and hidden states, for "kl_ref".
      old: those of the old policy, for "kl_old"; None where it is this one as it stands, so that the KL is 0
        and its second derivative the Fisher information.
      chunk: tokens whose logits exist at once (rounded to whole columns); they are recomputed in
        the backward pass. 0 keeps all logits.

    Returns:
      `Scores` of shape `[N, S]`.

    Raises:
      ValueError: "kl_ref" without a reference.
    """
    if "kl_ref" in needs and reference is None:
        raise ValueError("needs has 'kl_ref' but no reference policy was given")
    rows, length = target.shape
    columns = length if chunk <= 0 else max(1, chunk // rows)
    if columns >= length:
        return _token_scores(policy, params, hidden, target, temperature, needs, reference, old)
    pieces = -(-length // columns)

    def split(values: Array) -> Array:
        extra = [(0, 0), (0, pieces * columns - length)] + [(0, 0)] * (values.ndim - 2)
        padded = jnp.pad(values, extra)
        return padded.reshape(rows, pieces, columns, *values.shape[2:]).swapaxes(0, 1)

    def join(values: Array) -> Array:
        return values.swapaxes(0, 1).reshape(rows, pieces * columns)[:, :length]

    @jax.checkpoint
    def piece(inputs):
        states, tokens, others = inputs
        frozen = [
            None if whole is None else whole._replace(hidden=own)
            for whole, own in zip((reference, old), others, strict=True)
        ]
        return _token_scores(policy, params, states, tokens, temperature, needs, *frozen)

    others = tuple(None if frozen is None else split(frozen.hidden) for frozen in (reference, old))
    scores = jax.lax.map(piece, (split(hidden), split(target), others))
    return jax.tree.map(join, scores)
