r"""The Lyapunov spectrum: how fast k-dimensional volumes of perturbations grow, by QR of tangent vectors.

    J_t ⋯ J_{t−m+1} Q = Q' R                     λ_i = 1/T Σ log |R_ii|

with orthonormal tangents Q[n, k] carried forward beside the state (Benettin et al. 1980; Vogt et al. 2022).
λ_1 is the slope of the log-norm curve, λ_1 + … + λ_j that of the volume in the j directions that grow
fastest, and all n of them sum up to the mean of log |det J_t|.

**How often.** Between two decompositions the columns turn towards the direction that grows fastest. The
*spread* is the ratio of the largest entry of a column of R to R_ii, whose relative error is then ε · spread.
With ``every="auto"`` one follows every eight steps if the spread stays below ε^(−1/3), a third of all digits.
If not, these steps are repeated with one after every four, two or one; later the number of steps grows again.

**Small and large numbers.** Where columns come near the ends of the dtype's range, decompositions come closer
together, with ``every`` given too: no spacing under- or overflows. The rows of J Q are sorted by size before
a QR, so that small rows keep their digits: a saturated unit has a small R_ii and not the rounding of a large
one; a dead unit, whose row is 0, has R_ii = 0 and an exponent of −∞. (So has a unit whose slope in one step
is below the largest by more than the dtype's range.)

**The dimension of an attractor** after Kaplan & Yorke: with j the largest number of exponents whose sum is
not negative, D = j + (λ_1 + … + λ_j) / |λ_{j+1}|.

`gradient_flow.long_products.tangent_growth` has the decompositions.

Axes: q[samples, n, k]; growths[chunks, samples, k].
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradient_flow.long_products.compensated_sum import compensated_add
from gradient_flow.long_products.tangent_growth import Spacing, tangent_growth
from gradient_flow.result_display import html_table
from gradient_flow.step_jacobians.checked_arguments import (
    checked_run,
    require_finite_states,
    whole_numbers,
    with_samples,
)
from gradient_flow.step_jacobians.state_layout import Layout
from gradient_flow.step_jacobians.vector_products import with_transposed_weights
from lstm_jax.array_types import Array, Float, Int, PyTree
from lstm_jax.cells import Cell, Step
from lstm_jax.layers.stack import Stack
from lstm_jax.validation import (
    ShapeError,
    as_array,
    require_key,
    require_positive_int,
    show_shape,
)

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
        spread: [k], the largest ratio, between two decompositions, of a column's largest entry to R_ii: the
            error of the exponent is at most ε · spread; where that reaches 1, the exponent is an upper bound.
        drift: [k], the exponents minus those of the first half of the run: what they still move by. NaN with
            one point.
    """

    exponents: Float[Array, "k"]
    standard_error: Float[Array, "k"]
    steps: Int[np.ndarray, "points"]
    curve: Float[Array, "*batch points k"]
    spread: Float[Array, "k"]
    drift: Float[Array, "k"]

    def _repr_html_(self) -> str:
        rows = [
            [n + 1, f"{value:.4g}", f"{error:.2g}"]
            for n, (value, error) in enumerate(
                zip(self.exponents.tolist(), self.standard_error.tolist(), strict=True)
            )
        ]
        return html_table("Lyapunov exponents, per step", ["", "exponent", "standard error"], rows)


def kaplan_yorke_dimension(
    exponents: Float[Array, "*axes k"], *, size: int | None = None
) -> Float[Array, "*axes"]:
    """The Kaplan–Yorke dimension of an attractor from its Lyapunov exponents.

    Args:
        exponents: falling, as `lyapunov_spectrum` returns them.
        size: of the state, if these are only its largest exponents; k if None.

    Returns:
        D, from 0 (λ_1 < 0: a point) to the size; NaN where the sum of fewer exponents than that is not
        negative yet, so that more of them are needed.

    Raises:
        ShapeError, TypeError, ValueError: no array of exponents, or a size that is no number or below k.

    Source: Kaplan & Yorke, "Chaotic behavior of multidimensional difference equations", 1979.

    Example:
        >>> import jax.numpy as jnp, gradient_flow
        >>> lorenz = jnp.asarray([0.906, 0.0, -14.572])
        >>> print(round(float(gradient_flow.kaplan_yorke_dimension(lorenz)), 3))
        2.062
    """
    exponents = jnp.asarray(as_array("exponents", exponents))
    if exponents.ndim == 0 or exponents.shape[-1] == 0:
        raise ShapeError(
            f"Shape mismatch: expected exponents [..., k], got {show_shape(exponents.shape)}."
        )
    k = exponents.shape[-1]
    if size is not None:
        require_positive_int("size", size)
    size = k if size is None else size
    if size < k:
        raise ValueError(f"Range mismatch: expected a size of at least {k} exponents, got {size}.")
    sums = jnp.cumsum(exponents, axis=-1)
    whole = jnp.sum(jnp.cumprod(sums >= 0, axis=-1), axis=-1, keepdims=True)
    before = jnp.concatenate([jnp.zeros_like(sums[..., :1]), sums], axis=-1)
    rest = jnp.take_along_axis(before, whole, axis=-1)
    following = jnp.take_along_axis(exponents, jnp.minimum(whole, k - 1), axis=-1)
    count = whole.astype(sums.dtype)
    every = count if size == k else jnp.full_like(count, jnp.nan)
    # The inner where keeps the derivative of a whole number of exponents finite.
    below = jnp.where(whole < k, following, -jnp.ones_like(following))
    dimension = jnp.where(whole < k, count - rest / below, every)
    return jnp.where(jnp.isnan(sums[..., -1:]), jnp.nan, dimension)[..., 0]


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
    other exponents. For a map or an ODE without inputs, ``xs`` counts the steps: ``jnp.zeros(T)``. Exponents
    can be differentiated by the parameters, in both modes; that of an exponent of −∞ is NaN.

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
    exponents, standard_error, curve, spread, drift = found
    return LyapunovSpectrum(exponents, standard_error, ends[counted], curve, spread, drift)


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
) -> tuple[Array, Array, Array, Array, Array]:
    """Exponents, their standard error, the curve, the spread and the drift."""
    state0, xs = with_samples(batched, state0, xs)
    length, samples = jax.tree.leaves(xs)[0].shape[:2]
    steps, counted, ends = _chunks(length, skip, longest)
    params = with_transposed_weights(cell, params, length)
    # Drawn in float32, so that the tangents are the same in both dtypes.
    q = jax.random.normal(key, (samples, sum(layout.sizes), k), jnp.float32).astype(layout.dtype)
    q = jnp.linalg.qr(q)[0]
    spacing = Spacing(auto, padded=bool((steps < 0).any()))
    numbers = jnp.asarray(steps, jnp.int32)
    growths, spreads, _ = tangent_growth(cell, layout, spacing, params, state0, xs, q, numbers)
    growths, spreads, ends = growths[counted], spreads[counted], ends[counted]
    sums = _running_sums(growths)
    curve = jnp.swapaxes(sums / jnp.asarray(ends, layout.dtype)[:, None, None], 0, 1)
    error = _error_of_samples(curve[:, -1]) if samples > 1 else _error_of_blocks(sums[:, 0], ends)
    exponents = jnp.mean(curve[:, -1], axis=0)
    half = int(np.searchsorted(ends, ends[-1] / 2))
    drift = exponents - jnp.mean(curve[:, half], axis=0)
    drift = drift if half < len(ends) - 1 else jnp.full_like(drift, jnp.nan)
    return exponents, error, curve if batched else curve[0], jnp.max(spreads, axis=(0, 1)), drift


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
