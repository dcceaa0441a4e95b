r"""Norms of the transition from its products with a few random vectors: for states of thousands of units.

    u ~ N(0, 1):    E ‖uᵀP‖² = ‖P‖²_F            uᵀP_{T,k} for all lags at once, from one backward pass

The mean of ‖uᵀP‖² over m probes varies most for a P of rank one, where m times the mean over ‖P‖²_F is χ²
with m degrees of freedom: its quantiles give the interval of the Frobenius norm.

The spectral norm, at chosen lags, by subspace iteration (Halko, Martinsson & Tropp 2011), Q ← orth(Pᵀ P Q)
with m columns, forward by tangents and back by cotangents. With P Q known,

    ‖PQ‖ ≤ ‖P‖ ≤ √(‖PQ‖² + ‖P(I − QQᵀ)‖²_F)

the last term again from m probes: the lower end is certain, the upper end holds with the stated confidence.

Work: m vectors through every step, each with one product with W_h; no array of size n² but W_h itself. Each
vector has a power of two; a part that is smaller than the vector by more than the dtype's range, or a slope
that underflows within one step, is 0. (`jacobian_norms` has a power of two for each unit.)

Axes: rows[m, n], the vectors; the parts of the state lie one after the other.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradient_flow.long_products.scaled_matrix import EMPTY, log_value
from gradient_flow.long_products.spectral_norm import log_or_zero
from gradient_flow.measurements.curve_summary import chosen_lags
from gradient_flow.result_display import curves_table
from gradient_flow.step_jacobians.checked_arguments import (
    checked_run,
    require_finite_states,
    whole_numbers,
)
from gradient_flow.step_jacobians.scaled_entries import binary_exponent, power_of_two
from gradient_flow.step_jacobians.state_layout import (
    JOINT,
    Layout,
    from_flat,
    moving_parts,
    part_slices,
)
from gradient_flow.step_jacobians.trajectory import run
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
        spectral_lags: lags of the spectral norm.
        spectral: ‖PQ‖, the estimate of the spectral norm and the lower end of its interval.
        spectral_high: upper end.
    """

    lags: Int[np.ndarray, "lags"]
    frobenius: Any
    frobenius_low: Any
    frobenius_high: Any
    spectral_lags: Int[np.ndarray, "spectral_lags"]
    spectral: Any
    spectral_high: Any

    def _repr_html_(self) -> str:
        names = ("frobenius_low", "frobenius", "frobenius_high")
        curves = {name: getattr(self, name) for name in names}
        table = curves_table("Norms by random vectors, medians", self.lags, curves)
        if not len(self.spectral_lags):
            return table
        spectral = {name: getattr(self, name) for name in ("spectral", "spectral_high")}
        return table + curves_table("", self.spectral_lags, spectral)


class Probes(NamedTuple):
    """The random vectors, and the lags of the norms.

    Attributes:
        number: m, how many vectors.
        lags: of the Frobenius norm; if None each up to 10 and then 25 a decade.
        spectral_lags: of the spectral norm; each lag takes forward and backward passes of its own.
        iterations: of the subspace iteration; each takes one forward and one backward pass.
        confidence: of each interval separately, between 0 and 1.
    """

    number: int = 16
    lags: Sequence[int] | None = None
    spectral_lags: Sequence[int] = ()
    iterations: int = 2
    confidence: float = 0.95


SIXTEEN_PROBES = Probes()


def probe_norms(
    cell_or_step: Cell | Stack | Step,
    params: PyTree,
    state0: PyTree | None,
    xs: PyTree,
    key: Array,
    *,
    block: str = JOINT,
    probes: Probes = SIXTEEN_PROBES,
    batched: bool | None = None,
) -> ProbeNorms:
    """Log-norms of a block of the transition back from the last step, with intervals, without forming it.

    The cost of `jacobian_norms`, which is exact, grows with the cube of the state's size; this one with its
    square.

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
    spans = _spans(given.layout, block)
    # More vectors than the block has rows or columns span the same space.
    (count,) = whole_numbers("probes", [count], 1, min(end - first for first, end in spans))
    frobenius_lags = chosen_lags(lags, given.length)
    spectral_lags = (
        whole_numbers("spectral_lags", spectral_lags, 0, given.length) if len(spectral_lags) else []
    )
    require_finite_states(cell_or_step, params, given, xs)
    found = _probe(
        cell_or_step,
        given.layout,
        spans,
        (count, iterations, given.batched),
        (tuple(frobenius_lags), tuple(spectral_lags)),
        params,
        given.state0,
        xs,
        key,
    )
    frobenius, spectral, rest = found
    # Here, because it takes a second to import.
    from scipy.stats import chi2

    # Two-sided for the Frobenius norm, one-sided for the spectral norm.
    low, high = chi2.ppf([(1 - confidence) / 2, (1 + confidence) / 2], count) / count
    one_sided = chi2.ppf(1 - confidence, count) / count
    return ProbeNorms(
        lags=np.asarray(frobenius_lags),
        frobenius=frobenius,
        frobenius_low=frobenius - float(np.log(high)) / 2,
        frobenius_high=frobenius - float(np.log(low)) / 2,
        spectral_lags=np.asarray(spectral_lags, int),
        spectral=spectral,
        spectral_high=jnp.logaddexp(2 * spectral, 2 * rest - float(np.log(one_sided))) / 2,
    )


def _spans(layout: Layout, block: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where the block's rows, and its columns, start and end in the state as one vector."""
    spans = [(place.start, place.stop) for place in part_slices(layout)]
    if block == JOINT:
        return (0, spans[-1][1]), (0, spans[-1][1])
    row, column = layout.places()[block]
    return spans[row], spans[column]


class _ScaledRows(NamedTuple):
    """Vectors, each with a power of two: ``rows · 2^exponents``."""

    rows: Float[Array, "m n"]
    exponents: Int[Array, "m"]


def _rescaled(rows: Array, exponents: Array) -> _ScaledRows:
    top = jnp.max(jnp.abs(rows), axis=1)
    more = jnp.where(top > 0, binary_exponent(top), 0)
    return _ScaledRows(rows * power_of_two(-more, rows.dtype)[:, None], exponents + more)


def _zero_outside(rows: Array, span: tuple[int, int]) -> Array:
    """The rows with zeros outside of a part."""
    inside = np.zeros(rows.shape[1], bool)
    inside[slice(*span)] = True
    return jnp.where(jnp.asarray(inside)[None, :], rows, 0)


def _log_mean_square(v: _ScaledRows) -> Array:
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
    """Logs of the Frobenius norm; of ‖PQ‖ and ‖P(I − QQᵀ)‖_F at the lags of the spectral norm."""
    probes, iterations, batched = numbers
    rows_in, columns_in = spans
    length = jax.tree.leaves(xs)[0].shape[0]
    size, dtype = sum(layout.sizes), layout.dtype
    jvp, vjp = step_jvp(cell, layout, form_jacobian=False), step_vjp(cell, layout)
    weights = with_transposes(params, length) if isinstance(cell, Cell) else params
    zero_exponents = jnp.zeros(probes, jnp.int32)

    def random_rows(key: Array, span: tuple[int, int]) -> _ScaledRows:
        rows = jax.random.normal(key, (probes, size), jnp.float32).astype(dtype)
        return _rescaled(_zero_outside(rows, span), zero_exponents)

    def of_sample(state0: PyTree, xs: PyTree, key: Array) -> tuple[Array, Array, Array]:
        states = run(cell, params, state0, xs).states
        key_frobenius, key_spectral = jax.random.split(key)

        def at(k: Array) -> tuple[PyTree, PyTree]:
            return jax.tree.map(lambda leaf: leaf[k], (states, xs))

        def back(v: _ScaledRows, k: Array) -> _ScaledRows:
            state, x = at(k)

            def one(row: Array) -> Array:
                d_parts = list(moving_parts(layout, from_flat(layout, state, row)))
                _, d_before, _ = vjp(weights, state, x, d_parts)
                return jnp.concatenate([jnp.ravel(part) for part in d_before])

            return _rescaled(jax.vmap(one)(v.rows), v.exponents)

        def forward(v: _ScaledRows, k: Array) -> _ScaledRows:
            return _rescaled(jvp(weights, *at(k), v.rows.T)[1].T, v.exponents)

        def back_over(lag: Array, v: _ScaledRows) -> _ScaledRows:
            moved = lax.fori_loop(0, lag, lambda n, v: back(v, length - 1 - n), v)
            return moved._replace(rows=_zero_outside(moved.rows, columns_in))

        def forward_over(lag: Array, v: _ScaledRows) -> _ScaledRows:
            moved = lax.fori_loop(0, lag, lambda n, v: forward(v, length - lag + n), v)
            return moved._replace(rows=_zero_outside(moved.rows, rows_in))

        def log_norm(v: _ScaledRows) -> Array:
            return _log_mean_square(v._replace(rows=_zero_outside(v.rows, columns_in)))

        def walk(v: _ScaledRows, k: Array) -> tuple[_ScaledRows, Array]:
            v = back(v, k)
            return v, log_norm(v)

        start = random_rows(key_frobenius, rows_in)
        _, curve = lax.scan(walk, start, jnp.arange(length, dtype=jnp.int32), reverse=True)
        frobenius = jnp.append(curve, log_norm(start))[
            np.asarray([length - lag for lag in lags[0]])
        ]

        def spectral(at: tuple[Array, Array]) -> tuple[Array, Array]:
            lag, key = at
            key_start, key_rest = jax.random.split(key)

            def iterate(_: Array, basis: Array) -> Array:
                v = forward_over(lag, _ScaledRows(basis, zero_exponents))
                v = back_over(lag, _rescaled(v.rows, zero_exponents))
                return _orthonormal(v.rows, columns_in)

            basis = _orthonormal(random_rows(key_start, columns_in).rows, columns_in)
            basis = lax.fori_loop(0, iterations, iterate, basis)
            image = _rescaled(*forward_over(lag, _ScaledRows(basis, zero_exponents)))
            top = jnp.max(jnp.where(jnp.any(image.rows != 0, axis=1), image.exponents, EMPTY))
            level = image.rows * power_of_two(image.exponents - top, dtype)[:, None]
            sigma = jnp.linalg.svd(level, compute_uv=False, full_matrices=False)[0]
            rest = back_over(lag, random_rows(key_rest, rows_in))
            left = rest.rows - (rest.rows @ basis.T) @ basis
            return log_value(log_or_zero(sigma), top), _log_mean_square(
                _rescaled(left, rest.exponents)
            )

        if not lags[1]:
            return frobenius, jnp.zeros(0, dtype), jnp.zeros(0, dtype)
        keys = jax.random.split(key_spectral, len(lags[1]))
        return frobenius, *lax.map(spectral, (jnp.asarray(lags[1], jnp.int32), keys))

    if not batched:
        return of_sample(state0, xs, key)
    samples = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), xs)
    count = jax.tree.leaves(samples)[0].shape[0]
    keys = jax.random.split(key, count)
    return lax.map(lambda sample: of_sample(*sample), (state0, samples, keys))


def _orthonormal(rows: Float[Array, "m n"], span: tuple[int, int]) -> Float[Array, "m n"]:
    """Orthonormal rows with the same span, zero outside a part of the state even if rows are dependent."""
    first, end = span
    basis = jnp.linalg.qr(rows[:, first:end].T)[0].T
    return jnp.zeros_like(rows).at[:, first:end].set(basis)
