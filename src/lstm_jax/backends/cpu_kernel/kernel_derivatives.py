r"""The CPU kernel for the standard LSTM with every derivative: ``backend="cpu_kernel"``.

The kernel runs a whole sequence in one call (`native/lstm.h`). As `lstm_jax.gradients.custom_derivative` does
for the hand-derived rule, its JVP ends in a `linear_map`:

    grad       the kernel's backward pass, from the gates that its forward pass kept
    jvp        the loop's tangent pass
    grad²      the derivative of the loop's backward pass, at the point at which the kernel ran
    vmap       of inputs and states, with one set of parameters: one call on a larger batch; else one by one

Axes: xs[T, B, D], hs[T, B, H]; gates[T, B, 4 P] and cs[T, B, P], P the units up to a multiple of 16.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap, sequential_vmap

from lstm_jax.array_types import Array, Float, PyTree
from lstm_jax.cells.cell import Cell
from lstm_jax.cells.lstm import LSTMParams, LSTMState
from lstm_jax.gradients.custom_derivative import unroll_by_hand
from lstm_jax.jax_extensions.linear_map import linear_map
from lstm_jax.jax_extensions.matmul_precision import at_precision
from lstm_jax.time_loop.scan import ScanSettings, scan_settings
from lstm_jax.time_loop.step_masks import NO_MASKS

PADDING = 16
"""Units are padded to a multiple of it in the residuals."""


class Kernel(NamedTuple):
    """The static part of a run: the cell, and the loop that differentiates the derivative."""

    cell: Cell
    settings: ScanSettings


class Saved(NamedTuple):
    """Inputs, outputs and residuals of the forward pass."""

    params: LSTMParams
    xs: Float[Array, "time batch d"]
    state0: LSTMState
    hs: Float[Array, "time batch h"]
    gates: Float[Array, "time batch z"]
    cs: Float[Array, "time batch p"]


def unroll_by_cpu_kernel(
    cell: Cell,
    reverse: bool,
    params: LSTMParams,
    xs: Float[Array, "time *batch d"],
    state0: LSTMState,
) -> tuple[LSTMState, Float[Array, "time *batch h"]]:
    """Run the standard LSTM by the kernel: ``(final state, hs)``; `conditions` says what it runs."""
    if xs.ndim == 2:
        one = jax.tree.map(lambda s: s[None], state0)
        state, hs = unroll_by_cpu_kernel(cell, reverse, params, xs[:, None], one)
        return jax.tree.map(lambda s: s[0], state), hs[:, 0]
    return _run(Kernel(cell, scan_settings(reverse, "auto")), params, xs, state0)


def _precision(kernel: Kernel, *rest: Any) -> Any:
    return kernel.settings.precision


def _forward(kernel: Kernel, keeps: bool) -> Any:
    """``(params, xs, state0) -> hs, h, c, gates, cs``; residuals of one number where they are not kept."""

    @custom_vmap
    def call(params: LSTMParams, xs: Array, state0: LSTMState) -> tuple[Array, ...]:
        steps, rows, _ = xs.shape
        units = params.w_h.shape[0]
        padded = -(-units // PADDING) * PADDING

        def shape(*sizes: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(sizes, xs.dtype)

        kept = ((steps, rows, 4 * padded), (steps, rows, padded)) if keeps else ((1,), (1,))
        outputs = [shape(steps, rows, units), shape(rows, units), shape(rows, units)]
        outputs += [shape(*sizes) for sizes in kept]
        found = jax.ffi.ffi_call("lstm_jax_lstm_forward", outputs)(
            xs, *params, *state0, reverse=kernel.settings.reverse
        )
        return tuple(found)

    @call.def_vmap
    def batched(size: int, mapped: Any, params: Any, xs: Any, state0: Any) -> Any:
        if any(jax.tree.leaves(mapped[0])):
            found = jax.lax.map(
                lambda at: call(*_chosen(tuple(mapped), (params, xs, state0), at)), jnp.arange(size)
            )
            return found, (True,) * 5
        xs = xs if mapped[1] else jnp.broadcast_to(xs, (size, *xs.shape))
        state0 = jax.tree.map(
            lambda on, s: s if on else jnp.broadcast_to(s, (size, *s.shape)), mapped[2], state0
        )
        rows = jnp.moveaxis(xs, 0, 1)
        found = call(
            params,
            rows.reshape(rows.shape[0], -1, rows.shape[-1]),
            jax.tree.map(lambda s: s.reshape(-1, s.shape[-1]), state0),
        )

        def apart(leaf: Array) -> Array:
            if leaf.ndim == 1:
                return jnp.broadcast_to(leaf, (size, *leaf.shape))
            axis = leaf.ndim - 2
            parts = leaf.reshape(*leaf.shape[:axis], size, -1, leaf.shape[-1])
            return jnp.moveaxis(parts, axis, 0)

        return jax.tree.map(apart, found), (True,) * 5

    return call


def _chosen(mapped: Any, arguments: Any, at: Array) -> Any:
    """One of the mapped arguments."""
    return jax.tree.map(lambda on, leaf: leaf[at] if on else leaf, mapped, arguments)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
@partial(at_precision, precision=_precision)
def _run(
    kernel: Kernel, params: LSTMParams, xs: Array, state0: LSTMState
) -> tuple[LSTMState, Array]:
    hs, h, c, _, _ = _forward(kernel, False)(params, xs, state0)
    return LSTMState(h, c), hs


@_run.defjvp
@partial(at_precision, precision=_precision)
def _run_jvp(kernel: Kernel, primals: Any, tangents: Any) -> Any:
    out, saved = _run_and_save(kernel, *primals)
    dots = linear_map(partial(_tangent, kernel), partial(_backward, kernel), saved, tuple(tangents))
    return out, dots


@partial(jax.custom_jvp, nondiff_argnums=(0,))
@partial(at_precision, precision=_precision)
def _run_and_save(
    kernel: Kernel, params: LSTMParams, xs: Array, state0: LSTMState
) -> tuple[tuple[LSTMState, Array], Saved]:
    hs, h, c, gates, cs = _forward(kernel, True)(params, xs, state0)
    return (LSTMState(h, c), hs), Saved(params, xs, state0, hs, gates, cs)


@_run_and_save.defjvp
def _run_and_save_jvp(kernel: Kernel, primals: Any, tangents: Any) -> Any:
    """In derivatives of the derivative: the loop needs the inputs alone, so the residuals are constants."""
    out, saved = _run_and_save(kernel, *primals)
    dots = linear_map(partial(_tangent, kernel), partial(_backward, kernel), saved, tuple(tangents))
    constant = jax.tree.map(jnp.zeros_like, saved[3:])
    return (out, saved), (dots, Saved(*tangents, *constant))


def _by_loop(kernel: Kernel, params: PyTree, xs: Array, state0: PyTree) -> tuple[PyTree, Array]:
    return unroll_by_hand(kernel.cell, kernel.settings, xs.shape[0], params, xs, state0, NO_MASKS)


def _tangent(kernel: Kernel, saved: Saved, dots: tuple[PyTree, Array, PyTree]) -> Any:
    return jax.jvp(partial(_by_loop, kernel), saved[:3], dots)[1]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
@partial(at_precision, precision=_precision)
def _backward(kernel: Kernel, saved: Saved, d_out: tuple[LSTMState, Array]) -> Any:
    """Cotangents of params, xs and state0."""

    @sequential_vmap
    def call(saved: Saved, d_out: tuple[LSTMState, Array]) -> tuple[Array, ...]:
        params, xs, state0, hs, gates, cs = saved
        (d_h, d_c), d_hs = d_out
        like = (xs, params.w_x, params.w_h, params.b, state0.h, state0.c)
        outputs = [jax.ShapeDtypeStruct(one.shape, one.dtype) for one in like]
        found = jax.ffi.ffi_call("lstm_jax_lstm_backward", outputs)(
            xs, params.w_x, params.w_h, *state0, hs, gates, cs, d_hs, d_h, d_c,
            reverse=kernel.settings.reverse,
        )  # fmt: skip
        return tuple(found)

    d_xs, d_wx, d_wh, d_b, d_h0, d_c0 = call(saved, d_out)
    return LSTMParams(d_wx, d_wh, d_b), d_xs, LSTMState(d_h0, d_c0)


@_backward.defjvp
@partial(at_precision, precision=_precision)
def _backward_jvp(kernel: Kernel, primals: Any, tangents: Any) -> Any:
    saved, d_out = primals
    saved_dot, d_out_dot = tangents

    def loop_cotangents(params: PyTree, xs: Array, state0: PyTree, d_out: Any) -> Any:
        return jax.vjp(partial(_by_loop, kernel), params, xs, state0)[1](d_out)

    # hs and the residuals need no tangents: the loop computes them again from params, xs and state0.
    _, dots = jax.jvp(loop_cotangents, (*saved[:3], d_out), (*saved_dot[:3], d_out_dot))
    return _backward(kernel, saved, d_out), dots
