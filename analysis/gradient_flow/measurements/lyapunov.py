r"""The Lyapunov spectrum: how fast k-dimensional volumes of perturbations grow, by QR of tangent vectors.

    J_t ⋯ J_{t−m+1} Q = Q' R                     λ_i = 1/T Σ log |R_ii|

with orthonormal tangents Q[n, k] carried forward beside the state (Benettin et al. 1980; Vogt et al. 2022).
λ_1 is the slope of the log-norm curve, λ_1 + … + λ_j that of the volume in the j directions that grow
fastest, and all n of them sum up to the mean of log |det J_t|.

**How often.** Between two QRs the columns turn towards the direction that grows fastest. The *spread* is the
ratio of the largest entry of a column of R to R_ii, whose relative error is then ε · spread. With
``every="auto"`` a QR follows every eight steps if the spread stays below ε^(−1/3), a third of all digits. If
not, these steps are repeated with a QR after every four, two or one; later the number of steps grows again.

**Small rows.** The rows of J Q are sorted by size before the decomposition, so that small rows keep their
digits: a saturated unit has a small R_ii and not the rounding of a large one; a dead unit, whose row is 0,
has R_ii = 0 and an exponent of −∞.

Axes: q[samples, n, k]; growths[chunks, samples, k].
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradient_flow.long_products.compensated_sum import compensated_add
from gradient_flow.long_products.spectral_norm import log_or_zero
from gradient_flow.step_jacobians.checked_arguments import (
    checked_run,
    require_finite_states,
    whole_numbers,
    with_samples,
)
from gradient_flow.step_jacobians.state_layout import Layout
from gradient_flow.step_jacobians.vector_products import Jvp, step_jvp, with_transposed_weights
from lstm_jax.array_types import Array, Float, Int, PyTree, shapes_of
from lstm_jax.cells import Cell, Step
from lstm_jax.layers.stack import Stack
from lstm_jax.validation import require_key, require_positive_int

LONGEST = 8
"""Steps between two QRs at most, with ``every="auto"``."""

BLOCKS = 20
"""Blocks that one sample's run is cut into for its standard error."""


class LyapunovSpectrum(NamedTuple):
    """Lyapunov exponents, in nats a step, in the order in which the QR finds them: falling, given time.

    Attributes:
        exponents: [k], the mean over samples; −∞ for a direction that became exactly zero.
        standard_error: [k], of that mean, from the differences between samples; for a single sample from the
            averages over up to 20 consecutive blocks, which is too small where the memory is longer than a
            block. NaN with fewer than two samples or blocks, or where an exponent is −∞.
        steps: the steps of the curve, counted after the warm-up.
        curve: [points, k], or [B, points, k] with a batch: the exponents of each sample up to that step.
        spread: [k], the largest ratio, between two QRs, of a column's largest entry to R_ii: the error of
            the exponent is at most ε · spread; where that reaches 1, the exponent is an upper bound.
    """

    exponents: Float[Array, "k"]
    standard_error: Float[Array, "k"]
    steps: Int[np.ndarray, "points"]
    curve: Float[Array, "*batch points k"]
    spread: Float[Array, "k"]


def lyapunov_spectrum(
    cell_or_step: Cell | Stack | Step,
    params: PyTree,
    state0: PyTree | None,
    xs: PyTree,
    *,
    k: int | None = None,
    every: int | str = "auto",
    skip: int = 0,
    key: Array | None = None,
    batched: bool | None = None,
) -> LyapunovSpectrum:
    """The k largest Lyapunov exponents of a cell driven by a sequence, or all of them.

    An exponent of −∞ is exact: a network whose state does not depend on the one before, W_h = 0, has no
    other exponents.

    Args:
        cell_or_step: a cell of `lstm_jax` or a stack in one direction, by their closed forms; or any
            ``step(params, state, x) -> (state, out)`` whose state is a pytree of arrays, by `jax.jvp` in k
            directions.
        params: of the cell; any pytree for a step.
        state0: the starting state of one sample, or of B; zeros if None (a step needs one).
        xs: [T, D] or [T, B, D]; for a step any pytree with time leading. Samples are averaged over.
        k: how many exponents, from 1 to n, the size of the state; all if None.
        every: steps between two QRs; ``"auto"`` takes as many as are exact, see above.
        skip: the warm-up: steps at the start that are not counted, in which state and tangents converge. If
            the tangents have not, the exponents have an error with a weight of 1 / (T − skip).
        key: of the random starting tangents; `jax.random.key(0)` if None.
        batched: whether xs has a batch axis after time and state0 one in front. For a cell this is read from
            xs; a step is not batched if None.

    Returns:
        `LyapunovSpectrum`.

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit the cell, the step or each other.
        NonFiniteError: a NaN or an infinity in the arguments, or in the states, with its step.
        ValueError: k, every or skip out of range.

    Source: Vogt, Puelma Touzel, Shlizerman & Lajoie, "On Lyapunov exponents for RNNs", 2022, algorithm 1.

    Example:
        >>> import jax, lstm_jax, gradient_flow
        >>> cell = lstm_jax.rnn(3, 8, activation="identity", w_h_init=lstm_jax.orthogonal(0.5))
        >>> params = cell.init(jax.random.key(0))
        >>> xs = jax.random.normal(jax.random.key(1), (100, 3))
        >>> spectrum = gradient_flow.lyapunov_spectrum(cell, params, None, xs, k=3)
        >>> [round(float(value), 4) for value in spectrum.exponents]  # log ½
        [-0.6931, -0.6931, -0.6931]
    """
    auto = isinstance(every, str) and every == "auto"
    if not auto:
        require_positive_int("every", every)
    longest = LONGEST if auto else int(every)
    if key is not None:
        require_key(key)
    given = checked_run(cell_or_step, params, state0, xs, batched)
    size = sum(given.layout.sizes)
    (k,) = whole_numbers("k", [size if k is None else k], 1, size)
    (skip,) = whole_numbers("skip", [skip], 0, given.length - 1)
    require_finite_states(cell_or_step, params, given, xs)
    key = jax.random.key(0) if key is None else key
    found = _measure(
        cell_or_step,
        given.layout,
        given.batched,
        k,
        longest,
        auto,
        skip,
        params,
        given.state0,
        xs,
        key,
    )
    _, counted, ends = _chunks(given.length, skip, longest)
    exponents, standard_error, curve, spread = found
    return LyapunovSpectrum(exponents, standard_error, ends[counted], curve, spread)


def _chunks(length: int, skip: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps in rows of ``size``, padded by −1; which rows count; counted steps by the end of each."""
    rows = []
    for first, end in ((0, skip), (skip, length)):
        steps = np.arange(first, end)
        rows.append(np.append(steps, np.full(-len(steps) % size, -1)).reshape(-1, size))
    counted = np.repeat([False, True], [len(part) for part in rows])
    steps = np.concatenate(rows)
    return steps, counted, np.maximum(steps.max(axis=1) + 1 - skip, 0)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5, 6))
def _measure(
    cell: Cell | Stack | Step,
    layout: Layout,
    batched: bool,
    k: int,
    longest: int,
    auto: bool,
    skip: int,
    params: PyTree,
    state0: PyTree,
    xs: PyTree,
    key: Array,
) -> tuple[Array, Array, Array, Array]:
    """Exponents, their standard error, the curve and the spread."""
    state0, xs = with_samples(batched, state0, xs)
    length, samples = jax.tree.leaves(xs)[0].shape[:2]
    steps, counted, ends = _chunks(length, skip, longest)
    move = jax.vmap(step_jvp(cell, layout), in_axes=(None, 0, 0, 0))
    advance = partial(_advance, move, with_transposed_weights(cell, params, length), xs)
    limit = jnp.finfo(layout.dtype).eps ** (-1 / 3)

    def chunk(carry: PyTree, ns: Int[Array, "chunk"]) -> tuple[PyTree, PyTree]:
        state, q, gap = carry

        def attempt(tried: PyTree) -> PyTree:
            gap, *_ = tried
            after = advance(state, q, ns, gap)
            enough = (jnp.max(after[3]) <= limit) | (gap == 1) | (not auto)
            return jnp.where(enough, gap, gap // 2), enough, after

        nothing = jax.tree.map(
            lambda a: jnp.zeros(a.shape, a.dtype), shapes_of(advance, state, q, ns, gap)
        )
        gap, _, (state, q, growth, spread) = lax.while_loop(
            lambda tried: ~tried[1], attempt, (gap, jnp.asarray(False), nothing)
        )
        # With twice as many steps, the spread is about the square.
        room = (jnp.max(spread) ** 2 <= limit) & (gap < longest)
        return (state, q, jnp.where(room, 2 * gap, gap)), (growth, spread)

    # Drawn in float32, so that the tangents are the same in both dtypes.
    q = jax.random.normal(key, (samples, sum(layout.sizes), k), jnp.float32).astype(layout.dtype)
    start = (state0, jnp.linalg.qr(q)[0], jnp.asarray(longest, jnp.int32))
    _, (growths, spreads) = lax.scan(chunk, start, jnp.asarray(steps, jnp.int32))
    growths, spreads, ends = growths[counted], spreads[counted], ends[counted]
    sums = _running_sums(growths)
    curve = jnp.swapaxes(sums / jnp.asarray(ends, layout.dtype)[:, None, None], 0, 1)
    error = _error_of_samples(curve[:, -1]) if samples > 1 else _error_of_blocks(sums[:, 0], ends)
    exponents = jnp.mean(curve[:, -1], axis=0)
    return exponents, error, curve if batched else curve[0], jnp.max(spreads, axis=(0, 1))


def _advance(
    move: Jvp, params: PyTree, xs: PyTree, state: PyTree, q: Array, ns: Array, gap: Array
) -> tuple[PyTree, Array, Array, Array]:
    """Some steps with a QR after every ``gap`` of them: state, q, Σ log |R_ii|, the largest spread."""
    numbers = jnp.arange(1, len(ns) + 1, dtype=jnp.int32)
    closing = (numbers % gap == 0) | (numbers == len(ns))

    def step(carry: PyTree, at: tuple[Array, Array]) -> tuple[PyTree, None]:
        state, q, growth, spread = carry
        n, closes = at

        def moved() -> tuple[PyTree, Array]:
            return move(params, state, jax.tree.map(lambda leaf: leaf[n], xs), q)

        state, q = lax.cond(n >= 0, moved, lambda: (state, q))

        def orthonormalised() -> tuple[Array, Array, Array]:
            new, log_r, ratio = jax.vmap(_orthonormal)(q)
            return new, growth + log_r, jnp.maximum(spread, ratio)

        q, growth, spread = lax.cond(closes, orthonormalised, lambda: (q, growth, spread))
        return (state, q, growth, spread), None

    zeros = jnp.zeros((q.shape[0], q.shape[2]), q.dtype)
    return lax.scan(step, (state, q, zeros, zeros), (ns, closing))[0]


def _orthonormal(q: Float[Array, "n k"]) -> tuple[Array, Array, Array]:
    """Q', log |R_ii| and the spread of each column."""
    order = jnp.argsort(-jnp.max(jnp.abs(q), axis=1), stable=True)
    basis, r = jnp.linalg.qr(q[order])
    sizes = jnp.abs(jnp.diag(r))
    spread = jnp.where(sizes > 0, jnp.max(jnp.abs(r), axis=0) / sizes, jnp.inf)
    spread = jnp.where(jnp.isnan(sizes), jnp.nan, spread)
    return jnp.zeros_like(q).at[order].set(basis), log_or_zero(sizes), spread


def _running_sums(terms: Float[Array, "chunks samples k"]) -> Float[Array, "chunks samples k"]:
    """Compensated sums from the first term to each."""

    def add(carry: tuple[Array, Array], term: Array) -> tuple[tuple[Array, Array], Array]:
        value, lost = compensated_add(carry, term)
        return (value, lost), value + lost

    return lax.scan(add, (jnp.zeros_like(terms[0]),) * 2, terms)[1]


def _error_of_samples(values: Float[Array, "samples k"]) -> Float[Array, "k"]:
    deviation = jnp.std(values, axis=0, ddof=1)
    return deviation / jnp.sqrt(jnp.asarray(len(values), values.dtype))


def _error_of_blocks(sums: Float[Array, "chunks k"], ends: np.ndarray) -> Float[Array, "k"]:
    blocks = min(BLOCKS, len(ends))
    if blocks < 2:
        return jnp.full_like(sums[0], jnp.nan)
    # The first chunks are left out if the number of chunks is not a multiple.
    last = np.arange(blocks + 1) * (len(ends) // blocks) + len(ends) % blocks
    sums = jnp.concatenate([jnp.zeros_like(sums[:1]), sums])[last]
    steps = np.append(0, ends)[last]
    rates: Any = jnp.diff(sums, axis=0) / jnp.asarray(np.diff(steps), sums.dtype)[:, None]
    return _error_of_samples(rates)
