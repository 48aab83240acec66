"""Stop strings, stop tokens and markers as one automaton that reads tokens.

Compiled once on the host: Aho and Corasick's automaton over the bytes of all patterns (1975,
doi 10.1145/360825.360855), then, for every token, the map from the state before the token to the
state after its bytes. Most tokens share their map with many others, so the table has a column for
each class of tokens and not for each token. The decoding loop carries one integer a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from gpg_jax.types import Array


class Automaton(NamedTuple):
    """A compiled automaton; every row starts in state 0. Small enough to be a constant of a program.

    A state says what was read and which pattern the last token completed, so that `pattern[state]` is
    all that the loop has to look at. With S states, C classes and V tokens it takes 4 (S·C + S + V)
    bytes; S is at most a few more than the bytes of all patterns, C is some hundreds.

    Attributes:
      next: `int32[S, C]`, the state after a token of the class.
      token_class: `int32[V]`, the class of each token.
      pattern: `int32[S]`, the pattern that the token which led here completed, -1 for none: an index
        into the patterns, or the number of patterns plus an index into the stop tokens.
    """

    next: Array
    token_class: Array
    pattern: Array


def advance(automaton: Automaton, state: Array, token: Array) -> tuple[Array, Array]:
    """Reads one token a row.

    Args:
      automaton: from `compile_automaton`.
      state: `int32[B]`, 0 before the first token.
      token: `int32[B]`.

    Returns:
      The next state `int32[B]`, and the pattern that is completed `int32[B]`, -1 for none.
    """
    state = jnp.asarray(automaton.next)[state, jnp.asarray(automaton.token_class)[token]]
    return state, jnp.asarray(automaton.pattern)[state]


def compile_automaton(
    patterns: Sequence[bytes | str],
    token_bytes: Sequence[bytes],
    stop_tokens: Sequence[int] = (),
    *,
    absorbing: bool = True,
) -> Automaton:
    """Compiles patterns and stop tokens to an automaton over the vocabulary.

    A pattern is found wherever its bytes end: inside a token, across tokens, over another pattern; a
    character may be cut between tokens. The boundary falls after the token that completes it. Of
    patterns that end at the same byte the longest is reported, of equal ones the first. A stop token
    counts whatever its bytes are. Without patterns and stop tokens nothing is ever completed.

    Args:
      patterns: stop strings or markers; a `str` stands for its UTF-8 bytes.
      token_bytes: the bytes of every id of the model's vocabulary; `b""` for special tokens and for
        ids without a token, which leave the text read so far as it is.
      stop_tokens: ids that count as a pattern of their own.
      absorbing: whether the first completion ends the reading, so that its pattern is reported ever
        after (stopping). Otherwise reading goes on (markers of units and tools): a pattern is reported
        at the token that completes it, the last one if a token completes several, and a stop token
        begins a new text.

    Returns:
      An `Automaton` of NumPy arrays.

    Raises:
      ValueError: for an empty pattern, a stop token outside the vocabulary, one string in place of a
        sequence of patterns, or tokens that are not bytes.
    """
    encoded = _encode(patterns)
    _check(token_bytes, stop_tokens)
    step, nodes, fired = _byte_automaton(encoded, len(stop_tokens), absorbing)
    maps, token_class = _token_maps(step, nodes, token_bytes)
    for index in reversed(range(len(stop_tokens))):
        token_class[stop_tokens[index]] = len(maps)
        maps = np.vstack([maps, np.full_like(maps[:1], nodes * (1 + len(encoded) + index))])
    return _tabulate(maps, token_class, nodes, fired, absorbing)


def _encode(patterns: Sequence[bytes | str]) -> list[bytes]:
    if isinstance(patterns, str | bytes):
        raise ValueError(f"patterns must be a sequence of strings, got {patterns!r}; write [{patterns!r}]")
    encoded = [pattern.encode() if isinstance(pattern, str) else bytes(pattern) for pattern in patterns]
    if b"" in encoded:
        raise ValueError(f"pattern {encoded.index(b'')} of {list(patterns)!r} is empty; give it a byte")
    return encoded


def _check(token_bytes: Sequence[bytes], stop_tokens: Sequence[int]) -> None:
    for token, text in enumerate(token_bytes):
        if not isinstance(text, bytes):
            raise ValueError(f"token_bytes must hold bytes, got {text!r} for token {token}")
    for token in stop_tokens:
        if not 0 <= token < len(token_bytes):
            raise ValueError(f"stop token {token} is outside the vocabulary of {len(token_bytes)} tokens")


def _trie(patterns: list[bytes]) -> tuple[list[dict[int, int]], list[int]]:
    """Children of each node by byte, and the pattern that ends at each node; node 0 is the root."""
    children: list[dict[int, int]] = [{}]
    ends = [-1]
    for index, pattern in enumerate(patterns):
        node = 0
        for byte in pattern:
            if byte not in children[node]:
                children[node][byte] = len(children)
                children.append({})
                ends.append(-1)
            node = children[node][byte]
        ends[node] = index if ends[node] < 0 else ends[node]
    return children, ends


def _aho_corasick(patterns: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Node after each byte `[nodes, 256]`, and the longest pattern that ends at each node, -1 for none."""
    children, ends = _trie(patterns)
    goto = np.zeros((len(children), 256), np.int64)
    found = np.array(ends)
    queue = [(0, 0)]  # a node and its longest proper suffix that is a node, breadth first
    for node, suffix in queue:
        found[node] = found[node] if found[node] >= 0 else found[suffix]
        queue += [(child, goto[suffix, byte] if node else 0) for byte, child in children[node].items()]
        goto[node] = goto[suffix]
        goto[node, list(children[node])] = list(children[node].values())
    return goto, found


def _byte_automaton(
    patterns: list[bytes], stop_tokens: int, absorbing: bool
) -> tuple[np.ndarray, int, np.ndarray]:
    """What is known inside a token: the code `node + nodes * (1 + pattern completed in this token)`.

    Returns:
      The code after each byte `[codes, 256]`, the number of nodes, and the pattern of each code.
    """
    goto, found = _aho_corasick(patterns)
    nodes = len(goto)
    fired = np.arange(1 + len(patterns) + stop_tokens) - 1
    before = np.broadcast_to(fired[:, None, None], (len(fired), *goto.shape))
    after = np.where(found[goto] >= 0, found[goto], before)
    step = goto + nodes * (1 + after)
    if absorbing:
        step = np.where(after >= 0, nodes * (1 + np.where(before >= 0, before, after)), step)
    return step.reshape(-1, 256).astype(np.int32), nodes, np.repeat(fired, nodes)


def _token_maps(step: np.ndarray, nodes: int, token_bytes: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The distinct maps from node before to code after a token `[classes, nodes]`, and each token's map.

    All tokens are read together, one byte at a time; tokens whose maps are equal so far are one.
    """
    text = np.frombuffer(b"".join(token_bytes), np.uint8).astype(np.int64)
    length = np.array([len(token) for token in token_bytes], np.int64)
    start = np.cumsum(length) - length
    maps = np.arange(nodes, dtype=step.dtype)[None]
    classes = {maps.tobytes(): 0}
    token_class = np.zeros(len(token_bytes), np.int64)
    for position in range(length.max(initial=0)):
        active = length > position
        pair = token_class[active] * 256 + text[start[active] + position]
        pair, which = np.unique(pair, return_inverse=True)
        longer = step[maps[pair // 256], pair[:, None] % 256]
        names = np.array([classes.setdefault(row.tobytes(), len(classes)) for row in longer])
        token_class[active] = names[which]
        if len(classes) > len(maps):
            maps = np.frombuffer(b"".join(classes), step.dtype).reshape(-1, nodes)
    used, token_class = np.unique(token_class, return_inverse=True)
    return maps[used], token_class


def _tabulate(
    maps: np.ndarray, token_class: np.ndarray, nodes: int, fired: np.ndarray, absorbing: bool
) -> Automaton:
    """The table over the codes that a row can reach; code 0, the start, is state 0."""

    def after(codes: np.ndarray) -> np.ndarray:
        rows = maps[:, codes % nodes]
        return np.where(fired[codes] >= 0, codes, rows) if absorbing else rows

    reached = np.zeros(len(fired), bool)
    frontier = np.zeros(1, np.int64)
    while len(frontier):
        reached[frontier] = True
        codes = after(frontier)
        frontier = np.unique(codes[~reached[codes]])
    codes = np.flatnonzero(reached)
    columns, merged = np.unique(np.searchsorted(codes, after(codes)), axis=0, return_inverse=True)
    return Automaton(
        next=np.ascontiguousarray(columns.T, np.int32),
        token_class=merged[token_class].astype(np.int32),
        pattern=fired[codes].astype(np.int32),
    )
