"""Rotary positions (Su et al. 2021, arXiv 2104.09864, eq. 34), half-split, with Llama 3's scaling."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from gpg_jax.policies.architecture import Architecture, RopeScaling
from gpg_jax.types import Array


def _stretch(frequency: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Slows low frequencies by `factor`, leaves high ones, and blends between (Llama 3.1)."""
    turns = scaling.original_length * frequency / (2 * math.pi)
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = np.clip(blend, 0.0, 1.0)
    return blend * frequency + (1 - blend) * frequency / scaling.factor


def frequencies(architecture: Architecture) -> np.ndarray:
    """θ^(−2i/hd) for i < hd/2, in radians a token: `float32[hd / 2]`."""
    exponent = np.arange(0, architecture.head_dim, 2, dtype=np.float64) / architecture.head_dim
    frequency = architecture.rope_theta**-exponent
    if architecture.rope_scaling is not None:
        frequency = _stretch(frequency, architecture.rope_scaling)
    return frequency.astype(np.float32)


def angles(architecture: Architecture, position: Array) -> tuple[Array, Array]:
    """Cosine and sine of position · frequency, each `float32[..., 1, hd / 2]` for `int32[...]`."""
    angle = position[..., None, None].astype(jnp.float32) * frequencies(architecture).reshape(
        (1,) * (position.ndim + 1) + (-1,)
    )
    return jnp.cos(angle), jnp.sin(angle)


def rotate(values: Array, cosine: Array, sine: Array) -> Array:
    """Rotates the pairs (i, i + hd/2) of `float32[..., heads, hd]` by their token's angles."""
    first, second = jnp.split(values, 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
