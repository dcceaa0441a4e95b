r"""NVIDIA's kernel for the standard LSTM with every derivative: ``backend="cudnn"``.

`jax.experimental.rnn` binds the kernel (`lstm_jax.backends.cudnn.kernel_call`) as primitives without other
transformations. This file gives them a JVP whose tangent is a `linear_map`, as
`lstm_jax.gradients.custom_derivative` does for the hand-derived rule:

    grad       the kernel's backward pass
    jvp        the loop's tangent pass: cuDNN has none
    grad²      the derivative of the loop's backward pass, at the point at which the kernel ran
    vmap       the kernel, once for each

In JAX's plugin each call waits until the
lengths are on the host, and its workspace takes four times the memory that cuDNN asks for. A sharded batch
goes through `jax.shard_map`: `jit` cannot split a kernel.

Axes: xs[T, B, D] outside, [B, T, D] in the kernel; states [L · directions, B, H] in the kernel.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap

from lstm_jax.array_types import Array, Float, Int, PyTree
from lstm_jax.backends.cudnn.kernel_call import (
    Kernel,
    Layers,
    kernel_backward,
    kernel_forward,
    packed,
    stacked_states,
    unpacked,
    unstacked_states,
)
from lstm_jax.cells.lstm import LSTMParams, LSTMState
from lstm_jax.gradients.checkpointing import segment_length
from lstm_jax.gradients.custom_derivative import unroll_by_hand
from lstm_jax.jax_extensions.linear_map import linear_map
from lstm_jax.jax_extensions.matmul_precision import at_precision, default_precision
from lstm_jax.time_loop.scan import scan_settings
from lstm_jax.time_loop.step_masks import reverse_sequences, step_masks, zero_padding


class Saved(NamedTuple):
    """The inputs, outputs and workspace of the kernel's forward pass, for its backward pass."""

    params: PyTree
    xs: Float[Array, "time batch d"]
    state0: PyTree
    lengths: Int[Array, "batch"]
    ys: Float[Array, "time batch out"]
    reserve: Float[Array, "workspace"]


def unroll_by_cudnn(
    layers: Layers,
    params: tuple[tuple[LSTMParams, ...], ...],
    xs: Float[Array, "time *batch d"],
    state0: tuple[tuple[LSTMState, ...], ...],
    lengths: Int[Array, "*batch"] | None,
) -> tuple[tuple[tuple[LSTMState, ...], ...], Float[Array, "time *batch out"]]:
    """Run layers by the kernel; `conditions.refusal` says which ones it can run.

    Args:
        layers: their cells.
        params: of each cell.
        xs: [T, D] or [T, B, D]; must be finite also past a sequence's length.
        state0: of each cell, leaves [H] or [B, H].
        lengths: from 0 to T, [B] or a number; all T if None.

    Returns:
        The final state of each cell, and the last layer's outputs, both directions side by side, zero past
        a sequence's length.
    """
    if xs.ndim == 2:
        one = jax.tree.map(lambda s: s[None], state0)
        length = None if lengths is None else lengths[None]
        states, ys = unroll_by_cudnn(layers, params, xs[:, None], one, length)
        return jax.tree.map(lambda s: s[0], states), ys[:, 0]
    kernel = Kernel(layers, default_precision(), whole=lengths is None)
    if lengths is None:
        full = jnp.full(xs.shape[1], xs.shape[0], jnp.int32)
        return _run(kernel, params, xs, state0, full)[0]
    # The kernel needs at least one step; the result of an empty sequence's step is replaced below.
    (states, ys), _ = _run(kernel, params, xs, state0, jnp.maximum(lengths, 1))
    begun = lengths[:, None] > 0
    states = jax.tree.map(lambda a, b: jnp.where(begun, a, b), states, state0)
    return states, zero_padding(step_masks(xs, lengths), ys)


def _precision(kernel: Kernel, *rest: Any) -> Any:
    return kernel.precision


@partial(jax.custom_jvp, nondiff_argnums=(0,))
@partial(at_precision, precision=_precision)
def _run(
    kernel: Kernel, params: PyTree, xs: Array, state0: PyTree, lengths: Array
) -> tuple[tuple[PyTree, Array], Array]:
    """``(states, ys), reserve``; the reserve counts as a constant."""
    h0, c0 = stacked_states(state0)
    y, h, c, reserve = sequential_vmap(partial(kernel_forward, kernel))(
        jnp.swapaxes(xs, 0, 1), h0, c0, packed(params), lengths
    )
    return (unstacked_states(kernel.layers, h, c), jnp.swapaxes(y, 0, 1)), reserve


@_run.defjvp
@partial(at_precision, precision=_precision)
def _run_jvp(kernel: Kernel, primals: Any, tangents: Any) -> Any:
    params, xs, state0, lengths = primals
    out, reserve = _run(kernel, *primals)
    saved = Saved(params, xs, state0, lengths, out[1], reserve)
    out_dot = linear_map(
        partial(_tangent, kernel), partial(_backward, kernel), saved, tuple(tangents[:3])
    )
    return (out, reserve), (out_dot, jnp.zeros_like(reserve))


def _tangent(kernel: Kernel, saved: Saved, dots: tuple[PyTree, Array, PyTree]) -> Any:
    primals = (saved.params, saved.xs, saved.state0)
    return jax.jvp(_by_loop(kernel, saved.lengths), primals, dots)[1]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
@partial(at_precision, precision=_precision)
def _backward(kernel: Kernel, saved: Saved, d_out: tuple[PyTree, Array]) -> Any:
    """Cotangents of params, xs and state0."""
    x, y, d_y = (jnp.swapaxes(array, 0, 1) for array in (saved.xs, saved.ys, d_out[1]))
    h0, c0 = stacked_states(saved.state0)
    arrays = (x, h0, c0, packed(saved.params), saved.lengths, y, saved.reserve)
    d_x, d_h0, d_c0, d_w = sequential_vmap(partial(kernel_backward, kernel))(
        arrays, (d_y, *stacked_states(d_out[0]))
    )
    return (
        unpacked(kernel.layers, d_w),
        jnp.swapaxes(d_x, 0, 1),
        unstacked_states(kernel.layers, d_h0, d_c0),
    )


@_backward.defjvp
@partial(at_precision, precision=_precision)
def _backward_jvp(kernel: Kernel, primals: Any, tangents: Any) -> Any:
    saved, d_out = primals
    saved_dot, d_out_dot = tangents
    by_loop = _by_loop(kernel, saved.lengths)

    def loop_cotangents(params: PyTree, xs: Array, state0: PyTree, d_out: Any) -> Any:
        return jax.vjp(by_loop, params, xs, state0)[1](d_out)

    # ys and the reserve need no tangents: the loop recomputes them from params, xs and state0.
    _, dots = jax.jvp(
        loop_cotangents,
        (saved.params, saved.xs, saved.state0, d_out),
        (saved_dot.params, saved_dot.xs, saved_dot.state0, d_out_dot),
    )
    return _backward(kernel, saved, d_out), dots


def unroll_by_loop(
    layers: Layers,
    params: PyTree,
    xs: Array,
    state0: PyTree,
    lengths: Array | None,
) -> tuple[PyTree, Array]:
    """The same as `unroll_by_cudnn`, by the loop and the hand-derived rule; xs [T, B, D]."""
    masks = step_masks(xs, lengths)
    settings = scan_settings(reverse=False, unroll="auto")

    def reversed_in_time(sequence: Array) -> Array:
        return sequence[::-1] if lengths is None else reverse_sequences(lengths, sequence)

    states, ys = [], zero_padding(masks, xs)
    for cells, layer_params, starts in zip(layers, params, state0, strict=True):
        ends, outs = [], []
        for number, cell in enumerate(cells):
            inputs = reversed_in_time(ys) if number else ys
            cell_params, start = layer_params[number], starts[number]
            steps = segment_length("auto", cell, cell_params, xs.shape[0], start)
            end, hs = unroll_by_hand(cell, settings, steps, cell_params, inputs, start, masks)
            ends.append(end)
            outs.append(reversed_in_time(hs) if number else hs)
        states.append(tuple(ends))
        ys = jnp.concatenate(outs, axis=-1)
    return tuple(states), ys


def _by_loop(kernel: Kernel, lengths: Array) -> Callable[[PyTree, Array, PyTree], Any]:
    known = None if kernel.whole else lengths
    return partial(unroll_by_loop, kernel.layers, lengths=known)
