r"""The largest singular value of many matrices by repeated squaring, with a bound on its error.

A singular value decomposition of one small matrix after another leaves most of a machine idle; matrix
products do not. With M = A Aᵀ (or Aᵀ A, the smaller) and its powers N = M^p, p = 1, 2, 4, …, by squaring,
each power brought back to size 1 by a power of two, the eigenvalues λ_1 ≥ λ_2 ≥ … of M = A Aᵀ give

    s₁ = tr N = Σ λ_i^p,     s₂ = ‖N‖²_F = Σ λ_i^{2p},     κ = s₁² / s₂,     x = Σ_{i>1} (λ_i/λ_1)^p

and three bounds that hold for every matrix, whatever its spectrum:

    λ_1^p ≤ √s₂      λ_1^p ≤ max_j Σ_i |N_ij|      λ_1^p ≥ s₂ / s₁ = √(s₂ / κ)

Where κ < 2 the lower one is much better than that. s₂ = λ_1^{2p} (1 + y) with y = Σ_{i>1} (λ_i/λ_1)^{2p}, and
y ≤ x² and y ≤ x. From (1 + x)² = κ (1 + y) ≤ κ (1 + x) follows x ≤ κ − 1 < 1, and from ≤ κ (1 + x²) then

    x ≤ x̂ = (κ − 1) / (1 + √(1 − (κ − 1)²)),       λ_1^p ≥ √(s₂ / (1 + x̂²))

Squaring stops when the logs of the bounds, over 2p, are within 4 units of rounding of log σ_1. A gap
λ_2/λ_1 gets there at about p = 10 / log(λ_1/λ_2); a matrix of equal singular values at once, by the sum
of absolute values; any other at p = log n / (8 · rounding), some 24 squarings in float32 and 53 in float64:
no case fails, and there is no start vector that could miss the direction that counts. Rounding does not
add up: what a squaring adds to log λ_1^p counts 1/p in log λ_1.

The value itself is ‖Aᵀ v‖ for the unit vector v = N (largest column of N), which keeps the digits that a
logarithm of N would lose, held between the two bounds.

Where the rows of A beyond the first n/4 or n/2 hold less of its Frobenius norm than rounding, the head
of A stands for A: σ_1(head)² ≤ σ_1² ≤ σ_1(head)² + ‖tail‖²_F.

Axes: matrix[*stack, rows, columns].
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lstm_jax.array_types import Array, Bool, Float

HEADS = (4, 2)
"""Which parts of the rows are tried to stand for all."""

SMALLEST_HEAD = 8
"""The fewest rows of a head; below it a head saves nothing."""

ROUNDINGS = 4
"""Units of rounding that the two bounds of log σ_1 may be apart."""


class _Power(NamedTuple):
    """N = M^p / 2^(p · log2) for a batch, and how far the squaring has come.

    Attributes:
        n: [batch, n, n].
        log2: of the scale, over p.
        p: 1, 2, 4, …, the same for the batch.
    """

    n: Any
    log2: Any
    p: Any


@jax.custom_jvp
def log_largest(matrix: Float[Array, "*stack rows columns"]) -> Float[Array, "*stack"]:
    """Natural log of the largest singular value of each matrix; −∞ where it is zero, NaN of a NaN.

    Args:
        matrix: [*stack, rows, columns], float32 or float64, whose largest entry is near 1 (or 0): squares
            must neither over- nor underflow where they count.

    Returns:
        [*stack]. The derivative is that of a singular value decomposition.
    """
    *stack, rows, columns = matrix.shape
    batch = matrix.reshape(-1, rows, columns)
    if rows > columns:
        batch = jnp.swapaxes(batch, -1, -2)
    result = jnp.full(batch.shape[:1], jnp.nan, batch.dtype)
    todo = jnp.ones(batch.shape[:1], bool)
    energy = _row_sums(batch**2)
    for part in HEADS:
        head = min(rows, columns) // part
        if head < SMALLEST_HEAD:
            continue
        # σ_1² of the head is at least its mean over as many squares as it has rows.
        least = jnp.sum(energy[:, :head], axis=1) / head
        enough = jnp.sum(energy[:, head:], axis=1) <= jnp.finfo(batch.dtype).eps * least
        # A part of a batch costs as much as all of it.
        result = _unless(
            ~jnp.any(todo) | ~jnp.all(enough | ~todo),
            partial(_by_squaring, batch[:, :head]),
            result,
        )
        todo = todo & ~jnp.all(enough | ~todo)
    result = _unless(~jnp.any(todo), partial(_by_squaring, batch), result)
    return result.reshape(stack)


@log_largest.defjvp
def _log_largest_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return jax.jvp(log_largest_by_svd, primals, tangents)


def log_largest_by_svd(
    matrix: Float[Array, "*stack rows columns"],
) -> Float[Array, "*stack"]:
    """The same from a singular value decomposition: the plain reference, and the derivative."""
    return log_or_zero(jnp.linalg.svd(matrix, compute_uv=False)[..., 0])


def log_or_zero(size: Array) -> Array:
    """The natural log of a size that is not negative; −∞ for an exact zero."""
    # The inner where keeps the derivative of an exact zero finite; a NaN stays one.
    return jnp.where(size == 0, -jnp.inf, jnp.log(jnp.where(size == 0, jnp.ones_like(size), size)))


def _unless(done: Bool[Array, ""], function: Any, otherwise: Array) -> Array:
    # A loop of one turn or none: `lax.cond` becomes both of its branches under `vmap`.
    return lax.while_loop(
        lambda carry: ~carry[0], lambda _: (jnp.asarray(True), function()), (done, otherwise)
    )[1]


def _by_squaring(matrix: Float[Array, "batch n m"]) -> Float[Array, "batch"]:
    dtype = matrix.dtype
    rounding = float(jnp.finfo(dtype).eps)

    def again(power: _Power) -> Bool[Array, ""]:
        # A NaN compares as closed.
        low, high = _bounds(power)
        return jnp.any((high - low) / (2 * power.p) > ROUNDINGS * rounding)

    def square(power: _Power) -> _Power:
        n, log2, p = power
        return _at_size_1(n @ n, log2, 2 * p)

    start = _at_size_1(
        matrix @ jnp.swapaxes(matrix, -1, -2),
        jnp.zeros(matrix.shape[0], dtype),
        jnp.ones((), dtype),
    )
    power = lax.while_loop(again, square, start)
    low, high = _bounds(power)
    scale = power.log2 * jnp.log(jnp.asarray(2, dtype))
    low, high = (scale + low / power.p) / 2, (scale + high / power.p) / 2
    value = log_or_zero(_stretch(matrix, power.n))
    slack = ROUNDINGS * rounding * (1 + jnp.abs(scale))
    held = jnp.clip(value, low - slack, high + slack)
    return jnp.where(value == -jnp.inf, value, held)


def _at_size_1(n: Array, log2: Array, p: Array) -> _Power:
    """Scale to a trace between ½ and 1: a power of two, so that nothing is rounded."""
    _, exponent = jnp.frexp(_trace(n))
    exponent = jnp.where(_trace(n) > 0, exponent, 0)
    factor = jnp.ldexp(jnp.ones_like(log2), -exponent)
    moved = log2 + exponent.astype(log2.dtype) / p
    return _Power(n * jnp.broadcast_to(factor[:, None, None], n.shape), moved, p)


def _bounds(power: _Power) -> tuple[Array, Array]:
    """Lower and upper bound of log λ_1(N), and equal ones for N = 0."""
    n = power.n
    trace, squares = _trace(n), jnp.sum(_row_sums(n**2), axis=1)
    zero = ~(squares > 0)
    squares = jnp.where(squares == 0, jnp.ones_like(squares), squares)
    # κ from below 1 by rounding is 1.
    excess = jnp.maximum(trace**2 / squares - 1, 0)
    x = excess / (1 + jnp.sqrt(jnp.maximum(1 - excess**2, 0)))
    spread = jnp.where(excess < 1, jnp.log1p(x**2), jnp.log1p(excess)) / 2
    root = jnp.log(squares) / 2
    # N is symmetric: the sums over rows are those over columns.
    sums = jnp.max(_row_sums(jnp.abs(n)), axis=1)
    high = jnp.minimum(root, jnp.log(jnp.where(sums > 0, sums, jnp.ones_like(sums))))
    low = jnp.minimum(root - spread, high)
    return jnp.where(zero, jnp.zeros_like(low), low), jnp.where(zero, jnp.zeros_like(high), high)


def _stretch(matrix: Array, n: Array) -> Array:
    """‖Aᵀ v‖ with v the unit vector along N times N's largest column."""
    pick = jnp.argmax(_diagonal(n), axis=1)
    column = jnp.take_along_axis(n, pick[:, None, None], axis=1)
    v = column @ n
    v = v / jnp.maximum(_length(v), jnp.finfo(v.dtype).tiny)
    return _length(v @ matrix)[:, 0, 0]


def _length(rows: Float[Array, "batch 1 n"]) -> Float[Array, "batch 1 1"]:
    largest = jnp.max(jnp.abs(rows), axis=-1, keepdims=True)
    safe = jnp.where(largest == 0, jnp.ones_like(largest), largest)
    shape = rows.shape
    return safe * jnp.sqrt(jnp.sum((rows / jnp.broadcast_to(safe, shape)) ** 2, -1, keepdims=True))


def _row_sums(a: Float[Array, "batch n m"]) -> Float[Array, "batch n"]:
    # As a product: XLA sums in order on a CPU, one number after another.
    return (a @ jnp.ones((a.shape[0], a.shape[2], 1), a.dtype))[..., 0]


def _diagonal(n: Array) -> Array:
    return jnp.diagonal(n, axis1=-2, axis2=-1)


def _trace(n: Array) -> Array:
    return jnp.sum(_diagonal(n), axis=-1)
