r"""Matrices times a power of two, so that a product of thousands of them neither under- nor overflows.

    M = matrix · 2^exponent        exponent: int32, one for each matrix of a stack

Scaling by powers of two is exact, and integer exponents add exactly, so the only rounding left is that of
the products themselves. After `product` and `total` the largest entry of ``matrix`` is within a small
factor of 1, or the matrix is exactly zero.

Axes: matrix[*stack, rows, columns], exponent[*stack].
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, Float

ZERO_EXPONENT = -(2**30)
"""Stands for 2^−∞: below every exponent that occurs, and half-way from the end of int32."""


class Scaled(NamedTuple):
    """``matrix · 2^exponent``."""

    matrix: Any
    exponent: Any


def scaled(matrix: Array) -> Scaled:
    """Wrap a stack of matrices with exponent 0."""
    return Scaled(matrix, jnp.zeros(matrix.shape[:-2], jnp.int32))


def power_of_two(exponent: Array, dtype: Any) -> Array:
    """2^exponent, exactly; 0 where that underflows, and never an infinity.

    An exponent too large for the dtype only ever meets a matrix of zeros (see `total`), which an
    infinity would turn into NaN.
    """
    limit = jnp.finfo(dtype).maxexp
    exponent = jnp.clip(exponent, -limit - 64, limit - 1)
    return jnp.ldexp(jnp.ones_like(exponent, dtype), exponent)


def binary_exponent(size: Array) -> Array:
    """The int32 e with 2^(e−1) ≤ size < 2^e; `ZERO_EXPONENT` for size 0."""
    _, exponent = jnp.frexp(size)
    return jnp.where(size > 0, exponent.astype(jnp.int32), ZERO_EXPONENT)


def product(left: Scaled, right: Float[Array, "..."]) -> Scaled:
    """``left @ right``, where a vector stands for a diagonal matrix.

    Args:
        left: [*stack, r, n].
        right: [n, c], the same for the whole stack; or [n], a diagonal.
    """
    if right.ndim == 1:
        matrix = left.matrix * jnp.broadcast_to(right, left.matrix.shape)
    else:
        matrix = left.matrix @ right
    return Scaled(matrix, left.exponent)


def total(terms: Sequence[Scaled]) -> Scaled:
    """The sum of several scaled matrices, brought to a common exponent that makes its entries ≤ 1.

    A term that is smaller than another by more than the precision rounds away, as in any sum; a term
    that stands alone keeps all its digits, however small it is.
    """
    sizes = [jax.lax.stop_gradient(jnp.max(jnp.abs(t.matrix), axis=(-2, -1))) for t in terms]
    tops = [t.exponent + binary_exponent(s) for t, s in zip(terms, sizes, strict=True)]
    top = tops[0]
    for other in tops[1:]:
        top = jnp.maximum(top, other)
    # A sum of nothing but zeros has no top; keep its exponent at 0.
    top = jnp.where(top > ZERO_EXPONENT // 2, top, 0)
    parts = [
        t.matrix * power_of_two(t.exponent - top, t.matrix.dtype)[..., None, None] for t in terms
    ]
    return Scaled(sum(parts[1:], start=parts[0]), top)


def log_value(log_mantissa: Array, exponent: Array) -> Array:
    """log(m · 2^e) from log m and e."""
    return log_mantissa + exponent.astype(log_mantissa.dtype) * jnp.log(
        jnp.asarray(2.0, log_mantissa.dtype)
    )


def log_frobenius(m: Scaled) -> Array:
    """Natural log of the Frobenius norm; −∞ for a matrix that is exactly zero."""
    return log_value(_log(jnp.sum(m.matrix**2, axis=(-2, -1))) / 2, m.exponent)


def log_spectral(m: Scaled) -> Array:
    """Natural log of the largest singular value; −∞ for a matrix that is exactly zero."""
    largest = jnp.linalg.svd(m.matrix, compute_uv=False)[..., 0]
    return log_value(_log(largest), m.exponent)


def _log(size: Array) -> Array:
    # The inner where keeps the derivative of an exact zero finite; a NaN stays one.
    return jnp.where(size == 0, -jnp.inf, jnp.log(jnp.where(size == 0, jnp.ones_like(size), size)))
