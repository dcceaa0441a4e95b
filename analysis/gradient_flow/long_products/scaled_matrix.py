r"""Matrices times powers of two, so that a product of thousands of them neither under- nor overflows.

    M = matrix · diag(2^exponent)        exponent: int32, one for each column

Scaling by powers of two is exact, and integer exponents add exactly, so the only rounding is that of the
products themselves. A product that is walked back in time needs an exponent for each column: columns that do
not influence each other may drift apart by any number of decades, and a column that is negligible now may be
the largest a hundred steps earlier. (Rows need none: all rows of a column are multiplied by the same numbers
from then on.) After `scaled_sum` the largest entry of each column of ``matrix`` is
between ½ and 1, or the column is exactly zero.

Axes: matrix[*stack, rows, columns], exponent[*stack, columns].
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradient_flow.long_products.spectral_norm import log_largest, log_or_zero
from gradient_flow.step_jacobians.scaled_entries import (
    ScaledEntries,
    binary_exponent,
    power_of_two,
    scaled,
    sizes_of,
)
from lstm_jax.array_types import Array

EMPTY = -(2**29)
"""The exponent of a column of zeros: below every one that occurs, so that it never sets a scale."""


class ScaledMatrix(NamedTuple):
    """``matrix · diag(2^exponent)``."""

    matrix: Any
    exponent: Any


class EvenlyScaled(NamedTuple):
    """``matrix · 2^exponent``, the largest entry between ½ and 1, or all zero; exponent[*stack]."""

    matrix: Any
    exponent: Any


def as_scaled(matrix: Array) -> ScaledMatrix:
    """A stack of matrices as scaled matrices."""
    zeros = jnp.zeros((*matrix.shape[:-2], matrix.shape[-1]), jnp.int32)
    return scaled_sum([ScaledMatrix(matrix, zeros)])


def scaled_product(left: ScaledMatrix, right: Array | ScaledEntries) -> ScaledMatrix:
    """``left @ right``, where a vector stands for a diagonal matrix.

    The exponents of the columns of ``left`` go into the rows of ``right``, and out of its columns again:
    right_ij 2^(e_i − e'_j) with e'_j the largest that leaves every entry at most 1.

    Args:
        left: [*stack, r, n].
        right: [n, c], the same for the whole stack; or [n], a diagonal; its entries may be scaled.
    """
    matrix, exponent = left
    sizes = sizes_of(right)
    mantissa, own = scaled(right)
    dtype = mantissa.dtype
    if mantissa.ndim == 1:
        exponent = exponent + jnp.broadcast_to(sizes, exponent.shape)
        shrunk = mantissa * power_of_two(own - sizes, dtype)
        return ScaledMatrix(matrix * jnp.broadcast_to(shrunk, matrix.shape), exponent)
    shape = (*exponent.shape, mantissa.shape[-1])
    from_rows = jnp.broadcast_to(exponent[..., None], shape)
    top = jnp.max(from_rows + jnp.broadcast_to(sizes, shape), axis=-2)
    shift = from_rows + jnp.broadcast_to(own, shape) - jnp.broadcast_to(top[..., None, :], shape)
    factor = jnp.broadcast_to(mantissa, shape) * power_of_two(shift, dtype)
    return ScaledMatrix(matrix @ factor, top)


def scaled_sum(terms: Sequence[ScaledMatrix]) -> ScaledMatrix:
    """The sum of several scaled matrices, each column brought to a common exponent.

    A term that is smaller than another by more than the precision rounds away, as in any sum. A column with
    one term keeps all its digits, however small it is.
    """
    top = column_tops(terms[0])
    for term in terms[1:]:
        top = jnp.maximum(top, column_tops(term))
    parts = [with_exponent(term, top) for term in terms]
    return ScaledMatrix(sum(parts[1:], start=parts[0]), top)


def column_tops(m: ScaledMatrix) -> Array:
    """The binary exponent of each column's largest entry; `EMPTY` for a column of zeros, or a smaller one."""
    sizes = jax.lax.stop_gradient(jnp.max(jnp.abs(m.matrix), axis=-2))
    return jnp.where(sizes == 0, EMPTY, jnp.maximum(m.exponent + binary_exponent(sizes), EMPTY))


def with_exponent(m: ScaledMatrix, exponent: Array) -> Array:
    """The matrix of ``m`` with other exponents: [*stack, columns], or [*stack, 1]."""
    shift = power_of_two(m.exponent - jnp.broadcast_to(exponent, m.exponent.shape), m.matrix.dtype)
    return m.matrix * jnp.broadcast_to(shift[..., None, :], m.matrix.shape)


def evenly_scaled(m: ScaledMatrix) -> EvenlyScaled:
    """Give all columns one exponent; a column that is too small beside the largest one rounds to zero."""
    top = jnp.max(column_tops(m), axis=-1, keepdims=True)
    return EvenlyScaled(with_exponent(m, top), top[..., 0])


def log_value(log_mantissa: Array, exponent: Array) -> Array:
    """log(m · 2^e) from log m and e."""
    return log_mantissa + exponent.astype(log_mantissa.dtype) * jnp.log(
        jnp.asarray(2.0, log_mantissa.dtype)
    )


def log_frobenius(m: EvenlyScaled) -> Array:
    """Natural log of the Frobenius norm; −∞ for a matrix that is exactly zero."""
    # Row sums as a product: XLA sums in order on a CPU, one number after another.
    ones = jnp.ones((*m.matrix.shape[:-2], m.matrix.shape[-1], 1), m.matrix.dtype)
    squares = jnp.sum(m.matrix**2 @ ones, axis=(-2, -1))
    return log_value(log_or_zero(squares) / 2, m.exponent)


def log_spectral(m: EvenlyScaled) -> Array:
    """Natural log of the largest singular value; −∞ for a matrix that is exactly zero."""
    return log_value(log_largest(m.matrix), m.exponent)
