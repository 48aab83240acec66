"""Macro-actions by marker tokens: `<think>…</think>`, `<search>…</search>` and whatever else is named.

A macro-action ends after the token that completes a closing tag, and where a tool's result stands. What a
tool wrote is read by nobody: tags in it neither open nor close anything. A row whose tags do not pair has
no macro-actions that could be trusted; it is one unit, and flagged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpg_jax.decoding.automaton import Automaton, advance, compile_automaton
from gpg_jax.decoding.units import sequence_unit, units_ending
from gpg_jax.types import Array, Rollout

ARPO_TAGS = ("think", "search", "python", "result", "answer")
"""Tags of ARPO's trajectories (arXiv 2507.19849, appendix)."""

ABSENT = 1
"""Fault: no tag was closed."""
UNCLOSED = 2
"""Fault: the row ends inside a tag."""
NESTED = 4
"""Fault: a tag opens inside another."""
STRAY = 8
"""Fault: a tag is closed that was not open."""


FAULTS = {"absent": ABSENT, "unclosed": UNCLOSED, "nested": NESTED, "stray": STRAY}
"""Faults by name."""


class Markers(NamedTuple):
    """Compiled tags: pattern 2n opens tag n, pattern 2n + 1 closes it."""

    automaton: Automaton
    tags: tuple[str, ...]


class MarkedUnits(NamedTuple):
    """Macro-actions of rows.

    Attributes:
      unit_ids: `int32[B, L]`, -1 where the policy did not act; all 0 in a row with a fault.
      fault: `int32[B]`, a sum of `ABSENT`, `UNCLOSED`, `NESTED` and `STRAY`, 0 for a sound row.
    """

    unit_ids: Array
    fault: Array


def compile_markers(tags: Sequence[str], token_bytes: Sequence[bytes]) -> Markers:
    """Compiles the tags `<name>` and `</name>` over a vocabulary.

    Args:
      tags: names; a tag may be cut between tokens anyhow.
      token_bytes: the bytes of every id, see `automaton.compile_automaton`.

    Raises:
      ValueError: no tags, one that is empty or given twice, or one string in place of a sequence.
    """
    if isinstance(tags, str) or not tags or len(set(tags)) < len(tags) or not all(tags):
        raise ValueError(f"tags must be different names, as ('think', 'answer') are; got {tags!r}")
    patterns = [pattern for tag in tags for pattern in (f"<{tag}>", f"</{tag}>")]
    return Markers(compile_automaton(patterns, token_bytes, absorbing=False), tuple(tags))


def marked_units(markers: Markers, tokens: Array, action_mask: Array) -> MarkedUnits:
    """Cuts rows into macro-actions MA_T (GPG, arXiv 2512.10365, section 4) at their closing tags.

    Text between two tags belongs to the macro-action that the next tag closes, text behind the last tag is
    a unit of its own. Of several tags that one token completes only the last is seen. A tag that one of the
    prompt's last two tokens opens, as some chat templates do with `<think>`, is open when the policy begins.

    Args:
      markers: from `compile_markers`.
      tokens: `int32[B, L]`.
      action_mask: `bool[B, L]`; tool results are outside.

    Returns:
      `MarkedUnits`.
    """
    pattern = completed(markers.automaton, tokens, action_mask)
    fault = _faults(pattern, _opened(markers.automaton, tokens, action_mask))
    units = units_ending(action_mask, (pattern >= 0) & (pattern % 2 == 1))
    return MarkedUnits(jnp.where(fault[:, None] == 0, units, sequence_unit(action_mask)), fault)


def marker_faults(markers: Markers, rollout: Rollout) -> dict[str, Array]:
    """`bool[B]` by name: rows with any fault, `marker_fault`, and with each kind, `marker_absent` and so on.

    Args:
      markers: from `compile_markers`.
      rollout: whose rows are read.
    """
    fault = marked_units(markers, rollout.tokens, rollout.action_mask).fault
    kinds = {f"marker_{name}": (fault & flag) > 0 for name, flag in FAULTS.items()}
    return {"marker_fault": fault > 0, **kinds}


def completed(automaton: Automaton, tokens: Array, action_mask: Array) -> Array:
    """The pattern that each token completes in what the policy wrote, -1 for none: `int32[B, L]`.

    Reading starts anew behind every token that is not the policy's.

    Args:
      automaton: one that goes on reading (`absorbing=False`).
      tokens: `int32[B, L]`.
      action_mask: `bool[B, L]`.
    """

    def read(state: jax.Array, column: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        token, acted = column
        following, pattern = advance(automaton, state, token)
        return jnp.where(acted, following, 0), jnp.where(acted, pattern, -1)

    start = jnp.zeros(tokens.shape[:1], jnp.int32)
    _, patterns = jax.lax.scan(read, start, (jnp.asarray(tokens).T, jnp.asarray(action_mask).T))
    return patterns.T


def _opened(automaton: Automaton, tokens: Array, action_mask: Array) -> Array:
    """The opening tag with which each row's prompt ends, -1 for none: `int32[B]`."""
    begin = jnp.argmax(action_mask, axis=1)[:, None]
    position = jnp.arange(tokens.shape[1])[None]
    pattern = completed(automaton, tokens, position < begin)
    tail = (position >= begin - 2) & (position < begin)
    newest = _latest(jnp.where(tail, pattern, -1))[:, -1]
    return jnp.where(newest % 2 == 0, newest, -1)


def _faults(pattern: Array, opened: Array) -> Array:
    """Faults of rows from the patterns that their tokens complete, and the tag that was open before."""
    before = _latest(jnp.pad(pattern, ((0, 0), (1, 0)), constant_values=-1)[:, :-1])
    before = jnp.where(before < 0, opened[:, None], before)
    found, closes = pattern >= 0, pattern % 2 == 1
    inside = (before >= 0) & (before % 2 == 0)
    nested = jnp.any(found & ~closes & inside, axis=1)
    stray = jnp.any(found & closes & (before != pattern - 1), axis=1)
    last = _latest(pattern)[:, -1]
    last = jnp.where(last < 0, opened, last)
    unclosed = (last >= 0) & (last % 2 == 0)
    absent = ~jnp.any(found & closes, axis=1)
    return absent * ABSENT + unclosed * UNCLOSED + nested * NESTED + stray * STRAY


def _latest(pattern: Array) -> Array:
    """The newest pattern up to each token, -1 before the first."""
    index = jnp.where(pattern >= 0, jnp.arange(pattern.shape[1])[None], -1)
    newest = jax.lax.cummax(index, axis=1)
    return jnp.where(newest >= 0, jnp.take_along_axis(pattern, jnp.maximum(newest, 0), axis=1), -1)
