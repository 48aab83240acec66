"""Rows that live on between calls: decoded, stopped, added to and forked, each without being read again.

Four programs of static shapes work on one value, `Live`:

    begin     reads the prompts
    advance   draws tokens until a row calls, one that is watched ends, or after so many steps
    append    reads tokens that the policy did not choose, onto the cache of the rows that wait for them
    fork      copies a few rows, cut at any place, over others

Slot n of a row's own cache holds the token before response token n, so a row that was cut keeps what it
had read. Randomness is named by the row's uid and the index of the token in the response: which rows run
beside it, when it was stopped and how long it waited change nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gpg_jax.decoding.automaton import Automaton, advance
from gpg_jax.decoding.rows import copy_rows, put_entries, row_axes, take
from gpg_jax.decoding.sampling import Sampling, sample, uniforms
from gpg_jax.decoding.uncertainty import Uncertainty
from gpg_jax.policies.policy import Cache, Context, Policy
from gpg_jax.policies.score import prompt_positions
from gpg_jax.types import Params


class Prefix(NamedTuple):
    """The prompts, read once for all of their rows.

    Attributes:
      context: cache and positions of all but the prompts' last tokens, P rows.
      last_token: `int32[P]`.
      length: `int32[P]`, of the prompts.
    """

    context: Context
    last_token: Array
    length: Array


class Live(NamedTuple):
    """B rows in the middle of their responses, neighbouring rows of one prompt together.

    Attributes:
      cache: of the rows' own tokens.
      tokens: `int32[B, N]`, the response so far, a tool's tokens among them.
      acted: `bool[B, N]`, tokens that the policy chose.
      log_prob: `float32[B, N]`, of chosen tokens under the distribution sampled from, else 0.
      uncertainty: `float32[B, N]`, of the policy's choice of the token, 0 where it made none; `[B, 0]` if not
        measured.
      length: `int32[B]`, tokens of the response.
      state: `int32[B]`, of the stop automaton.
      pattern: `int32[B]`, the pattern that stopped the row, -1 for none.
      running: `bool[B]`.
    """

    cache: Cache
    tokens: Array
    acted: Array
    log_prob: Array
    uncertainty: Array
    length: Array
    state: Array
    pattern: Array
    running: Array


class LivePrograms(NamedTuple):
    """The compiled programs.

    Attributes:
      begin: parameters, prompts `int32[P, S]`, prompt lengths `int32[P]`, running `bool[B]` -> `Prefix`,
        `Live`.
      advance: parameters, prefix, live (donated), uids `int32[B]`, key, steps, calls, watched `bool[B]` ->
        `Live`. It returns after so many steps, when no row runs, and once a row has stopped at a pattern
        below `calls` or one that is watched has ended.
      append: parameters, prefix, live (donated), rows `int32[A]` (B for an unused place), tokens
        `int32[A, R]`, counts `int32[A]` -> `Live` with those rows running again.
      fork: live (donated), children `int32[F]` (B for an unused place), parents `int32[F]`, lengths
        `int32[F]` -> `Live`; each child becomes the first tokens of its parent, and runs. Its automaton
        starts anew. No child is a parent of another one.
    """

    begin: Callable[..., tuple[Prefix, Live]]
    advance: Callable[..., Live]
    append: Callable[..., Live]
    fork: Callable[..., Live]


class Parts(NamedTuple):
    """What the programs are made of, see `live_programs`; `row_axes` as of `decoding.rows`."""

    policy: Policy
    new_slots: int
    sampling: Sampling
    automaton: Automaton
    uncertainty: Uncertainty | None
    patience: int
    row_axes: Any


def live_programs(
    policy: Policy,
    *,
    new_slots: int,
    sampling: Sampling,
    automaton: Automaton,
    uncertainty: Uncertainty | None = None,
    patience: int = 0,
) -> LivePrograms:
    """The programs of a policy under `jax.jit`; parameters are as `policy.for_decoding` gives them.

    Args:
      policy: the network.
      new_slots: N, the budget of a response, tool results included.
      sampling: temperature and truncation.
      automaton: what stops a row, stop tokens and strings and the marks of tool calls.
      uncertainty: what is measured at each token, or None.
      patience: steps that `advance` goes on for after a row has given it reason to return.

    Raises:
      ValueError: a budget below 1.
    """
    if new_slots < 1:
        raise ValueError(f"new_slots={new_slots}; the budget must be at least 1 new token")
    parts = Parts(policy, new_slots, sampling, automaton, uncertainty, patience, row_axes(policy))
    begin, advance, append, fork = (functools.partial(one, parts) for one in (_begin, _run, _append, _fork))
    return LivePrograms(
        begin=jax.jit(begin),
        advance=jax.jit(advance, donate_argnums=2),
        append=jax.jit(append, donate_argnums=2),
        fork=jax.jit(fork, donate_argnums=0),
    )


def _begin(
    parts: Parts, params: Params, prompts: Array, prompt_length: Array, running: Array
) -> tuple[Prefix, Live]:
    rows = running.shape[0]
    position = prompt_positions(prompt_length, prompts.shape[1])
    _, cache = parts.policy.hidden(params, prompts, position, ())
    last = jnp.take_along_axis(prompts, prompt_length[:, None] - 1, axis=1)[:, 0]
    watched = 0 if parts.uncertainty is None else parts.new_slots
    live = Live(
        cache=parts.policy.init_cache(rows, parts.new_slots),
        tokens=jnp.zeros((rows, parts.new_slots), jnp.int32),
        acted=jnp.zeros((rows, parts.new_slots), bool),
        log_prob=jnp.zeros((rows, parts.new_slots), jnp.float32),
        uncertainty=jnp.zeros((rows, watched), jnp.float32),
        length=jnp.zeros((rows,), jnp.int32),
        state=jnp.zeros((rows,), jnp.int32),
        pattern=jnp.full((rows,), -1, jnp.int32),
        running=jnp.asarray(running),
    )
    return Prefix(Context(cache, position), last, prompt_length), live


def _own_context(parts: Parts, prefix: Prefix, cache: Cache, length: Array, owner: Array) -> Context:
    slot = jnp.arange(parts.new_slots, dtype=jnp.int32)[None]
    position = prefix.length[owner][:, None] - 1 + slot
    return Context(cache, jnp.where(slot < length[:, None], position, -1))


def _last_token(prefix: Prefix, tokens: Array, length: Array, owner: Array) -> Array:
    newest = jnp.take_along_axis(tokens, jnp.maximum(length - 1, 0)[:, None], axis=1)[:, 0]
    return jnp.where(length == 0, prefix.last_token[owner], newest)


def _step(parts: Parts, params: Params, prefix: Prefix, live: Live, uid: Array, key: Array) -> Live:
    rows = jnp.arange(uid.shape[0])
    owner = rows // (uid.shape[0] // prefix.length.shape[0])
    token = _last_token(prefix, live.tokens, live.length, owner)
    position = prefix.length[owner] - 1 + live.length
    contexts = (prefix.context, _own_context(parts, prefix, live.cache, live.length, owner))
    hidden, entry = parts.policy.hidden(params, token[:, None], position[:, None], contexts)
    logits = parts.policy.unembed(params, hidden[:, 0])
    drawn = sample(logits, uniforms(key, uid, live.length), parts.sampling)
    state, pattern = advance(parts.automaton, live.state, drawn.token)
    running = live.running
    place = jnp.where(running, live.length, parts.new_slots)  # past the end, where nothing is written

    def put(whole: Array, value: ArrayLike) -> Array:
        return whole.at[rows, place].set(jnp.asarray(value, whole.dtype), mode="drop")

    length = live.length + running
    watched = live.uncertainty
    if parts.uncertainty is not None:
        watched = put(watched, parts.uncertainty(logits, parts.sampling.temperature, drawn.token))
    return Live(
        cache=put_entries(live.cache, entry, rows[:, None], place[:, None], parts.row_axes),
        tokens=put(live.tokens, drawn.token),
        acted=put(live.acted, running),
        log_prob=put(live.log_prob, drawn.log_prob),
        uncertainty=watched,
        length=length,
        state=jnp.where(running, state, live.state),
        pattern=jnp.where(running, pattern, live.pattern),
        running=running & (pattern < 0) & (length < parts.new_slots),
    )


def _run(
    parts: Parts,
    params: Params,
    prefix: Prefix,
    live: Live,
    uid: Array,
    key: Array,
    steps: Array,
    calls: Array,
    watched: Array,
) -> Live:
    def unfinished(carry: tuple[Live, Array]) -> Array:
        return (carry[1] > 0) & jnp.any(carry[0].running)

    def proceed(carry: tuple[Live, Array]) -> tuple[Live, Array]:
        before, left = carry
        after = _step(parts, params, prefix, before, uid, key)
        called = (after.pattern >= 0) & (after.pattern < calls)
        heeded = jnp.any(before.running & ~after.running & (called | watched))
        left = left - 1
        return after, jnp.where(heeded, jnp.minimum(left, parts.patience), left)

    return jax.lax.while_loop(unfinished, proceed, (live, jnp.asarray(steps, jnp.int32)))[0]


def _append(
    parts: Parts, params: Params, prefix: Prefix, live: Live, rows: Array, tokens: Array, count: Array
) -> Live:
    total, width = live.length.shape[0], tokens.shape[1]
    used, index = rows < total, jnp.minimum(rows, total - 1)
    owner = index // (total // prefix.length.shape[0])
    length = live.length[index]
    offset = jnp.arange(width, dtype=jnp.int32)[None]
    new = used[:, None] & (offset < count[:, None])
    # Read are the row's newest token and all new ones but the last, which the next step reads.
    newest = _last_token(prefix, live.tokens[index], length, owner)
    read = jnp.concatenate([newest[:, None], tokens[:, :-1]], axis=1)
    position = jnp.where(new, prefix.length[owner][:, None] - 1 + length[:, None] + offset, -1)
    prompt = Context(
        take(prefix.context.cache, owner, parts.row_axes), jnp.take(prefix.context.position, owner, axis=0)
    )
    own = _own_context(parts, prefix, take(live.cache, index, parts.row_axes), length, owner)
    _, entry = parts.policy.hidden(params, read, position, (prompt, own))
    slot = jnp.where(new, length[:, None] + offset, parts.new_slots)
    row = jnp.broadcast_to(index[:, None], slot.shape)
    resumed = jnp.where(used, index, total)
    return live._replace(
        cache=put_entries(live.cache, entry, row, slot, parts.row_axes),
        tokens=live.tokens.at[row, slot].set(tokens, mode="drop"),
        length=live.length.at[resumed].add(jnp.where(used, count, 0), mode="drop"),
        state=live.state.at[resumed].set(0, mode="drop"),
        pattern=live.pattern.at[resumed].set(-1, mode="drop"),
        running=live.running.at[resumed].set(True, mode="drop"),
    )


def _fork(parts: Parts, live: Live, children: Array, parents: Array, length: Array) -> Live:
    kept = jnp.arange(parts.new_slots)[None] < length[:, None]

    def begin_with(whole: Array) -> Array:
        copied = whole[parents]
        copied = jnp.where(kept[:, : whole.shape[1]], copied, jnp.zeros_like(copied))
        return whole.at[children].set(copied, mode="drop")

    def put(whole: Array, value: ArrayLike) -> Array:
        return whole.at[children].set(value, mode="drop")

    return Live(
        cache=copy_rows(live.cache, children, parents, parts.row_axes),
        tokens=begin_with(live.tokens),
        acted=begin_with(live.acted),
        log_prob=begin_with(live.log_prob),
        uncertainty=begin_with(live.uncertainty),
        length=put(live.length, length),
        state=put(live.state, 0),
        pattern=put(live.pattern, -1),
        running=put(live.running, True),
    )
