r"""The step Jacobian of a stack that runs in one direction, from those of its layers.

    ∂s^l_t/∂s^l_{t−1} = J^l                     ∂s^l_t/∂s^m_{t−1} = X^l ∂y^{l−1}_t/∂s^m_{t−1}        m < l
    ∂y^l_t/∂s^m_{t−1} = row h of the above, plus ∂y^{l−1}_t/∂s^m_{t−1} with a residual connection

with J^l the step Jacobian of the layer and X^l = ∂s^l_t/∂x^l_t. A layer does not depend on those above it: J
is block triangular. With zoneout at evaluation a layer's state is k s_{t−1} + (1 − k) step(…), and its rows
likewise.

Axes: one sample; parts of the state in the order of the layers, h before c.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from gradient_flow.step_jacobians.state_layout import Blocks
from lstm_jax.array_types import Array, PyTree
from lstm_jax.dropout import zoneout_rates
from lstm_jax.layers.stack import Stack, cells_of, step_with_zoneout


def stack_blocks(
    stack: Stack, sizes: Sequence[int], params: Any, states: PyTree, x: Array
) -> Blocks:
    """``blocks[row][column]`` between the parts of a stack's state, for one sample.

    Args:
        stack: in one direction.
        sizes: of the parts.
        params: `StackParams`.
        states: a state for each layer.
        x: [D].
    """
    rows: list[tuple[Array, ...]] = []
    # ∂y^{l−1}_t by each part so far, [size of y, size of the part]
    moved: list[Array] = []
    # Each layer takes the output of the layer below and its derivatives by the states before.
    for number, (cell, own, state) in enumerate(
        zip(cells_of(stack.layers), params.layers, states, strict=True)
    ):
        jacobian = cell.step_jacobian(own, state, x)
        by_input = cell.input_jacobian(own, state, x)
        rates = zoneout_rates(stack.zoneout, state)
        first = len(rows)
        of_output: list[Array] = []
        for part, (row, column, rate) in enumerate(zip(jacobian, by_input, rates, strict=True)):
            below = [(1 - rate) * (column @ block) for block in moved]
            beside = [(1 - rate) * block for block in row]
            beside[part] = _plus_diagonal(beside[part], rate)
            above = [
                jnp.zeros((sizes[first + part], size), x.dtype)
                for size in sizes[first + len(beside) :]
            ]
            rows.append((*below, *beside, *above))
            if part == 0:  # h, which is the output
                of_output = [*below, *map(_matrix, beside)]
        _, out = step_with_zoneout(cell, own, state, x, rates)
        if stack.residual and number:
            out = out + x
            of_output = [of + moved[n] if n < len(moved) else of for n, of in enumerate(of_output)]
        x, moved = out, of_output
    return tuple(rows)


def _matrix(block: Array) -> Array:
    return jnp.diag(block) if block.ndim == 1 else block


def _plus_diagonal(block: Array, value: float) -> Array:
    if not value:
        return block
    if block.ndim == 1:
        return block + value
    return block + value * jnp.eye(len(block), dtype=block.dtype)
