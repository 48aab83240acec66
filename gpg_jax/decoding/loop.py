"""The compiled decoding loop: prefill once a prompt, then one `while_loop` until every row has stopped.

The loop carries, for each row, the token to read next, the state of the stop automaton and whether
the row has stopped. A row's randomness is named by its uid and the index of its token, so that
which rows run beside it, and in which order, changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpg_jax.decoding.automaton import Automaton, advance
from gpg_jax.decoding.sampling import Sampling, sample, uniforms
from gpg_jax.policies.policy import Cache, Context, Policy
from gpg_jax.policies.score import prompt_positions
from gpg_jax.types import STOP_EOS, STOP_LENGTH, Array, Params


class Responses(NamedTuple):
    """What the loop produced: one row for each uid.

    Attributes:
      tokens: `int32[B, N]`, new tokens, 0 after the end.
      log_prob: `float32[B, N]`, log-probability under the distribution sampled from, 0 after the end.
      length: `int32[B]`, new tokens, the stopping one included.
      stop: `int32[B]`, `STOP_EOS` or `STOP_LENGTH`.
      steps: `int32[1]`, iterations that the loop ran; one for each data replica when sharded.
    """

    tokens: Array
    log_prob: Array
    length: Array
    stop: Array
    steps: Array


class _Carry(NamedTuple):
    step: Array
    token: Array
    state: Array
    running: Array
    cache: Cache
    tokens: jax.Array
    log_prob: jax.Array
    length: Array


def _write(cache: Cache, entry: Cache, slot: Array) -> Cache:
    """Puts the entries of one token into a slot of every layer at once."""
    return jax.tree.map(
        lambda whole, new: jax.lax.dynamic_update_slice_in_dim(whole, new, slot, axis=whole.ndim - 2),
        cache,
        entry,
    )


def _grow(cache: Cache, slots: int) -> Cache:
    def pad(leaf: Array) -> Array:
        missing = slots - leaf.shape[-2]
        return jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 2) + [(0, missing), (0, 0)])

    return jax.tree.map(pad, cache)


def _buckets(new_slots: int, first: int) -> list[int]:
    """Cache sizes that double from `first` up to `new_slots`, so that early steps read little."""
    sizes = [new_slots]
    while sizes[0] > first:
        sizes.insert(0, max(first, -(-sizes[0] // 2)))
    return sizes


def decode(
    policy: Policy,
    params: Params,
    prompts: Array,
    prompt_length: Array,
    uid: Array,
    key: Array,
    *,
    new_slots: int,
    sampling: Sampling,
    automaton: Automaton,
    bucket: int = 32,
    place_logits: Callable[[Array], Array] = lambda logits: logits,
) -> Responses:
    """Samples B / P responses to each of P prompts.

    Args:
      policy: the network.
      params: its parameters, best as `policy.for_decoding` gives them.
      prompts: `int32[P, S]`, right-padded.
      prompt_length: `int32[P]`, at least 1.
      uid: `int32[B]`, name of each row; P divides B and row b answers prompt `b // (B / P)`.
      key: key of the rollout.
      new_slots: N, the budget of new tokens of every row.
      sampling: temperature and truncation.
      automaton: stop tokens and stop strings; the token that completes one is the row's last.
      bucket: slots of the first cache; it doubles until it holds the budget.
      place_logits: where the logits `[B, V]` lie while a token is drawn from them.

    Returns:
      `Responses`.

    Raises:
      ValueError: rows that the prompts do not divide, or a budget below 1.
    """
    rows = uid.shape[0]
    if rows % prompts.shape[0]:
        raise ValueError(f"{rows} rows cannot be shared out among {prompts.shape[0]} prompts")
    if new_slots < 1:
        raise ValueError(f"new_slots={new_slots}; the budget must be at least 1 new token")
    shared = rows // prompts.shape[0]
    prefix_position = prompt_positions(prompt_length, prompts.shape[1])
    _, prefix = policy.hidden(params, prompts, prefix_position, ())
    prefix = Context(prefix, prefix_position)
    first = jnp.repeat(prompt_length - 1, shared)
    last_token = jnp.take_along_axis(prompts, prompt_length[:, None] - 1, axis=1)[:, 0]

    def advance_rows(carry: _Carry, slots: int) -> _Carry:
        slot = jnp.arange(slots, dtype=jnp.int32)[None]
        own_position = jnp.where(slot < carry.step, first[:, None] + slot, -1)
        contexts = (prefix, Context(carry.cache, own_position))
        position = (first + carry.step)[:, None]
        hidden, entry = policy.hidden(params, carry.token[:, None], position, contexts)
        logits = place_logits(policy.unembed(params, hidden[:, 0]))
        uniform = uniforms(key, uid, jnp.full_like(uid, carry.step))
        drawn = sample(logits, uniform, sampling)
        token = jnp.where(carry.running, drawn.token, 0)
        state, pattern = advance(automaton, carry.state, token)
        return _Carry(
            step=carry.step + 1,
            token=token,
            state=jnp.where(carry.running, state, carry.state),
            running=carry.running & (pattern < 0),
            cache=_write(carry.cache, entry, carry.step),
            tokens=carry.tokens.at[:, carry.step].set(token),
            log_prob=carry.log_prob.at[:, carry.step].set(jnp.where(carry.running, drawn.log_prob, 0)),
            length=carry.length + carry.running,
        )

    sizes = _buckets(new_slots, bucket)
    carry = _Carry(
        step=jnp.int32(0),
        token=jnp.repeat(last_token, shared),
        state=jnp.zeros((rows,), jnp.int32),
        running=jnp.ones((rows,), bool),
        cache=policy.init_cache(rows, sizes[0]),
        tokens=jnp.zeros((rows, new_slots), jnp.int32),
        log_prob=jnp.zeros((rows, new_slots), jnp.float32),
        length=jnp.zeros((rows,), jnp.int32),
    )
    for slots in sizes:

        def unfinished(carry: _Carry, slots: int = slots) -> Array:
            return (carry.step < slots) & jnp.any(carry.running)

        def advance_bucket(carry: _Carry, slots: int = slots) -> _Carry:
            return advance_rows(carry, slots)

        carry = carry._replace(cache=_grow(carry.cache, slots))
        carry = jax.lax.while_loop(unfinished, advance_bucket, carry)
    return Responses(
        carry.tokens,
        carry.log_prob,
        carry.length,
        jnp.where(carry.running, STOP_LENGTH, STOP_EOS),
        carry.step[None],
    )
