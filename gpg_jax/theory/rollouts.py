"""Every rollout of a listed language model, with its probability: groups of responses, and forked ones.

A method does not mind the order of the rows of a prompt, so rollouts that differ by it are listed once, with
the number of their orders.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from gpg_jax.decoding.branching import LeafWeight, leaf_weights
from gpg_jax.theory.responses import Responses, token_log_prob
from gpg_jax.types import Array

LIMIT = 1_000_000
"""The most rollouts that are listed."""


Plant = tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]
"""Responses of the trees that began at first, a tuple a tree, and those of the rows that began later."""


class Rollouts(NamedTuple):
    """All M rollouts of B rows.

    Attributes:
      prompt: `int32[B]`, the prompt of each row.
      response: `int32[M, B]`, the response of each row.
      orders: `float64[M]`, orders of the rows that the entry stands for.
      parent: `int32[M, B]`, the row that each row was forked from, itself for a root.
      shared: `int32[M, B]`, tokens that the row has from its parent.
      leaf_weight: `float64[M, B]`, what a row counts as a sample.
    """

    prompt: np.ndarray
    response: np.ndarray
    orders: np.ndarray
    parent: np.ndarray
    shared: np.ndarray
    leaf_weight: np.ndarray


def independent_rollouts(responses: Responses, prompts: int, group: int) -> Rollouts:
    """P prompts with G independent responses each.

    Args:
      responses: all of them.
      prompts: P.
      group: G.

    Raises:
      ValueError: no prompt or row, or more than `LIMIT` rollouts.
    """
    if prompts < 1 or group < 1:
        raise ValueError(f"a rollout has a prompt and a row of it at least, got {prompts} and {group}")
    one = math.comb(len(responses.token) + group - 1, group)
    _check(one**prompts)
    bags = np.array(list(itertools.combinations_with_replacement(range(len(responses.token)), group)))
    orders = np.array([_orders(bag) for bag in bags.tolist()], np.float64)
    choice = np.indices((one,) * prompts).reshape(prompts, -1).T
    response = bags[choice].reshape(len(choice), -1).astype(np.int32)
    return Rollouts(
        prompt=np.repeat(np.arange(prompts, dtype=np.int32), group),
        response=response,
        orders=np.prod(orders[choice], axis=1),
        parent=np.broadcast_to(np.arange(response.shape[1], dtype=np.int32), response.shape),
        shared=np.zeros_like(response),
        leaf_weight=np.ones(response.shape),
    )


def forked_rollouts(responses: Responses, roots: int, width: int, symbol: int, kind: LeafWeight) -> Rollouts:
    """One prompt with N·W rows: N roots, each forked into W rows where its first token is a certain symbol.

    Rows that no fork has used up begin at the prompt when the others have ended, and are not forked.

    Args:
      responses: all of them.
      roots: N ≥ 1.
      width: W ≥ 2.
      symbol: the first token behind which a root is forked, a tool's call, so to say; not 0, the end.
      kind: how a leaf counts, see `decoding.branching.leaf_weights`.

    Raises:
      ValueError: no fork or no root, a symbol behind which nothing follows, or more than `LIMIT` rollouts.
    """
    if roots < 1 or width < 2:
        raise ValueError(f"forks need a root and two rows of it at least, got {roots} and {width}")
    calls = responses.mask[:, 0] & (responses.token[:, 0] == symbol)
    if symbol == 0 or not np.any(responses.mask[calls, 1:]):
        raise ValueError(f"a row is forked where something follows; nothing follows the symbol {symbol}")
    alone = [(int(row),) for row in np.flatnonzero(~calls)]
    forked = list(itertools.combinations_with_replacement(np.flatnonzero(calls).tolist(), width))
    _check(math.comb(len(alone) + len(forked) + roots - 1, roots))
    listed: list[Plant] = []
    for trees in itertools.combinations_with_replacement([*alone, *forked], roots):
        late = roots * width - sum(map(len, trees))
        _check(math.comb(len(responses.token) + late - 1, late) + len(listed))
        for rest in itertools.combinations_with_replacement(range(len(responses.token)), late):
            listed.append((trees, rest))
    return _planted(listed, kind)


def rollout_probability(responses: Responses, rollouts: Rollouts, logits: Array) -> Array:
    """The probability of each rollout under the policy that draws it, `[M]`: what rows share is drawn once.

    Args:
      responses: all of them.
      rollouts: of these responses.
      logits: `[P, S, V]`.
    """
    table = token_log_prob(responses, logits)
    log_prob = table[rollouts.prompt[None, :], rollouts.response]
    own = jnp.arange(table.shape[2])[None, None] >= rollouts.shared[:, :, None]
    return rollouts.orders * jnp.exp(jnp.sum(jnp.where(own, log_prob, 0), axis=(1, 2)))


def _planted(listed: Sequence[Plant], kind: LeafWeight) -> Rollouts:
    response, orders, parent, shared, weight = [], [], [], [], []
    for trees, rest in listed:
        sizes = [len(tree) for tree in trees] + [1] * len(rest)
        root = np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)
        child = root != np.arange(len(root))
        late = np.arange(len(root)) >= len(root) - len(rest)
        response.append([*itertools.chain(*trees), *rest])
        orders.append(_orders(trees) * math.prod(map(_orders, trees)) * _orders(rest))
        parent.append(root)
        shared.append(child.astype(int))
        weight.append(leaf_weights(root, 1 + child, kind, late))
    return Rollouts(
        prompt=np.zeros(len(response[0]), np.int32),
        response=np.array(response, np.int32),
        orders=np.array(orders, np.float64),
        parent=np.array(parent, np.int32),
        shared=np.array(shared, np.int32),
        leaf_weight=np.array(weight, np.float64),
    )


def _orders(bag: Iterable) -> int:
    """Orders of a bag: n! / Π m!, m times that a member is in it."""
    counts = Counter(bag).values()
    return math.factorial(sum(counts)) // math.prod(map(math.factorial, counts))


def _check(count: int) -> None:
    if count > LIMIT:
        raise ValueError(f"these are {count} rollouts or more, over {LIMIT}: take fewer rows or shorter ones")
