r"""The fast path: several walks multiplied together for a few steps, with one scale for all of them.

`gradient_flow.long_products.transition` gives each column of each block of each walk a power of two. That is
exact, but every walk must then multiply by a rescaled J of its own. Nearly always the columns of all walks
have about the same relative sizes, and keep them for a few steps. Then one similarity transform serves all:

    P_w = 2^{a_w} M_w D       D = diag(2^d), the same for all walks w and for some steps
    P_w J = 2^{a_w} (M_w J') D       J' = D J D⁻¹

J' is formed once for all walks, and their product with it is one large matrix product.

This loses nothing under two conditions, which are checked:


- the entries of D differ by 2^100 at most, so that J' is computed without clipping;
- at the start and after every step, no column of any M_w is outside of 2^±40, and none is zero, except in
  a walk that is just beginning. A number flushed to zero, in float32 2^−126 at most, is then below 2^−86 of
  the largest entry of its column. The part lost of J' is below 2^−126 · 2^40 in a sum of 2^−40 or more. Both
  are far below the rounding of the same products.

Where the check fails, the steps are done again, each walk with scales of its own.

Axes: a matrix of the stack of walks [walks, rows, columns]; the rows of all parts of the state that are asked
for lie one below the other.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradient_flow.long_products.scaled_matrix import (
    EMPTY,
    ScaledMatrix,
    column_tops,
    with_exponent,
)
from gradient_flow.long_products.transition import Walk, chain_gain
from gradient_flow.step_jacobians.scaled_entries import power_of_two, scaled
from gradient_flow.step_jacobians.state_layout import Blocks, slices_of
from lstm_jax.array_types import Array, Bool

REACH = 40
"""Binary orders of magnitude that a column may be away from its scale, up or down."""

SPREAD = 100
"""Binary orders of magnitude that the columns' scales may be apart."""

Rows = tuple[tuple[ScaledMatrix, ...], ...]
"""``rows[row][column]``: blocks of P, each a `ScaledMatrix` with leading axis walks; () in a row not asked
for."""


class Scale(NamedTuple):
    """The scale of some steps.

    Attributes:
        columns: d, an int32 vector [n_column] for each part of the state.
        walks: a, int32 [walks] for each row of blocks; None for a row not asked for.
    """

    columns: Any
    walks: Any


class StackedMatrices(NamedTuple):
    """M of all walks: ``parts[column]`` is [walks, rows, n_column]; ``exact``: nothing was lost so far."""

    parts: Any
    exact: Any


class RowsAndChain(NamedTuple):
    """Like `Walk`, for all walks: the rows of P, and chain_c; None for what is not asked for."""

    rows: Any
    chain: Any


def to_shared_scale(walk: Walk, begun: Bool[Array, "walks"]) -> tuple[RowsAndChain, RowsAndChain]:
    """Bring walks to one scale.

    Args:
        walk: with a leading axis walks.
        begun: which of them count; the others become zero.

    Returns:
        The stacks, and their scales.
    """
    rows = _stack_rows(walk.rows, begun) if any(walk.rows) else (None, None)
    chain = (None, None) if walk.chain is None else _stack_rows(((walk.chain,),), begun)
    return RowsAndChain(rows[0], chain[0]), RowsAndChain(rows[1], chain[1])


def rescaled_jacobian(scales: RowsAndChain, jacobian: Blocks, h_c: Any) -> RowsAndChain:
    """J' = D J D⁻¹ of the rows, and that of G of the chain; ``h_c`` is D_k of an LSTM."""
    rows = None if scales.rows is None else _rescaled_blocks(scales.rows, jacobian)
    chain = None
    if scales.chain is not None:
        chain = _rescaled_blocks(scales.chain, ((chain_gain(jacobian, h_c),),))
    return RowsAndChain(rows, chain)


def step_back(
    stacks: RowsAndChain,
    scales: RowsAndChain,
    factors: RowsAndChain,
    walking: Bool[Array, "walks"],
    begins: Bool[Array, "walks"],
) -> RowsAndChain:
    """P_{t,k} from P_{t,k+1} for all walks.

    Args:
        stacks: from `to_shared_scale` or from the step before.
        scales: from `to_shared_scale`.
        factors: J_{k+1}', from `rescaled_jacobian`.
        walking: t > k.
        begins: t = k: these get the identity.
    """
    return RowsAndChain(
        *(
            None if stack is None else _advance(stack, scale, factor, walking, begins)
            for stack, scale, factor in zip(stacks, scales, factors, strict=True)
        )
    )


def as_walk(stacks: RowsAndChain, scales: RowsAndChain, parts: int) -> Walk:
    """The walks as blocks with column scales, of a state with that many parts."""
    rows: Rows = ((),) * parts if stacks.rows is None else _blocks_of(stacks.rows, scales.rows)
    chain = None if stacks.chain is None else _blocks_of(stacks.chain, scales.chain)[0][0]
    return Walk(rows, chain)


def nothing_lost(stacks: RowsAndChain) -> Bool[Array, ""]:
    """Whether all steps since `to_shared_scale` were exact to rounding."""
    return jnp.all(jnp.stack([stack.exact for stack in stacks if stack is not None]))


def _stack_rows(rows: Rows, begun: Bool[Array, "walks"]) -> tuple[StackedMatrices, Scale]:
    """`to_shared_scale` of rows of blocks."""
    asked = [line for line in rows if line]
    # The size of each column relative to the largest of its row of blocks.
    tops = [jnp.concatenate([column_tops(block) for block in line], axis=-1) for line in asked]
    levels = [jnp.max(top, axis=-1) for top in tops]
    relative = [top - level[:, None] for top, level in zip(tops, levels, strict=True)]
    counted = [(top > EMPTY // 2) & begun[:, None] for top in tops]
    d = jnp.max(
        jnp.stack([jnp.where(c, r, EMPTY) for c, r in zip(counted, relative, strict=True)]),
        axis=(0, 1),
    )
    near = [jnp.all(~c | (r >= d[None, :] - REACH)) for c, r in zip(counted, relative, strict=True)]
    # A column of zeros gets the scale of the largest column.
    d = jnp.where(d > EMPTY // 2, d, 0)
    # A walk that has not begun will begin with ones on its diagonal.
    levels = [jnp.where(begun, level, jnp.max(-d)) for level in levels]
    places = slices_of([block.matrix.shape[-1] for block in asked[0]])
    columns = tuple(d[place] for place in places)
    parts = tuple(
        jnp.concatenate(
            [
                jnp.where(
                    begun[:, None, None],
                    with_exponent(line[n], level[:, None] + column[None, :]),
                    0,
                )
                for line, level in zip(asked, levels, strict=True)
            ],
            axis=1,
        )
        for n, column in enumerate(columns)
    )
    remaining = iter(levels)
    walks = tuple(next(remaining) if line else None for line in rows)
    exact = (jnp.max(d) - jnp.min(d) <= SPREAD) & jnp.all(jnp.stack(near))
    return StackedMatrices(parts, exact), Scale(columns, walks)


def _rescaled_blocks(scale: Scale, jacobian: Blocks) -> Blocks:
    d = scale.columns

    def rescaled(block: Any, row: Array, column: Array) -> Array:
        mantissa, exponent = scaled(block)
        # A vector stands for a diagonal matrix.
        shift = row - column if mantissa.ndim == 1 else row[:, None] - column[None, :]
        return mantissa * power_of_two(exponent + shift, mantissa.dtype)

    return tuple(
        tuple(rescaled(block, row, column) for block, column in zip(line, d, strict=True))
        for line, row in zip(jacobian, d, strict=True)
    )


def _advance(
    stack: StackedMatrices,
    scale: Scale,
    factor: Blocks,
    walking: Bool[Array, "walks"],
    begins: Bool[Array, "walks"],
) -> StackedMatrices:
    numbers = range(len(stack.parts))
    new = []
    for n in numbers:
        terms = [_times(stack.parts[m], factor[m][n]) for m in numbers]
        new.append(sum(terms[1:], start=terms[0]) + _new_identities(stack, scale, n, begins))
    moved = stack._replace(parts=tuple(new))
    return moved._replace(exact=stack.exact & _in_reach(moved, scale, walking))


def _times(part: Array, factor: Array) -> Array:
    return part * jnp.broadcast_to(factor, part.shape) if factor.ndim == 1 else part @ factor


def _in_reach(stack: StackedMatrices, scale: Scale, walking: Array) -> Bool[Array, ""]:
    low, high = 2.0**-REACH, 2.0**REACH
    found = []
    for line in _blocks_of(stack, scale):
        for block in line:
            size = jnp.max(jnp.abs(jax.lax.stop_gradient(block.matrix)), axis=-2)
            found.append(jnp.all(~walking[:, None] | ((size >= low) & (size <= high))))
    return jnp.all(jnp.stack(found))


def _new_identities(stack: StackedMatrices, scale: Scale, n: int, begins: Array) -> Array:
    """The columns of one part: the identity for the walks that begin, zeros elsewhere."""
    shape = stack.parts[n].shape
    offset = 0
    for number, level in enumerate(scale.walks):
        if level is None:
            continue
        if number == n:
            ones = power_of_two(-scale.columns[n][None, :] - level[:, None], stack.parts[n].dtype)
            row = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
            column = jax.lax.broadcasted_iota(jnp.int32, shape, 2)
            here = (row == column + offset) & jnp.broadcast_to(begins[:, None, None], shape)
            return jnp.where(here, jnp.broadcast_to(ones[:, None, :], shape), 0)
        offset += len(scale.columns[number])
    return jnp.zeros(shape, stack.parts[n].dtype)


def _blocks_of(stack: StackedMatrices, scale: Scale) -> Rows:
    """Split stacked matrices into rows of blocks."""
    sizes = [len(column) for column in scale.columns]
    rows: list[tuple[ScaledMatrix, ...]] = []
    offset = 0
    for number, level in enumerate(scale.walks):
        if level is None:
            rows.append(())
            continue
        here = slice(offset, offset + sizes[number])
        rows.append(
            tuple(
                ScaledMatrix(part[:, here], column[None, :] + level[:, None])
                for part, column in zip(stack.parts, scale.columns, strict=True)
            )
        )
        offset += sizes[number]
    return tuple(rows)
