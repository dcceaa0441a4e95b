r"""Norms of the transition without a matrix, by how it moves a few vectors: for states of thousands of units.

    u ~ N(0, 1):    E ‖uᵀP‖² = ‖P‖²_F            uᵀP_{T,k} from one way back, for all lags at once

The mean of ‖uᵀP‖² over m probes spreads most for a P of rank one, where m times it over ‖P‖²_F is χ² with m
degrees of freedom: the quantiles of that make the interval of the Frobenius norm.

The spectral norm, at chosen lags, by subspace iteration (Halko, Martinsson & Tropp 2011), Q ← orth(Pᵀ P Q)
with m columns, forward by tangents and back by cotangents. With P Q known,

    ‖PQ‖ ≤ ‖P‖ ≤ √(‖PQ‖² + ‖P(I − QQᵀ)‖²_F)

the last term again from m probes: the lower end is certain, the upper one holds with the stated confidence.

Work: m vectors moved through every step, a product with W_h each; nothing of size n² but W_h itself. Each
vector has a power of two of its own.

Axes: rows[m, n], the vectors, of the parts of the state behind each other.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradient_flow.long_products.scaled_matrix import (
    EMPTY,
    binary_exponent,
    log_value,
    power_of_two,
)
from gradient_flow.long_products.spectral_norm import log_or_zero
from gradient_flow.measurements.curve_summary import lag_grid
from gradient_flow.step_jacobians.checked_arguments import (
    checked_run,
    require_finite_states,
    whole_numbers,
)
from gradient_flow.step_jacobians.state_layout import (
    JOINT,
    Layout,
    from_flat,
    moving_parts,
    part_slices,
)
from gradient_flow.step_jacobians.trajectory import step_of
from gradient_flow.step_jacobians.vector_products import step_jvp, step_vjp
from lstm_jax.array_types import Array, Float, Int, PyTree
from lstm_jax.cells import Cell, Step
from lstm_jax.jax_extensions.weight_with_transpose import with_transposes
from lstm_jax.layers.stack import Stack
from lstm_jax.validation import (
    require_key,
    require_names,
    require_number,
    require_positive_int,
    require_type,
)


class ProbeNorms(NamedTuple):
    """Natural logs of norms of one block, against the lag: arrays [lags], a batch before it.

    Attributes:
        lags: in steps.
        frobenius: the estimate of the Frobenius norm.
        frobenius_low: lower end of its interval.
        frobenius_high: upper end.
        spectral_lags: where the spectral norm was asked for.
        spectral: ‖PQ‖, which the spectral norm is at least: the lower end of its interval, and its estimate.
        spectral_high: upper end.
    """

    lags: Int[np.ndarray, "lags"]
    frobenius: Any
    frobenius_low: Any
    frobenius_high: Any
    spectral_lags: Int[np.ndarray, "spectral_lags"]
    spectral: Any
    spectral_high: Any


class Probes(NamedTuple):
    """What is drawn and where it looks.

    Attributes:
        number: m, how many vectors.
        lags: of the Frobenius norm; if None each up to 10 and then 25 a decade.
        spectral_lags: of the spectral norm, each of which walks forward and back by itself.
        iterations: of the subspace iteration; each is one walk forward and one back.
        confidence: of each interval by itself, between 0 and 1.
    """

    number: int = 16
    lags: Sequence[int] | None = None
    spectral_lags: Sequence[int] = ()
    iterations: int = 2
    confidence: float = 0.95


SIXTEEN = Probes()


def probe_norms(
    cell_or_step: Cell | Stack | Step,
    params: PyTree,
    state0: PyTree | None,
    xs: PyTree,
    key: Array,
    *,
    block: str = JOINT,
    probes: Probes = SIXTEEN,
    batched: bool | None = None,
) -> ProbeNorms:
    """Log-norms of a block of the transition back from the last step, with intervals, without forming it.

    `jacobian_norms` is exact and grows with the cube of the state's size; this one grows with its square.

    Args:
        cell_or_step: a cell of `lstm_jax`, a stack in one direction, or any
            ``step(params, state, x) -> (state, out)``.
        params: of the cell; any pytree for a step.
        state0: the starting state of one sample, or of B; zeros if None (a step needs one).
        xs: [T, D] or [T, B, D]; for a step any pytree with time leading.
        key: of the random vectors.
        block: one name, as for `jacobian_norms`; ``ss``, the whole transition, unless given.
        probes: `Probes`: how many vectors, at which lags, with which confidence.
        batched: whether a step's xs and state0 have a batch axis.

    Returns:
        `ProbeNorms`.

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit the cell, the step or each other.
        NonFiniteError: a NaN or an infinity in the arguments, or in the states, with its step.
        ValueError: probes, iterations, lags, a block or a confidence out of range.

    Example:
        >>> import jax, lstm_jax, gradient_flow
        >>> cell = lstm_jax.lstm(3, 32)
        >>> params = cell.init(jax.random.key(0))
        >>> xs = jax.random.normal(jax.random.key(1), (60, 3))
        >>> found = gradient_flow.probe_norms(
        ...     cell, params, None, xs, jax.random.key(2), block="cc",
        ...     probes=gradient_flow.Probes(spectral_lags=[60]),
        ... )  # fmt: skip
        >>> exact = gradient_flow.jacobian_norms(cell, params, None, xs, blocks=["cc"])
        >>> bool(found.spectral[0] <= exact.spectral["cc"][60] + 1e-4)
        True
    """
    require_key(key)
    require_type("probes", probes, Probes)
    count, lags, spectral_lags, iterations, confidence = probes
    require_positive_int("iterations", iterations)
    require_number("confidence", confidence, above=0)
    if not confidence < 1:
        raise ValueError(f"Range mismatch: expected confidence below 1, got {confidence!r}.")
    given = checked_run(cell_or_step, params, state0, xs, batched)
    (block,) = require_names("blocks", [block], (*given.layout.places(), JOINT))
    spans = _parts_of(given.layout, block)
    # More vectors than the block has rows or columns would span no more.
    (count,) = whole_numbers("probes", [count], 1, min(end - first for first, end in spans))
    top = given.length
    ways = lag_grid((top,)) if lags is None else whole_numbers("lags", lags, 0, top)
    far = whole_numbers("spectral_lags", spectral_lags, 0, top) if len(spectral_lags) else []
    require_finite_states(cell_or_step, params, given, xs)
    found = _probe(
        cell_or_step,
        given.layout,
        spans,
        (count, iterations, given.batched),
        (tuple(ways), tuple(far)),
        params,
        given.state0,
        xs,
        key,
    )
    frobenius, spectral, rest = found
    # Here, because it takes a second to import.
    from scipy.stats import chi2

    # Half of what is left out lies on either side; of the spectral norm all of it above.
    low, high = chi2.ppf([(1 - confidence) / 2, (1 + confidence) / 2], count) / count
    one_sided = chi2.ppf(1 - confidence, count) / count
    return ProbeNorms(
        lags=np.asarray(ways),
        frobenius=frobenius,
        frobenius_low=frobenius - float(np.log(high)) / 2,
        frobenius_high=frobenius - float(np.log(low)) / 2,
        spectral_lags=np.asarray(far, int),
        spectral=spectral,
        spectral_high=jnp.logaddexp(2 * spectral, 2 * rest - float(np.log(one_sided))) / 2,
    )


def _parts_of(layout: Layout, block: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and last entry of the block's rows, and of its columns, in the state as one vector."""
    spans = [(place.start, place.stop) for place in part_slices(layout)]
    if block == JOINT:
        return (0, spans[-1][1]), (0, spans[-1][1])
    row, column = layout.places()[block]
    return spans[row], spans[column]


class _Rows(NamedTuple):
    """Vectors, each with its power of two: ``rows · 2^exponents``."""

    rows: Float[Array, "m n"]
    exponents: Int[Array, "m"]


def _rescaled(rows: Array, exponents: Array) -> _Rows:
    top = jnp.max(jnp.abs(rows), axis=1)
    more = jnp.where(top > 0, binary_exponent(top), 0)
    return _Rows(rows * power_of_two(-more, rows.dtype)[:, None], exponents + more)


def _within(rows: Array, span: tuple[int, int]) -> Array:
    """The rows with zeros outside of a part."""
    inside = np.zeros(rows.shape[1], bool)
    inside[slice(*span)] = True
    return jnp.where(jnp.asarray(inside)[None, :], rows, 0)


def _log_mean_square(v: _Rows) -> Array:
    """Half the log of the mean of the squared norms."""
    top = jnp.max(v.exponents)
    rows = v.rows * power_of_two(v.exponents - top, v.rows.dtype)[:, None]
    squares = jnp.sum(rows**2, axis=1)
    return log_value(log_or_zero(jnp.mean(squares)) / 2, top)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _probe(
    cell: Cell | Stack | Step,
    layout: Layout,
    spans: tuple[tuple[int, int], tuple[int, int]],
    numbers: tuple[int, int, bool],
    lags: tuple[tuple[int, ...], tuple[int, ...]],
    params: PyTree,
    state0: PyTree,
    xs: PyTree,
    key: Array,
) -> tuple[Array, Array, Array]:
    """Logs of the Frobenius norm; of ‖PQ‖ and of ‖P(I − QQᵀ)‖_F where the spectral norm is asked for."""
    probes, iterations, batched = numbers
    rows_in, columns_in = spans
    length = jax.tree.leaves(xs)[0].shape[0]
    size, dtype = sum(layout.sizes), layout.dtype
    jvp, vjp = step_jvp(cell, layout, form_jacobian=False), step_vjp(cell, layout)
    weights = with_transposes(params, length) if isinstance(cell, Cell) else params
    step = step_of(cell)
    nothing = jnp.zeros(probes, jnp.int32)

    def drawn(key: Array, span: tuple[int, int]) -> _Rows:
        rows = jax.random.normal(key, (probes, size), jnp.float32).astype(dtype)
        return _rescaled(_within(rows, span), nothing)

    def of_sample(state0: PyTree, xs: PyTree, key: Array) -> tuple[Array, Array, Array]:
        def keep(state: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
            return step(params, state, x)[0], state

        _, before = lax.scan(keep, state0, xs)
        key_frobenius, key_spectral = jax.random.split(key)

        def at(k: Array) -> tuple[PyTree, PyTree]:
            return jax.tree.map(lambda leaf: leaf[k], (before, xs))

        def back(v: _Rows, k: Array) -> _Rows:
            state, x = at(k)

            def one(row: Array) -> Array:
                d_parts = list(moving_parts(layout, from_flat(layout, state, row)))
                _, d_before, _ = vjp(weights, state, x, d_parts)
                return jnp.concatenate([jnp.ravel(part) for part in d_before])

            return _rescaled(jax.vmap(one)(v.rows), v.exponents)

        def forth(v: _Rows, k: Array) -> _Rows:
            return _rescaled(jvp(weights, *at(k), v.rows.T)[1].T, v.exponents)

        def back_over(lag: Array, v: _Rows) -> _Rows:
            moved = lax.fori_loop(0, lag, lambda n, v: back(v, length - 1 - n), v)
            return moved._replace(rows=_within(moved.rows, columns_in))

        def forth_over(lag: Array, v: _Rows) -> _Rows:
            moved = lax.fori_loop(0, lag, lambda n, v: forth(v, length - lag + n), v)
            return moved._replace(rows=_within(moved.rows, rows_in))

        def norm_at(v: _Rows) -> Array:
            return _log_mean_square(v._replace(rows=_within(v.rows, columns_in)))

        def walk(v: _Rows, k: Array) -> tuple[_Rows, Array]:
            v = back(v, k)
            return v, norm_at(v)

        begin = drawn(key_frobenius, rows_in)
        _, curve = lax.scan(walk, begin, jnp.arange(length, dtype=jnp.int32), reverse=True)
        frobenius = jnp.append(curve, norm_at(begin))[np.asarray([length - lag for lag in lags[0]])]

        def spectral(at: tuple[Array, Array]) -> tuple[Array, Array]:
            lag, key = at
            key_start, key_rest = jax.random.split(key)

            def better(_: Array, basis: Array) -> Array:
                v = forth_over(lag, _Rows(basis, nothing))
                v = back_over(lag, _rescaled(v.rows, nothing))
                return _orthonormal(v.rows, columns_in)

            basis = _orthonormal(drawn(key_start, columns_in).rows, columns_in)
            basis = lax.fori_loop(0, iterations, better, basis)
            image = _rescaled(*forth_over(lag, _Rows(basis, nothing)))
            top = jnp.max(jnp.where(jnp.any(image.rows != 0, axis=1), image.exponents, EMPTY))
            level = image.rows * power_of_two(image.exponents - top, dtype)[:, None]
            # Of the small matrix of the images' products: m² numbers.
            sigma = jnp.linalg.svd(level, compute_uv=False, full_matrices=False)[0]
            rest = back_over(lag, drawn(key_rest, rows_in))
            left = rest.rows - (rest.rows @ basis.T) @ basis
            return log_value(log_or_zero(sigma), top), _log_mean_square(
                _rescaled(left, rest.exponents)
            )

        if not lags[1]:
            return frobenius, jnp.zeros(0, dtype), jnp.zeros(0, dtype)
        keys = jax.random.split(key_spectral, len(lags[1]))
        far = jnp.asarray(lags[1], jnp.int32)
        return frobenius, *lax.map(spectral, (far, keys))

    if not batched:
        return of_sample(state0, xs, key)
    samples = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), xs)
    count = jax.tree.leaves(samples)[0].shape[0]
    keys = jax.random.split(key, count)
    return lax.map(lambda sample: of_sample(*sample), (state0, samples, keys))


def _orthonormal(rows: Float[Array, "m n"], span: tuple[int, int]) -> Float[Array, "m n"]:
    """Orthonormal rows of the same span, within a part of the state even where rows are not independent."""
    first, end = span
    basis = jnp.linalg.qr(rows[:, first:end].T)[0].T
    return jnp.zeros_like(rows).at[:, first:end].set(basis)
