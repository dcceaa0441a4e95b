r"""The call of NVIDIA's LSTM kernel, in the kernel's axes.

    y, h_T, C_T, reserve = forward(xs, h_0, C_0, w)             w: every matrix and bias in one vector
    ∂xs, ∂h_0, ∂C_0, ∂w  = backward(∂y, ∂h_T, ∂C_T, …, y, reserve)

w has W_xᵀ [4H, D] and W_hᵀ [4H, H] of each layer and direction in turn, and then, in the same order, two
biases [4H] each, which the kernel adds. Gates are in the order i, f, g, o, as everywhere in this package. The
reserve is the kernel's workspace: the forward pass fills it, and the backward pass reads and overwrites it.

Axes: xs[B, T, D]; states [L · directions, B, H].
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, Float
from lstm_jax.cells.cell import Cell
from lstm_jax.cells.lstm import LSTMParams, LSTMState
from lstm_jax.jax_extensions.mesh_axes import vary_over, varying_axes
from lstm_jax.jax_extensions.row_major import require_row_major

Layers = tuple[tuple[Cell, ...], ...]
"""The cells of each layer: one, or a forward and a backward one."""
Arrays = tuple[Array, ...]

TF32, FULL = jax.lax.Precision.HIGH, jax.lax.Precision.HIGHEST
PRECISIONS: dict[str | None, jax.lax.Precision] = {
    **dict.fromkeys((None, "default", "high", "tensorfloat32", "TF32_TF32_F32"), TF32),
    **dict.fromkeys(("highest", "float32", "F32_F32_F32"), FULL),
}
"""cuDNN's precision for each value of `jax.default_matmul_precision`."""

PLATFORM = "cuda"
"""The kernel's platform, by JAX's name for it in lowering."""


class Kernel(NamedTuple):
    """The layers and settings that the kernel is built for; hashable.

    Attributes:
        layers: their cells.
        precision: of matrix products: `jax.default_matmul_precision` at the call of the network.
        whole: whether every sequence has all T steps.
    """

    layers: Layers
    precision: str | None
    whole: bool


@cache
def kernel_primitives() -> Any:
    """`jax.experimental.rnn`, whose primitives from here on hand over arrays in row-major order.

    JAX's own lowering leaves the order to XLA, and the kernel reads a transposed xs as if it were not.
    """
    from jax.experimental import rnn

    for primitive, lowering in (
        (rnn.rnn_fwd_p, rnn.gpu_rnn.cudnn_rnn_lowering),
        (rnn.rnn_bwd_p, rnn.gpu_rnn.cudnn_rnn_bwd_lowering),
    ):
        require_row_major(primitive, lowering, platform=PLATFORM)
    return rnn


def kernel_forward(
    kernel: Kernel, x: Array, h0: Array, c0: Array, w: Array, lengths: Array
) -> tuple[Array, Array, Array, Array]:
    """The kernel's forward pass, in its axes: y, h_T, C_T, and the workspace for the backward pass."""
    rnn = kernel_primitives()
    # JAX's primitive does not type its outputs with the mesh axes over which they vary.
    axes = varying_axes(x, h0, c0, w, lengths)
    x, h0, c0, w, lengths = vary_over(axes, (x, h0, c0, w, lengths))
    (y, h, c), (*_, reserve) = rnn.lstm_fwd(x, h0, c0, w, lengths, *kernel_settings(kernel))
    return vary_over(axes, (y, h, c, reserve))


def kernel_backward(
    kernel: Kernel, saved: Arrays, d_out: Arrays
) -> tuple[Array, Array, Array, Array]:
    """The kernel's backward pass: cotangents of x, h_0, C_0 and of the vector of weights.

    Args:
        kernel: its layers and settings.
        saved: x, h_0, C_0, the weights, the lengths, y and the workspace.
        d_out: cotangents of y, h_T and C_T.
    """
    rnn = kernel_primitives()
    axes = varying_axes(saved, d_out)
    (*saved, reserve), d_out = vary_over(axes, saved), vary_over(axes, d_out)
    saved = (*saved, _fresh_workspace(reserve, d_out))
    d_x, d_h0, d_c0, d_w, _ = rnn.lstm_bwd(*kernel_settings(kernel), saved, d_out)
    return vary_over(axes, (d_x, d_h0, d_c0, d_w))


def _fresh_workspace(reserve: Array, d_out: Sequence[Array]) -> Array:
    """The workspace as a buffer for one backward pass alone, because the backward kernel overwrites it.

    XLA believes that a kernel only reads its inputs, so a second backward pass would read an overwritten
    workspace. Here the first number is set to itself. XLA then copies the workspace if it is used again, and
    else sets the number in place. XLA must not see that the number stays the same, nor merge the copies of
    two backward passes. So the number gets the lowest bit of n² + n added, which is 0 for every n, and n is a
    hash of the workspace and the cotangents.
    """
    bits = jax.lax.bitcast_convert_type(reserve[:1], jnp.uint32)
    n = bits + _hash_of(d_out)
    same = jax.lax.bitcast_convert_type(bits + ((n * n + n) & 1), reserve.dtype)
    return jax.lax.dynamic_update_slice(reserve, same, (0,))


def _hash_of(arrays: Sequence[Array]) -> Array:
    """A hash of the numbers of some arrays and of their places.

    The sum of the last part of MurmurHash3 (Appleby) of each number's bits and place.
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
    """The settings for `jax.experimental.rnn`: sizes, layers, dropout, both directions or one, precision."""
    layers = kernel.layers
    first, both = layers[0][0], len(layers[0]) == 2
    precision = (PRECISIONS[kernel.precision],) * 2
    return first.input_size, first.hidden_size, len(layers), 0.0, both, precision


def packed(params: Sequence[Sequence[LSTMParams]]) -> Float[Array, " weights"]:
    """Parameters as the kernel's vector; the second of its two biases is zero."""
    each = [cell_params for layer in params for cell_params in layer]
    matrices = [w.T.ravel() for p in each for w in (p.w_x, p.w_h)]
    biases = [b for p in each for b in (p.b, jnp.zeros_like(p.b))]
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
        # Both biases have the same gradient; ours is the first.
        b = w[at : at + 4 * cell.hidden_size]
        at += 8 * cell.hidden_size
        each.append(LSTMParams(matrices[2 * number], matrices[2 * number + 1], b))
    return _by_layer(layers, each)


def stacked_states(states: Sequence[Sequence[LSTMState]]) -> tuple[Array, Array]:
    """States of all layers and directions in the kernel's axes: h and C, [L · directions, B, H]."""
    each = [state for layer in states for state in layer]
    return jnp.stack([state.h for state in each]), jnp.stack([state.c for state in each])


def unstacked_states(layers: Layers, h: Array, c: Array) -> tuple[tuple[LSTMState, ...], ...]:
    """The inverse of `stacked_states`."""
    return _by_layer(layers, [LSTMState(*pair) for pair in zip(h, c, strict=True)])


def _by_layer(layers: Layers, each: Sequence[Any]) -> tuple[tuple[Any, ...], ...]:
    both = len(layers[0])
    return tuple(tuple(each[n : n + both]) for n in range(0, len(each), both))
