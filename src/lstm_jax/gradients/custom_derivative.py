"""The unrolled cell whose derivative, in every mode that JAX knows, is the one derived by hand.

The rule is a JVP whose tangent is a `linear_map`: `jax.jvp` runs the pass forward in time, and
`jax.grad`, which transposes it, the pass backward in time.
"""

from functools import partial
from typing import Any

import jax

from lstm_jax.array_types import Array, PyTree
from lstm_jax.cells.cell import Cell
from lstm_jax.gradients.bptt import Gradients, Saved, backward_pass, forward_pass, tangent_pass
from lstm_jax.gradients.checkpointing import (
    Boundaries,
    backward_segments,
    forward_segments,
    tangent_segments,
)
from lstm_jax.jax_extensions.linear_map import linear_map
from lstm_jax.time_loop.scan import Loop
from lstm_jax.time_loop.step_masks import Marks


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def unroll_by_hand(
    cell: Cell,
    loop: Loop,
    steps: int,
    params: PyTree,
    xs: Array,
    state0: PyTree,
    marks: Marks,
) -> tuple[PyTree, Array]:
    """The unrolled cell, ``(state, hs)``.

    Args:
        cell: with a hand-derived rule.
        loop: its direction, and what is best for the platform.
        steps: steps per segment (`lstm_jax.gradients.checkpointing`); T for a single segment.
        params: of the cell.
        xs: [T, ..., D].
        state0: the starting state.
        marks: what happens to the state between steps.
    """
    with jax.default_matmul_precision(loop.precision):
        out, _ = forward_pass(cell, loop, params, xs, state0, marks)
    return out


@unroll_by_hand.defjvp
def _unroll_by_hand_jvp(
    cell: Cell,
    loop: Loop,
    steps: int,
    primals: tuple[PyTree, Array, PyTree, Marks],
    tangents: tuple[PyTree, Array, PyTree, Any],
) -> tuple[Any, Any]:
    # A rule may be traced when JAX is set to another precision.
    with jax.default_matmul_precision(loop.precision):
        return _with_tangent(cell, loop, steps, primals, Gradients(*tangents[:3]))


def _with_tangent(
    cell: Cell,
    loop: Loop,
    steps: int,
    primals: tuple[PyTree, Array, PyTree, Marks],
    dots: Gradients,
) -> tuple[Any, Any]:
    params, xs, state0, marks = primals
    kept: Saved | Boundaries
    if steps >= xs.shape[0]:
        out, residuals = forward_pass(cell, loop, params, xs, state0, marks)
        kept = Saved(params, xs, state0, out[1], residuals, marks)
        tangent = partial(tangent_pass, cell, loop)
        backward = partial(backward_pass, cell, loop)
    else:
        out, states = forward_segments(cell, loop, steps, params, xs, state0, marks)
        kept = Boundaries(params, xs, states, marks)
        tangent = partial(tangent_segments, cell, loop, steps)
        backward = partial(backward_segments, cell, loop, steps)
    return out, linear_map(tangent, backward, kept, dots, none_for_zero=True)
