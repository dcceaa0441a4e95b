r"""The transition P_{t,k} = J_t J_{t−1} ⋯ J_{k+1}, walked back from t without underflow.

Going back one step multiplies from the right, P_{t,k} = P_{t,k+1} J_{k+1}. The rows of P never mix, and its
columns may drift apart by any number of decades where units do not influence each other. So each column of
each block has a power of two (`gradient_flow.long_products.scaled_matrix`).

For an LSTM two more matrices can be read:

    total_c    P_ch D_k + P_cc                                  h_k follows C_k, o_k held
    chain_c    G_t ⋯ G_{k+1},  G_j = ∂C_j/∂h_{j−1} D_{j−1} + diag(f_j)
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from gradient_flow.long_products.scaled_matrix import (
    ScaledMatrix,
    as_scaled,
    scaled_product,
    scaled_sum,
)
from gradient_flow.step_jacobians.scaled_entries import (
    ScaledEntries,
    as_columns,
    block_sum,
    times,
)
from gradient_flow.step_jacobians.state_layout import JOINT, Blocks, Layout, part_slices


class Walk(NamedTuple):
    """The carry of the walk from t back to k.

    Attributes:
        rows: ``rows[row][column]``, the scaled blocks of P; () in a row that is not asked for.
        chain: the scaled chain_c, or None.
    """

    rows: Any
    chain: Any


def start(layout: Layout, names: frozenset[str]) -> Walk:
    """P_{t,t}, the identity, in the rows that the named matrices need."""
    sizes, dtype = layout.sizes, layout.dtype

    def block(row: int, column: int) -> ScaledMatrix:
        eye = jnp.eye(sizes[row], dtype=dtype)
        return as_scaled(eye if row == column else jnp.zeros((sizes[row], sizes[column]), dtype))

    parts = range(len(sizes))
    needed = {row for name, (row, _) in layout.places().items() if name in names}
    if JOINT in names:
        needed = set(parts)
    if "total_c" in names:
        needed.add(1)
    rows = tuple(tuple(block(r, c) for c in parts) if r in needed else () for r in parts)
    chain = as_scaled(jnp.eye(sizes[1], dtype=dtype)) if "chain_c" in names else None
    return Walk(rows, chain)


def step_back(walk: Walk, jacobian: Blocks, h_c: Any) -> Walk:
    """P_{t,k} from P_{t,k+1}: multiply by J_{k+1} from the right; ``h_c`` is D_k of an LSTM."""
    rows = tuple(row_times(line, jacobian) if line else () for line in walk.rows)
    chain = walk.chain
    if chain is not None:
        chain = scaled_sum([scaled_product(chain, chain_gain(jacobian, h_c))])
    return Walk(rows, chain)


def row_times(line: tuple[ScaledMatrix, ...], jacobian: Blocks) -> tuple[ScaledMatrix, ...]:
    """A row of blocks times J: its blocks by column."""
    parts = range(len(line))
    return tuple(
        scaled_sum([scaled_product(line[m], jacobian[m][n]) for m in parts]) for n in parts
    )


def chain_gain(jacobian: Blocks, h_c: Any) -> ScaledEntries:
    """G_{k+1} = ∂C_{k+1}/∂h_k D_k + diag(f_{k+1}), the one-step ∂C_{k+1}/∂C_k with o_k held."""
    _, (c_h, c_c) = jacobian
    return block_sum(c_c, times(c_h, as_columns(h_c)))


def read(walk: Walk, name: str, layout: Layout, h_c: Any) -> ScaledMatrix:
    """One named matrix of the transition; ``h_c`` is D_k of an LSTM."""
    if name == "chain_c":
        return walk.chain
    if name == "total_c":
        c_h, c_c = walk.rows[1]
        return scaled_sum([scaled_product(c_h, h_c), c_c])
    if name == JOINT:
        return _joint(walk.rows, layout)
    row, column = layout.places()[name]
    return walk.rows[row][column]


def _joint(rows: tuple[tuple[ScaledMatrix, ...], ...], layout: Layout) -> ScaledMatrix:
    # Each row of blocks is padded with zeros to the full height, so that `scaled_sum` finds common exponents.
    places = part_slices(layout)
    terms = []
    for line, place in zip(rows, places, strict=True):
        wide = jnp.concatenate([block.matrix for block in line], axis=-1)
        exponent = jnp.concatenate([block.exponent for block in line], axis=-1)
        terms.append(
            ScaledMatrix(
                jnp.pad(wide, ((place.start, places[-1].stop - place.stop), (0, 0))), exponent
            )
        )
    return scaled_sum(terms)
