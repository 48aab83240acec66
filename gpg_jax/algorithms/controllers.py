"""Two controllers of a KL coefficient β, after each update from the KL that was measured.

Both are called adaptive in the literature and are not the same: `doubling` reacts to the KL to the old policy
after PPO's update, by powers of two; `proportional` steers the KL to the reference, a little at a time.
The state is β, a positive scalar; at 0 both would stay there.
"""

from __future__ import annotations

from numbers import Real

import jax.numpy as jnp

from gpg_jax.types import Array

Bounds = tuple[float, float]


def doubling(coefficient: Array, kl: Array, target: float, *, bounds: Bounds | None = None) -> Array:
    """β/2 where d < d_targ/1.5, 2β where d > 1.5·d_targ, β in between, both limits included.

    PPO, arXiv 1707.06347, section 4, which tries the targets 0.003, 0.01 and 0.03 and begins with β = 1.

    Args:
      coefficient: β, scalar.
      kl: d = E KL(π_old‖π_θ) after the update, scalar, nats an action.
      target: d_targ > 0.
      bounds: where β is held, or None; the paper has none, and β is then 0 or ∞ behind 150 steps of one kind.

    Returns:
      The next β; as it was for a KL that is nan.

    Raises:
      ValueError: a target that is not positive.
    """
    _positive("target", target)
    scale = jnp.where(kl > 1.5 * target, 2.0, jnp.where(kl < target / 1.5, 0.5, 1.0))
    return _held(coefficient * scale, bounds)


def proportional(
    coefficient: Array,
    kl: Array,
    target: float,
    samples: Array | int,
    *,
    horizon: float = 10_000.0,
    bounds: Bounds | None = None,
) -> Array:
    """β·(1 + K·clip(KL/target − 1, ±0.2)) with K = n/horizon.

    Ziegler et al., arXiv 1909.08593, section 2.2, with K = 0.1; their code makes it n/horizon, so that
    the pace is set by samples and not by updates.

    Args:
      coefficient: β, scalar.
      kl: KL(π_θ‖π_ref), scalar, nats a response (the sum over its tokens) if the target is.
      target: > 0, in the unit of `kl`.
      samples: n, responses since the last call.
      horizon: > 0, in responses.
      bounds: where β is held, or None.

    Returns:
      The next β; as it was for a KL that is nan.

    Raises:
      ValueError: a number that is not positive, or so many samples a call that β could change its sign.
    """
    _positive("target", target)
    _positive("horizon", horizon)
    if isinstance(samples, Real) and not 0.2 * float(samples) < horizon:
        raise ValueError(
            "the horizon must be more than a fifth of the samples between two calls, or β could become "
            f"negative; got {horizon} and {samples}"
        )
    error = jnp.where(jnp.isnan(kl), 0, jnp.clip(kl / target - 1, -0.2, 0.2))
    return _held(coefficient * (1 + error * samples / horizon), bounds)


def _held(coefficient: Array, bounds: Bounds | None) -> Array:
    return coefficient if bounds is None else jnp.clip(coefficient, *bounds)


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")
