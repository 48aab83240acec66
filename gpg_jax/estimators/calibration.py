"""Advantages calibrated over the rows that share a prefix (GPG, arXiv 2512.10365, eq. 29), and tree values.

Rows that share what was written up to a token made one choice there, so it has one advantage: the mean of
theirs. Who shares is named by classes: `class[b, t]` is the same number for two rows if and only if they
share. They come from the branch tree, or from equal tokens, tool results among them; in the latter two
rows that wrote the same by chance share as well.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gpg_jax.estimators.masked import at_least_float32
from gpg_jax.types import Array


def tree_classes(
    parent: Array, fork: Array, prompt_length: Array, group: Array, length: int, *, inclusive: bool = True
) -> Array:
    """Classes of the branch tree: rows share a token that was written before they forked.

    O(L·B log depth): owners are looked up by doubling.

    Args:
      parent: `int32[B]`, the row that each row was forked from, itself for a root.
      fork: `int32[B]`, first position that is the row's own.
      prompt_length: `int32[B]`, where responses begin.
      group: `int32[B]`, rows of the same prompt; ids in 0 .. B-1.
      length: L.
      inclusive: whether token t itself is shared, as in eq. 29 (≤ t), or the prefix before it (< t).

    Returns:
      `int32[B, L]`, in 0 .. B-1; meaningless on the prompt and the padding.
    """
    position = jnp.arange(length, dtype=jnp.int32)[None]
    parent = jnp.asarray(parent, jnp.int32)[:, None]
    rows = jnp.arange(parent.shape[0], dtype=jnp.int32)[:, None]
    above = jnp.where(position < jnp.asarray(fork)[:, None], parent, rows)

    def twice(pair: tuple[Array, Array]) -> tuple[Array, Array]:
        """Whoever wrote a row's token, as far up again: the owner's owner."""
        return jnp.take_along_axis(pair[0], pair[0], axis=0), pair[0]

    owner, _ = jax.lax.while_loop(lambda pair: jnp.any(pair[0] != pair[1]), twice, twice((above, above)))
    return owner if inclusive else _before(owner, prompt_length, group)


def prefix_classes(
    tokens: Array, prompt_length: Array, row_length: Array, group: Array, *, inclusive: bool = True
) -> Array:
    """Classes of equal tokens: rows of a group share a token if all tokens up to it are equal.

    Column by column, class and token are sorted and numbered anew: O(L·B log B).

    Args:
      tokens: `int32[B, L]`.
      prompt_length: `int32[B]`; the prompts of a group are the same.
      row_length: `int32[B]`, a row that has ended shares with nobody.
      group: `int32[B]`, ids in 0 .. B-1.
      inclusive: see `tree_classes`.

    Returns:
      `int32[B, L]`, in 0 .. B-1; meaningless on the prompt and the padding.
    """
    rows = jnp.arange(tokens.shape[0], dtype=jnp.int32)

    def refine(classes: Array, column: tuple[Array, Array]) -> tuple[Array, Array]:
        token, index = column
        # A row past its end is told apart by its own number, which no token is: they are below 0.
        token = jnp.where(index < row_length, token, -1 - rows)
        token = jnp.where(index < prompt_length, 0, token)
        order = jnp.lexsort((token, classes))
        new = (classes[order] != jnp.roll(classes[order], 1)) | (token[order] != jnp.roll(token[order], 1))
        head = jax.lax.cummax(jnp.where(new.at[0].set(True), rows, 0))
        named = jnp.zeros_like(rows).at[order].set(order[head].astype(jnp.int32))
        return named, named

    columns = (jnp.asarray(tokens, jnp.int32).T, jnp.arange(tokens.shape[1], dtype=jnp.int32))
    start = _first_rows(group)
    _, classes = jax.lax.scan(refine, start, columns)
    return classes.T if inclusive else _before(classes.T, prompt_length, group)


def calibrate(advantage: Array, classes: Array, inside: Array, weight: Array) -> Array:
    """Â_{i,t} = Σ_{j ∈ S_t(i)} w_j A_j / Σ_{j ∈ S_t(i)} w_j (GPG, arXiv 2512.10365, eq. 29; w = 1 there).

    The means preserve Σ_j w_j A_j of every class and never raise the variance. Where a class has no weight,
    a row keeps its own advantage.

    Args:
      advantage: `[B]`, A of each row, relative to its group.
      classes: `int32[B, L]`, from `tree_classes` or `prefix_classes`.
      inside: `bool[B, L]`, response tokens, a tool's too.
      weight: `[B]`, of each row as a sample, ≥ 0.

    Returns:
      `[B, L]`, 0 outside.
    """
    advantage = at_least_float32(advantage)
    mean, total = class_mean(advantage, classes, inside, weight)
    return jnp.where(inside, jnp.where(total > 0, mean, advantage[:, None]), 0)


def tree_advantage(outcome: Array, classes: Array, inside: Array, weight: Array, group: Array) -> Array:
    """Φ_T = V̂(child) − V̂(parent): what the branch that a token lies on is worth beside where it began.

    V̂ of a branch is the weighted mean outcome of the leaves below it; the parent of a first branch is the
    prompt, worth the group's mean. An extension: the papers have no such form.

    Args:
      outcome: `[B]`, of each leaf.
      classes: `int32[B, L]`, inclusive ones.
      inside: `bool[B, L]`, response tokens, a tool's too.
      weight: `[B]`, of each leaf as a sample, ≥ 0.
      group: `int32[B]`, ids in 0 .. B-1.

    Returns:
      `[B, L]`, 0 outside.
    """
    value, _ = class_mean(outcome, classes, inside, weight)
    members = _class_sum(jnp.ones_like(weight, jnp.float32), classes, inside)
    earlier = jnp.pad(inside, ((0, 0), (1, 0)))[:, :-1]
    begins = inside & (~earlier | (members != jnp.pad(members, ((0, 0), (1, 0)))[:, :-1]))
    index = jnp.broadcast_to(jnp.arange(inside.shape[1])[None], inside.shape)
    begin = jax.lax.cummax(jnp.where(begins, index, 0), axis=1)
    root = class_mean(outcome, group[:, None], jnp.ones((group.shape[0], 1), bool), weight)[0]
    first = jnp.argmax(inside, axis=1)[:, None]
    before = jnp.take_along_axis(value, jnp.maximum(begin - 1, 0), axis=1)
    return jnp.where(inside, value - jnp.where(begin == first, root, before), 0)


def class_mean(values: Array, classes: Array, inside: Array, weight: Array) -> tuple[Array, Array]:
    """Weighted mean of the rows of each token's class `[B, L]`, and their total weight `[B, L]`.

    Args:
      values: `[B]`.
      classes: `int32[B, L]`.
      inside: `bool[B, L]`, rows that have the token.
      weight: `[B]`.
    """
    weight = at_least_float32(weight)
    total = _class_sum(weight, classes, inside)
    mean = _class_sum(weight * values, classes, inside) / jnp.where(total > 0, total, 1)
    return mean, total


def _class_sum(values: Array, classes: Array, inside: Array) -> Array:
    def one(column: Array, members: Array) -> Array:
        return jax.ops.segment_sum(jnp.where(members, values, 0), column, values.shape[0])[column]

    return jax.vmap(one, in_axes=1, out_axes=1)(classes, inside)


def _before(classes: Array, prompt_length: Array, group: Array) -> Array:
    """Classes of the prefix before each token: those one token earlier; before the first, the group."""
    position = jnp.arange(classes.shape[1], dtype=jnp.int32)[None]
    earlier = jnp.pad(classes, ((0, 0), (1, 0)))[:, :-1]
    return jnp.where(position <= prompt_length[:, None], _first_rows(group)[:, None], earlier)


def _first_rows(group: Array) -> Array:
    """The first row of every row's group: group ids as classes."""
    rows = jnp.arange(group.shape[0], dtype=jnp.int32)
    return jax.ops.segment_min(rows, group, num_segments=group.shape[0])[group]
