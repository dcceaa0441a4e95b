"""What the CPU kernel's calls compute, by the loop in XLA: for programs in which the kernel cannot run."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, PyTree
from lstm_jax.backends.cpu_kernel.arrays import (
    CUT,
    PASSES,
    RESET,
    ROWS_AXIS,
    WEIGHTS,
    Inputs,
    Kernel,
    forward_types,
)
from lstm_jax.cells.cell import parameter_shapes, state_shapes
from lstm_jax.gradients.custom_derivative import unroll_by_hand
from lstm_jax.jax_extensions.mesh_axes import vary_over, varying_axes
from lstm_jax.time_loop.step_masks import StepMasks


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


def forward_by_loop(*operands: Any, kernel: Kernel, keeps: bool) -> list[Any]:
    """`Found`, without residuals."""

    def one(*given: Any) -> Any:
        run, arguments = _one_by_loop(kernel, Inputs(*given))
        state, hs = run(*arguments)
        return hs, tuple(state)

    hs, state = _for_each(kernel, one, operands)
    kept, made = forward_types(*map(jax.typeof, operands), kernel=kernel, keeps=keeps)[3:]
    c_end = state[1] if kernel.kind.memory else _empty(hs)
    none = [jnp.zeros(one.shape, one.dtype) for one in (kept, made)]
    return [hs, state[0], c_end, *vary_over(varying_axes(operands), none)]


def backward_by_loop(*operands: Any, kernel: Kernel, groups: int) -> list[Any]:
    """`Cotangents`; the forward pass runs once more."""
    count = len(Inputs._fields)
    rows, given_rows = operands[-3].shape[2], operands[0].shape[2]

    def by_group(leaf: Array, axis: int, repeats: int) -> Array:
        leaf = jnp.concatenate([leaf] * repeats, axis) if repeats > 1 else leaf
        return leaf.reshape(*leaf.shape[:axis], groups, -1, *leaf.shape[axis + 1 :])

    def joined(leaf: Array, axis: int) -> Array:
        return jnp.moveaxis(leaf, 0, axis).reshape(
            *leaf.shape[1 : axis + 1], -1, *leaf.shape[axis + 2 :]
        )

    def one(*operands: Any) -> Any:
        given, (d_hs, d_h, d_c) = Inputs(*operands[:count]), operands[-3:]
        axes = {
            n: ROWS_AXIS.get(n, 2) - 1
            for n in given._fields
            if n not in WEIGHTS and getattr(given, n).size
        }
        parts = {
            n: by_group(getattr(given, n), axis, rows // given_rows) for n, axis in axes.items()
        }
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
