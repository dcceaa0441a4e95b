r"""The largest singular value of many matrices by power iteration and squaring, with a bound on its error.

Singular value decompositions of one small matrix after another leave most of a machine idle; matrix products
do not. Let N be M = A Aᵀ or a power M^p of it by squaring, with eigenvalues μ_1 ≥ μ_2 ≥ … ≥ 0,
μ_i = λ_i^p and λ_1 = σ_1². A unit vector v, iterated by v ← N v / ‖N v‖, gives

    θ = vᵀ N v ≤ μ_1,     r = ‖N v − θ v‖

The trace and the Frobenius norm bound the other eigenvalues:

    μ_2 ≤ β = tr N − θ             μ_2² ≤ β² = ‖N‖²_F − θ²

Where β < θ, μ_1 is the only eigenvalue above β, and Temple's inequality bounds it from above:

    θ ≤ μ_1 ≤ θ + r² / (θ − β)

Their logs divided by p bound log λ_1. Three more bounds need no v:

    μ_1 ≤ ‖N‖_F      μ_1 ≤ max_j Σ_i |N_ij|      μ_1 ≥ ‖N‖²_F / tr N

The work stops when the bounds of log σ_1 are within 4 units of rounding:

1. Products of A Aᵀ with v, a matrix-vector product each. The trace is ‖A‖²_F. This is enough wherever one
   singular value outweighs the others together, as in nearly every transition of long lag.
2. For the others, hardest first and several at a time: N = A Aᵀ, products of N with v, then N ← N², and so
   on. Squaring N squares θ/β. No case fails: the three bounds meet at p = log n / (8 · rounding) at the
   latest, some 24 squarings in float32 and 53 in float64, whatever the spectrum and the vector, and at once
   where all singular values are equal. Rounding does not add up: an error of log μ_1 counts 1/p in log λ_1.

The value itself is ‖Aᵀ v‖, clipped to the bounds; it keeps the digits that a logarithm of N would lose.

The inequality: Temple (1928); Kato (1949). Axes: matrix[*stack, rows, columns].
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lstm_jax.array_types import Array, Bool, Float

ROUNDINGS = 4
"""Units of rounding that the two bounds of log σ_1 may be apart."""

PRODUCTS = 24
"""Products of A Aᵀ or of N with v before the next squaring, which costs about as much as all of them."""

SURE = 0.9
"""Temple's inequality is used for β up to this share of θ, where rounding cannot have changed their order."""

AT_ONCE = 2**18
"""Entries of the matrices that are worked on together, so that they fit into the cache."""


class _Estimate(NamedTuple):
    """An estimate of λ_1 of each matrix, with its bounds.

    Attributes:
        v: [batch, n], unit vectors.
        theta: [batch], vᵀ N v of an earlier v.
        others: [batch], β.
        excess: [batch], Temple's log (μ_1 / θ) at most; ∞ where β is too large.
    """

    v: Any
    theta: Any
    others: Any
    excess: Any


@jax.custom_jvp
def log_largest(matrix: Float[Array, "*stack rows columns"]) -> Float[Array, "*stack"]:
    """Natural log of the largest singular value of each matrix; −∞ where it is zero, NaN of a NaN.

    Args:
        matrix: [*stack, rows, columns], float32 or float64, whose largest entry is 0 or between 2^−45
            and 2^45: squares must neither over- nor underflow where they count.

    Returns:
        [*stack]. The derivative is that of a singular value decomposition.
    """
    *stack, rows, columns = matrix.shape
    a = matrix.reshape(-1, rows, columns)
    if rows > columns:
        a = jnp.swapaxes(a, -1, -2)
    batch, n, _ = a.shape
    few = max(1, min(batch, AT_ONCE // n**2))
    part = next(size for size in range(few, 0, -1) if batch % size == 0)
    part = part if part > few // 2 else batch
    estimate, total, value = jax.tree.map(
        lambda leaf: leaf.reshape(batch, *leaf.shape[2:]),
        lax.map(_by_products, a.reshape(-1, part, *a.shape[1:])),
    )
    # A NaN, and a matrix of zeros, compare as closed.
    todo = (estimate.excess / 2 > _tolerance(a)) & (total > 0)
    # Hardest first, so that those that are worked on together need about as many products.
    order = jnp.argsort(jnp.where(todo, -estimate.others / estimate.theta, jnp.inf))
    order = jnp.concatenate([order, jnp.broadcast_to(order[-1:], (-batch % few,))])
    count = jnp.sum(todo)

    def some(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        done, value = carry
        these = lax.dynamic_slice(order, (done,), (few,))
        found = _by_squaring(a[these], estimate.v[these], total[these])
        # The last of them may be padding.
        return done + few, value.at[these].set(jnp.where(todo[these], found, value[these]))

    _, value = lax.while_loop(lambda carry: carry[0] < count, some, (jnp.zeros_like(count), value))
    return value.reshape(stack)


@log_largest.defjvp
def _log_largest_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return jax.jvp(log_largest_by_svd, primals, tangents)


def log_largest_by_svd(
    matrix: Float[Array, "*stack rows columns"],
) -> Float[Array, "*stack"]:
    """`log_largest` by a singular value decomposition: the plain reference, and the derivative."""
    return log_or_zero(jnp.linalg.svd(matrix, compute_uv=False)[..., 0])


def log_or_zero(size: Array) -> Array:
    """The natural log of a size that is not negative; −∞ for an exact zero."""
    # The inner where keeps the derivative of an exact zero finite; a NaN stays one.
    return jnp.where(size == 0, -jnp.inf, jnp.log(jnp.where(size == 0, jnp.ones_like(size), size)))


def _tolerance(a: Array) -> float:
    return ROUNDINGS * float(jnp.finfo(a.dtype).eps)


def _by_products(a: Float[Array, "batch n m"]) -> tuple[_Estimate, Array, Array]:
    """Power iteration with A Aᵀ, from A times its largest row: the estimate, ‖A‖²_F, and log ‖Aᵀ v‖."""
    energy = _row_sums(a**2)
    total = jnp.sum(energy, axis=-1)
    row = jnp.take_along_axis(a, jnp.argmax(energy, axis=1)[:, None, None], axis=1)[:, 0]
    estimate = _power_iteration(
        lambda v: _times(a, _transposed_times(a, v)),
        lambda theta: jnp.maximum(total - theta, 0),
        _unit(_times(a, _unit(row))),
        2 * _tolerance(a),
    )
    return estimate, total, log_or_zero(_length(_transposed_times(a, estimate.v)))


def _power_iteration(
    apply: Callable[[Array], Array],
    others_of: Callable[[Array], Array],
    v: Float[Array, "batch n"],
    tolerance: Array | float,
) -> _Estimate:
    """Iterate v until Temple's bound is close to θ, or until that would take too many products.

    Args:
        apply: v to N v.
        others_of: θ to β.
        v: unit vectors to begin with.
        tolerance: of the log of μ_1.
    """

    def iterate(estimate: _Estimate) -> _Estimate:
        moved = apply(estimate.v)
        theta = jnp.sum(moved * estimate.v, axis=-1)
        # Relative to θ, whose square may be out of range.
        moved = moved / jnp.where(theta > 0, theta, jnp.ones_like(theta))[:, None]
        others = others_of(theta)
        apart = others < SURE * theta
        gap = jnp.where(apart, 1 - others / theta, jnp.ones_like(theta))
        excess = jnp.log1p(jnp.sum((moved - estimate.v) ** 2, axis=-1) / gap)
        return _Estimate(_unit(moved), theta, others, jnp.where(apart, excess, jnp.inf))

    def again(carry: tuple[Array, _Estimate]) -> Bool[Array, ""]:
        turns, estimate = carry
        worth = (estimate.excess > tolerance) & ((estimate.excess < jnp.inf) | (turns < 3))
        return (turns < PRODUCTS) & jnp.any(worth)

    nothing = jnp.full(v.shape[:1], jnp.inf, v.dtype)
    start = (jnp.int32(0), _Estimate(v, nothing, nothing, nothing))
    return lax.while_loop(again, lambda carry: (carry[0] + 1, iterate(carry[1])), start)[1]


class _Power(NamedTuple):
    """N = M^p / exp(p · shift) for a batch, with the bounds so far.

    Attributes:
        n: [batch, n, n].
        v: [batch, n], unit vectors.
        trace: [batch], of N, between ½ and 1.
        squares: [batch], ‖N‖²_F.
        shift: [batch].
        low, high: [batch], bounds of log λ_1.
        p: 1, 2, 4, …, the same for the batch; 0 before the first bounds.
    """

    n: Any
    v: Any
    trace: Any
    squares: Any
    shift: Any
    low: Any
    high: Any
    p: Any


def _by_squaring(a: Float[Array, "batch n m"], v: Array, total: Array) -> Float[Array, "batch"]:
    """Log σ_1 from powers of A Aᵀ, with v to begin with and ``total`` = ‖A‖²_F."""
    tolerance = _tolerance(a)

    def again(power: _Power) -> Bool[Array, ""]:
        return jnp.any((power.high - power.low) / 2 > tolerance)

    def square_and_update(power: _Power) -> _Power:
        return _update_bounds(
            lax.cond(power.p > 0, _square, lambda first: first._replace(p=first.p + 1), power)
        )

    factor, shift = _to_size_1(total)
    n = (a * factor[:, None, None]) @ jnp.swapaxes(a, -1, -2)
    high = shift + log_or_zero(jnp.max(_row_sums(jnp.abs(n)), axis=1))
    zero = jnp.zeros((), a.dtype)
    low = jnp.full_like(total, -jnp.inf)
    start = _Power(n, v, total * factor, _sum_of_squares(n), shift, low, high, zero)
    power = lax.while_loop(again, square_and_update, start)
    value = log_or_zero(_length(_transposed_times(a, power.v)))
    slack = tolerance * (1 + jnp.abs(power.shift))
    return jnp.clip(value, power.low / 2 - slack, power.high / 2 + slack)


def _to_size_1(size: Array) -> tuple[Array, Array]:
    """The power of two that brings a size to between ½ and 1, exactly; and its −log."""
    _, exponent = jnp.frexp(size)
    exponent = jnp.where(size > 0, exponent, 0)
    one = jnp.ones_like(size)
    return jnp.ldexp(one, -exponent), exponent.astype(size.dtype) * jnp.log(2 * one)


def _square(power: _Power) -> _Power:
    factor, moved = _to_size_1(power.squares)
    n = (power.n * factor[:, None, None]) @ power.n
    return power._replace(
        n=n,
        trace=power.squares * factor,
        squares=_sum_of_squares(n),
        shift=power.shift + moved / (2 * power.p),
        p=2 * power.p,
    )


def _update_bounds(power: _Power) -> _Power:
    """Iterate v and narrow the bounds."""
    n, v, trace, squares, shift, low, high, p = power
    estimate = _power_iteration(
        partial(_times, n),
        lambda theta: jnp.sqrt(jnp.maximum(squares - theta**2, 0)),
        v,
        2 * p * _tolerance(n),
    )
    # θ is 0 where v is orthogonal to the part of N that has not underflowed.
    log_theta = log_or_zero(estimate.theta)
    found = jnp.maximum(log_theta, jnp.log(squares / trace))
    root = jnp.log(squares) / 2
    bound = jnp.where(
        estimate.excess < jnp.inf, jnp.minimum(log_theta + estimate.excess, root), root
    )
    return power._replace(
        v=estimate.v,
        low=jnp.maximum(low, shift + found / p),
        high=jnp.minimum(high, shift + bound / p),
    )


def _sum_of_squares(n: Array) -> Float[Array, "batch"]:
    return jnp.sum(_row_sums(n**2), axis=1)


def _row_sums(a: Float[Array, "batch n m"]) -> Float[Array, "batch n"]:
    # As a product: XLA sums in order on a CPU, one number after another.
    return _times(a, jnp.ones((a.shape[0], a.shape[2]), a.dtype))


def _times(a: Array, v: Array) -> Array:
    return jnp.einsum("bij,bj->bi", a, v)


def _transposed_times(a: Array, v: Array) -> Array:
    return jnp.einsum("bij,bi->bj", a, v)


def _length(v: Array) -> Array:
    return jnp.sqrt(jnp.sum(v**2, axis=-1))


def _unit(v: Array) -> Array:
    size = _length(v)[:, None]
    return v / jnp.where(size > 0, size, jnp.ones_like(size))
