r"""NVIDIA's kernel for the standard LSTM with every derivative: ``backend="cudnn"``.

`jax.experimental.rnn` binds the kernel (`lstm_jax.backends.cudnn.kernel_call`) as primitives that know no
other transformation. Here they stand behind a JVP whose tangent is a `linear_map`, as the hand-derived rule
does in `lstm_jax.gradients.custom_derivative`:

    grad       the kernel backwards
    jvp        the loop's tangent: cuDNN has none
    grad²      the derivative of the loop's backward pass, at the point at which the kernel ran
    vmap       the kernel, once for each; where the loop may take over (`Kernel.or_loop`), the loop, all at
               once. Mapped before it is differentiated, a network runs as by the rule alone. A derivative
               that is mapped runs forward twice, because the loop leaves no notes as the kernel does

Which of the two runs a network is decided in `lstm_jax.backends.choice`. As JAX's plugin is written, each
call waits for the lengths to come to the host, and its notes take four times the memory that cuDNN asks for.
A sharded batch goes through `jax.shard_map`: `jit` cannot split a kernel.

Axes: xs[T, B, D] outside, [B, T, D] in the kernel; states [L · directions, B, H] in the kernel.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap

from lstm_jax.array_types import Array, Float, Int, PyTree
from lstm_jax.backends.cudnn import kernel_call
from lstm_jax.backends.cudnn.kernel_call import (
    Arrays,
    Kernel,
    Layers,
    kernel_backward,
    kernel_forward,
    packed,
    stacked_states,
    unpacked,
    unstacked_states,
    workspace_size,
)
from lstm_jax.cells.lstm import LSTMParams, LSTMState
from lstm_jax.gradients.checkpointing import segment_length
from lstm_jax.gradients.custom_derivative import unroll_by_hand
from lstm_jax.jax_extensions.linear_map import linear_map
from lstm_jax.jax_extensions.matmul_precision import at_precision, default_precision
from lstm_jax.jax_extensions.platform_switch import on_platform
from lstm_jax.time_loop.scan import scan_settings
from lstm_jax.time_loop.step_masks import reverse_sequences, step_masks, zero_padding


class Kept(NamedTuple):
    """What the kernel's way back needs: what it was given, its outputs, and its own notes."""

    params: Any
    xs: Any
    state0: Any
    lengths: Any
    ys: Any
    reserve: Any


def unroll_by_cudnn(
    layers: Layers,
    params: tuple[tuple[LSTMParams, ...], ...],
    xs: Float[Array, "time *batch d"],
    state0: tuple[tuple[LSTMState, ...], ...],
    lengths: Int[Array, "*batch"] | None,
    *,
    or_loop: bool = False,
) -> tuple[tuple[tuple[LSTMState, ...], ...], Float[Array, "time *batch out"]]:
    """Layers that the kernel knows (`lstm_jax.backends.choice.refusal`), by the kernel.

    Args:
        layers: their cells.
        params: of each cell.
        xs: [T, D] or [T, B, D]; what lies past a sequence's length must be finite.
        state0: of each cell, leaves [H] or [B, H].
        lengths: from 0 to T, [B] or a number; all T if None.
        or_loop: as for `Kernel`.

    Returns:
        The final state of each cell, and the last layer's outputs, both directions side by side; where a
        sequence has ended they are zero.
    """
    if xs.ndim == 2:
        one = jax.tree.map(lambda s: s[None], state0)
        own = None if lengths is None else lengths[None]
        states, ys = unroll_by_cudnn(layers, params, xs[:, None], one, own, or_loop=or_loop)
        return jax.tree.map(lambda s: s[0], states), ys[:, 0]
    kernel = Kernel(layers, default_precision(), lengths is None, or_loop)
    if lengths is None:
        full = jnp.full(xs.shape[1], len(xs), jnp.int32)
        return _unrolled(kernel, params, xs, state0, full)
    # A sequence of no step of its own takes one, of which nothing is shown.
    states, ys = _unrolled(kernel, params, xs, state0, jnp.maximum(lengths, 1))
    begun = lengths[:, None] > 0
    states = jax.tree.map(lambda a, b: jnp.where(begun, a, b), states, state0)
    return states, zero_padding(step_masks(xs, lengths), ys)


# Under jit, and with the kernel static, so that a call outside of jit compiles once and not each time.
@partial(jax.jit, static_argnums=0, inline=True)
def _unrolled(
    kernel: Kernel, params: PyTree, xs: Array, state0: PyTree, lengths: Array
) -> tuple[PyTree, Array]:
    """``states, ys``; mapped before it is differentiated, all of it is the loop's."""

    def by_kernel(*inputs: Any) -> tuple[PyTree, Array]:
        return _run(kernel, *inputs)[0]

    def by_loop(params: PyTree, xs: Array, state0: PyTree, lengths: Array) -> tuple[PyTree, Array]:
        return _by_loop(kernel, lengths)(params, xs, state0)

    inputs = (params, xs, state0, lengths)
    if not kernel.or_loop:
        return by_kernel(*inputs)
    return on_platform(by_kernel, by_loop, *inputs, platform=kernel_call.PLATFORM)


def _precision(kernel: Kernel, *rest: Any) -> Any:
    return kernel.precision


@partial(jax.custom_jvp, nondiff_argnums=(0,))
@partial(at_precision, precision=_precision)
def _run(
    kernel: Kernel, params: PyTree, xs: Array, state0: PyTree, lengths: Array
) -> tuple[tuple[PyTree, Array], Array]:
    """``(states, ys), reserve``; differentiable in all but the lengths, the reserve a constant."""
    h0, c0 = stacked_states(state0)
    y, h, c, reserve = _forth(kernel, jnp.swapaxes(xs, 0, 1), h0, c0, packed(params), lengths)
    return (unstacked_states(kernel.layers, h, c), jnp.swapaxes(y, 0, 1)), reserve


@_run.defjvp
@partial(at_precision, precision=_precision)
def _run_jvp(kernel: Kernel, primals: Any, tangents: Any) -> Any:
    params, xs, state0, lengths = primals
    out, reserve = _run(kernel, *primals)
    kept = Kept(params, xs, state0, lengths, out[1], reserve)
    out_dot = linear_map(
        partial(_tangent, kernel), partial(_backward, kernel), kept, tuple(tangents[:3])
    )
    return (out, reserve), (out_dot, jnp.zeros_like(reserve))


def _tangent(kernel: Kernel, kept: Kept, dots: tuple[PyTree, Array, PyTree]) -> Any:
    primals = (kept.params, kept.xs, kept.state0)
    return jax.jvp(_by_loop(kernel, kept.lengths), primals, dots)[1]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
@partial(at_precision, precision=_precision)
def _backward(kernel: Kernel, kept: Kept, d_out: tuple[PyTree, Array]) -> Any:
    """Cotangents of params, xs and state0."""
    x, y, d_y = (jnp.swapaxes(array, 0, 1) for array in (kept.xs, kept.ys, d_out[1]))
    saved = (x, *stacked_states(kept.state0), packed(kept.params), kept.lengths, y, kept.reserve)
    d_x, d_h0, d_c0, d_w = _back(kernel, saved, (d_y, *stacked_states(d_out[0])))
    return (
        unpacked(kernel.layers, d_w),
        jnp.swapaxes(d_x, 0, 1),
        unstacked_states(kernel.layers, d_h0, d_c0),
    )


@_backward.defjvp
@partial(at_precision, precision=_precision)
def _backward_jvp(kernel: Kernel, primals: Any, tangents: Any) -> Any:
    kept, d_out = primals
    kept_dot, d_out_dot = tangents
    by_loop = _by_loop(kernel, kept.lengths)

    def pulled(params: PyTree, xs: Array, state0: PyTree, d_out: Any) -> Any:
        return jax.vjp(by_loop, params, xs, state0)[1](d_out)

    # ys and the reserve move with the rest: the loop's own backward pass has them move inside.
    _, dots = jax.jvp(
        pulled,
        (kept.params, kept.xs, kept.state0, d_out),
        (kept_dot.params, kept_dot.xs, kept_dot.state0, d_out_dot),
    )
    return _backward(kernel, kept, d_out), dots


def unroll_by_loop(
    layers: Layers,
    params: PyTree,
    xs: Array,
    state0: PyTree,
    lengths: Array | None,
    *,
    unroll: int | str = "auto",
) -> tuple[PyTree, Array]:
    """What `unroll_by_cudnn` computes, by the loop and the hand-derived rule; xs [T, B, D]."""
    masks = step_masks(xs, lengths)
    settings = scan_settings(reverse=False, unroll=unroll)

    def turn(sequence: Array) -> Array:
        return sequence[::-1] if lengths is None else reverse_sequences(lengths, sequence)

    states, ys = [], zero_padding(masks, xs)
    for cells, own, start in zip(layers, params, state0, strict=True):
        ends, outs = [], []
        for number, cell in enumerate(cells):
            given = turn(ys) if number else ys
            steps = segment_length("auto", cell, own[number], len(xs), start[number])
            end, hs = unroll_by_hand(
                cell, settings, steps, own[number], given, start[number], masks
            )
            ends.append(end)
            outs.append(turn(hs) if number else hs)
        states.append(tuple(ends))
        ys = jnp.concatenate(outs, axis=-1)
    return tuple(states), ys


def _by_loop(kernel: Kernel, lengths: Array) -> Callable[[PyTree, Array, PyTree], Any]:
    known = None if kernel.whole else lengths
    return partial(unroll_by_loop, kernel.layers, lengths=known)


@partial(jax.jit, static_argnums=0, inline=True)
def _forth(kernel: Kernel, *arrays: Array) -> tuple[Array, Array, Array, Array]:
    return _kernel_or_loop(kernel, kernel_forward, _loop_forward, arrays)


@partial(jax.jit, static_argnums=0, inline=True)
def _back(kernel: Kernel, saved: Arrays, d_out: Arrays) -> tuple[Array, Array, Array, Array]:
    return _kernel_or_loop(kernel, kernel_backward, _loop_backward, (saved, d_out))


def _kernel_or_loop(
    kernel: Kernel,
    by_kernel: Callable[..., Any],
    by_loop: Callable[..., Any],
    inputs: tuple[Any, ...],
) -> Any:
    """One way through the kernel, and what becomes of it where the loop may do."""
    if not kernel.or_loop:
        return sequential_vmap(partial(by_kernel, kernel))(*inputs)
    return on_platform(
        partial(by_kernel, kernel), partial(by_loop, kernel), *inputs, platform=kernel_call.PLATFORM
    )


def _loop_forward(
    kernel: Kernel, x: Array, h0: Array, c0: Array, w: Array, lengths: Array
) -> tuple[Array, Array, Array, Array]:
    """What `kernel_forward` computes, by the loop.

    Its notes are NaN: the loop's way back does not read them, and if another did, it would show.
    """
    y, h, c = _loop(kernel, lengths, x, h0, c0, w)
    return y, h, c, jnp.full(workspace_size(kernel, x.shape[1], x.shape[0]), jnp.nan, x.dtype)


def _loop_backward(
    kernel: Kernel, saved: Arrays, d_out: Arrays
) -> tuple[Array, Array, Array, Array]:
    """What `kernel_backward` computes, by the loop, which runs forward once more."""
    *inputs, lengths, _, _ = saved
    _, pull = jax.vjp(partial(_loop, kernel, lengths), *inputs)
    return pull(d_out)


def _loop(
    kernel: Kernel, lengths: Array, x: Array, h0: Array, c0: Array, w: Array
) -> tuple[Array, Array, Array]:
    params, state0 = unpacked(kernel.layers, w), unstacked_states(kernel.layers, h0, c0)
    states, ys = _by_loop(kernel, lengths)(params, jnp.swapaxes(x, 0, 1), state0)
    return jnp.swapaxes(ys, 0, 1), *stacked_states(states)
