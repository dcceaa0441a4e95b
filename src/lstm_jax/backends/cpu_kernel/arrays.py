"""What the CPU kernel's calls take and give: names, shapes, and the arrays of one network.

Axes: a leading axis of networks everywhere, N, or 1 for one array that all share; then as in JAX. An array
that is not used has the shape [1, 0].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from lstm_jax.array_types import Array, PyTree
from lstm_jax.cells.cell import Cell
from lstm_jax.jax_extensions.mesh_axes import vary_over, varying_axes
from lstm_jax.time_loop.scan import ScanSettings
from lstm_jax.time_loop.step_masks import StepMasks

PADDING = 16
"""Units are padded to a multiple of it in the residuals."""
PASSES, RESET, CUT, SILENT = 1, 2, 4, 8
"""Bits of ``marks``, as `native/table.h` has them."""


class Kind(NamedTuple):
    """What the kernel must know of a cell: its name there, residuals of a unit and step, and what it has."""

    name: str
    kept: int
    memory: bool = False
    hidden_bias: bool = False


@dataclass(frozen=True)
class Kernel:
    """The static part of a call. No pytree: `jax.custom_jvp` copies pytrees, and the copies live on.

    Attributes:
        kind: of the cell.
        cell: for the loop.
        settings: of the loop; its direction is the kernel's.
        masks: the names of the masks that are used.
        networks: how many.
    """

    kind: Kind
    cell: Cell
    settings: ScanSettings
    masks: tuple[str, ...]
    networks: int = 1


class Inputs(NamedTuple):
    """What both passes read."""

    xs: Array
    w_x: Array
    w_h: Array
    b: Array
    b_hn: Array
    h0: Array
    c0: Array
    marks: Array
    keeps_h: Array
    keeps_c: Array
    dropout: Array


class Found(NamedTuple):
    """What the forward pass gives."""

    hs: Array
    h_end: Array
    c_end: Array
    kept: Array
    made: Array


class Cotangents(NamedTuple):
    """What the backward pass gives; those of weights [N, groups, ...]."""

    xs: Array
    w_x: Array
    w_h: Array
    b: Array
    b_hn: Array
    h0: Array
    c0: Array


WEIGHTS = ("w_x", "w_h", "b", "b_hn")
ROWS_AXIS = {"h0": 1, "c0": 1, "h_end": 1, "c_end": 1, "d_h_end": 1, "d_c_end": 1}
"""The axis of rows where it is not the third."""


def inputs_of(
    kernel: Kernel, params: PyTree, xs: Array, state0: PyTree, masks: StepMasks
) -> Inputs:
    """The arguments of one network with a batch axis."""
    empty = jnp.zeros((1, 0), xs.dtype)
    bits = jnp.zeros((0,), jnp.uint8)
    taken = masks.taken
    silent = SILENT if masks.valid is not None else 0
    marked = ((taken, PASSES | silent, False), (masks.reset, RESET, True), (masks.cut, CUT, True))
    for mask, bit, where in marked:
        if mask is not None:
            one = jnp.where(mask[..., 0] == where, jnp.uint8(bit), jnp.uint8(0))
            bits = one if bits.size == 0 else bits | one
    if bits.size:
        bits = jnp.broadcast_to(bits, xs.shape[:2])  # Truncation is the same for every row.
    none = jnp.zeros((1, 0), jnp.uint8)
    keeps = masks.zoneout
    found = Inputs(
        xs=xs[None],
        w_x=params.w_x[None],
        w_h=params.w_h[None],
        b=params.b[None],
        b_hn=params.b_hn[None] if kernel.kind.hidden_bias else empty,
        h0=state0.h[None],
        c0=state0.c[None] if kernel.kind.memory else empty,
        marks=bits[None],
        keeps_h=none if keeps is None else keeps.h[None].astype(jnp.uint8),
        keeps_c=keeps.c[None].astype(jnp.uint8)
        if keeps is not None and kernel.kind.memory
        else none,
        dropout=empty if masks.dropout is None else masks.dropout[None],
    )
    return vary_over(varying_axes(found), found)


def padded_units(units: int) -> int:
    """The units for which the residuals have room."""
    return -(-units // PADDING) * PADDING


def forward_types(*avals: Any, kernel: Kernel, keeps: bool) -> list[Any]:
    """The types of `Found`, from those of `Inputs`."""
    given = Inputs(*avals)
    networks, (steps, rows), units = kernel.networks, given.xs.shape[1:3], given.w_h.shape[1]
    kept = (networks, steps, rows, kernel.kind.kept * padded_units(units))
    state = (networks, rows, units)
    shapes = [
        (networks, steps, rows, units),
        state,
        state if kernel.kind.memory else (1, 0),
        kept if keeps and kernel.kind.kept else (1, 0),
    ]
    return [_like(given.xs, shape) for shape in (*shapes, (networks,))]


def backward_types(*avals: Any, kernel: Kernel, groups: int) -> list[Any]:
    """The types of `Cotangents`, from those of `Inputs`, what was found, and three cotangents."""
    given, d_hs = Inputs(*avals[: len(Inputs._fields)]), avals[-3]
    networks, rows, units = kernel.networks, d_hs.shape[2], given.w_h.shape[1]
    weights = [
        (networks, groups, *getattr(given, name).shape[1:]) if getattr(given, name).size else (1, 0)
        for name in WEIGHTS
    ]
    state = (networks, rows, units)
    xs = (networks, given.xs.shape[1], rows, given.xs.shape[3])
    shapes = [xs, *weights, state, state if kernel.kind.memory else (1, 0)]
    return [_like(given.xs, shape) for shape in shapes]


def _like(aval: Any, shape: Sequence[int]) -> Any:
    """The type of an array that varies over the same axes of a mesh."""
    sharding = NamedSharding(aval.sharding.mesh, PartitionSpec(*[None] * len(shape)))
    return aval.update(shape=tuple(shape), weak_type=False, sharding=sharding)
