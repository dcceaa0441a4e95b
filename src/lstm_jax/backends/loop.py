"""The backend "loop": a cell over time by `jax.lax.scan`, differentiated by hand or by autodiff."""

from functools import partial
from typing import Any, NamedTuple

import jax

from lstm_jax.array_types import Array, PyTree
from lstm_jax.backends.unit_blocks import blocked_cell, blocks_of, in_blocks, out_of_blocks
from lstm_jax.cells.cell import Cell
from lstm_jax.gradients.checkpointing import segment_length
from lstm_jax.gradients.custom_derivative import unroll_by_hand
from lstm_jax.time_loop.scan import ScanSettings, scan, scan_settings
from lstm_jax.time_loop.step_masks import (
    Prepared,
    StepMasks,
    drop_recurrent,
    output_of_step,
    state_after_step,
    state_before_step,
)


class Loop(NamedTuple):
    """The loop in XLA with other settings, for ``backend=``. The numbers do not depend on them.

    Attributes:
        unroll: steps in one iteration of the loop; more are faster to run and slower to compile. ``"auto"``
            takes one on a CPU, and some eight on a GPU (`lstm_jax.time_loop.scan`).
        segments: the memory of the hand-derived rule. None stores the gates of every step for the backward
            pass. A number stores the state at the boundaries of so many segments and runs each segment
            forward again: some √T of them take the least memory, and a third more time. ``"auto"`` does that
            where the gates would take more than half a GiB. Autodiff does not use it.
    """

    unroll: int | str = "auto"
    segments: int | str | None = "auto"


def run_loop(
    cell: Cell, loop: Loop, by_hand: bool, params: PyTree, prepared: Prepared
) -> tuple[PyTree, Array]:
    """Run the loop on checked arguments: ``(final state, outputs)``.

    Args:
        cell: any; with a rule where ``by_hand``.
        loop: its settings.
        by_hand: whether the derivative is the hand-derived one.
        params: of the cell.
        prepared: the sequence, the starting state and the masks.

    Raises:
        ValueError: settings that are not positive integers, or a number of segments for autodiff.
    """
    settings = scan_settings(prepared.reverse, loop.unroll)
    xs, state0, masks = prepared[:3]
    if by_hand:
        steps = segment_length(loop.segments, cell, params, xs.shape[0], state0)
        blocks = blocks_of(cell, params, state0)
        if blocks == 1:
            return unroll_by_hand(cell, settings, steps, params, xs, state0, masks)
        params, state0, masks = in_blocks(params, state0, masks, blocks)
        found = unroll_by_hand(blocked_cell(cell), settings, steps, params, xs, state0, masks)
        return out_of_blocks(*found)
    require_no_segments(loop)
    return _scan_cell(cell, settings, params, xs, state0, masks)


def require_no_segments(loop: Loop) -> None:
    """Refuse a number of segments without the hand-derived rule, which alone uses it.

    Raises:
        ValueError: naming the expected and the actual value.
    """
    if loop.segments not in ("auto", None):
        raise ValueError(
            "Segments need the hand-derived rule: expected a cell with a rule and gradient "
            f'"auto" or "bptt", or segments=None, got segments={loop.segments!r}.'
        )


# Under jit with a static cell, so that calls outside of jit compile once.
@partial(jax.jit, static_argnums=(0, 1))
def _scan_cell(
    cell: Cell, settings: ScanSettings, params: PyTree, xs: Array, state0: PyTree, masks: StepMasks
) -> tuple[PyTree, Array]:
    def step(state: PyTree, at: tuple[Array, StepMasks]) -> tuple[PyTree, Any]:
        x, masks = at
        before = state_before_step(masks, state)
        after, out = cell.step(params, drop_recurrent(masks, before), x)
        after = state_after_step(masks, after, before)
        passes_on = masks.zoneout is not None or masks.gaps is not None
        return after, output_of_step(masks, after.h if passes_on else out)

    return scan(settings, step, state0, (xs, masks))
