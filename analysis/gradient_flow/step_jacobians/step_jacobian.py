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
from lstm_jax.validation import ShapeError, leaf_name, require_same_structure, show_shape


def require_stable_state(step: Step, params: PyTree, state: PyTree, x: PyTree) -> None:
    """Refuse a step that returns a state of another structure, shape or dtype than it was given.

    Raises:
        ShapeError: naming the first leaf that changed.
        TypeError: a step that does not return a pair, or changes the state's structure.
    """
    result = jax.eval_shape(step, params, state, x)
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"Step mismatch: expected step to return (state, out), got {result}.")
    before, after = jax.eval_shape(lambda s: s, state), result[0]
    require_same_structure("the state after a step", after, before)
    for (path, old), new in zip(
        jax.tree_util.tree_flatten_with_path(before)[0], jax.tree.leaves(after), strict=True
    ):
        if old.shape != new.shape or old.dtype != new.dtype:
            label = f"state.{leaf_name(path)}" if path else "the state"
            raise ShapeError(
                f"Shape mismatch: expected the step to keep {label} as {old.dtype.name}"
                f"{show_shape(old.shape)}, got {new.dtype.name}{show_shape(new.shape)}."
            )


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
