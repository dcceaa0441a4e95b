r"""A stack under PyTorch's signature.

    torch_style    output, h_n                  for a stack of rnn or gru
                   output, (h_n, c_n)           for a stack of lstm

A thin function around `lstm_jax.unroll_stack`, with its gradient.

Axes: input[T, B, D] (or [B, T, D] with batch_first), h_n[layers · directions, B, H].
"""

from typing import Any

import jax.numpy as jnp

from lstm_jax.array_types import Array, PyTree, shapes_of
from lstm_jax.backends.loop import Loop
from lstm_jax.layers.stack import Bidirectional, Both, Stack, cells_of
from lstm_jax.layers.unroll_stack import unroll_stack
from lstm_jax.time_loop.step_masks import Sequences
from lstm_jax.validation import (
    ShapeError,
    require_array,
    require_bool,
    require_same_structure,
    require_type,
    show_shape,
)


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
    backend: str | Loop = "auto",
) -> tuple[Array, PyTree]:
    """Run a stack as `torch.nn.LSTM`, `GRU` or `RNN`: ``output, (h_n, c_n)`` or ``output, h_n``.

    Args:
        stack: from `stack`, of one kind and size of cells; a bidirectional layer is two of PyTorch's
            directions, the forward one first.
        params: of the stack.
        input: [T, B, D], [B, T, D] with ``batch_first``, or [T, D].
        hx: ``(h_0, c_0)`` or ``h_0``, [layers · directions, B, H], or [layers · directions, H] for every
            sequence alike, as a learned starting state is kept; zeros (or the learned state) if None.
        batch_first: whether batch comes before time, in input and output (not in the states).
        lengths: the length of each sequence, [B], as in a packed sequence.
        key: a random key for dropout, in training; None at evaluation.
        gradient: as for `unroll`.
        backend: as for `unroll_stack`.

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
    require_type("stack", stack, Stack)
    require_bool("batch_first", batch_first)
    require_array("input", input)
    cells = cells_of(stack.layers)
    shapes = [shapes_of(cell.initial_state) for cell in cells]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(
            "Layer mismatch: expected cells of one kind and size, for states in one array, got "
            f"{', '.join(map(str, cells))}."
        )
    kind = type(shapes[0])
    swap = batch_first and jnp.ndim(input) == 3
    xs = jnp.swapaxes(input, 0, 1) if swap else input
    state0 = None
    if hx is not None:
        several = tuple(hx) if isinstance(hx, (tuple, list)) else hx
        leaves = (hx,) if len(shapes[0]) == 1 else several
        require_same_structure("hx", leaves, tuple(shapes[0]))
        for name, leaf in zip(shapes[0]._fields, leaves, strict=True):
            require_array(f"{name}_0", leaf)
        alike: list[Array] = []
        for name, leaf in zip(shapes[0]._fields, leaves, strict=True):
            if jnp.ndim(leaf) == 0 or leaf.shape[0] != len(cells):
                raise ShapeError(
                    f"Shape mismatch: expected {name}_0 [{len(cells)}, ...], one for each layer and "
                    f"direction, got {show_shape(jnp.shape(leaf))}."
                )
            if jnp.ndim(xs) == 3 and jnp.ndim(leaf) == 2:  # One state for every sequence.
                alike.append(jnp.repeat(leaf[:, None], xs.shape[1], 1))
            else:
                alike.append(leaf)
        leaves = tuple(alike)
        state0 = _nested(stack, [kind(*(leaf[n] for leaf in leaves)) for n in range(len(cells))])
    states, ys = unroll_stack(
        stack,
        params,
        xs,
        state0,
        sequences=Sequences(lengths=lengths),
        key=key,
        gradient=gradient,
        backend=backend,
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
