"""Variances over the tokens of a batch: whitened advantages, and how much of the returns a critic explains.

Statistics run over all of the tokens given, every row and device together: call these on the whole batch.
Values are measured from the smallest, so constant ones have a variance of exactly 0 and a large offset costs
no digits.
"""

from __future__ import annotations

import jax.numpy as jnp

from gpg_jax.estimators.groups import EpsPlacement
from gpg_jax.estimators.masked import masked_max, masked_sum, masked_values
from gpg_jax.types import Array


def whiten(
    values: Array,
    mask: Array,
    *,
    ddof: int,
    eps: float,
    eps_placement: EpsPlacement,
    shift_mean: bool = True,
    weight: Array | None = None,
) -> Array:
    """(x − mean) / std over the tokens under the mask; their mean is put back unless it is to be shifted.

    std² = Σ w(x − mean)² / (Σ w − ddof); ε outside: std + ε, inside: √(std² + ε). No paper fixes these: verl
    and tunix take ddof = 1 and ε = 1e-8 inside. Targets of the critic are taken before whitening.

    Args:
      values: `[...]`.
      mask: bool, same shape.
      ddof: degrees of freedom taken by the mean, 0 or 1.
      eps: ε ≥ 0.
      eps_placement: "outside" or "inside" the root.
      shift_mean: whether the mean becomes 0; where not, only the spread is scaled.
      weight: w ≥ 0, of a shape that broadcasts: how much a token counts in mean and std, as a token does that
        several forked rows have in common; 1 for None.

    Returns:
      `[...]`, 0 under the mask. Without any spread (one token, equal ones) there is no scale: the tokens get
      exactly 0 whatever ε, or their mean where it is not shifted. Without tokens, 0.

    Raises:
      ValueError: an argument that is none of these.
    """
    if ddof not in (0, 1) or not eps >= 0 or eps_placement not in ("outside", "inside"):
        raise ValueError(
            'ddof must be 0 or 1, eps not negative and eps_placement "outside" or "inside"; got '
            f"ddof={ddof}, eps={eps}, eps_placement={eps_placement!r}"
        )
    weight = jnp.where(mask, 1.0 if weight is None else weight, 0)
    centred, mean = _centred(values, mask, weight)
    square = masked_sum(weight * jnp.square(centred), mask)
    freedom = jnp.sum(weight) - ddof
    spread = square > 0
    # a root's derivative at 0 is ∞: 1 stands in where there is no spread
    variance = jnp.where(spread, square, 1) / jnp.where(freedom > 0, freedom, 1)
    std = jnp.sqrt(variance + eps) if eps_placement == "inside" else jnp.sqrt(variance) + eps
    scaled = jnp.where(spread, centred / std, 0)
    return scaled if shift_mean else jnp.where(mask, scaled + mean, 0)


def explained_variance(values: Array, returns: Array, mask: Array, *, weight: Array | None = None) -> Array:
    """1 − Var(G − V) / Var(G) over the tokens under the mask.

    1 for a critic that is right up to a constant, 0 for a constant one, negative for one that is worse.

    Args:
      values: `[...]`, V.
      returns: `[...]`, G.
      mask: bool, same shape.
      weight: as of `whiten`.

    Returns:
      Scalar; 0 where the returns do not vary and nothing is to be explained, whatever V is.
    """
    weight = jnp.where(mask, 1.0 if weight is None else weight, 0)
    returns, values = masked_values(returns, mask), masked_values(values, mask)
    centred = (_centred(x, mask, weight)[0] for x in (returns, returns - values))
    total, rest = (masked_sum(weight * jnp.square(x), mask) for x in centred)
    return jnp.where(total > 0, 1 - rest / jnp.where(total > 0, total, 1), 0)


def _centred(values: Array, mask: Array, weight: Array) -> tuple[Array, Array]:
    """Values less their weighted mean, 0 under the mask; and the mean."""
    values = masked_values(values, mask)
    lowest = -masked_max(-values, mask)
    above = jnp.where(mask, values - lowest, 0)
    total = jnp.sum(weight)
    mean = jnp.sum(weight * above) / jnp.where(total > 0, total, 1)
    return jnp.where(mask, above - mean, 0), lowest + mean
