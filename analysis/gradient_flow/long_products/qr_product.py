r"""Products of many matrices with every singular value to its own relative accuracy.

The smallest singular value of P = J_t ⋯ J_{k+1} is lost in a plain product as soon as it falls below
the rounding error of the largest. It survives in the factorised form

    Pᵀ = Q · diag(2^e) · Y        Q orthogonal; e integers, falling; the rows of Y of size about 1

Each factor enters by a QR decomposition of Jᵀ Q whose columns are first sorted by their share in the product,
largest first (a QR-based "UDT" factorisation with pre-pivoting, as quantum Monte Carlo codes use: Loh et al.
1989; Bai, Lee, Li & Xu 2011). Only numbers of about the same size are then added, so no small one is lost.

Axes: q[n, n], exponents[n], y[n, m].
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from gradient_flow.long_products.scaled_matrix import EMPTY, log_value
from gradient_flow.step_jacobians.scaled_entries import ZERO_EXPONENT, binary_exponent, power_of_two
from lstm_jax.array_types import Array, Float


class QRProduct(NamedTuple):
    """``q @ diag(2^exponents) @ y``."""

    q: Any
    exponents: Any
    y: Any


def identity(n: int, dtype: Any) -> QRProduct:
    """The n × n identity."""
    eye = jnp.eye(n, dtype=dtype)
    return QRProduct(eye, jnp.zeros(n, jnp.int32), eye)


def multiply(factor: Float[Array, "c n"], product: QRProduct) -> QRProduct:
    """``factor @ product``, factorised again into min(c, n) rows of ``y``."""
    b = factor @ product.q
    # Falling order of ‖column‖ · 2^exponent, compared by whole powers of two.
    shares = binary_exponent(jnp.max(jnp.abs(b), axis=0)) + product.exponents
    order = jnp.argsort(-shares, stable=True)
    q, r = jnp.linalg.qr(b[:, order])
    exponents, y = product.exponents[order], product.y[order]
    # Row i of R diag(2^e) Y, divided by its largest power of two.
    entries = jnp.where(r != 0, binary_exponent(jnp.abs(r)) + exponents[None, :], ZERO_EXPONENT)
    top = jnp.max(entries, axis=1)
    top = jnp.where(top > EMPTY // 2, top, EMPTY)
    y = (r * power_of_two(exponents[None, :] - top[:, None], r.dtype)) @ y
    shift = binary_exponent(jnp.max(jnp.abs(y), axis=1))
    exponents = jnp.where(shift > EMPTY // 2, top + shift, EMPTY)
    return QRProduct(q, exponents, y * power_of_two(-shift, r.dtype)[:, None])


def log_smallest(product: QRProduct) -> Float[Array, ""]:
    """Natural log of the smallest singular value (of min(rows, columns) many); −∞ where it is zero.

    With Pᵀ = Q diag(2^e) Y, Q does not change singular values. Yᵀ diag(2^e) is factorised once more, into
    Q' diag(2^w) V with a well-conditioned V, so that 1/σ_min = ‖V⁻¹ diag(2^−w)‖ is accurate.
    """
    w, v = product.exponents, product.y
    # Twice at most: a product with more columns than rows needs a second pass to become square.
    while v is product.y or v.shape[0] != v.shape[1]:
        eye = jnp.eye(v.shape[0], dtype=v.dtype)
        _, w, v = multiply(v.T, QRProduct(eye, w, eye))
    lowest = jnp.min(w)
    inverse = jnp.linalg.solve(v, jnp.diag(power_of_two(lowest - w, v.dtype)))
    size = jnp.linalg.svd(inverse, compute_uv=False)[0]
    regular = jnp.isfinite(size) & (size > 0)
    log_size = jnp.log(jnp.where(regular, size, jnp.ones_like(size)))
    result = jnp.where(regular, log_value(-log_size, lowest), -jnp.inf)
    return jnp.where(jnp.any(jnp.isnan(product.y)), jnp.nan, result)
