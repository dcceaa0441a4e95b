"""The calls of the CPU kernel as primitives of JAX: forward, and every gradient.

Where the program that they are part of is compiled for one CPU, they are one custom call each. Elsewhere (an
export, another platform, a program that the compiler spreads over devices) they are the loop, which needs no
residuals; ``made`` says that there are none, and the kernel's backward pass then makes its own.

`jax.vmap` keeps it one call. Mapped inputs and states with one set of weights are more rows of the batch, with
their own sums for the weights in the backward pass (groups); mapped weights are more networks, which the
threads share among them.

Axes: a leading axis of networks everywhere, N or 1 for one array that all share; then as in JAX. An array that is
not used has the shape [1, 0].
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from lstm_jax.array_types import Array, PyTree
from lstm_jax.cells.cell import Cell, parameter_shapes, state_shapes
from lstm_jax.gradients.custom_derivative import unroll_by_hand
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
forward_p = Primitive("lstm_jax_cpu_forward")
backward_p = Primitive("lstm_jax_cpu_backward")
forward_p.multiple_results = backward_p.multiple_results = True


def inputs_of(kernel: Kernel, params: PyTree, xs: Array, state0: PyTree, masks: StepMasks) -> Inputs:
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
        keeps_c=keeps.c[None].astype(jnp.uint8) if keeps is not None and kernel.kind.memory else none,
        dropout=empty if masks.dropout is None else masks.dropout[None],
    )
    return vary_over(varying_axes(found), found)


def forward(kernel: Kernel, inputs: Inputs, keeps: bool) -> Found:
    """Run the network; with the residuals where ``keeps``."""
    return Found(*forward_p.bind(*inputs, kernel=kernel, keeps=keeps))


def backward(
    kernel: Kernel, inputs: Inputs, found: Found, d_hs: Array, d_h: Array, d_c: Array
) -> Cotangents:
    """Every gradient, from the cotangents of the outputs and of the final state."""
    operands = [*inputs, found.hs, found.kept, found.made, d_hs, d_h, d_c]
    axes = varying_axes(operands)
    return Cotangents(*backward_p.bind(*vary_over(axes, operands), kernel=kernel, groups=1))


# ---- shapes ----


def _padded(units: int) -> int:
    return -(-units // PADDING) * PADDING


@forward_p.def_abstract_eval
def _forward_types(*avals: Any, kernel: Kernel, keeps: bool) -> list[Any]:
    given = Inputs(*avals)
    networks, (steps, rows), units = kernel.networks, given.xs.shape[1:3], given.w_h.shape[1]
    kept = (networks, steps, rows, kernel.kind.kept * _padded(units))
    state = (networks, rows, units)
    shapes = [
        (networks, steps, rows, units),
        state,
        state if kernel.kind.memory else (1, 0),
        kept if keeps and kernel.kind.kept else (1, 0),
    ]
    return [_like(given.xs, shape) for shape in shapes] + [_like(given.xs, (networks,), np.int32)]


@backward_p.def_abstract_eval
def _backward_types(*avals: Any, kernel: Kernel, groups: int) -> list[Any]:
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


def _like(aval: Any, shape: Sequence[int], dtype: Any = None) -> Any:
    """The type of an array that varies over the same axes of a mesh."""
    dtype = np.dtype(dtype or aval.dtype)
    return aval.update(shape=tuple(shape), dtype=dtype, weak_type=False, sharding=None)


# ---- the loop in its place ----


def _one_by_loop(kernel: Kernel, given: Inputs) -> Any:
    """One network, arguments without the leading axis: ``(params, xs, state0) -> state, hs``, and these."""
    names = kernel.masks

    def bit(of: int, present: bool) -> Any:
        return ((given.marks & of) != 0)[..., None] if present else None

    taken = bit(PASSES, "valid" in names or "gaps" in names)
    taken = None if taken is None else ~taken
    state_type = type(state_shapes(kernel.cell))
    zoneout = None
    if "zoneout" in names:
        kept = [given.keeps_h, given.keeps_c] if kernel.kind.memory else [given.keeps_h]
        zoneout = state_type(*(one != 0 for one in kept))
    masks = StepMasks(
        valid=taken if "valid" in names else None,
        reset=bit(RESET, "reset" in names),
        cut=bit(CUT, "cut" in names),
        zoneout=zoneout,
        dropout=given.dropout if "dropout" in names else None,
        gaps=taken if "gaps" in names else None,
    )
    weights = (given.w_x, given.w_h, given.b)
    params_type = type(parameter_shapes(kernel.cell))
    params = params_type(*weights, *((given.b_hn,) if kernel.kind.hidden_bias else ()))
    state0 = state_type(given.h0, *((given.c0,) if kernel.kind.memory else ()))

    def run(params: PyTree, xs: Array, state0: PyTree) -> Any:
        steps = xs.shape[0]
        return unroll_by_hand(kernel.cell, kernel.settings, steps, params, xs, state0, masks)

    return run, (params, given.xs, state0)


def _for_each(kernel: Kernel, function: Any, operands: Sequence[Any]) -> Any:
    """A function of the operands of one network, mapped over all of them."""
    axes = [0 if kernel.networks > 1 and leaf.shape[0] > 1 else None for leaf in operands]
    operands = [leaf if axis == 0 else leaf[0] for leaf, axis in zip(operands, axes, strict=True)]
    if kernel.networks == 1:
        return jax.tree.map(lambda leaf: leaf[None], function(*operands))
    return jax.vmap(function, axes, axis_size=kernel.networks)(*operands)


def _empty(like: Array) -> Array:
    return jnp.zeros((1, 0), like.dtype)


def _forward_by_loop(*operands: Any, kernel: Kernel, keeps: bool) -> list[Any]:
    def one(*given: Any) -> Any:
        run, arguments = _one_by_loop(kernel, Inputs(*given))
        state, hs = run(*arguments)
        return hs, tuple(state)

    hs, state = _for_each(kernel, one, operands)
    kept, _ = _forward_types(*map(jax.typeof, operands), kernel=kernel, keeps=keeps)[3:]
    c_end = state[1] if kernel.kind.memory else _empty(hs)
    made = jnp.zeros((kernel.networks,), jnp.int32)
    axes = varying_axes(operands)
    return [hs, state[0], c_end, *vary_over(axes, (jnp.zeros(kept.shape, kept.dtype), made))]


def _backward_by_loop(*operands: Any, kernel: Kernel, groups: int) -> list[Any]:
    count = len(Inputs._fields)
    rows, given_rows = operands[-3].shape[2], operands[0].shape[2]

    def by_group(leaf: Array, axis: int, repeats: int) -> Array:
        leaf = jnp.concatenate([leaf] * repeats, axis) if repeats > 1 else leaf
        return leaf.reshape(*leaf.shape[:axis], groups, -1, *leaf.shape[axis + 1 :])

    def joined(leaf: Array, axis: int) -> Array:
        return jnp.moveaxis(leaf, 0, axis).reshape(*leaf.shape[1 : axis + 1], -1, *leaf.shape[axis + 2 :])

    def one(*operands: Any) -> Any:
        given, (d_hs, d_h, d_c) = Inputs(*operands[:count]), operands[-3:]
        axes = {n: ROWS_AXIS.get(n, 2) - 1 for n in given._fields if n not in WEIGHTS and getattr(given, n).size}
        parts = {n: by_group(getattr(given, n), axis, rows // given_rows) for n, axis in axes.items()}
        d_out = (by_group(d_h, 0, 1), *((by_group(d_c, 0, 1),) if kernel.kind.memory else ()))

        def of_group(parts: Any, d_hs: Array, d_out: Any) -> Any:
            run, arguments = _one_by_loop(kernel, given._replace(**parts))
            (state, _), vjp = jax.vjp(run, *arguments)
            d_params, d_xs, d_state0 = vjp((type(state)(*d_out), d_hs))
            return tuple(d_params), d_xs, tuple(d_state0)

        in_axes = (axes, 1, 0)
        d_params, d_xs, d_state0 = jax.vmap(of_group, in_axes)(parts, by_group(d_hs, 1, 1), d_out)
        return d_params, joined(d_xs, 1), tuple(joined(d, 0) for d in d_state0)

    d_params, d_xs, d_state0 = _for_each(kernel, one, operands)
    d_c0 = d_state0[1] if kernel.kind.memory else _empty(d_xs)
    d_b_hn = d_params[3] if kernel.kind.hidden_bias else _empty(d_xs)
    return [d_xs, *d_params[:3], d_b_hn, d_state0[0], d_c0]


# ---- lowering ----


def _runs_on_one_cpu(context: Any) -> bool:
    """Whether a program is for this process alone, and not spread over devices by the compiler."""
    module = context.module_context
    if module.lowering_parameters.for_export:
        return False
    axes = module.axis_context
    manual = getattr(axes, "manual_axes", None)
    if manual is not None:
        return set(axes.mesh.axis_names) == set(manual)
    return getattr(axes, "num_devices", 1) in (None, 1)


def _lowering(target: str, by_loop: Any, names: tuple[str, ...]) -> Any:
    loop = mlir.lower_fun(by_loop, multiple_results=True)

    def lower(context: Any, *operands: Any, kernel: Kernel, **static: Any) -> Any:
        if not _runs_on_one_cpu(context):
            return loop(context, *operands, kernel=kernel, **static)
        attributes = {name: np.int64(static[name]) for name in names}
        return jax.ffi.ffi_lowering(target)(
            context,
            *operands,
            cell=kernel.kind.name,
            networks=np.int64(kernel.networks),
            direction=np.int64(kernel.settings.reverse),
            **attributes,
        )

    return loop, lower


def _register(primitive: Primitive, target: str, by_loop: Any, names: tuple[str, ...]) -> None:
    loop, kernel = _lowering(target, by_loop, names)
    mlir.register_lowering(primitive, loop)
    mlir.register_lowering(primitive, kernel, platform="cpu")

    @partial(jax.jit, static_argnames=("static",))
    def compiled(*operands: Any, static: Any) -> Any:
        return primitive.bind(*operands, **dict(static))

    @primitive.def_impl
    def apply(*operands: Any, **static: Any) -> Any:
        with jax.disable_jit(False):
            return compiled(*operands, static=tuple(static.items()))


_register(forward_p, "lstm_jax_forward", _forward_by_loop, ())
_register(backward_p, "lstm_jax_backward", _backward_by_loop, ("groups",))


# ---- vmap ----


def _first(operands: Sequence[Any], axes: Sequence[Any]) -> tuple[int, list[Any]]:
    """The mapped axis's size, and the operands with it as their first axis where they are mapped."""
    size = next(o.shape[a] for o, a in zip(operands, axes, strict=True) if a is not None)
    moved = [o if a is None else jnp.moveaxis(o, a, 0) for o, a in zip(operands, axes, strict=True)]
    return size, moved


def _is_mapped(operand: Any, axis: Any) -> bool:
    return axis is not None and operand.size > 0


def _more_networks(size: int, networks: int, leaf: Any, mapped: bool) -> Any:
    """[size, n, ...] -> [size · networks, ...]."""
    if not mapped and leaf.shape[0] == 1:
        return leaf
    leaf = leaf if mapped else jnp.broadcast_to(leaf, (size, *leaf.shape))
    if leaf.shape[1] != networks:
        leaf = jnp.broadcast_to(leaf, (size, networks, *leaf.shape[2:]))
    return leaf.reshape(size * networks, *leaf.shape[2:])


def _more_rows(size: int, name: str, leaf: Any, mapped: bool) -> Any:
    """[size, n, ..., B, ...] -> [n, ..., size · B, ...]."""
    leaf = leaf if mapped else jnp.broadcast_to(leaf, (size, *leaf.shape))
    if name == "made":  # The rows have one network, which has its residuals where all have.
        return leaf.min(0)
    axis = ROWS_AXIS.get(name, 2)
    leaf = jnp.moveaxis(leaf, 0, axis)
    return leaf.reshape(*leaf.shape[:axis], -1, *leaf.shape[axis + 2 :])


def _rows_apart(size: int, name: str, leaf: Any) -> Any:
    """The results of `_more_rows` with the mapped axis first."""
    if name == "made" or not leaf.size:
        return jnp.broadcast_to(leaf, (size, *leaf.shape))
    axis = ROWS_AXIS.get(name, 2)
    parts = leaf.reshape(*leaf.shape[:axis], size, -1, *leaf.shape[axis + 1 :])
    return jnp.moveaxis(parts, axis, 0)


def _networks_apart(size: int, leaf: Any) -> Any:
    if not leaf.size:
        return jnp.broadcast_to(leaf, (size, *leaf.shape))
    return leaf.reshape(size, -1, *leaf.shape[1:])


def _batch_forward(operands: Any, axes: Any, *, kernel: Kernel, keeps: bool) -> Any:
    size, moved = _first(operands, axes)
    mapped = [_is_mapped(o, a) for o, a in zip(moved, axes, strict=True)]
    # An unused array stays [1, 0].
    moved = [o if m or a is None else o[0] for o, a, m in zip(moved, axes, mapped, strict=True)]
    names = Inputs._fields
    if any(m for name, m in zip(names, mapped, strict=True) if name in WEIGHTS):
        several = replace(kernel, networks=size * kernel.networks)
        moved = [
            _more_networks(size, kernel.networks, o, m) for o, m in zip(moved, mapped, strict=True)
        ]
        found = [_networks_apart(size, leaf) for leaf in forward(several, Inputs(*moved), keeps)]
        return found, [0] * len(found)
    rows = [
        o if name in WEIGHTS or not o.size else _more_rows(size, name, o, m)
        for name, o, m in zip(names, moved, mapped, strict=True)
    ]
    found = forward(kernel, Inputs(*rows), keeps)
    apart = [
        _rows_apart(size, name, leaf) for name, leaf in zip(Found._fields, found, strict=True)
    ]
    return apart, [0] * len(apart)


def _batch_backward(operands: Any, axes: Any, *, kernel: Kernel, groups: int) -> Any:
    size, moved = _first(operands, axes)
    mapped = [_is_mapped(o, a) for o, a in zip(moved, axes, strict=True)]
    moved = [o if m or a is None else o[0] for o, a, m in zip(moved, axes, mapped, strict=True)]
    names = (*Inputs._fields, "hs", "kept", "made", "d_hs", "d_h_end", "d_c_end")
    if any(m for name, m in zip(names, mapped, strict=True) if name in WEIGHTS):
        several = replace(kernel, networks=size * kernel.networks)
        moved = [
            _more_networks(size, kernel.networks, o, m) for o, m in zip(moved, mapped, strict=True)
        ]
        found = backward_p.bind(*moved, kernel=several, groups=groups)
        apart = [_networks_apart(size, leaf) for leaf in found]
        return apart, [0] * len(apart)
    # Inputs and residuals that are not mapped serve every batch of cotangents.
    given = any(m for name, m in zip(names, mapped, strict=True) if not name.startswith("d_"))
    repeats = moved[names.index("d_hs")].shape[-2] // moved[0].shape[-2]
    if given and repeats > 1:  # Each of those batches gets inputs of its own.
        moved = [
            o if name in WEIGHTS or name.startswith("d_") or name == "made" or not o.size
            else jnp.concatenate([o] * repeats, ROWS_AXIS.get(name, 2) + m)
            for name, o, m in zip(names, moved, mapped, strict=True)
        ]  # fmt: skip
    rows = [
        o
        if name in WEIGHTS or not o.size or not (given or name.startswith("d_"))
        else _more_rows(size, name, o, m)
        for name, o, m in zip(names, moved, mapped, strict=True)
    ]
    found = Cotangents(*backward_p.bind(*rows, kernel=kernel, groups=size * groups))
    apart = []
    for name, leaf in zip(Cotangents._fields, found, strict=True):
        if name in WEIGHTS and leaf.size:
            parts = leaf.reshape(leaf.shape[0], size, groups, *leaf.shape[2:])
            apart.append(jnp.moveaxis(parts, 1, 0))
        else:
            apart.append(_rows_apart(size, name, leaf))
    return apart, [0] * len(apart)


batching.primitive_batchers[forward_p] = _batch_forward
batching.primitive_batchers[backward_p] = _batch_backward
