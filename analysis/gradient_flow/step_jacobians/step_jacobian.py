r"""The Jacobian of one step, J_t = ∂s_t/∂s_{t−1}, as blocks between the leaves of the state.

    J[row][column] = ∂ part_row(t) / ∂ part_column(t−1)        [out, in], or a vector where it is diagonal

between the parts of the state (`gradient_flow.step_jacobians.state_layout`); other leaves are constant.
Built-in cells have the blocks in closed form; for any other step `jax.jacfwd` computes them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gradient_flow.step_jacobians.stack_jacobian import stack_blocks
from gradient_flow.step_jacobians.state_layout import Blocks, Layout, moving_parts, with_parts
from lstm_jax.array_types import Array, Float, PyTree
from lstm_jax.cells import Cell, Step
from lstm_jax.layers.stack import Stack


def block_jacobian(
    cell: Cell | Stack | Step, layout: Layout
) -> Callable[[PyTree, PyTree, PyTree], Blocks]:
    """Make the function ``(params, state, x) -> blocks`` for one sample of a cell or a step."""
    if isinstance(cell, Stack):
        return lambda params, states, x: stack_blocks(cell, layout.sizes, params, states, x)
    if isinstance(cell, Cell):
        return lambda params, state, x: tuple(map(tuple, cell.step_jacobian(params, state, x)))
    return lambda params, state, x: _blocks_by_autodiff(cell, layout, params, state, x)


def _blocks_by_autodiff(
    step: Step, layout: Layout, params: PyTree, state: PyTree, x: PyTree
) -> Blocks:
    def move(parts: tuple[Array, ...]) -> tuple[Array, ...]:
        after, _ = step(params, with_parts(layout, state, parts), x)
        return moving_parts(layout, after)

    jacobian = jax.jacfwd(move)(moving_parts(layout, state))
    return tuple(
        tuple(
            block.reshape(rows, columns) for block, columns in zip(line, layout.sizes, strict=True)
        )
        for line, rows in zip(jacobian, layout.sizes, strict=True)
    )


def dense(blocks: Blocks) -> Float[Array, "n n"]:
    """J as one matrix."""
    return jnp.block([[jnp.diag(b) if b.ndim == 1 else b for b in line] for line in blocks])
