r"""A stack over a sequence, layer by layer, or by one kernel for all layers.

    y⁰ = xs;   yˡ = layer_l(d(yˡ⁻¹)) [+ yˡ⁻¹];   ys = yᴸ W_y + b_y              (`lstm_jax.layers.stack`)

Each layer is one `lstm_jax.unroll`, and so its gradient is the one derived by hand.

Axes: xs[T, D] or xs[T, B, D]; ys[T, ..., O].
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, Float, PyTree
from lstm_jax.backends.choice import auto_takes_kernel
from lstm_jax.backends.cudnn.conditions import require_cudnn
from lstm_jax.backends.cudnn.kernel_call import Layers
from lstm_jax.backends.cudnn.kernel_derivatives import unroll_by_cudnn
from lstm_jax.cells.cell import Cell
from lstm_jax.dropout import dropout as drop
from lstm_jax.dropout import zoneout_rates
from lstm_jax.layers.stack import (
    Backward,
    Both,
    Layer,
    Stack,
    StackParams,
    _projected,
    cells_of,
    starting_states,
)
from lstm_jax.time_loop.scan import steps_asked
from lstm_jax.time_loop.step_masks import Marks, checked_lengths, marks_of, shown
from lstm_jax.unrolling.unroll import require_no_segments
from lstm_jax.unrolling.unroll import unroll as unroll_cell
from lstm_jax.validation import (
    ShapeError,
    require_arrays,
    require_dtype,
    require_key,
    require_same_structure,
    show_shape,
)


def unroll_stack(
    stack: Stack,
    params: StackParams,
    xs: Float[Array, "time *batch d"],
    state0: tuple[Any, ...] | None = None,
    *,
    key: Array | None = None,
    lengths: Any = None,
    resets: Any = None,
    truncate: int | None = None,
    unroll: int | str = "auto",
    gradient: str = "auto",
    segments: int | str | None = "auto",
) -> tuple[tuple[Any, ...], Float[Array, "time *batch out"]]:
    """Run a stack over a sequence: ``(final states, outputs)``.

    Args:
        stack: from `stack`.
        params: of the stack.
        xs: [T, D] or [T, B, D].
        state0: the starting state of each layer, leaves [H] or [B, H]; the learned one, or zeros, if None.
        key: a random key for dropout and zoneout, in training; None at evaluation.
        lengths: how many steps of each sequence are its own, [B], as for `unroll`. Past them the output is
            zero, the output projection's bias included.
        resets: before which steps the state is zero again, as for `unroll`; not with a learned state.
        truncate: cut the gradient every so many steps, as for `unroll`, in each layer.
        unroll: steps per iteration of the loops, as for `unroll`.
        gradient: ``"bptt"``, ``"autodiff"``, ``"auto"`` or ``"cudnn"``, as for `unroll`. The last runs all
            layers at once where they are alike and nothing happens between them.
        segments: how the hand-derived rule spends memory in each layer, as for `unroll`.

    Returns:
        The final state of each layer, of a bidirectional one `Both`, whose backward state is the one after
        the first step; and ys, [T, O] or [T, B, O].

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit the stack or each other.
        ValueError: as for `unroll`; resets with a learned starting state.

    Example:
        >>> import jax, jax.numpy as jnp, lstm_jax
        >>> net = lstm_jax.stack(lstm_jax.lstm(3, 4), lstm_jax.lstm(4, 4), dropout=0.5)
        >>> params = net.init(jax.random.key(0))
        >>> states, ys = lstm_jax.unroll_stack(
        ...     net, params, jnp.ones((10, 2, 3)), lengths=jnp.array([10, 7]), key=jax.random.key(1)
        ... )
        >>> ys.shape, float(abs(ys[7:, 1]).max())
        ((10, 2, 4), 0.0)
    """
    state0 = check_stack_arguments(stack, params, xs, state0)
    if key is not None:
        require_key(key)
    if stack.learned_state and resets is not None:
        raise ValueError(
            "Option mismatch: expected resets with a starting state of zeros, to which they return, got a "
            "stack with learned_state."
        )
    valid = Marks()
    if lengths is not None:
        lengths = checked_lengths(lengths, xs)
        valid = marks_of(xs, lengths, None, None, reverse=False)
    options: dict[str, Any] = {
        "lengths": lengths,
        "resets": resets,
        "truncate": truncate,
        "unroll": unroll,
        "gradient": gradient,
        "segments": segments,
        "zoneout": stack.zoneout,
        "recurrent_dropout": stack.recurrent_dropout,
    }
    if gradient in ("auto", "cudnn") and _one_kernel(stack, key, resets, truncate):
        inputs, layers = (params, shown(valid, xs), state0, lengths, valid), _directions(stack)
        if gradient == "cudnn":
            steps_asked(unroll)
            require_no_segments(segments)
            require_cudnn(layers, xs.dtype, Marks())
            return _by_cudnn(layers, *inputs, or_loop=False)
        if (unroll, segments) == ("auto", "auto") and auto_takes_kernel(layers, xs):
            return _by_cudnn(layers, *inputs, or_loop=True)
    keys = [None] * len(stack.layers) if key is None else jax.random.split(key, len(stack.layers))
    states, ys = [], shown(valid, xs)
    for number, layer in enumerate(stack.layers):
        own, start, key_layer = params.layers[number], state0[number], keys[number]
        below = ys
        if key_layer is not None:
            key_drop, key_layer = jax.random.split(key_layer)
            if number:
                ys = drop(key_drop, stack.dropout, ys, variational=stack.variational)
        after, ys = _unroll_layer(layer, own, ys, start, key_layer, options)
        states.append(after)
        if stack.residual and number:
            ys = ys + below
    return tuple(states), shown(valid, _projected(params, ys))


def _one_kernel(stack: Stack, key: Array | None, resets: Any, truncate: int | None) -> bool:
    """Whether NVIDIA's kernel can run all layers at once, if it can run them at all."""
    between = key is not None and stack.dropout and len(stack.layers) > 1
    cells = cells_of(stack.layers)
    zoneout = any(
        any(zoneout_rates(stack.zoneout, jax.eval_shape(cell.initial_state))) for cell in cells
    )
    within = zoneout or stack.recurrent_dropout or resets is not None or truncate is not None
    layers = _directions(stack)
    alike = len({len(layer) for layer in layers}) == 1
    sizes = {cell.hidden_size for layer in layers for cell in layer}
    turned_layer = any(isinstance(layer, Backward) for layer in stack.layers)
    return not (between or within or stack.residual or turned_layer) and alike and len(sizes) == 1


def _directions(stack: Stack) -> tuple[tuple[Cell, ...], ...]:
    return tuple((layer,) if isinstance(layer, Cell) else tuple(layer) for layer in stack.layers)


def _by_cudnn(
    layers: Layers,
    params: StackParams,
    xs: Array,
    state0: Any,
    lengths: Any,
    valid: Marks,
    *,
    or_loop: bool,
) -> tuple[tuple[Any, ...], Array]:
    if not len(xs):
        raise ShapeError("Shape mismatch: expected xs of at least one step, got none.")

    def by_direction(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(
            (value,) if len(layer) == 1 else tuple(value)
            for layer, value in zip(layers, values, strict=True)
        )

    ends, ys = unroll_by_cudnn(
        layers, by_direction(params.layers), xs, by_direction(state0), lengths, or_loop=or_loop
    )
    states = tuple(end[0] if len(end) == 1 else Both(*end) for end in ends)
    return states, shown(valid, _projected(params, ys))


def _unroll_layer(
    layer: Layer,
    params: PyTree,
    xs: Array,
    state0: PyTree,
    key: Array | None,
    options: dict[str, Any],
) -> tuple[PyTree, Array]:
    if isinstance(layer, Cell):
        return unroll_cell(layer, params, xs, state0, key=key, **options)
    if isinstance(layer, Backward):
        return unroll_cell(layer.cell, params, xs, state0, reverse=True, key=key, **options)
    keys = (None, None) if key is None else jax.random.split(key)
    (forward, ys), (backward, zs) = (
        unroll_cell(cell, own, xs, start, reverse=reverse, key=k, **options)
        for cell, own, start, k, reverse in zip(
            layer, params, state0, keys, (False, True), strict=True
        )
    )
    return Both(forward, backward), jnp.concatenate([ys, zs], axis=-1)


def check_stack_arguments(
    stack: Stack, params: StackParams, xs: Any, state0: Any
) -> tuple[Any, ...]:
    """Refuse params, a sequence or starting states that do not fit the stack or each other.

    Returns:
        The starting states: the learned ones, or zeros, in place of None.

    Raises:
        ShapeError, DtypeError, TypeError: with what was expected and what came.
    """
    if not isinstance(stack, Stack):
        raise TypeError(f"Stack mismatch: expected a stack, got {type(stack).__name__}.")
    expected = jax.eval_shape(stack.init, jax.random.key(0))
    require_same_structure("stack params", params, expected)
    dtype = jnp.result_type(jax.tree.leaves(params)[0])
    require_arrays("params", params, expected, dtype)
    if not hasattr(xs, "shape"):
        raise TypeError(f"Type mismatch: expected xs as an array, got {type(xs).__name__}.")
    if jnp.ndim(xs) not in (2, 3) or xs.shape[-1] != stack.input_size:
        raise ShapeError(
            f"Shape mismatch: expected xs [T, {stack.input_size}] or [T, B, {stack.input_size}], got "
            f"{show_shape(jnp.shape(xs))}."
        )
    require_dtype("xs", xs, dtype)
    batch_size = xs.shape[1] if xs.ndim == 3 else None
    if state0 is not None:
        require_arrays("state0", state0, stack.initial_state(batch_size, dtype), dtype)
        return state0
    return starting_states(stack, params, batch_size, dtype)
