r"""A cell under the signature of Flax's ``RNN``.

    flax_style     carry, outputs               carry is (c, h) for an lstm, else h; batch before time

A thin function around `lstm_jax.unroll`, with its gradient.

Axes: inputs[*batch, T, D] (or [T, *batch, D] with time_major), carry [*batch, H].
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, PyTree, shapes_of
from lstm_jax.backends.loop import Loop
from lstm_jax.cells import Cell, LSTMState
from lstm_jax.cells.cell import require_cell
from lstm_jax.time_loop.step_masks import Sequences, checked_lengths, reverse_sequences
from lstm_jax.unrolling.unroll import unroll as unroll_cell
from lstm_jax.validation import (
    ShapeError,
    as_array,
    require_array,
    require_arrays,
    require_bool,
    require_same_structure,
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
    require_same_structure("carry", carry, carry_of(like))
    return type(like)(h=carry[1], c=carry[0]) if isinstance(like, LSTMState) else type(like)(carry)


class FlaxOrder(NamedTuple):
    """The order of axes and of time: the options of Flax's ``RNN``.

    Attributes:
        time_major: whether time is the first axis, of inputs and outputs.
        reverse: from the last step of each sequence to its first.
        keep_order: with ``reverse``, whether the outputs stay aligned with the inputs; else they are in the
            order of the loop, padding last.
    """

    time_major: bool = False
    reverse: bool = False
    keep_order: bool = False


FLAX_DEFAULT = FlaxOrder()


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

    One thing differs: past a sequence's length the outputs are zero; Flax's go on with the padding.

    Args:
        cell: from `lstm`, `gru` or `rnn`.
        params: of the cell.
        inputs: [*batch, T, D], or [T, *batch, D] with ``time_major``; any number of batch axes.
        initial_carry: (c, h) for an LSTM, else h, [*batch, H]; zeros if None.
        seq_lengths: the length of each sequence, [*batch].
        order: `FlaxOrder`: ``time_major``, ``reverse`` and ``keep_order``.
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
    require_array("inputs", inputs)
    rank = jnp.ndim(inputs)
    if rank < 2:
        raise ShapeError(
            f"Shape mismatch: expected inputs [*batch, T, D], got {show_shape(jnp.shape(inputs))}."
        )
    require_type("order", order, FlaxOrder)
    for name, value in order._asdict().items():
        require_bool(name, value)
    time_major, reverse, keep_order = order
    xs = inputs if time_major else jnp.moveaxis(inputs, -2, 0)
    batch = xs.shape[1:-1]
    state0 = None if initial_carry is None else state_of(cell, initial_carry)
    lengths = seq_lengths
    if len(batch) > 1:  # `unroll` takes one batch axis
        _require_batch(cell, state0, lengths, batch)
        xs = xs.reshape(xs.shape[0], -1, xs.shape[-1])
        state0 = jax.tree.map(lambda s: s.reshape(-1, s.shape[-1]), state0)
        lengths = None if lengths is None else as_array("seq_lengths", lengths).reshape(-1)
    state, hs = unroll_cell(
        cell,
        params,
        xs,
        state0,
        sequences=Sequences(lengths=lengths, reverse=reverse),
        gradient=gradient,
        backend=backend,
    )
    if reverse and not keep_order:
        hs = (
            jnp.flip(hs, 0)
            if lengths is None
            else reverse_sequences(checked_lengths(lengths, xs), hs)
        )
    if len(batch) > 1:
        hs = hs.reshape(len(hs), *batch, hs.shape[-1])
        state = jax.tree.map(lambda s: s.reshape(*batch, s.shape[-1]), state)
    return carry_of(state), hs if time_major else jnp.moveaxis(hs, 0, -2)


def _require_batch(cell: Cell, state0: Any, lengths: Any, batch: tuple[int, ...]) -> None:
    """Refuse a carry or lengths of other batch axes: with the axes in one, they could pass for right."""
    if state0 is not None:
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((*batch, *leaf.shape), leaf.dtype),
            shapes_of(cell.initial_state),
        )
        dtype = getattr(jax.tree.leaves(state0)[0], "dtype", None)
        require_arrays("initial_carry", state0, like, dtype)
    if lengths is not None and as_array("seq_lengths", lengths).shape != batch:
        raise ShapeError(
            f"Shape mismatch: expected seq_lengths {show_shape(batch)}, got "
            f"{show_shape(jnp.shape(as_array('seq_lengths', lengths)))}."
        )
