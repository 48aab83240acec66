"""Products whose operands are in the compute type and whose sums are in float32, forward and backward."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gpg_jax.types import Array


def einsum(subscripts: str, dtype: jnp.dtype, left: Array, right: Array) -> Array:
    """`jnp.einsum` of two operands, rounded to `dtype`, accumulated in float32.

    float32 operands are multiplied as they are: an accelerator's default would round them first, to TF32 or
    bfloat16. Such a product is differentiated in any mode, to any order.

    In a lower type the cotangent is rounded to `dtype` as well, so that the backward pass runs on the same
    matrix units; plain differentiation would multiply float32 by `dtype`. There is no forward mode then.

    Args:
      subscripts: "a,b->c" in which every letter of an operand stands in the other or in the result.
      dtype: compute type of the operands.
      left: float array.
      right: float array.

    Returns:
      float32 array.
    """
    product = _product if jnp.dtype(dtype) == jnp.float32 else _rounded
    return product(subscripts, dtype, left, right)


def _product(subscripts: str, dtype: jnp.dtype, left: Array, right: Array) -> Array:
    # What is rounded already is exact at any precision, and the default is the fastest.
    precision = jax.lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else None
    return jnp.einsum(
        subscripts,
        left.astype(dtype),
        right.astype(dtype),
        precision=precision,
        preferred_element_type=jnp.float32,
    )


_rounded = jax.custom_vjp(_product, nondiff_argnums=(0, 1))


def _forward(subscripts: str, dtype: jnp.dtype, left: Array, right: Array):
    # What is kept for the backward pass is rounded first: half the memory in bfloat16.
    low_left, low_right = left.astype(dtype), right.astype(dtype)
    empty = jnp.zeros((0,), left.dtype), jnp.zeros((0,), right.dtype)
    return _rounded(subscripts, dtype, left, right), (low_left, low_right, *empty)


def _backward(subscripts: str, dtype: jnp.dtype, kept, cotangent: Array):
    left, right, left_type, right_type = kept
    operands, result = subscripts.split("->")
    left_letters, right_letters = operands.split(",")
    to_left = _rounded(f"{result},{right_letters}->{left_letters}", dtype, cotangent, right)
    to_right = _rounded(f"{left_letters},{result}->{right_letters}", dtype, left, cotangent)
    return to_left.astype(left_type.dtype), to_right.astype(right_type.dtype)


_rounded.defvjp(_forward, _backward)
