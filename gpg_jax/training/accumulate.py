"""Sums over micro-batches: what is too large to be differentiated at once, a part after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gpg_jax.losses import metrics as measures
from gpg_jax.training.scoring import cut
from gpg_jax.types import Params


def summed(
    micro: Callable[[Any], tuple[Params, measures.Metrics]], whole: Any, parts: int
) -> tuple[Params, measures.Metrics]:
    """Σ micro(part): gradients are added, metrics merged.

    Args:
      micro: rows -> their gradient and metrics.
      whole: a pytree with rows on the first axis.
      parts: that the rows are cut into.
    """
    if parts == 1:
        return micro(whole)

    def accumulate(total, part):
        grads, seen = micro(part)
        return (jax.tree.map(jnp.add, total[0], grads), measures.merge(total[1], seen)), None

    rows = cut(whole, parts)
    grads, seen = jax.eval_shape(micro, jax.tree.map(lambda leaf: leaf[0], rows))
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), grads), measures.empty(seen)
    total, _ = jax.lax.scan(accumulate, nothing, rows)
    return total
