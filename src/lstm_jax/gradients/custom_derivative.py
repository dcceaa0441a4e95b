"""The unrolled cell with the hand-derived derivative, in every mode of JAX.

The rule is a JVP whose tangent is a `linear_map`: `jax.jvp` runs the tangent pass, and `jax.grad`, which
transposes it, the backward pass.
"""

from dataclasses import dataclass
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
from lstm_jax.jax_extensions.matmul_precision import at_precision
from lstm_jax.time_loop.scan import ScanSettings
from lstm_jax.time_loop.step_masks import StepMasks


@dataclass(frozen=True)
class _Static:
    """What is fixed in a run. No pytree: `jax.custom_jvp` copies pytrees, and the copies live on."""

    cell: Cell
    settings: ScanSettings
    steps: int


def unroll_by_hand(
    cell: Cell,
    settings: ScanSettings,
    steps: int,
    params: PyTree,
    xs: Array,
    state0: PyTree,
    masks: StepMasks,
) -> tuple[PyTree, Array]:
    """The unrolled cell, ``(state, hs)``.

    Args:
        cell: with a hand-derived rule.
        settings: of the loop: direction, platform, precision.
        steps: steps per segment (`lstm_jax.gradients.checkpointing`); T for a single segment.
        params: of the cell.
        xs: [T, ..., D].
        state0: the starting state.
        masks: of every step.
    """
    return _unroll(_Static(cell, settings, steps), params, xs, state0, masks)


def _precision(static: _Static, *rest: Any) -> Any:
    return static.settings.precision


@partial(jax.custom_jvp, nondiff_argnums=(0,))
@partial(at_precision, precision=_precision)
def _unroll(
    static: _Static, params: PyTree, xs: Array, state0: PyTree, masks: StepMasks
) -> tuple[PyTree, Array]:
    out, _ = forward_pass(static.cell, static.settings, params, xs, state0, masks)
    return out


@_unroll.defjvp
@partial(at_precision, precision=_precision)
def _unroll_jvp(
    static: _Static,
    primals: tuple[PyTree, Array, PyTree, StepMasks],
    tangents: tuple[PyTree, Array, PyTree, Any],
) -> tuple[Any, Any]:
    cell, settings, steps = static.cell, static.settings, static.steps
    params, xs, state0, masks = primals
    saved: Saved | Boundaries
    if steps >= xs.shape[0]:
        out, residuals = forward_pass(cell, settings, params, xs, state0, masks)
        saved = Saved(params, xs, state0, out[1], residuals, masks)
        tangent = partial(tangent_pass, cell, settings)
        backward = partial(backward_pass, cell, settings)
    else:
        out, states = forward_segments(cell, settings, steps, params, xs, state0, masks)
        saved = Boundaries(params, xs, states, masks)
        tangent = partial(tangent_segments, cell, settings, steps)
        backward = partial(backward_segments, cell, settings, steps)
    dots = Gradients(*tangents[:3])
    return out, linear_map(tangent, backward, saved, dots, none_for_zero=True, outputs=out)
