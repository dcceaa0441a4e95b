r"""The derivative of an unrolled cell in less memory: it stores states at segment boundaries and recomputes.

Back-propagation needs the gates of every step. Instead of storing them all, store the starting state of each
of some √T segments, and run a segment forward once more when its derivative is computed (Chen et al. 2016,
"Training deep nets with sublinear memory cost"):

    memory   T · residuals   ->   segments · state + (T / segments) · residuals
    time     one more forward pass

Each pass below is the one of `lstm_jax.bptt` inside a scan over segments, so it computes the same numbers.

Axes: boundaries[⌈T / steps⌉, ..., H]; the rest as in `lstm_jax.bptt`.
"""

import math
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, Float, PyTree, shapes_of
from lstm_jax.cells.cell import Cell
from lstm_jax.gradients.bptt import (
    Gradients,
    Saved,
    backward_sums,
    forward_pass,
    rule_of,
    tangent_pass,
    without_outputs,
    zeros_for_none,
)
from lstm_jax.gradients.sums_by_device import in_parts, summed
from lstm_jax.jax_extensions.mesh_axes import DATA, MODEL, devices_on, vary_over, varying_axes
from lstm_jax.time_loop.chunked_scan import add_to, scan_chunks, zero_sums
from lstm_jax.time_loop.scan import ScanSettings
from lstm_jax.time_loop.step_masks import StepMasks
from lstm_jax.validation import is_symbolic, require_positive_int

LARGE = 2**29
"""Bytes of residuals from which ``segments="auto"`` recomputes them."""


class Boundaries(NamedTuple):
    """The inputs of the forward pass and the starting state of each segment, for the derivative."""

    params: PyTree
    xs: Float[Array, "time *batch d"]
    states: PyTree
    masks: StepMasks


def residual_bytes(cell: Cell, params: PyTree, length: int, state0: PyTree) -> int:
    """The bytes of residuals that back-propagation would store for a sequence of so many steps."""
    leaves, structure = jax.tree.flatten((params, state0))
    shapes = tuple(jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)) for x in leaves)
    return length * _bytes_of_step(cell, structure, shapes)


@lru_cache
def _bytes_of_step(cell: Cell, structure: Any, shapes: tuple[jax.ShapeDtypeStruct, ...]) -> int:
    params, state0 = jax.tree.unflatten(structure, shapes)
    one = jax.ShapeDtypeStruct((*state0.h.shape[:-1], cell.input_size), state0.h.dtype)
    state, residuals = shapes_of(rule_of(cell).forward_step, params, state0, one)
    leaves = jax.tree.leaves((state.h, without_outputs(residuals)))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def segment_length(
    segments: int | str | None, cell: Cell, params: PyTree, length: int, state0: PyTree
) -> int:
    """The number of steps of a segment; all of ``length`` where nothing is recomputed.

    Raises:
        ValueError: ``segments`` is not a positive integer, ``"auto"`` or None.
    """
    if segments is None:
        return length
    if isinstance(segments, str) and segments == "auto":
        # Of a mesh in context each device has its part.
        devices = devices_on(DATA) * devices_on(MODEL)
        needed = residual_bytes(cell, params, length, state0) // devices
        # Of symbolic sizes nobody knows how large they become.
        if is_symbolic(needed) or needed <= LARGE:
            return length
        segments = math.isqrt(length)
    if isinstance(segments, str):
        raise ValueError(
            f'Option mismatch: expected segments as a positive integer, "auto" or None, got "{segments}".'
        )
    require_positive_int("segments", segments)
    if is_symbolic(length):
        raise ValueError(
            f"Option mismatch: expected segments=None for a length that is symbolic, got {segments}."
        )
    return -(-length // min(segments, length))


@partial(jax.jit, static_argnums=(0, 1, 2))
def forward_segments(
    cell: Cell,
    settings: ScanSettings,
    steps: int,
    params: PyTree,
    xs: Array,
    state0: PyTree,
    masks: StepMasks,
) -> tuple[tuple[PyTree, Array], PyTree]:
    """Run the cell and store the boundaries: ``((state, hs), states)``."""

    def segment(
        state: PyTree, start: None, inputs: tuple[Array, StepMasks]
    ) -> tuple[PyTree, tuple[Array, PyTree]]:
        del start
        (after, hs), _ = forward_pass(cell, settings, params, inputs[0], state, inputs[1])
        return after, (hs, jax.tree.map(lambda s: s[None], state))

    state, (hs, states) = scan_chunks(
        segment, state0, None, (xs, masks), steps, reverse=settings.reverse
    )
    return (state, hs), states


@partial(jax.jit, static_argnums=(0, 1, 2))
def tangent_segments(
    cell: Cell, settings: ScanSettings, steps: int, saved: Boundaries, dots: Gradients
) -> tuple[PyTree, Array]:
    """`tangent_pass`, segment by segment."""
    params, xs, states, masks = saved

    def segment(state_dot: PyTree, state: PyTree, inputs: PyTree) -> tuple[PyTree, Array]:
        xs, xs_dot, masks = inputs
        (_, hs), residuals = forward_pass(cell, settings, params, xs, state, masks)
        in_segment = Saved(params, xs, state, hs, residuals, masks)
        return tangent_pass(cell, settings, in_segment, Gradients(dots.params, xs_dot, state_dot))

    return scan_chunks(
        segment, dots.state0, states, (xs, dots.xs, masks), steps, reverse=settings.reverse
    )


@partial(jax.jit, static_argnums=(0, 1, 2))
def backward_segments(
    cell: Cell,
    settings: ScanSettings,
    steps: int,
    saved: Boundaries,
    cotangents: tuple[PyTree, Array | None],
) -> Gradients:
    """`backward_pass`, segment by segment."""
    params, xs, states, masks = saved
    d_state, d_hs = cotangents
    d_state = zeros_for_none(d_state, jax.tree.map(lambda s: s[0], states))
    zeros = in_parts(xs, vary_over(varying_axes(saved, cotangents), zero_sums(params)))

    def segment(carry: PyTree, state: PyTree, inputs: PyTree) -> tuple[PyTree, Array]:
        d_state, d_params = carry
        xs, d_hs, masks = inputs
        (_, hs), residuals = forward_pass(cell, settings, params, xs, state, masks)
        in_segment = Saved(params, xs, state, hs, residuals, masks)
        part = backward_sums(cell, settings, in_segment, (d_state, d_hs))
        d_xs: Any = part.xs
        return (part.state0, add_to(d_params, part.params)), d_xs

    (d_state0, d_params), d_xs = scan_chunks(
        segment, (d_state, zeros), states, (xs, d_hs, masks), steps, reverse=not settings.reverse
    )
    return Gradients(summed(d_params, params, xs), d_xs, d_state0)
