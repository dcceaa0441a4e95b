r"""Numbers times powers of two of their own, for the factors of one step that underflow by themselves.

    a = mantissa · 2^exponent        exponent: int32, one for each entry

The slope of a tanh driven to |C| = 60 is 4 e^{−120} = 10^−51.5, below what float32 holds. Here it is exact to
rounding at any size:

    e^{−a} = e^{−(a − n log 2)} · 2^{−n},   n = ⌊a / log 2⌋
    σ'(z) = e^{−|z|} / (1 + e^{−|z|})²        tanh'(z) = 4 σ'(2z)

Every function takes plain arrays too, whose exponents are 0.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lstm_jax.array_types import Array

ZERO_EXPONENT = -(2**30)
"""Stands for 2^−∞ as the size of a number."""

LEAST = ZERO_EXPONENT // 2
"""Below the exponent of every number that occurs."""

LARGEST_DRIVE = 2.0**26
"""A σ driven beyond that is held there: 2^−10⁸, so that integer exponents of a run do not overflow."""


class ScaledEntries(NamedTuple):
    """``mantissa · 2^exponent``, entry by entry."""

    mantissa: Any
    exponent: Any


def power_of_two(exponent: Array, dtype: Any) -> Array:
    """2^exponent, exactly; 0 below the smallest normal number, and never an infinity.

    An exponent too large for the dtype only ever meets zeros, which an infinity would turn into NaN.
    """
    limits = jnp.finfo(dtype)
    integer = jnp.int32 if limits.bits == 32 else jnp.int64
    biased = jnp.clip(exponent, limits.minexp - 1, limits.maxexp - 1) - (limits.minexp - 1)
    return lax.bitcast_convert_type(biased.astype(integer) << limits.nmant, dtype)


def binary_exponent(size: Array) -> Array:
    """The int32 e with 2^(e−1) ≤ size < 2^e; `ZERO_EXPONENT` for size 0; of a subnormal an upper bound."""
    limits = jnp.finfo(size.dtype)
    # Read off the bits, which is less to compile than `frexp`.
    bits = lax.bitcast_convert_type(size, jnp.int32 if limits.bits == 32 else jnp.int64)
    exponent = (bits >> limits.nmant) + limits.minexp
    return jnp.where(size > 0, exponent.astype(jnp.int32), ZERO_EXPONENT)


def scaled(a: Array | ScaledEntries) -> ScaledEntries:
    """An array as scaled entries; scaled entries as they are."""
    if isinstance(a, ScaledEntries):
        return a
    return ScaledEntries(a, jnp.zeros(jnp.shape(a), jnp.int32))


def unscaled(a: Array | ScaledEntries) -> Array:
    """The plain numbers: 0 where they underflow."""
    if not isinstance(a, ScaledEntries):
        return a
    return a.mantissa * power_of_two(a.exponent, a.mantissa.dtype)


def sizes_of(a: Array | ScaledEntries) -> Array:
    """The binary exponent of each entry's size."""
    a = scaled(a)
    return a.exponent + binary_exponent(jnp.abs(lax.stop_gradient(a.mantissa)))


def times(a: Array | ScaledEntries, b: Array | ScaledEntries) -> ScaledEntries:
    """Entrywise products, of equal ranks."""
    a, b = scaled(a), scaled(b)
    return ScaledEntries(a.mantissa * b.mantissa, a.exponent + b.exponent)


def plus(*terms: Array | ScaledEntries) -> ScaledEntries:
    """Entrywise sums, of equal ranks: each on the scale of its largest term."""
    entries = [scaled(term) for term in terms]
    top = sizes_of(entries[0])
    for entry in entries[1:]:
        top = jnp.maximum(top, sizes_of(entry))
    # Zeros have no scale.
    top = jnp.where(top > LEAST, top, 0)
    parts = [e.mantissa * power_of_two(e.exponent - top, e.mantissa.dtype) for e in entries]
    return ScaledEntries(sum(parts[1:], start=parts[0]), top)


def block_sum(a: Array | ScaledEntries, b: Array | ScaledEntries) -> ScaledEntries:
    """The sum of two blocks, a vector standing for a diagonal matrix."""
    a, b = scaled(a), scaled(b)
    if a.mantissa.ndim == b.mantissa.ndim:
        return plus(a, b)
    diagonal, whole = (a, b) if a.mantissa.ndim == 1 else (b, a)
    on_diagonal = jnp.eye(len(diagonal.mantissa), dtype=bool)
    summed = plus(diagonal, jax.tree.map(_diagonal_of, whole))
    return ScaledEntries(
        *(
            jnp.where(on_diagonal, new[:, None], jnp.broadcast_to(old, on_diagonal.shape))
            for new, old in zip(summed, whole, strict=True)
        )
    )


def _diagonal_of(matrix: Array) -> Array:
    """Of [n, n]; or of [n, 1], one number for each row."""
    return matrix[:, 0] if matrix.shape[1] == 1 else jnp.diagonal(matrix)


def as_columns(a: Array | ScaledEntries) -> ScaledEntries:
    """[n] as [1, n]: one number for each column."""
    return jax.tree.map(lambda leaf: leaf[None, :], scaled(a))


def scaled_sigmoid(z: Array) -> ScaledEntries:
    """σ(z), to its own relative accuracy at any z."""
    small = _exp_of_minus(jnp.abs(z))
    positive = z >= 0
    mantissa = jnp.where(positive, jnp.ones_like(z), small.mantissa)
    exponent = jnp.where(positive, 0, small.exponent)
    return ScaledEntries(mantissa / (1 + jnp.exp(-jnp.abs(z))), exponent)


def scaled_sigmoid_slope(z: Array) -> ScaledEntries:
    """σ'(z), to its own relative accuracy at any z."""
    small = _exp_of_minus(jnp.abs(z))
    return small._replace(mantissa=small.mantissa / (1 + jnp.exp(-jnp.abs(z))) ** 2)


def scaled_tanh_slope(z: Array) -> ScaledEntries:
    """tanh'(z), likewise."""
    slope = scaled_sigmoid_slope(2 * z)
    return slope._replace(exponent=slope.exponent + 2)


def _exp_of_minus(a: Array) -> ScaledEntries:
    """e^−a of a ≥ 0."""
    a = jnp.minimum(a, LARGEST_DRIVE)
    log_2 = jnp.log(jnp.asarray(2.0, a.dtype))
    count = jnp.floor(lax.stop_gradient(a) / log_2)
    # log 2 in two parts, the first of so few digits that its multiples are exact.
    high = 0.693359375
    rest = (a - count * high) - count * (0.6931471805599453 - high)
    return ScaledEntries(jnp.exp(-rest), -count.astype(jnp.int32))
