r"""How fast tangents grow along a run: triangular factors of J_t ⋯ J_1 Q, a few steps at a time.

    J Q = Q' R        log |R_ii| is the growth of column i orthogonal to the columns before it

At the end of a chunk Q' is orthonormal, by a QR decomposition whose rows are sorted by size, so that small
rows keep their digits. Within a chunk it only needs to be well conditioned, because the triangular factors
multiply: there an LU decomposition with its rows in order of the pivots, J Q = (Pᵀ L) U, does the same at a
third of the cost, and the QR at the end corrects what L lacks. (Where nearly all digits of an R_ii are lost,
it is a QR there too.)

**Spacing.** The *spread* is the ratio of the largest entry of a column of R to R_ii, whose relative error is
ε · spread. With ``auto``, a decomposition follows after every ``longest`` steps if the spread stays below
ε^(−1/3); if not, the chunk is repeated with one after every half as many, down to one; later the number of
steps grows again. So it is, without ``auto`` too, where columns come near the ends of the dtype's range: no
spacing under- or overflows. Where a single step is out of range, as where all units saturate, the chunk is
repeated with step Jacobians in scaled form, if the cell has them; this is spacing 0.

**Derivative.** That of the same decompositions at the same steps, chunk by chunk; the spacing is held.

Axes: q[samples, n, k]; steps[chunks, chunk], −1 where there is none; logs[chunks, samples, k].
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradient_flow.long_products.spectral_norm import log_or_zero
from gradient_flow.step_jacobians.scaled_jacobian import has_scaled_jacobian
from gradient_flow.step_jacobians.state_layout import Layout
from gradient_flow.step_jacobians.vector_products import scaled_step_jvp, step_jvp
from lstm_jax.array_types import Array, Float, PyTree, shapes_of
from lstm_jax.cells import Cell, Step
from lstm_jax.layers.stack import Stack

LOST = 2.0**-6
"""The relative error of R_ii from which an LU decomposition is not used."""


class Spacing(NamedTuple):
    """How the decompositions are spaced.

    Attributes:
        auto: whether the spacing follows the spread.
        padded: whether some chunk has fewer steps than the others.
    """

    auto: bool
    padded: bool


class Growth(NamedTuple):
    """What a run did to its tangents, chunk by chunk.

    Attributes:
        logs: Σ log |R_ii|, [chunks, samples, k].
        spreads: the largest spread, [chunks, samples, k].
        gaps: steps between two decompositions, [chunks]; 0 for one after every step, J in scaled form.
    """

    logs: Any
    spreads: Any
    gaps: Any


class _Factored(NamedTuple):
    """Q'; log |R_ii|, the spread and the largest entry of R of each column."""

    basis: Any
    logs: Any
    spread: Any
    size: Any


class _Found(NamedTuple):
    """Of a chunk so far: Σ log |R_ii|, the largest spread, and the largest |log| of a column's size."""

    logs: Any
    spread: Any
    reach: Any


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def tangent_growth(
    cell: Cell | Stack | Step,
    layout: Layout,
    spacing: Spacing,
    params: PyTree,
    state0: PyTree,
    xs: PyTree,
    q: Array,
    steps: Array,
) -> Growth:
    """Move orthonormal tangents along a run and measure their growth.

    Args:
        cell: a cell, a stack in one direction or a step.
        layout: of one sample's state.
        spacing: without ``auto`` there is one decomposition a chunk, if that is in range.
        params: of the cell.
        state0: [samples, ...].
        xs: [T, samples, ...].
        q: [samples, n, k], orthonormal columns.
        steps: [chunks, chunk], numbers of steps; −1 where there is none.
    """
    longest, lowest = steps.shape[1], 0 if has_scaled_jacobian(cell) else 1
    limit = jnp.finfo(layout.dtype).eps ** (-1 / 3)
    advance = partial(_advance, cell, layout, spacing.padded, params, xs)

    def chunk(carry: PyTree, ns: Array) -> tuple[PyTree, PyTree]:
        state, q, gap = carry

        def attempt(tried: PyTree) -> PyTree:
            gap, *_ = tried
            after = advance(state, q, ns, gap)
            *_, spread, reach = after
            enough = (jnp.max(spread) <= limit) | (not spacing.auto) | (gap <= 1)
            enough = (enough & (reach <= _reach_allowed(layout))) | (gap == lowest)
            return jnp.where(enough, gap, gap // 2), enough, after

        nothing = jax.tree.map(
            lambda a: jnp.zeros(a.shape, a.dtype), shapes_of(advance, state, q, ns, gap)
        )
        gap, _, (state, q, logs, spread, reach) = lax.while_loop(
            lambda tried: ~tried[1], attempt, (gap, jnp.asarray(False), nothing)
        )
        # With twice as many steps, the spread is about the square.
        room = (jnp.max(spread) ** 2 <= limit) | (not spacing.auto)
        room = room & (2 * reach <= _reach_allowed(layout)) & (gap < longest)
        return (state, q, jnp.where(room, jnp.maximum(2 * gap, 1), gap)), Growth(logs, spread, gap)

    return lax.scan(chunk, (state0, q, jnp.asarray(longest, jnp.int32)), steps)[1]


@tangent_growth.defjvp
def _tangent_growth_jvp(
    cell: Any, layout: Layout, spacing: Spacing, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Growth, Growth]:
    gaps = tangent_growth(cell, layout, spacing, *primals).gaps

    def with_these_gaps(
        params: PyTree, state0: PyTree, xs: PyTree, q: Array, steps: Array
    ) -> tuple[Array, Array]:
        advance: Any = partial(_advance, cell, layout, spacing.padded)

        # Backward, a chunk is computed again: what is kept grows with the number of chunks.
        @jax.checkpoint
        def chunk(carry: PyTree, at: tuple[Array, Array]) -> tuple[PyTree, tuple[Array, Array]]:
            state, q, logs, spread, _ = advance(params, xs, *carry, *at)
            return (state, q), (logs, lax.stop_gradient(spread))

        return lax.scan(chunk, (state0, q), (steps, gaps))[1]

    (logs, spreads), (d_logs, d_spreads) = jax.jvp(with_these_gaps, primals, tangents)
    none = np.zeros(gaps.shape, jax.dtypes.float0)
    return Growth(logs, spreads, gaps), Growth(d_logs, d_spreads, none)


def _reach_allowed(layout: Layout) -> float:
    """Natural log of how large or small a column may become: half of the dtype's range."""
    return float(np.log(float(jnp.finfo(layout.dtype).max))) / 2


def _advance(
    cell: Any,
    layout: Layout,
    padded: bool,
    params: PyTree,
    xs: PyTree,
    state: PyTree,
    q: Array,
    ns: Array,
    gap: Array,
) -> tuple[PyTree, Array, Array, Array, Array]:
    """The steps of a chunk with a decomposition after every ``gap``.

    Returns:
        state, q, Σ log |R_ii|, the largest spread, and the largest |log| of a column's size.
    """
    start = (state, q, _nothing_yet(q))
    plain = jax.vmap(step_jvp(cell, layout), in_axes=(None, 0, 0, 0))
    in_scaled_form: Any = scaled_step_jvp(cell, layout, params)

    def at(n: Array) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[n], xs)

    def moved_if_any(n: Array, move: Any, state: PyTree, q: Array) -> Any:
        if not padded:
            return move(state, at(n), q)
        shapes = shapes_of(move, state, at(n), q)[2:]
        none = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        return lax.cond(n >= 0, lambda: move(state, at(n), q), lambda: (state, q, *none))

    def spaced() -> tuple[PyTree, Array, _Found]:
        numbers = jnp.arange(1, len(ns) + 1, dtype=jnp.int32)
        closing = (numbers % jnp.maximum(gap, 1) == 0) & (numbers < len(ns))

        def step(carry: PyTree, at_n: tuple[Array, Array]) -> tuple[PyTree, None]:
            state, q, found = carry
            n, closes = at_n
            state, q = moved_if_any(n, partial(plain, params), state, q)
            q, found = lax.cond(closes, lambda: _triangularised(q, found), lambda: (q, found))
            return (state, q, found), None

        state, q, found = lax.scan(step, start, (ns, closing))[0]
        return state, *_orthonormalised(q, found)

    def every_step_scaled() -> tuple[PyTree, Array, _Found]:
        def step(carry: PyTree, n: Array) -> tuple[PyTree, None]:
            state, q, found = carry
            state, q, exponents = moved_if_any(n, jax.vmap(in_scaled_form), state, q)
            q, found = _orthonormalised(q, found)
            more = exponents.astype(q.dtype) * jnp.log(jnp.asarray(2.0, q.dtype))
            logs = found.logs + jnp.broadcast_to(more[:, None], found.logs.shape)
            return (state, q, found._replace(logs=logs)), None

        return lax.scan(step, start, ns)[0]

    if in_scaled_form is None:
        state, q, found = spaced()
    else:
        state, q, found = lax.cond(gap == 0, every_step_scaled, spaced)
    return state, q, *found


def _nothing_yet(q: Array) -> _Found:
    zeros = jnp.zeros((q.shape[0], q.shape[2]), q.dtype)
    return _Found(zeros, zeros, jnp.zeros((), q.dtype))


def _triangularised(q: Array, found: _Found) -> tuple[Array, _Found]:
    by_lu = jax.vmap(_by_lu)(q)
    # Pivots that are no more than rounding may be 0: not so those of a QR.
    lost = jnp.max(by_lu.spread) * jnp.finfo(q.dtype).eps >= LOST
    factored = lax.cond(lost, lambda: jax.vmap(_by_qr)(q), lambda: by_lu)
    return factored.basis, _with(found, factored)


def _orthonormalised(q: Array, found: _Found) -> tuple[Array, _Found]:
    factored = jax.vmap(_by_qr)(q)
    return factored.basis, _with(found, factored)


def _with(found: _Found, more: _Factored) -> _Found:
    logs, spread, reach = found
    # ∞ for zeros and for what has overflowed.
    sizes = jnp.max(jnp.abs(jnp.log(more.size)))
    reach = jnp.maximum(reach, jnp.where(jnp.isnan(sizes), jnp.inf, sizes))
    return _Found(logs + more.logs, jnp.maximum(spread, more.spread), reach)


def _by_lu(q: Float[Array, "n k"]) -> _Factored:
    """Q' = Pᵀ L: unit columns below each other's pivots, well conditioned but not orthonormal."""
    factors, _, order = lax.linalg.lu(q)
    n, k = q.shape
    lower = jnp.tril(factors, -1) + jnp.eye(n, k, dtype=q.dtype)
    places = jnp.zeros(n, jnp.int32).at[order].set(jnp.arange(n, dtype=jnp.int32))
    return _factored(lower[places], jnp.triu(factors[:k]))


def _by_qr(q: Float[Array, "n k"]) -> _Factored:
    order = jnp.argsort(-jnp.max(jnp.abs(lax.stop_gradient(q)), axis=1), stable=True)
    basis, r = jnp.linalg.qr(q[order])
    return _factored(jnp.zeros_like(q).at[order].set(basis), r)


def _factored(basis: Array, r: Float[Array, "k k"]) -> _Factored:
    sizes = jnp.abs(jnp.diag(r))
    largest = jnp.max(jnp.abs(lax.stop_gradient(r)), axis=0)
    spread = jnp.where(sizes > 0, largest / lax.stop_gradient(sizes), jnp.inf)
    spread = jnp.where(jnp.isnan(sizes), jnp.nan, spread)
    return _Factored(basis, log_or_zero(sizes), spread, largest)
