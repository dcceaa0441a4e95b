r"""The call of NVIDIA's LSTM kernel, in the kernel's own axes.

    y, h_T, C_T, reserve = forward(xs, h_0, C_0, w)             w: every matrix and bias in one vector
    ∂xs, ∂h_0, ∂C_0, ∂w  = backward(∂y, ∂h_T, ∂C_T, …, y, reserve)

w holds, layer after layer and in it direction after direction, W_xᵀ [4H, D] and W_hᵀ [4H, H]; after all of
these, in the same order, two biases [4H] that are added up. Gates are in the order i, f, g, o, as here.

Axes: xs[B, T, D]; states [L · directions, B, H].
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, Float
from lstm_jax.cells.cell import Cell
from lstm_jax.cells.lstm import LSTMParams, LSTMState
from lstm_jax.jax_extensions.mesh_axes import vary_over, varying_axes

Layers = tuple[tuple[Cell, ...], ...]
"""The cells of each layer: one, or a forward and a backward one."""
Arrays = tuple[Array, ...]

TF32, FULL = jax.lax.Precision.HIGH, jax.lax.Precision.HIGHEST
PRECISIONS: dict[str | None, jax.lax.Precision] = {
    **dict.fromkeys((None, "default", "high", "tensorfloat32", "TF32_TF32_F32"), TF32),
    **dict.fromkeys(("highest", "float32", "F32_F32_F32"), FULL),
}
"""What cuDNN is told, by what `jax.default_matmul_precision` says."""

PLATFORM = "cuda"
"""For which the kernel is there, as JAX calls it where it lowers a program."""


class Kernel(NamedTuple):
    """What the kernel is built for; hashable.

    Attributes:
        layers: their cells.
        precision: of matrix products, as `jax.default_matmul_precision` said where the network was called.
        whole: whether every sequence has all T steps.
        or_loop: whether the loop takes over where the kernel is not there, or would run one by one: compiled
            for another platform or for export, and under `vmap` (`lstm_jax.jax_extensions.platform_switch`).
    """

    layers: Layers
    precision: str | None
    whole: bool
    or_loop: bool


def workspace_size(kernel: Kernel, time: int, batch: int) -> int:
    """How many numbers of four bytes the kernel notes for the way back."""
    from jax.experimental import rnn

    inputs, hidden, layers, _, both, _ = kernel_settings(kernel)
    shapes = [
        (batch, time, inputs),
        *[(layers * (1 + both), batch, hidden)] * 2,
        (rnn.get_num_params_in_lstm(inputs, hidden, layers, both),),
    ]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    lengths = jax.ShapeDtypeStruct((batch,), jnp.int32)
    *_, notes = jax.eval_shape(partial(kernel_forward, kernel), *arrays, lengths)
    return int(notes.size)


def kernel_forward(
    kernel: Kernel, x: Array, h0: Array, c0: Array, w: Array, lengths: Array
) -> tuple[Array, Array, Array, Array]:
    """The kernel itself, in its own axes: y, h_T, C_T, and what it notes for the way back."""
    from jax.experimental import rnn

    # JAX does not say of its outputs over which devices they differ.
    axes = varying_axes(x, h0, c0, w, lengths)
    x, h0, c0, w, lengths = vary_over(axes, (x, h0, c0, w, lengths))
    (y, h, c), (*_, reserve) = rnn.lstm_fwd(x, h0, c0, w, lengths, *kernel_settings(kernel))
    return vary_over(axes, (y, h, c, reserve))


def kernel_backward(
    kernel: Kernel, saved: Arrays, d_out: Arrays
) -> tuple[Array, Array, Array, Array]:
    """The kernel backwards: cotangents of x, h_0, C_0 and of the vector of weights.

    Args:
        kernel: what it is built for.
        saved: x, h_0, C_0, the weights, the lengths, y and the notes.
        d_out: cotangents of y, h_T and C_T.
    """
    from jax.experimental import rnn

    axes = varying_axes(saved, d_out)
    (*saved, reserve), d_out = vary_over(axes, saved), vary_over(axes, d_out)
    saved = (*saved, _fresh_workspace(reserve, d_out))
    d_x, d_h0, d_c0, d_w, _ = rnn.lstm_bwd(*kernel_settings(kernel), saved, d_out)
    return vary_over(axes, (d_x, d_h0, d_c0, d_w))


def _fresh_workspace(reserve: Array, d_out: Sequence[Array]) -> Array:
    """The kernel's notes as a buffer of this way back alone, because it writes over them.

    XLA takes a kernel's inputs for read only. So the first number is set to what it is: where the notes are
    needed again, XLA then makes a copy, and where they are not, it sets that number in place. It must not
    see that nothing changes, nor make one of two ways back: n² + n is even for every n, and n is made of the
    notes and of all that comes back.
    """
    bits = jax.lax.bitcast_convert_type(reserve[:1], jnp.uint32)
    n = bits + _hash_of(d_out)
    same = jax.lax.bitcast_convert_type(bits + ((n * n + n) & 1), reserve.dtype)
    return jax.lax.dynamic_update_slice(reserve, same, (0,))


def _hash_of(arrays: Sequence[Array]) -> Array:
    """A whole number that differs where a number of any array does, or its place: a sum of hashes.

    The hash is the last part of MurmurHash3 (Appleby), of each number's bits and its place among all.
    """
    total, begin = jnp.uint32(0), 0
    for array in arrays:
        bits = jax.lax.bitcast_convert_type(array, jnp.uint32).ravel()
        x = bits + (jnp.arange(bits.size, dtype=jnp.uint32) + begin) * jnp.uint32(0x9E3779B1)
        x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
        x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
        total += jnp.sum(x ^ (x >> 16), dtype=jnp.uint32)
        begin += bits.size
    return total


def kernel_settings(kernel: Kernel) -> tuple[int, int, int, float, bool, Any]:
    """Of `jax.experimental.rnn`: sizes, layers, dropout, whether in both directions, precision."""
    layers = kernel.layers
    first, both = layers[0][0], len(layers[0]) == 2
    precision = (PRECISIONS[kernel.precision],) * 2
    return first.input_size, first.hidden_size, len(layers), 0.0, both, precision


def packed(params: Sequence[Sequence[LSTMParams]]) -> Float[Array, " weights"]:
    """Parameters as the kernel's vector; the second of its two biases is zero."""
    each = [own for layer in params for own in layer]
    matrices = [w.T.ravel() for own in each for w in (own.w_x, own.w_h)]
    biases = [b for own in each for b in (own.b, jnp.zeros_like(own.b))]
    return jnp.concatenate(matrices + biases)


def unpacked(layers: Layers, w: Float[Array, " weights"]) -> tuple[tuple[LSTMParams, ...], ...]:
    """The transpose of `packed`: a gradient's vector as gradients of the parameters."""
    cells = [cell for layer in layers for cell in layer]
    at, matrices = 0, []
    for cell in cells:
        for size in (cell.input_size, cell.hidden_size):
            end = at + 4 * cell.hidden_size * size
            matrices.append(w[at:end].reshape(4 * cell.hidden_size, size).T)
            at = end
    each = []
    for number, cell in enumerate(cells):
        # The two biases have one gradient, and only the first of them is ours.
        b = w[at : at + 4 * cell.hidden_size]
        at += 8 * cell.hidden_size
        each.append(LSTMParams(matrices[2 * number], matrices[2 * number + 1], b))
    return _by_layer(layers, each)


def stacked_states(states: Sequence[Sequence[LSTMState]]) -> tuple[Array, Array]:
    """States of all layers and directions as the kernel has them: h and C, [L · directions, B, H]."""
    each = [state for layer in states for state in layer]
    return jnp.stack([state.h for state in each]), jnp.stack([state.c for state in each])


def unstacked_states(layers: Layers, h: Array, c: Array) -> tuple[tuple[LSTMState, ...], ...]:
    """The inverse of `stacked_states`."""
    return _by_layer(layers, [LSTMState(*pair) for pair in zip(h, c, strict=True)])


def _by_layer(layers: Layers, each: Sequence[Any]) -> tuple[tuple[Any, ...], ...]:
    both = len(layers[0])
    return tuple(tuple(each[n : n + both]) for n in range(0, len(each), both))
