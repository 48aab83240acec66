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
      before: `float[n]`, of the segment that ended at the boundary.
      after: `float[n]`, of the segment behind it, the tool's result left out.
      vocab_size: V.
      uniform: in (0, 1), named by row and boundary.
    """

    first: np.ndarray
    before: np.ndarray
    after: np.ndarray
    vocab_size: int
    uniform: float


LeafWeight = Literal["uniform", "tree"]
Decide = Callable[[Crossing], int]
"""How many rows a row is forked into besides itself."""


class Branching(NamedTuple):
    """How M rows of a prompt come about.

    Attributes:
      roots: N, rows that begin at the prompt.
      decide: forks wanted at a boundary; they are made while rows are left.
      refill: what is done when all rows of a prompt have ended and some are left: "all" of them begin at the
        prompt, or "one", which may be forked in its turn.
    """

    roots: int
    decide: Decide
    refill: Literal["all", "one"] = "all"


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

    return Branching(roots, decide)


def arpo_release(roots: int, *, weight: float = 0.2, probability: float = 0.5, tokens: int = 20) -> Branching:
    """Fork once where clip(U − w·ΔH, 0, 1) ≤ p: what ARPO's released code does, at random.

    H is the *sum* over the first k tokens of the segment *before* the tool's result, over log V; ΔH is its
    change since the row's first segment, so 0 and a fair coin at the first boundary. Measure it with
    `uncertainty.top_entropy(10)` as that code does. Its baseline lasts for the whole run, keyed by slot, and
    its missing rows are copies of the last one; here the baseline is the row's own, and rows begin anew.

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
        change = float(np.sum(crossing.before[:tokens]) - np.sum(crossing.first[:tokens]))
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


def leaf_weights(parent: np.ndarray, fork: np.ndarray, kind: LeafWeight) -> np.ndarray:
    """The weight of each leaf as a sample of the policy.

    - `uniform`: 1, the papers': rows of a tree that forked more count more.
    - `tree`: ∏ 1/c over the places where the row's branch was divided into c. The leaves of a tree add up
      to 1, and where the decision to fork did not depend on what followed, every mean is unbiased.

    Args:
      parent: `int32[B]`, the row that each row was forked from, itself for a root.
      fork: `int32[B]`, first position that is the row's own.
      kind: "uniform" or "tree".

    Returns:
      `float32[B]`.

    Raises:
      ValueError: another kind.
    """
    if kind == "uniform":
        return np.ones(len(parent), np.float32)
    if kind != "tree":
        raise ValueError(f'leaf weights are "uniform" or "tree", got {kind!r}')
    rows = range(len(parent))
    children = {row: [child for child in rows if parent[child] == row != child] for row in rows}
    weight = np.zeros(len(parent))

    def descend(row: int, share: float) -> None:
        places = sorted({int(fork[child]) for child in children[row]})
        for place in places:
            born = [child for child in children[row] if fork[child] == place]
            share /= len(born) + 1
            for child in born:
                descend(child, share)
        weight[row] = share

    for row in rows:
        if parent[row] == row:
            descend(row, 1.0)
    return weight.astype(np.float32)


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def _at_least_one(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
