"""Macro-action beaming: where a row is forked, decided from how uncertain the policy was around a boundary.

A boundary lies behind a tool's result. A decision is a pure function of what was measured on the row itself,
so that it is the same whatever else was decoded, and when.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np


class Crossing(NamedTuple):
    """A row at a boundary.

    Attributes:
      first: `float[n]`, uncertainty at each token of the row's first segment, in nats.
      own: `float[n]`, of the first segment that the row wrote itself: behind its fork, where it has one.
      before: `float[n]`, of the segment that ended at the boundary.
      after: `float[n]`, of the first tokens behind it, the tool's result left out; as many of them as
        `Branching.after` says, or fewer where the segment has fewer.
      vocab_size: V.
      uniform: in (0, 1), named by row and boundary.
    """

    first: np.ndarray
    own: np.ndarray
    before: np.ndarray
    after: np.ndarray
    vocab_size: int
    uniform: float


LeafWeight = Literal["uniform", "tree", "forest"]
Decide = Callable[[Crossing], int]
"""How many rows a row is forked into besides itself."""


class Branching(NamedTuple):
    """How M rows of a prompt come about.

    Attributes:
      roots: N, rows that begin at the prompt.
      decide: forks wanted at a boundary; they are made while rows are left.
      refill: what is done when all rows of a prompt have ended and some are left: "all" of them begin at the
        prompt, or "one", which may be forked in its turn.
      after: tokens behind a boundary that `decide` reads; with 0 it decides at the boundary.
    """

    roots: int
    decide: Decide
    refill: Literal["all", "one"] = "all"
    after: int = 0


def no_branching(rows: int) -> Branching:
    """Every row begins at the prompt."""
    return Branching(rows, lambda crossing: 0)


def arpo_paper(
    roots: int,
    *,
    alpha: float = 0.5,
    beta: float = 0.2,
    threshold: float = 0.5,
    tokens: int = 20,
    width: int = 1,
) -> Branching:
    """Fork where P = α + β·ΔH > τ (ARPO, arXiv 2507.19849, section 3.1).

    ΔH = (H_t − H_init)/log V, with H the mean entropy of the first k tokens: H_t behind the boundary, H_init
    of the row's first segment. The paper gives α, β and τ; k, Z and the mean are this library's reading, and
    log V makes of its "divided by the vocabulary's size" the share of the largest entropy there is.

    With k = 1 the decision depends on the prefix alone and `tree` weights are unbiased. With a larger k it
    depends on the tokens that the row went on with, and no weight of leaves mends that.

    Args:
      roots: N.
      alpha: α.
      beta: β.
      threshold: τ.
      tokens: k.
      width: Z, forks at a boundary.

    Raises:
      ValueError: fewer than one token or fork.
    """
    _at_least_one(tokens=tokens, width=width, roots=roots)

    def decide(crossing: Crossing) -> int:
        change = _mean(crossing.after[:tokens]) - _mean(crossing.first[:tokens])
        return width if alpha + beta * change / math.log(crossing.vocab_size) > threshold else 0

    return Branching(roots, decide, after=tokens)


def arpo_release(roots: int, *, weight: float = 0.2, probability: float = 0.5, tokens: int = 20) -> Branching:
    """Fork once where clip(U − w·ΔH, 0, 1) ≤ p: what ARPO's released code does, at random.

    H is the *sum* over the first k tokens of the segment *before* the tool's result, over log V; ΔH is its
    change since the first segment that the row wrote itself, so 0 and a fair coin where that one ends. At
    each boundary the rows that go on are asked in their order until none is left; when all have ended, one
    begins anew. Measure with `uncertainty.top_entropy(10)`.

    Given the same uniform numbers the rows are that code's, but for its baseline, which it keeps by slot and
    never resets: from the second batch on it is another request's, and here always the row's own. An
    end-of-sequence token, which that code appends to rows whose calls are spent, is not appended. Where rows
    are missing at the end that code would copy the last one, but as it begins a row in every round in which
    all have ended, none ever is; missing rows begin anew.

    Which calls are answered is `ask`'s to say (`decoding.dialogue`): that code ends a row at a call without a
    query, where `environments.toolbox` answers what is wrong with it.

    Args:
      roots: N.
      weight: w.
      probability: p.
      tokens: k.

    Raises:
      ValueError: fewer than one token.
    """
    _at_least_one(tokens=tokens, roots=roots)

    def decide(crossing: Crossing) -> int:
        change = float(np.sum(crossing.before[:tokens]) - np.sum(crossing.own[:tokens]))
        drawn = crossing.uniform - weight * change / math.log(crossing.vocab_size)
        return int(min(max(drawn, 0.0), 1.0) <= probability)

    return Branching(roots, decide, refill="one")


def fixed_width(roots: int, *, width: int) -> Branching:
    """Fork at every boundary into `width` rows, itself among them.

    Args:
      roots: N.
      width: at least 1, which never forks.

    Raises:
      ValueError: a width below 1.
    """
    _at_least_one(width=width, roots=roots)
    return Branching(roots, lambda crossing: width - 1)


def random_forks(roots: int, *, probability: float) -> Branching:
    """Fork once at a boundary with a probability.

    Args:
      roots: N.
      probability: in [0, 1].

    Raises:
      ValueError: a probability outside [0, 1].
    """
    _at_least_one(roots=roots)
    if not 0 <= probability <= 1:
        raise ValueError(f"the probability of a fork must be in [0, 1], got {probability}")
    return Branching(roots, lambda crossing: int(crossing.uniform < probability))


def leaf_weights(
    parent: np.ndarray, fork: np.ndarray, kind: LeafWeight, late: np.ndarray | None = None
) -> np.ndarray:
    """The weight of each leaf as a sample of the policy.

    - `uniform`: 1, the papers': rows of a tree that forked more count more.
    - `forest`: ∏ 1/c over the places where the row's branch was divided into c, so that the leaves of each
      tree add up to 1. How many trees there are depends on what the first ones came to, where rows left over
      begin anew: a mean is a ratio estimate whose bias is O(1/trees), and no row is wasted.
    - `tree`: the same for the trees that began at the start, and 0 for those that were begun to use up rows
      left over. Every mean is exactly unbiased where the decision to fork did not depend on what followed.

    Args:
      parent: `int32[B]`, the row that each row was forked from, itself for a root.
      fork: `int32[B]`, first position that is the row's own, behind that of its parent.
      kind: "uniform", "tree" or "forest".
      late: `bool[B]`, rows of trees that were begun to use up rows left over; None for none.

    Returns:
      `float32[B]`.

    Raises:
      ValueError: another kind.
    """
    if kind not in ("uniform", "tree", "forest"):
        raise ValueError(f'leaf weights are "uniform", "tree" or "forest", got {kind!r}')
    parent, fork = np.asarray(parent), np.asarray(fork)
    weight = np.ones(len(parent))
    if kind == "uniform":
        return weight.astype(np.float32)
    if kind == "tree" and late is not None:
        weight[np.asarray(late)] = 0
    born: dict[tuple[int, int], list[int]] = {}
    for child in np.flatnonzero(parent != np.arange(len(parent))).tolist():
        born.setdefault((int(fork[child]), int(parent[child])), []).append(child)
    # A row's share is settled up to a place before it is divided there: its own fork lies before that.
    for (_, row), children in sorted(born.items()):
        weight[[row, *children]] = weight[row] / (len(children) + 1)
    return weight.astype(np.float32)


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def _at_least_one(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
