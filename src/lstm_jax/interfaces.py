r"""The same networks under the signatures that PyTorch and Flax have made familiar.

    torch_style    output, h_n                  for a stack of rnn or gru
                   output, (h_n, c_n)           for a stack of lstm
    flax_style     carry, outputs               carry is (c, h) for an lstm, else h; batch before time

Each is a thin function around `lstm_jax.unroll` or `unroll_stack`, and its gradient is theirs.

Axes: PyTorch: input[T, B, D] (or [B, T, D] with batch_first), h_n[layers · directions, B, H].
Flax: inputs[*batch, T, D] (or [T, *batch, D] with time_major), carry [*batch, H].
"""

from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, PyTree
from lstm_jax.cells import Cell, LSTMState
from lstm_jax.marks import checked_lengths, turned
from lstm_jax.stack import Bidirectional, Both, Stack, cells_of, unroll_stack
from lstm_jax.unroll import unroll as unroll_cell
from lstm_jax.validation import ShapeError, require_same_structure, show_shape


def torch_style(
    stack: Stack,
    params: PyTree,
    input: Array,
    hx: PyTree | None = None,
    *,
    batch_first: bool = False,
    lengths: Any = None,
    key: Array | None = None,
    gradient: str = "auto",
) -> tuple[Array, PyTree]:
    """A stack as `torch.nn.LSTM`, `GRU` or `RNN` returns it: ``output, (h_n, c_n)`` or ``output, h_n``.

    Args:
        stack: from `stack`, of one kind and size of cells; a bidirectional layer is two of PyTorch's
            directions, the forward one first.
        params: of the stack.
        input: [T, B, D], [B, T, D] with ``batch_first``, or [T, D].
        hx: ``(h_0, c_0)`` or ``h_0``, [layers · directions, B, H]; zeros (or the learned state) if None.
        batch_first: whether batch comes before time, in input and output (not in the states).
        lengths: how many steps of each sequence are its own, [B]: what a packed sequence holds.
        key: a random key for dropout, in training; None at evaluation.
        gradient: as for `unroll`.

    Returns:
        The output and the final states.

    Raises:
        ValueError: cells of several kinds or sizes, whose states do not fit into one array.
        ShapeError, DtypeError, TypeError: arguments that do not fit the stack.

    Example:
        >>> import jax, jax.numpy as jnp, lstm_jax
        >>> from lstm_jax.interfaces import torch_style
        >>> net = lstm_jax.stack(lstm_jax.lstm(3, 4), lstm_jax.lstm(4, 4))
        >>> params = net.init(jax.random.key(0))
        >>> output, (h_n, c_n) = torch_style(net, params, jnp.ones((10, 2, 3)))
        >>> output.shape, h_n.shape
        ((10, 2, 4), (2, 2, 4))
    """
    cells = cells_of(stack.layers)
    shapes = [jax.eval_shape(cell.initial_state) for cell in cells]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(
            "Layer mismatch: expected cells of one kind and size, whose states make one array, got "
            f"{', '.join(map(str, cells))}."
        )
    kind = type(shapes[0])
    swap = batch_first and jnp.ndim(input) == 3
    xs = jnp.swapaxes(input, 0, 1) if swap else input
    state0 = None
    if hx is not None:
        leaves = (hx,) if len(shapes[0]) == 1 else tuple(hx)
        require_same_structure("hx", leaves, tuple(shapes[0]))
        for name, leaf in zip(shapes[0]._fields, leaves, strict=True):
            if jnp.ndim(leaf) == 0 or leaf.shape[0] != len(cells):
                raise ShapeError(
                    f"Shape mismatch: expected {name}_0 [{len(cells)}, ...], one for each layer and "
                    f"direction, got {show_shape(jnp.shape(leaf))}."
                )
        state0 = _nested(stack, [kind(*(leaf[n] for leaf in leaves)) for n in range(len(cells))])
    states, ys = unroll_stack(
        stack, params, xs, state0, lengths=lengths, key=key, gradient=gradient
    )
    flat: list[PyTree] = []
    for state in states:
        flat += list(state) if isinstance(state, Both) else [state]
    final = tuple(jnp.stack(leaves) for leaves in zip(*flat, strict=True))
    return jnp.swapaxes(ys, 0, 1) if swap else ys, final if len(final) > 1 else final[0]


def _nested(stack: Stack, states: list[PyTree]) -> tuple[PyTree, ...]:
    rest = iter(states)
    return tuple(
        Both(next(rest), next(rest)) if isinstance(layer, Bidirectional) else next(rest)
        for layer in stack.layers
    )


def carry_of(state: PyTree) -> PyTree:
    """A cell's state as Flax carries it: (c, h) for an LSTM, else h."""
    return (state.c, state.h) if isinstance(state, LSTMState) else state.h


def state_of(cell: Cell, carry: PyTree) -> PyTree:
    """A Flax carry as the cell's state.

    Raises:
        TypeError: a carry of another structure.
    """
    like = jax.eval_shape(cell.initial_state)
    require_same_structure("carry", carry, carry_of(like))
    return type(like)(h=carry[1], c=carry[0]) if isinstance(like, LSTMState) else type(like)(carry)


def flax_style(
    cell: Cell,
    params: PyTree,
    inputs: Array,
    *,
    initial_carry: PyTree | None = None,
    seq_lengths: Any = None,
    time_major: bool = False,
    reverse: bool = False,
    keep_order: bool = False,
    unroll: int | str = "auto",
    gradient: str = "auto",
    segments: int | str | None = "auto",
) -> tuple[PyTree, Array]:
    """A cell as Flax's ``RNN(cell, return_carry=True)`` returns it: ``carry, outputs``.

    One thing differs: past a sequence's length the outputs are zero, where Flax's go on with the padding.

    Args:
        cell: from `lstm`, `gru` or `rnn`.
        params: of the cell.
        inputs: [*batch, T, D], or [T, *batch, D] with ``time_major``; any number of batch axes.
        initial_carry: (c, h) for an LSTM, else h, [*batch, H]; zeros if None.
        seq_lengths: how many steps of each sequence are its own, [*batch].
        time_major: whether time is the first axis, of inputs and outputs.
        reverse: from each sequence's last own step to its first.
        keep_order: under ``reverse``, whether the outputs stay aligned with the inputs; else they come in
            the order of the loop, padding last.
        unroll: steps per iteration of the loop, as for `lstm_jax.unroll`.
        gradient: as for `lstm_jax.unroll`.
        segments: as for `lstm_jax.unroll`.

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
    rank = jnp.ndim(inputs)
    if rank < 2:
        raise ShapeError(
            f"Shape mismatch: expected inputs [*batch, T, D], got {show_shape(jnp.shape(inputs))}."
        )
    xs = inputs if time_major else jnp.moveaxis(inputs, -2, 0)
    batch = xs.shape[1:-1]
    state0 = None if initial_carry is None else state_of(cell, initial_carry)
    lengths = seq_lengths
    if len(batch) > 1:  # `unroll` knows one batch axis
        xs = xs.reshape(len(xs), -1, xs.shape[-1])
        state0 = jax.tree.map(lambda s: s.reshape(-1, s.shape[-1]), state0)
        lengths = None if lengths is None else jnp.asarray(lengths).reshape(-1)
    state, hs = unroll_cell(
        cell,
        params,
        xs,
        state0,
        reverse=reverse,
        lengths=lengths,
        unroll=unroll,
        gradient=gradient,
        segments=segments,
    )
    if reverse and not keep_order:
        hs = jnp.flip(hs, 0) if lengths is None else turned(checked_lengths(lengths, xs), hs)
    if len(batch) > 1:
        hs = hs.reshape(len(hs), *batch, hs.shape[-1])
        state = jax.tree.map(lambda s: s.reshape(*batch, s.shape[-1]), state)
    return carry_of(state), hs if time_major else jnp.moveaxis(hs, 0, -2)
