r"""The recursion behind `detour_norms`: the paths from t back to k, counted by their detours through W_h.

    P^{(m)}_{t,k} = P^{(m)}_{t,k+1} E_{k+1} + P^{(m−1)}_{t,k+1} R_{k+1}
    P^{(>M)}_{t,k} = P^{(>M)}_{t,k+1} J_{k+1} + P^{(M)}_{t,k+1} R_{k+1}

Each block of each term is a matrix with powers of two (`gradient_flow.long_products.scaled_matrix`): none
underflows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradient_flow.long_products.scaled_matrix import (
    EMPTY,
    ScaledMatrix,
    as_scaled,
    scaled_product,
    scaled_sum,
)
from gradient_flow.step_jacobians.scaled_entries import block_sum
from gradient_flow.step_jacobians.scaled_jacobian import scaled_parts
from gradient_flow.step_jacobians.state_layout import Blocks, Layout
from gradient_flow.step_jacobians.step_jacobian import block_jacobian
from lstm_jax.array_types import PyTree
from lstm_jax.cells import Cell, Step


def direct_and_recurrent(
    cell: Cell | Step, direct: Step | None, layout: Layout
) -> Callable[..., Any]:
    """Make the function ``(params, state, x) -> (E_t, R_t)`` of one sample, each as `Blocks`."""
    if isinstance(cell, Cell):
        parts = scaled_parts(cell)
        all_gates = np.ones(len(cell.gate_names), layout.dtype)

        def of_cell(params: PyTree, state: PyTree, x: PyTree) -> tuple[Blocks, Blocks]:
            return parts(params, state, x, jnp.asarray(all_gates))

        return of_cell
    direct_step: Any = direct
    whole_of, direct_of = block_jacobian(cell, layout), block_jacobian(direct_step, layout)

    def of_step(params: PyTree, state: PyTree, x: PyTree) -> tuple[Blocks, Blocks]:
        e = direct_of(params, state, x)
        return e, jax.tree.map(jnp.subtract, whole_of(params, state, x), e)

    return of_step


class Terms(NamedTuple):
    """The carry of the walk from t back to k, ``[row][column]``.

    Attributes:
        counted: P^{(0)} … P^{(M)}, `ScaledMatrix` of [M + 1, n_row, n_column].
        others: P^{(>M)} and the whole P, [2, n_row, n_column].
    """

    counted: Any
    others: Any


def identity_terms(layout: Layout, most: int) -> Terms:
    """The identity, which is P^{(0)} and the whole; the other terms are empty."""

    def block(row: int, column: int, count: int, place: int) -> ScaledMatrix:
        shape = (count, layout.sizes[row], layout.sizes[column])
        matrix = jnp.zeros(shape, layout.dtype)
        if row == column:
            matrix = matrix.at[place].set(jnp.eye(layout.sizes[row], dtype=layout.dtype))
        return as_scaled(matrix)

    parts = range(len(layout.sizes))
    return Terms(
        tuple(tuple(block(r, c, most + 1, 0) for c in parts) for r in parts),
        tuple(tuple(block(r, c, 2, 1) for c in parts) for r in parts),
    )


def step_back(terms: Terms, e: Blocks, r: Blocks) -> Terms:
    """From k + 1 to k: one factor E_{k+1} + R_{k+1} more."""
    parts = range(len(e))
    j = tuple(tuple(block_sum(e[m][n], r[m][n]) for n in parts) for m in parts)

    def times(line: Any, factor: Blocks, column: int) -> list[ScaledMatrix]:
        return [scaled_product(line[m], factor[m][column]) for m in parts]

    counted, others = [], []
    for line, line_others in zip(*terms, strict=True):
        row, row_others = [], []
        for n in parts:
            through_weights = scaled_sum(times(line, r, n))
            row.append(scaled_sum([*times(line, e, n), _with_one_more_detour(through_weights)]))
            row_others.append(
                scaled_sum([*times(line_others, j, n), _beyond_the_most(through_weights)])
            )
        counted.append(tuple(row))
        others.append(tuple(row_others))
    return Terms(tuple(counted), tuple(others))


def _with_one_more_detour(terms: ScaledMatrix) -> ScaledMatrix:
    """P^{(m)} R as a part of P^{(m+1)}, without P^{(M)} R."""
    return ScaledMatrix(
        jnp.roll(terms.matrix, 1, 0).at[0].set(0), jnp.roll(terms.exponent, 1, 0).at[0].set(EMPTY)
    )


def _beyond_the_most(terms: ScaledMatrix) -> ScaledMatrix:
    """P^{(M)} R as a part of P^{(>M)}; zeros for the whole."""
    return ScaledMatrix(
        jnp.stack([terms.matrix[-1], jnp.zeros_like(terms.matrix[-1])]),
        jnp.stack([terms.exponent[-1], jnp.full_like(terms.exponent[-1], EMPTY)]),
    )
