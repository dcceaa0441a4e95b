r"""All singular values of a matrix whose columns differ by any number of decades, each to its own accuracy.

One-sided Jacobi rotates pairs of columns until all are orthogonal; their lengths are the singular values.
Of a matrix B · diag(2^e), with columns of B of about length 1, it finds each to ε κ(B) of itself (Demmel &
Veselić 1992), however far apart the powers of two are, if these stay out of the arithmetic. Columns
a = x 2^p and b = y 2^q, with ρ = 2^(q−p) ≤ 1 and t = ρ τ the tangent of the angle:

    d = |x|² − ρ² |y|²          τ = 2 x·y sgn(d) / (|d| + √(d² + 4 ρ² (x·y)²))          c = 1 / √(1 + ρ² τ²)
    x ← c (x + ρ² τ y)          y ← c (y − τ x)

and for q > p the same with x and y exchanged. A sweep meets every pair once, n/2 of them at a time in the
order of a round-robin tournament.

Axes: columns[rows, n], exponents[n].
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from gradient_flow.long_products.scaled_matrix import EMPTY, log_value
from gradient_flow.long_products.spectral_norm import log_or_zero
from gradient_flow.step_jacobians.scaled_entries import binary_exponent, power_of_two
from lstm_jax.array_types import Array, Float, Int

MOST_SWEEPS = 60
"""About ten are enough for hundreds of columns; values that have not converged after these are NaN."""


class _Half(NamedTuple):
    """One column of each pair: x[rows, pairs], its exponents, and rows that are rotated along with it."""

    x: Any
    exponents: Any
    along: Any


def singular_values(
    columns: Float[Array, "rows n"],
    exponents: Int[Array, "n"],
    along: Float[Array, "others n"],
) -> tuple[Float[Array, "n"], Float[Array, "others n"]]:
    """Natural logs of the singular values of ``columns @ diag(2^exponents)``, falling.

    Args:
        columns: [rows, n], entries of about 1, n at most rows; or exactly zero.
        exponents: [n].
        along: [others, n], rows to multiply by the right singular vectors.

    Returns:
        Logs [n], −∞ where a singular value is exactly zero; and ``along @ V`` in their order.
    """
    rows, n = columns.shape
    pad = n % 2
    x = jnp.pad(columns, ((0, 0), (0, pad)))
    along = jnp.pad(along, ((0, 0), (0, pad)))
    exponents = jnp.pad(exponents, (0, pad), constant_values=EMPTY)
    half = (n + pad) // 2
    tolerance = (rows + 8) * jnp.finfo(x.dtype).eps

    def round_of_pairs(carry: tuple[_Half, _Half, Array], _: None) -> tuple[Any, None]:
        top, bottom, worst = carry
        top, bottom, cosine = _rotated(top, bottom)
        worst = jnp.maximum(worst, jnp.max(cosine))
        if half > 1:
            top, bottom = _next_pairs(top, bottom)
        return (top, bottom, worst), None

    def sweep(carry: Any) -> Any:
        top, bottom, _, number = carry
        start = (_with_size_1(top), _with_size_1(bottom), jnp.zeros((), x.dtype))
        (top, bottom, worst), _ = lax.scan(round_of_pairs, start, length=max(2 * half - 1, 1))
        return top, bottom, worst, number + 1

    def again(carry: Any) -> Array:
        _, _, worst, number = carry
        return (worst > tolerance) & (number < MOST_SWEEPS)

    halves = [_Half(x[:, part], exponents[part], along[:, part]) for part in _parts(half)]
    top, bottom, worst, _ = lax.while_loop(
        again, sweep, (*halves, jnp.asarray(jnp.inf, x.dtype), jnp.int32(0))
    )
    x = jnp.concatenate([top.x, bottom.x], axis=1)
    exponents = jnp.concatenate([top.exponents, bottom.exponents])
    along = jnp.concatenate([top.along, bottom.along], axis=1)
    lengths = jnp.sqrt(jnp.sum(x**2, axis=0))
    logs = jnp.where(lengths == 0, -jnp.inf, log_value(log_or_zero(lengths), exponents))
    order = jnp.argsort(-logs, stable=True)[:n]
    unfinished = (worst > tolerance) | jnp.isnan(worst)
    return jnp.where(unfinished, jnp.nan, logs[order]), along[:, order]


def _parts(half: int) -> tuple[slice, slice]:
    return slice(0, half), slice(half, 2 * half)


def _rotated(a: _Half, b: _Half) -> tuple[_Half, _Half, Array]:
    """Each pair rotated until its columns are orthogonal, and the cosine between them before."""
    xx, yy, xy = (jnp.sum(u * v, axis=0) for u, v in ((a.x, a.x), (b.x, b.x), (a.x, b.x)))
    first = a.exponents >= b.exponents
    rho = power_of_two(-jnp.abs(a.exponents - b.exponents), xx.dtype)
    larger, smaller = jnp.where(first, xx, yy), jnp.where(first, yy, xx)
    d = larger - rho**2 * smaller
    size = jnp.abs(d) + jnp.sqrt(d**2 + 4 * (rho * xy) ** 2)
    sign = jnp.where(d < 0, -1.0, 1.0).astype(d.dtype)
    tau = jnp.where(size > 0, 2 * xy * sign / jnp.where(size > 0, size, jnp.ones_like(size)), 0)
    c = 1 / jnp.sqrt(1 + (rho * tau) ** 2)
    onto_a = jnp.where(first, rho**2 * tau, -tau)
    onto_b = jnp.where(first, tau, -(rho**2) * tau)
    t = jnp.where(first, rho * tau, -rho * tau)

    def rotate(u: Array, v: Array, onto_u: Array, onto_v: Array) -> tuple[Array, Array]:
        return c[None] * (u + onto_u[None] * v), c[None] * (v - onto_v[None] * u)

    x, y = rotate(a.x, b.x, onto_a, onto_b)
    along_a, along_b = rotate(a.along, b.along, t, t)
    both = (xx > 0) & (yy > 0)
    cosine = jnp.abs(xy) / jnp.where(both, jnp.sqrt(xx) * jnp.sqrt(yy), jnp.ones_like(xy))
    return _Half(x, a.exponents, along_a), _Half(y, b.exponents, along_b), cosine


def _next_pairs(top: _Half, bottom: _Half) -> tuple[_Half, _Half]:
    """The pairs of the next round: the first column stays, all others move on by one place."""

    def move(a: Array, b: Array) -> tuple[Array, Array]:
        return (
            jnp.concatenate([a[..., :1], b[..., :1], a[..., 1:-1]], axis=-1),
            jnp.concatenate([b[..., 1:], a[..., -1:]], axis=-1),
        )

    moved = [move(a, b) for a, b in zip(top, bottom, strict=True)]
    return _Half(*(a for a, _ in moved)), _Half(*(b for _, b in moved))


def _with_size_1(half: _Half) -> _Half:
    """Move the powers of two from the columns to the exponents, so that squares stay in range."""
    size = jnp.max(jnp.abs(half.x), axis=0)
    shift = jnp.where(size > 0, binary_exponent(size), 0)
    x = half.x * power_of_two(-shift, half.x.dtype)[None]
    return half._replace(x=x, exponents=half.exponents + shift)
