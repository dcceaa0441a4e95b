r"""Paths by detours: how often the gradient went through the recurrent weights on its way from t back to k.

    J_t = E_t + R_t          R_t: all that passes through W_h;  E_t: all that does not

    P_{t,k} = Π (E + R) = Σ_m P^{(m)}_{t,k}          P^{(m)}: the paths with m factors R

    P^{(m)}_{t,k} = P^{(m)}_{t,k+1} E_{k+1} + P^{(m−1)}_{t,k+1} R_{k+1}

Every path is in exactly one P^{(m)}. What takes more than M detours is one term more, so nothing is left out:

    P^{(>M)}_{t,k} = P^{(>M)}_{t,k+1} J_{k+1} + P^{(M)}_{t,k+1} R_{k+1}

For an LSTM E_t holds the columns of C_{t−1}: `cc` at m = 0 is the carousel ∏ f. For a GRU E_t = diag(u_t); a
vanilla network has none, and all of its paths take a detour at every step.

Each block of each term is a matrix with its own powers of two (`gradient_flow.long_products.scaled_matrix`):
none underflows.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradient_flow.long_products import transition
from gradient_flow.long_products.chunk_of_steps import LogNorms, Plan, nan_unless
from gradient_flow.long_products.scaled_matrix import (
    EMPTY,
    EvenlyScaled,
    ScaledMatrix,
    as_scaled,
    evenly_scaled,
    log_frobenius,
    log_spectral,
    scaled_product,
    scaled_sum,
)
from gradient_flow.measurements.curve_summary import lag_grid
from gradient_flow.step_jacobians.checked_arguments import (
    checked_blocks,
    checked_run,
    require_finite_states,
    whole_numbers,
)
from gradient_flow.step_jacobians.state_layout import Layout
from gradient_flow.step_jacobians.step_jacobian import (
    Blocks,
    block_jacobian,
    plus,
    require_stable_state,
)
from gradient_flow.step_jacobians.trajectory import run
from gradient_flow.step_jacobians.vector_products import with_transposed_weights
from lstm_jax.array_types import Array, Bool, Int, PyTree
from lstm_jax.cells import Cell, Step
from lstm_jax.layers.stack import Stack
from lstm_jax.validation import require_names

NORMS = {"spectral": log_spectral, "frobenius": log_frobenius}
MOST = 64
"""Detours that are counted at most: the work grows with their number."""


class DetourNorms(NamedTuple):
    """Natural logs of the norms of P^{(m)}, by block: each array [lags, M + 2], a batch before it.

    Attributes:
        lags: in steps; lag 0 is the identity, which is P^{(0)}.
        detours: 0 … M, and at last M + 1, which stands for all paths with more than M.
        spectral: largest singular value of each block, ``spectral["cc"]``; −∞ where there is no such path.
        frobenius: Frobenius norm of each block.
        whole_spectral: of the sum of all terms, [lags]: what `jacobian_norms` gives.
        whole_frobenius: likewise.
    """

    lags: Int[np.ndarray, "lags"]
    detours: Int[np.ndarray, "terms"]
    spectral: LogNorms
    frobenius: LogNorms
    whole_spectral: LogNorms
    whole_frobenius: LogNorms


def detour_norms(
    cell_or_step: Cell | Step,
    params: PyTree,
    state0: PyTree | None,
    xs: PyTree,
    *,
    most: int = 8,
    direct: Step | None = None,
    lags: Sequence[int] | None = None,
    blocks: Sequence[str] | None = None,
    norms: Sequence[str] = ("spectral", "frobenius"),
    batched: bool | None = None,
) -> DetourNorms:
    """Log-norms of the paths from the last step back, grouped by how often they pass through W_h.

    The norms of the terms do not add up to the norm of their sum, the transition: paths cancel. Where the
    largest term lies far above the whole, they do so nearly completely.

    Args:
        cell_or_step: a cell of `lstm_jax`, or any ``step(params, state, x) -> (state, out)``.
        params: of the cell; any pytree for a step.
        state0: the starting state of one sample, or of B; zeros if None (a step needs one).
        xs: [T, D] or [T, B, D]; for a step any pytree with time leading.
        most: M, from 0 to 64.
        direct: for a step, the same step with `jax.lax.stop_gradient` around all that is to count as a
            detour, as in ``lax.stop_gradient(h) @ w_h``. E_t is its Jacobian, R_t what is missing from it;
            where the two share an entry, R_t has the rounding of the larger one.
        lags: which to report; if None each up to 10 and then 25 a decade.
        blocks: names of blocks, as for `jacobian_norms`, ``ss`` included, and ``total_c`` of an LSTM; if None
            every block between parts of the state.
        norms: some of ``"spectral"`` and ``"frobenius"``.
        batched: whether a step's xs and state0 have a batch axis.

    Returns:
        `DetourNorms`; ``result.spectral["cc"][i, m]`` is log ‖P^{(m)}_cc‖ at ``result.lags[i]``.

    Raises:
        As `jacobian_norms`; ValueError: a ``most`` out of range, or a step without ``direct``; ShapeError: a
            ``direct`` that returns another state than the step.

    Example:
        >>> import jax, lstm_jax, gradient_flow
        >>> cell = lstm_jax.lstm(3, 8)
        >>> params = cell.init(jax.random.key(0))
        >>> xs = jax.random.normal(jax.random.key(1), (60, 3))
        >>> found = gradient_flow.detour_norms(cell, params, None, xs, most=3, blocks=["cc"])
        >>> found.spectral["cc"].shape == (len(found.lags), 5)
        True
    """
    (most,) = whole_numbers("most", [most], 0, MOST)
    norms = require_names("norms", norms, tuple(NORMS))
    _require_parts(cell_or_step, direct)
    given = checked_run(cell_or_step, params, state0, xs, batched)
    layout = given.layout
    names = checked_blocks(
        cell_or_step, layout, tuple(layout.places()) if blocks is None else blocks
    )
    factors = sorted({"carousel", "chain_c"} & set(names))
    if factors:
        raise ValueError(
            f"Name mismatch: expected blocks of the transition, got {', '.join(factors)}: the carousel is cc "
            "without a detour, chain_c no transition."
        )
    if direct is not None and not isinstance(cell_or_step, (Cell, Stack)):
        _require_same_states(cell_or_step, direct, params, given.state0, xs, given.batched)
    lags = (
        lag_grid((given.length,)) if lags is None else whole_numbers("lags", lags, 0, given.length)
    )
    require_finite_states(cell_or_step, params, given, xs)
    plan = Plan(names, norms, layout)
    found = _curves(
        cell_or_step, direct, plan, most, tuple(lags), given.batched, params, given.state0, xs
    )
    terms = {n: {b: a[..., :-1] for b, a in found.get(n, {}).items()} for n in NORMS}
    whole = {f"whole_{n}": {b: a[..., -1] for b, a in found.get(n, {}).items()} for n in NORMS}
    return DetourNorms(np.asarray(lags), np.arange(most + 2), **terms, **whole)


def _require_parts(cell: Cell | Step, direct: Step | None) -> None:
    if isinstance(cell, Stack):
        raise TypeError(
            "Cell mismatch: expected one cell, or a step with direct, got a stack, where what the layers "
            "below send up moves a state as well."
        )
    if isinstance(cell, Cell):
        if direct is not None:
            raise ValueError("Option mismatch: expected direct for a plain step only, got a cell.")
        if cell.paths is None:
            raise ValueError(f"Cell mismatch: expected a cell that has paths, got {cell}.")
    elif not callable(direct):
        raise ValueError(
            f"Option mismatch: expected direct, the step without its detours, got {direct!r}."
        )


def _require_same_states(
    step: Step, direct: Step, params: PyTree, state0: PyTree, xs: PyTree, batched: bool
) -> None:
    """Refuse a ``direct`` that is not the step itself: it differs in its derivative alone."""
    first = jax.tree.map(lambda leaf: leaf[0], xs)
    if batched:
        first, state0 = jax.tree.map(lambda leaf: leaf[0], (first, state0))
    require_stable_state(direct, params, state0, first)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((params, state0, xs))):
        return
    expected, found = (jax.jit(f)(params, state0, first)[0] for f in (step, direct))
    close = jax.tree.map(
        lambda a, b: bool(jnp.allclose(a, b, rtol=1e-4, atol=1e-6)), expected, found
    )
    if not all(jax.tree.leaves(close)):
        raise ValueError(
            "Step mismatch: expected direct to return the states of the step, only with parts of its "
            "derivative stopped, got other states at step 1."
        )


def _parts(cell: Cell | Step, direct: Step | None, layout: Layout) -> Callable[..., Any]:
    """Make the function ``(params, state, x) -> (E_t, R_t)`` of one sample, each as `Blocks`."""
    if isinstance(cell, Cell):
        paths: Any = cell.paths
        kept = np.ones(len(cell.gate_names), layout.dtype)

        def of_cell(params: PyTree, state: PyTree, x: PyTree) -> tuple[Blocks, Blocks]:
            e = paths.direct(params, state, x)
            r = paths.through(params, state, x, jnp.asarray(kept))
            return tuple(map(tuple, e)), tuple(map(tuple, r))

        return of_cell
    past_weights: Any = direct
    whole, past = block_jacobian(cell, layout), block_jacobian(past_weights, layout)

    def of_step(params: PyTree, state: PyTree, x: PyTree) -> tuple[Blocks, Blocks]:
        e = past(params, state, x)
        return e, jax.tree.map(jnp.subtract, whole(params, state, x), e)

    return of_step


class _Terms(NamedTuple):
    """What is carried back from t to k, ``[row][column]``.

    Attributes:
        counted: P^{(0)} … P^{(M)}, `ScaledMatrix` of [M + 1, n_row, n_column].
        others: P^{(>M)} and the whole P, [2, n_row, n_column].
    """

    counted: Any
    others: Any


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5))
def _curves(
    cell: Cell | Step,
    direct: Step | None,
    plan: Plan,
    most: int,
    lags: tuple[int, ...],
    batched: bool,
    params: PyTree,
    state0: PyTree,
    xs: PyTree,
) -> dict[str, LogNorms]:
    """{norm: {block: [batch?, lags, M + 3]}}, the whole transition last."""
    length = jax.tree.leaves(xs)[0].shape[0]
    lowest = length - max(lags)
    record = np.zeros(length + 1, bool)
    record[[length - lag for lag in lags]] = True
    weights = with_transposed_weights(cell, params, length)
    parts_of = _parts(cell, direct, plan.layout)

    def of_sample(state0: PyTree, xs: PyTree) -> dict[str, LogNorms]:
        trajectory = run(cell, params, state0, xs)

        def at(tree: PyTree, k: Array) -> PyTree:
            return jax.tree.map(lambda leaf: leaf[k], tree)

        def back(
            terms: _Terms, at_k: tuple[Array, Bool[Array, ""]]
        ) -> tuple[_Terms, dict[str, LogNorms]]:
            k, wanted = at_k
            e, r = parts_of(weights, at(trajectory.states, k), at(xs, k))
            terms = _step_back(terms, e, r)
            return terms, _if_wanted(wanted, plan, terms, at(trajectory.h_c, k))

        begin = _start(plan.layout, most)
        ks = jnp.arange(lowest, length, dtype=jnp.int32)
        # The last lag of the walk back is the first entry.
        _, found = lax.scan(back, begin, (ks, jnp.asarray(record[lowest:length])), reverse=True)
        last = _if_wanted(
            jnp.asarray(record[length]), plan, begin, at(trajectory.h_c, jnp.int32(length))
        )
        where = np.asarray([length - lag - lowest for lag in lags])
        return jax.tree.map(
            lambda rows, row: jnp.concatenate([rows, row[None]])[where], found, last
        )

    return jax.vmap(of_sample, in_axes=(0, 1))(state0, xs) if batched else of_sample(state0, xs)


def _start(layout: Layout, most: int) -> _Terms:
    """The identity, which is P^{(0)} and the whole; the other terms are empty."""

    def block(row: int, column: int, count: int, place: int) -> ScaledMatrix:
        shape = (count, layout.sizes[row], layout.sizes[column])
        matrix = jnp.zeros(shape, layout.dtype)
        if row == column:
            matrix = matrix.at[place].set(jnp.eye(layout.sizes[row], dtype=layout.dtype))
        return as_scaled(matrix)

    parts = range(len(layout.sizes))
    return _Terms(
        tuple(tuple(block(r, c, most + 1, 0) for c in parts) for r in parts),
        tuple(tuple(block(r, c, 2, 1) for c in parts) for r in parts),
    )


def _step_back(terms: _Terms, e: Blocks, r: Blocks) -> _Terms:
    """From k + 1 to k: one factor E_{k+1} + R_{k+1} more."""
    parts = range(len(e))
    j = tuple(tuple(plus(e[m][n], r[m][n]) for n in parts) for m in parts)

    def times(line: Any, factor: Blocks, column: int) -> list[ScaledMatrix]:
        return [scaled_product(line[m], factor[m][column]) for m in parts]

    counted, others = [], []
    for line, line_others in zip(*terms, strict=True):
        row, row_others = [], []
        for n in parts:
            by_detour = scaled_sum(times(line, r, n))
            row.append(scaled_sum([*times(line, e, n), _one_more(by_detour)]))
            row_others.append(scaled_sum([*times(line_others, j, n), _beyond(by_detour)]))
        counted.append(tuple(row))
        others.append(tuple(row_others))
    return _Terms(tuple(counted), tuple(others))


def _one_more(terms: ScaledMatrix) -> ScaledMatrix:
    """P^{(m)} R as a part of P^{(m+1)}; what was P^{(M)} R falls out."""
    return ScaledMatrix(
        jnp.roll(terms.matrix, 1, 0).at[0].set(0), jnp.roll(terms.exponent, 1, 0).at[0].set(EMPTY)
    )


def _beyond(terms: ScaledMatrix) -> ScaledMatrix:
    """P^{(M)} R as a part of P^{(>M)}, and nothing for the whole."""
    return ScaledMatrix(
        jnp.stack([terms.matrix[-1], jnp.zeros_like(terms.matrix[-1])]),
        jnp.stack([terms.exponent[-1], jnp.full_like(terms.exponent[-1], EMPTY)]),
    )


def _if_wanted(wanted: Bool[Array, ""], plan: Plan, terms: _Terms, h_c: Any) -> dict[str, LogNorms]:
    """{norm: {block: [M + 3]}}, NaN where they are not wanted."""

    def measure(terms: _Terms) -> dict[str, LogNorms]:
        rows = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *terms)

        def read(name: str) -> EvenlyScaled:
            def one(rows: Any) -> EvenlyScaled:
                walk = transition.Walk(rows, None)
                return evenly_scaled(transition.read(walk, name, plan.layout, h_c))

            return jax.vmap(one)(rows)

        levels = {name: read(name) for name in plan.blocks}
        return {n: {name: NORMS[n](m) for name, m in levels.items()} for n in plan.norms}

    return nan_unless(wanted, measure, terms)
