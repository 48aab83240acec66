"""Ratios π_θ/π_old of a choice, from the log-ratios of its tokens.

A ratio is `(log-ratios [B, L], unit ids [B, L]) -> ratios [B, L]`. Log-ratios are 0 outside the units, so
the ratio is 1 there. A unit's ratio is written to each of its tokens in one of two forms: the plain form
differentiates through the whole unit; the straight-through form has the same value, but the derivative of
each token's copy is with respect to that token alone, so that the advantage may vary inside a unit and a
unit's score is counted once whatever its length.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gpg_jax.estimators.segments import unit_mean, unit_sum
from gpg_jax.types import Array

Ratio = Callable[[Array, Array], Array]
Range = tuple[float, float]


def clamp(log_ratio: Array, bounds: Range | None) -> Array:
    """Log-ratios held inside `bounds`, with no gradient outside; as they are for None.

    The loss reports how many were held (`log_ratio_clamped`).

    Args:
      log_ratio: any shape.
      bounds: lowest and highest log-ratio; ±inf leaves a side open.
    """
    return log_ratio if bounds is None else jnp.clip(log_ratio, bounds[0], bounds[1])


def check_range(bounds: Range | None) -> None:
    """Raises ValueError unless `bounds` is None or a low ≤ 0 and a high ≥ 0."""
    if bounds is not None and not bounds[0] <= 0 <= bounds[1]:
        raise ValueError(f"a log-ratio range must hold 0, as (-20.0, 20.0) does; got {bounds}")


@jax.custom_jvp
def safe_exp(log_ratio: Array) -> Array:
    """e^ℓ, whose derivative is held at the largest float.

    Where e^ℓ overflows its value is ∞, and 0 times its derivative still 0: a gate that has closed gives the
    gradient 0 and not 0·∞.
    """
    return jnp.exp(log_ratio)


@safe_exp.defjvp
def _safe_exp_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    value = jnp.exp(primals[0])
    return value, jnp.minimum(value, jnp.finfo(value.dtype).max) * tangents[0]


def _own_token(value: Array, log_ratio: Array) -> Array:
    """`value`, with the derivative of the token's own log-ratio."""
    return jax.lax.stop_gradient(value) + (log_ratio - jax.lax.stop_gradient(log_ratio))


def no_ratio(log_ratio: Array, unit_ids: Array) -> Array:
    """exp(ℓ − sg[ℓ]): exactly 1, with the score ∇log π_θ as its gradient (REINFORCE, Williams 1992).

    Args:
      log_ratio: `[B, L]`, ℓ = log π_θ − log π_old.
      unit_ids: `int32[B, L]`, not read.

    Returns:
      `[B, L]`.
    """
    del unit_ids
    return jnp.exp(log_ratio - jax.lax.stop_gradient(log_ratio))


def token_ratio(bounds: Range | None = None) -> Ratio:
    """r_t = exp(ℓ_t) (PPO, arXiv 1707.06347, eq. 6, with a token as the action).

    Args:
      bounds: where log-ratios are held, or None. See `clamp`.
    """
    check_range(bounds)

    def ratio(log_ratio: Array, unit_ids: Array) -> Array:
        del unit_ids
        return safe_exp(clamp(log_ratio, bounds))

    return ratio


def unit_geometric_ratio(bounds: Range | None = None) -> Ratio:
    """s_T = exp(mean_{t ∈ MA_T} ℓ_t) on every token of the unit, differentiated through the mean.

    GSPO, arXiv 2507.18071, eq. 7, for any unit. Under an advantage that varies inside a unit each token
    gets the unit's mean advantage: use `unit_geometric_token_ratio` there.

    Args:
      bounds: where the mean log-ratio is held, or None. See `clamp`.
    """
    check_range(bounds)
    return lambda log_ratio, unit_ids: safe_exp(clamp(unit_mean(log_ratio, unit_ids), bounds))


def unit_geometric_token_ratio(bounds: Range | None = None, token_bounds: Range | None = None) -> Ratio:
    """s_{T,t} = sg[s_T]·π_θ(y_t)/sg[π_θ(y_t)] with s_T = exp(mean_{t ∈ MA_T} ℓ_t).

    GSPO-token, arXiv 2507.18071, eq. 14, for any unit: the straight-through form.

    Args:
      bounds: where the mean log-ratio is held, or None. See `clamp`.
      token_bounds: where each token's log-ratio is held before the mean, or None.
    """
    check_range(bounds)
    check_range(token_bounds)

    def ratio(log_ratio: Array, unit_ids: Array) -> Array:
        log_ratio = clamp(log_ratio, token_bounds)
        return safe_exp(clamp(_own_token(unit_mean(log_ratio, unit_ids), log_ratio), bounds))

    return ratio


def unit_product_ratio(bounds: Range | None = None) -> Ratio:
    """Π_{t ∈ MA_T} r_t on every token of the unit, differentiated through the product.

    The importance weight of the macro-action. Written to |MA_T| tokens it counts |MA_T| times: use it with
    weights that count a unit once (`weights.unit_sum_weights`, `weights.unit_mean_weights`), or
    `unit_product_token_ratio`.

    Args:
      bounds: where the summed log-ratio is held, or None. See `clamp`.
    """
    check_range(bounds)
    return lambda log_ratio, unit_ids: safe_exp(clamp(unit_sum(log_ratio, unit_ids), bounds))


def unit_product_token_ratio(bounds: Range | None = None) -> Ratio:
    """Π_{t ∈ MA_T} r_t in the straight-through form: the gradient is Π r · ∇log π_θ(y_t).

    Summed over the unit's tokens this is Π r · ∇log π_θ(MA_T), the GPG theorem's term (arXiv 2512.10365),
    under any weights.

    Args:
      bounds: where the summed log-ratio is held, or None. See `clamp`.
    """
    check_range(bounds)

    def ratio(log_ratio: Array, unit_ids: Array) -> Array:
        return safe_exp(clamp(_own_token(unit_sum(log_ratio, unit_ids), log_ratio), bounds))

    return ratio


def sequence_ratio(bounds: Range | None = None) -> Ratio:
    """s_i = exp((1/|o_i|) Σ_t ℓ_t) on every action of the row, whatever its units (GSPO, eq. 7).

    Args:
      bounds: where the mean log-ratio is held, or None. See `clamp`.
    """
    geometric = unit_geometric_ratio(bounds)
    return lambda log_ratio, unit_ids: geometric(log_ratio, jnp.minimum(unit_ids, 0))
