r"""A cell under the signature of Flax's ``RNN``.

    flax_style     carry, outputs               carry is (c, h) for an lstm, else h; batch before time

A thin function around `lstm_jax.unroll`, with its gradient.

Axes: inputs[*batch, T, D] (or [T, *batch, D] with time_major), carry [*batch, H].
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.array_types import Array, PyTree, shapes_of
from lstm_jax.backends.loop import Loop
from lstm_jax.cells import Cell, LSTMState
from lstm_jax.cells.cell import require_cell
from lstm_jax.time_loop.step_masks import ALL_STEPS, OUTSIDE, Sequences, reverse_sequences
from lstm_jax.unrolling.unroll import unroll as unroll_cell
from lstm_jax.validation import (
    ShapeError,
    as_array,
    is_symbolic,
    require_array,
    require_arrays,
    require_bool,
    require_dtype,
    require_one_of,
    require_type,
    show_shape,
)


def carry_of(state: PyTree) -> PyTree:
    """A cell's state as Flax carries it: (c, h) for an LSTM, else h."""
    return (state.c, state.h) if isinstance(state, LSTMState) else state.h


def state_of(cell: Cell, carry: PyTree) -> PyTree:
    """A Flax carry as the cell's state.

    Raises:
        TypeError: a carry of another structure.
    """
    like = shapes_of(cell.initial_state)
    got: Any = jax.tree.structure(carry)
    if got != jax.tree.structure(carry_of(like)):
        words = "(c, h)" if isinstance(like, LSTMState) else "one array, h"
        raise TypeError(
            f"Structure mismatch: expected initial_carry as {words}, of a {cell.kind}, got {got}."
        )
    return type(like)(h=carry[1], c=carry[0]) if isinstance(like, LSTMState) else type(like)(carry)


class FlaxOrder(NamedTuple):
    """The order of axes and of time, the options of Flax's ``RNN``, and what is past a sequence's end.

    Attributes:
        time_major: whether time is the first axis, of inputs and outputs.
        reverse: from the last step of each sequence to its first.
        keep_order: with ``reverse``, whether the outputs stay aligned with the inputs; else they are in the
            order of the loop, padding last.
        outside: what the outputs are past a sequence's length: ``"zeros"``; ``"last"``, the last output
            again; or ``"flax"``, what Flax returns, whose network runs on over the padding.
    """

    time_major: bool = False
    reverse: bool = False
    keep_order: bool = False
    outside: str = "zeros"


FLAX_DEFAULT = FlaxOrder()
OUTSIDE_OF_FLAX = (*OUTSIDE, "flax")


def flax_style(
    cell: Cell,
    params: PyTree,
    inputs: Array,
    *,
    initial_carry: PyTree | None = None,
    seq_lengths: Any = None,
    order: FlaxOrder = FLAX_DEFAULT,
    gradient: str = "auto",
    backend: str | Loop = "auto",
) -> tuple[PyTree, Array]:
    """Run a cell as Flax's ``RNN(cell, return_carry=True)``: ``carry, outputs``.

    Past a sequence's length the outputs are zero. Flax's network runs on over the padding there:
    ``FlaxOrder(outside="flax")`` returns its numbers, for a model that reads them, as by ``outputs[:, -1]``.

    Args:
        cell: from `lstm`, `gru` or `rnn`.
        params: of the cell.
        inputs: [*batch, T, D], or [T, *batch, D] with ``time_major``; any number of batch axes.
        initial_carry: (c, h) for an LSTM, else h, [*batch, H]; zeros if None.
        seq_lengths: the length of each sequence, [*batch].
        order: `FlaxOrder`: ``time_major``, ``reverse``, ``keep_order`` and ``outside``.
        gradient: as for `lstm_jax.unroll`.
        backend: as for `lstm_jax.unroll`.

    Returns:
        The carry after the last step taken, and the outputs.

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: as `lstm_jax.unroll`; inputs of rank 1.

    Example:
        >>> import jax, jax.numpy as jnp, lstm_jax
        >>> from lstm_jax.interfaces import flax_style
        >>> cell = lstm_jax.gru(3, 4)
        >>> params = cell.init(jax.random.key(0))
        >>> carry, outputs = flax_style(cell, params, jnp.ones((2, 10, 3)))
        >>> carry.shape, outputs.shape
        ((2, 4), (2, 10, 4))
    """
    require_cell(cell)
    require_type("order", order, FlaxOrder)
    for name, value in zip(order._fields[:3], order[:3], strict=True):
        require_bool(name, value)
    require_one_of("outside", order.outside, OUTSIDE_OF_FLAX)
    time_major = bool(order.time_major)
    batch, steps = _checked_axes(cell, inputs, time_major)
    state0 = None if initial_carry is None else state_of(cell, initial_carry)
    weights = jax.tree.leaves(params)
    dtype = jnp.result_type(weights[0]) if weights else inputs.dtype
    require_dtype("inputs", inputs, dtype)
    _check_carry(cell, state0, inputs, batch, dtype)
    lengths = _checked_lengths(seq_lengths, inputs, batch, steps)
    if any(not is_symbolic(size) and size == 0 for size in (*batch, steps)):
        return _nothing(cell, inputs, state0, batch, steps, time_major)
    xs = inputs if time_major else jnp.moveaxis(inputs, -2, 0)
    if len(batch) > 1:  # `unroll` takes one batch axis
        xs = xs.reshape(xs.shape[0], -1, xs.shape[-1])
        state0 = jax.tree.map(lambda s: s.reshape(-1, s.shape[-1]), state0)
        lengths = None if lengths is None else lengths.reshape(-1)
    run = partial(unroll_cell, cell, params, gradient=gradient, backend=backend)
    state, hs = _run(run, xs, state0, lengths, order)
    if len(batch) > 1:
        hs = hs.reshape(len(hs), *batch, hs.shape[-1])
        state = jax.tree.map(lambda s: s.reshape(*batch, s.shape[-1]), state)
    return carry_of(state), hs if time_major else jnp.moveaxis(hs, 0, -2)


def _run(
    run: Callable[..., tuple[PyTree, Array]],
    xs: Array,
    state0: PyTree,
    lengths: Any,
    order: FlaxOrder,
) -> tuple[PyTree, Array]:
    """Over xs [T, B, D] or [T, D], in the order that is asked for."""
    reverse, aligned = bool(order.reverse), bool(order.keep_order) or not order.reverse
    if lengths is None:
        state, hs = run(xs, state0, sequences=Sequences(reverse=reverse))
        return state, hs if aligned else jnp.flip(hs, 0)
    if order.outside == "flax":
        return _over_the_padding(run, xs, state0, lengths, reverse, aligned)
    given = Sequences(lengths=lengths, reverse=reverse, outside=order.outside)
    state, hs = run(xs, state0, sequences=given)
    return state, hs if aligned else reverse_sequences(lengths, hs)


def _over_the_padding(
    run: Callable[..., tuple[PyTree, Array]],
    xs: Array,
    state0: PyTree,
    lengths: Array,
    reverse: bool,
    aligned: bool,
) -> tuple[PyTree, Array]:
    """As Flax: the network runs over all steps, and the carry is the one at each sequence's end.

    Of a sequence of no steps Flax returns the carry after all steps, which it finds at place −1.
    """
    xs = _flipped(lengths, xs) if reverse else xs
    state, hs = run(xs, state0, sequences=ALL_STEPS)
    own = jnp.where(lengths > 0, lengths, len(xs))
    if isinstance(state, LSTMState):  # C is not among the outputs.
        state, _ = run(xs, state0, sequences=Sequences(lengths=own))
    else:
        places = (own - 1)[None, ..., None]
        state = type(state)(jnp.take_along_axis(hs, places, axis=0)[0])
    return state, _flipped(lengths, hs) if reverse and aligned else hs


def _flipped(lengths: Array, sequence: Array) -> Array:
    """Each sequence backwards, and then its padding backwards too, as Flax turns them; its own inverse."""
    steps = len(sequence)
    places = (
        jnp.arange(steps - 1, -1, -1, dtype=lengths.dtype)[:, None] + lengths.reshape(1, -1)
    ) % steps
    return jnp.take_along_axis(sequence, places.reshape(steps, *lengths.shape, 1), axis=0)


def _checked_axes(cell: Cell, inputs: Any, time_major: bool) -> tuple[tuple[int, ...], int]:
    """The batch axes and the number of steps.

    Raises:
        ShapeError, TypeError: inputs of a wrong rank or input size, in the caller's order of axes.
    """
    require_array("inputs", inputs)
    shape = jnp.shape(inputs)
    axes = _axes(time_major)
    if len(shape) < 2 or shape[-1] != cell.input_size:
        raise ShapeError(
            f"Shape mismatch: expected inputs {axes}, D={cell.input_size}, got {show_shape(shape)}."
        )
    return (shape[1:-1], shape[0]) if time_major else (shape[:-2], shape[-2])


def _axes(time_major: bool) -> str:
    return "[T, *batch, D]" if time_major else "[*batch, T, D]"


def _check_carry(cell: Cell, state0: Any, inputs: Any, batch: tuple[int, ...], dtype: Any) -> None:
    """Refuse a carry of other axes or of another dtype, under its own name."""
    if state0 is not None:
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((*batch, *leaf.shape), leaf.dtype),
            shapes_of(cell.initial_state),
        )
        legend = f"inputs {show_shape(jnp.shape(inputs))}"
        require_arrays("initial_carry", carry_of(state0), carry_of(like), dtype, legend=legend)


def _checked_lengths(seq_lengths: Any, inputs: Any, batch: tuple[int, ...], steps: int) -> Any:
    """Lengths as int32 [*batch]; None without.

    Raises:
        ShapeError, TypeError, ValueError: lengths that do not fit the inputs.
    """
    if seq_lengths is None:
        return None
    lengths = as_array("seq_lengths", seq_lengths)
    if lengths.shape != batch:
        raise ShapeError(
            f"Shape mismatch: expected seq_lengths {show_shape(batch)} beside inputs "
            f"{show_shape(jnp.shape(inputs))}, got {show_shape(lengths.shape)}."
        )
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(
            f"Type mismatch: expected seq_lengths as whole numbers, got {lengths.dtype.name}."
        )
    if not isinstance(lengths, jax.core.Tracer) and lengths.size:
        known = np.asarray(lengths)
        lowest, highest = int(known.min()), int(known.max())
        if lowest < 0 or highest > steps:
            raise ValueError(
                f"Range mismatch: expected seq_lengths from 0 to {steps}, got {lowest} to {highest}."
            )
    return jnp.clip(jnp.asarray(lengths).astype(jnp.int32), 0, steps)


def _nothing(
    cell: Cell, inputs: Array, state0: Any, batch: tuple[int, ...], steps: int, time_major: bool
) -> tuple[PyTree, Array]:
    """Of no sequences, or of no steps: the carry as it was, and outputs without a number."""
    if state0 is None:
        state0 = jax.tree.map(
            lambda leaf: jnp.zeros((*batch, *leaf.shape), inputs.dtype),
            shapes_of(cell.initial_state),
        )
    shape = (steps, *batch) if time_major else (*batch, steps)
    return carry_of(state0), jnp.zeros((*shape, cell.output_size), inputs.dtype)
