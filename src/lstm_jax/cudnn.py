r"""NVIDIA's kernel for the standard LSTM, as one more way to run it: ``gradient="cudnn"``.

    y, h_T, C_T, reserve = forward(xs, h_0, C_0, w)             w: every matrix and bias in one vector
    ∂xs, ∂h_0, ∂C_0, ∂w  = backward(∂y, ∂h_T, ∂C_T, …, y, reserve)

`jax.experimental.rnn` binds both as primitives that know no other transformation. Here they stand behind a
JVP whose tangent is a `linear_map`, as the hand-derived rule does in `lstm_jax.unrolled_by_hand`:

    grad       the kernel backwards
    jvp        the loop's tangent: cuDNN has none
    grad²      the derivative of the loop's backward pass, at the point at which the kernel ran
    vmap       the kernel, once for each; where the loop may take over (`Kernel.or_loop`), the loop, all at
               once. Mapped before it is differentiated, a network runs as by the rule alone. A derivative
               that is mapped runs forward twice, because the loop leaves no notes as the kernel does

Which of the two runs a network is decided in `lstm_jax.kernel_choice`. As JAX's plugin is written, each call
waits for the lengths to come to the host, and its notes take four times the memory that cuDNN asks for. A
sharded batch goes through `jax.shard_map`: `jit` cannot split a kernel.

w holds, layer after layer and in it direction after direction, W_xᵀ [4H, D] and W_hᵀ [4H, H]; after all of
these, in the same order, two biases [4H] that are added up. Gates are in the order i, f, g, o, as here.

Axes: xs[T, B, D] outside, [B, T, D] in the kernel; states [L · directions, B, H] in the kernel.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap

from lstm_jax.array_types import Array, Float, Int, PyTree
from lstm_jax.cells.cell import Cell
from lstm_jax.cells.lstm import LSTMParams, LSTMState
from lstm_jax.linear_map import linear_map
from lstm_jax.loop import loop_here
from lstm_jax.marks import marks_of, shown, turned
from lstm_jax.precision import default_precision
from lstm_jax.segments import segment_length
from lstm_jax.stand_in import with_stand_in
from lstm_jax.unrolled_by_hand import unroll_by_hand
from lstm_jax.varying import vary_over, varying_axes

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
            for another platform or for export, and under `vmap` (`lstm_jax.stand_in`).
    """

    layers: Layers
    precision: str | None
    whole: bool
    or_loop: bool


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
    """Layers that the kernel knows (`lstm_jax.kernel_choice.refusal`), by the kernel.

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
    return states, shown(marks_of(xs, lengths, None, None, reverse=False), ys)


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
    return with_stand_in(by_kernel, by_loop, *inputs, platform=PLATFORM)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _run(
    kernel: Kernel, params: PyTree, xs: Array, state0: PyTree, lengths: Array
) -> tuple[tuple[PyTree, Array], Array]:
    """``(states, ys), reserve``; differentiable in all but the lengths, the reserve a constant."""
    h0, c0 = _stacked(state0)
    y, h, c, reserve = _forth(kernel, jnp.swapaxes(xs, 0, 1), h0, c0, packed(params), lengths)
    return (_unstacked(kernel.layers, h, c), jnp.swapaxes(y, 0, 1)), reserve


@_run.defjvp
def _run_jvp(kernel: Kernel, primals: Any, tangents: Any) -> Any:
    params, xs, state0, lengths = primals
    # A rule may be traced when JAX is set to another precision.
    with jax.default_matmul_precision(kernel.precision):
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
def _backward(kernel: Kernel, kept: Kept, d_out: tuple[PyTree, Array]) -> Any:
    """Cotangents of params, xs and state0."""
    x, y, d_y = (jnp.swapaxes(array, 0, 1) for array in (kept.xs, kept.ys, d_out[1]))
    saved = (x, *_stacked(kept.state0), packed(kept.params), kept.lengths, y, kept.reserve)
    d_x, d_h0, d_c0, d_w = _back(kernel, saved, (d_y, *_stacked(d_out[0])))
    return (
        unpacked(kernel.layers, d_w),
        jnp.swapaxes(d_x, 0, 1),
        _unstacked(kernel.layers, d_h0, d_c0),
    )


@_backward.defjvp
def _backward_jvp(kernel: Kernel, primals: Any, tangents: Any) -> Any:
    kept, d_out = primals
    kept_dot, d_out_dot = tangents
    by_loop = _by_loop(kernel, kept.lengths)

    def pulled(params: PyTree, xs: Array, state0: PyTree, d_out: Any) -> Any:
        return jax.vjp(by_loop, params, xs, state0)[1](d_out)

    # ys and the reserve move with the rest: the loop's own way back has them move inside.
    with jax.default_matmul_precision(kernel.precision):
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
    marks = marks_of(xs, lengths, None, None, reverse=False)
    loop = loop_here(reverse=False, unroll=unroll)

    def turn(sequence: Array) -> Array:
        return sequence[::-1] if lengths is None else turned(lengths, sequence)

    states, ys = [], shown(marks, xs)
    for cells, own, start in zip(layers, params, state0, strict=True):
        ends, outs = [], []
        for number, cell in enumerate(cells):
            given = turn(ys) if number else ys
            steps = segment_length("auto", cell, own[number], given, start[number])
            end, hs = unroll_by_hand(cell, loop, steps, own[number], given, start[number], marks)
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
    return with_stand_in(
        partial(by_kernel, kernel), partial(by_loop, kernel), *inputs, platform=PLATFORM
    )


def _loop_forward(
    kernel: Kernel, x: Array, h0: Array, c0: Array, w: Array, lengths: Array
) -> tuple[Array, Array, Array, Array]:
    """What `kernel_forward` computes, by the loop.

    Its notes are NaN: the loop's way back does not read them, and if another did, it would show.
    """
    y, h, c = _loop(kernel, lengths, x, h0, c0, w)
    return y, h, c, jnp.full(notes_size(kernel, x.shape[1], x.shape[0]), jnp.nan, x.dtype)


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
    params, state0 = unpacked(kernel.layers, w), _unstacked(kernel.layers, h0, c0)
    states, ys = _by_loop(kernel, lengths)(params, jnp.swapaxes(x, 0, 1), state0)
    return jnp.swapaxes(ys, 0, 1), *_stacked(states)


def notes_size(kernel: Kernel, time: int, batch: int) -> int:
    """How many numbers of four bytes the kernel notes for the way back."""
    from jax.experimental import rnn

    inputs, hidden, layers, _, both, _ = _settings(kernel)
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
    (y, h, c), (*_, reserve) = rnn.lstm_fwd(x, h0, c0, w, lengths, *_settings(kernel))
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
    saved = (*saved, _to_write_over(reserve, d_out))
    d_x, d_h0, d_c0, d_w, _ = rnn.lstm_bwd(*_settings(kernel), saved, d_out)
    return vary_over(axes, (d_x, d_h0, d_c0, d_w))


def _to_write_over(reserve: Array, d_out: Sequence[Array]) -> Array:
    """The kernel's notes as a buffer of this way back alone, because it writes over them.

    XLA takes a kernel's inputs for read only. So the first number is set to what it is: where the notes are
    needed again, XLA then makes a copy, and where they are not, it sets that number in place. It must not
    see that nothing changes, nor make one of two ways back: n² + n is even for every n, and n is made of the
    notes and of all that comes back.
    """
    bits = jax.lax.bitcast_convert_type(reserve[:1], jnp.uint32)
    n = bits + _mixed(d_out)
    same = jax.lax.bitcast_convert_type(bits + ((n * n + n) & 1), reserve.dtype)
    return jax.lax.dynamic_update_slice(reserve, same, (0,))


def _mixed(arrays: Sequence[Array]) -> Array:
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


def _settings(kernel: Kernel) -> tuple[int, int, int, float, bool, Any]:
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


def _stacked(states: Sequence[Sequence[LSTMState]]) -> tuple[Array, Array]:
    each = [state for layer in states for state in layer]
    return jnp.stack([state.h for state in each]), jnp.stack([state.c for state in each])


def _unstacked(layers: Layers, h: Array, c: Array) -> tuple[tuple[LSTMState, ...], ...]:
    return _by_layer(layers, [LSTMState(*pair) for pair in zip(h, c, strict=True)])


def _by_layer(layers: Layers, each: Sequence[Any]) -> tuple[tuple[Any, ...], ...]:
    both = len(layers[0])
    return tuple(tuple(each[n : n + both]) for n in range(0, len(each), both))
