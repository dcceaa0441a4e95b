r"""Recurrent layers on top of each other, in one direction or in both.

    y⁰ = xs
    yˡ = layer_l(d(yˡ⁻¹))                    d: dropout, between layers only
    yˡ = layer_l(d(yˡ⁻¹)) + yˡ⁻¹             with residual connections, l ≥ 2
    ys = yᴸ W_y + b_y                        with an output projection, else yᴸ

A bidirectional layer is two cells over the same sequence, one of them backwards, their outputs side by side;
a backward layer is the latter alone.
Each layer is one `lstm_jax.unroll`, and so its gradient is the one derived by hand.

Axes: xs[T, D] or xs[T, B, D]; ys[T, ..., O]; w_y[P, O], b_y[O] with P the last layer's output size.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, Float, PyTree
from lstm_jax.cells.cell import Cell, require_cell
from lstm_jax.cudnn import Layers, unroll_by_cudnn
from lstm_jax.dropout import dropout as drop
from lstm_jax.dropout import require_rate, require_recurrent_dropout, zoneout_rates
from lstm_jax.initializers import uniform
from lstm_jax.kernel_choice import auto_takes_kernel, require_cudnn
from lstm_jax.loop import steps_asked
from lstm_jax.marks import Marks, checked_lengths, left, marks_of, shown
from lstm_jax.unroll import require_no_segments
from lstm_jax.unroll import unroll as unroll_cell
from lstm_jax.validation import (
    ShapeError,
    require_arrays,
    require_bool,
    require_dtype,
    require_key,
    require_positive_int,
    require_same_structure,
    show_shape,
)


class Bidirectional(NamedTuple):
    """A layer of two cells over the same sequence; make it with `bidirectional`."""

    forward: Cell
    backward: Cell

    @property
    def input_size(self) -> int:
        """D."""
        return self.forward.input_size

    @property
    def output_size(self) -> int:
        """Both cells' output sizes added up."""
        return self.forward.output_size + self.backward.output_size

    def init(self, key: Array, dtype: Any = float) -> "Both":
        """Draw the parameters of both cells."""
        key_forward, key_backward = jax.random.split(key)
        return Both(self.forward.init(key_forward, dtype), self.backward.init(key_backward, dtype))

    def initial_state(self, batch_size: int | None = None, dtype: Any = float) -> "Both":
        """Zeros for both cells."""
        return Both(
            self.forward.initial_state(batch_size, dtype),
            self.backward.initial_state(batch_size, dtype),
        )


class Backward(NamedTuple):
    """A layer of one cell that runs from the last step to the first; make it with `backward`."""

    cell: Cell

    @property
    def input_size(self) -> int:
        """D."""
        return self.cell.input_size

    @property
    def output_size(self) -> int:
        """The cell's."""
        return self.cell.output_size

    def init(self, key: Array, dtype: Any = float) -> Any:
        """Draw the cell's parameters, which are the layer's."""
        return self.cell.init(key, dtype)

    def initial_state(self, batch_size: int | None = None, dtype: Any = float) -> Any:
        """The cell's, which is the layer's."""
        return self.cell.initial_state(batch_size, dtype)


Layer = Cell | Bidirectional | Backward


class Both(NamedTuple):
    """Parameters, or states, of the two cells of a bidirectional layer."""

    forward: Any
    backward: Any


class StackParams(NamedTuple):
    """Parameters of a stack.

    Attributes:
        layers: one entry for each layer: a cell's params, or `Both`.
        state0: the learned starting state of each layer, leaves [H]; None where it is not learned.
        w_y: [P, O] of the output projection; None without one.
        b_y: [O] of the output projection; None without one.
    """

    layers: tuple[Any, ...]
    state0: Any = None
    w_y: Any = None
    b_y: Any = None


class Stack(NamedTuple):
    """Layers and how they are joined; make it with `stack`. Hashable: a static argument of `jax.jit`."""

    layers: tuple[Layer, ...]
    dropout: float
    variational: bool
    zoneout: Any
    recurrent_dropout: float
    residual: bool
    learned_state: bool
    projected_size: int | None

    @property
    def input_size(self) -> int:
        """D of the first layer."""
        return self.layers[0].input_size

    @property
    def output_size(self) -> int:
        """O: of the output projection, or of the last layer."""
        return self.projected_size or self.layers[-1].output_size

    def init(self, key: Array, dtype: Any = float) -> StackParams:
        """Draw parameters: ``init(key, dtype)`` -> `StackParams`. A learned starting state begins at zero."""
        require_key(key)
        *keys, key_y = jax.random.split(key, len(self.layers) + 1)
        layers = tuple(layer.init(k, dtype) for layer, k in zip(self.layers, keys, strict=True))
        state0 = self.initial_state(None, dtype) if self.learned_state else None
        if self.projected_size is None:
            return StackParams(layers, state0)
        size = self.layers[-1].output_size
        w_y = uniform(size**-0.5)(key_y, (size, self.projected_size), dtype)
        return StackParams(layers, state0, w_y, jnp.zeros(self.projected_size, w_y.dtype))

    def initial_state(self, batch_size: int | None = None, dtype: Any = float) -> tuple[Any, ...]:
        """A state of zeros for each layer, leaves [H] or [B, H]."""
        return tuple(layer.initial_state(batch_size, dtype) for layer in self.layers)

    def step(
        self, params: StackParams, states: tuple[Any, ...], x: Array
    ) -> tuple[tuple[Any, ...], Array]:
        """All layers for one time step, without dropout: ``(states, y)``, as a cell's own step.

        For streams, for generating, and for the microscope, which takes it as a step like any other.

        Raises:
            TypeError: a stack with a layer that needs the whole sequence: a bidirectional or backward one.
        """
        require_one_direction(self)
        after = []
        for number, (cell, own, state) in enumerate(
            zip(cells_of(self.layers), params.layers, states, strict=True)
        ):
            before = x
            held, x = cell.step(own, state, x)
            rates = zoneout_rates(self.zoneout, state)
            if any(rates):
                kept = type(state)(*(jnp.asarray(rate, x.dtype) for rate in rates))
                held = left(Marks(held=kept), held, state)
                x = held.h
            after.append(held)
            x = x + before if self.residual and number else x
        return tuple(after), _projected(params, x)


def bidirectional(forward: Cell, backward: Cell | None = None) -> Bidirectional:
    """A layer of two cells over the same sequence, the second one backwards, for `stack`.

    Args:
        forward: from `lstm`, `gru` or `rnn`.
        backward: likewise; if None, like ``forward``, with parameters of its own.

    Raises:
        TypeError: what is no cell.
        ValueError: two cells of different input sizes.

    Example:
        >>> import lstm_jax
        >>> layer = lstm_jax.bidirectional(lstm_jax.lstm(3, 4))
        >>> layer.output_size
        8
    """
    cells = Bidirectional(forward, forward if backward is None else backward)
    for cell in cells:
        require_cell(cell)
    if cells.forward.input_size != cells.backward.input_size:
        raise ValueError(
            "Size mismatch: expected two cells of one input size, got "
            f"{cells.forward.input_size} and {cells.backward.input_size}."
        )
    return cells


def backward(cell: Cell) -> Backward:
    """A layer of one cell that runs from the last step to the first, for `stack`.

    Its outputs stay aligned with its inputs, and with lengths it begins with each sequence's last own step.

    Args:
        cell: from `lstm`, `gru` or `rnn`.

    Raises:
        TypeError: what is no cell.
    """
    require_cell(cell)
    return Backward(cell)


def stack(
    *layers: Layer,
    dropout: float = 0.0,
    variational: bool = False,
    zoneout: Any = 0.0,
    recurrent_dropout: float = 0.0,
    residual: bool = False,
    learned_state: bool = False,
    output_size: int | None = None,
) -> Stack:
    """Recurrent layers on top of each other, for `unroll_stack`.

    Args:
        *layers: cells from `lstm`, `gru` or `rnn`, or layers from `bidirectional` or `backward`, the first
            one first.
            Kinds and sizes may differ; each layer's input size is the output size of the one below.
        dropout: rate at which the outputs between layers are dropped.
        variational: whether one mask of that dropout serves all steps (Gal & Ghahramani 2016).
        zoneout: rate at which units keep their state, in every layer, as for `unroll`.
        recurrent_dropout: rate at which h_{t−1} is dropped, one mask for all steps, as for `unroll`.
        residual: whether every layer but the first adds its input to its output.
        learned_state: whether the starting state is a parameter.
        output_size: O of a linear projection of the outputs; none if None.

    Returns:
        A `Stack` over `StackParams`; its state is a tuple with one state for each layer, of a
        bidirectional one `Both`.

    Raises:
        TypeError: what is neither a cell nor a layer.
        ValueError: no layers, sizes that do not fit, rates outside of [0, 1), or recurrent dropout with
            a GRU.

    Example:
        >>> import jax, jax.numpy as jnp, lstm_jax
        >>> net = lstm_jax.stack(
        ...     lstm_jax.bidirectional(lstm_jax.gru(3, 4)), lstm_jax.lstm(8, 5), output_size=2
        ... )
        >>> params = net.init(jax.random.key(0))
        >>> states, ys = lstm_jax.unroll_stack(net, params, jnp.ones((10, 6, 3)))
        >>> ys.shape, states[1].c.shape
        ((10, 6, 2), (6, 5))
    """
    if not layers:
        raise ValueError("Layer mismatch: expected at least one layer, got none.")
    for layer in layers:
        if not isinstance(layer, (Cell, Bidirectional, Backward)):
            raise TypeError(
                "Layer mismatch: expected cells, bidirectional or backward layers, got "
                f"{type(layer).__name__}."
            )
    for number, (below, above) in enumerate(zip(layers, layers[1:], strict=False), start=2):
        if above.input_size != below.output_size:
            raise ValueError(
                f"Size mismatch: expected layer {number} of input size {below.output_size}, the "
                f"output size of the layer below, got {above.input_size}."
            )
        if residual and above.output_size != above.input_size:
            raise ValueError(
                f"Size mismatch: expected layer {number} of equal input and output size for a "
                f"residual connection, got {above.input_size} and {above.output_size}."
            )
    flags = {"variational": variational, "residual": residual, "learned_state": learned_state}
    for name, flag in flags.items():
        require_bool(name, flag)
    require_rate("dropout", dropout)
    for cell in cells_of(layers):
        zoneout_rates(zoneout, jax.eval_shape(cell.initial_state))
        require_recurrent_dropout(cell, recurrent_dropout)
    if output_size is not None:
        require_positive_int("output_size", output_size)
    return Stack(
        layers=layers,
        dropout=dropout,
        variational=bool(variational),
        zoneout=zoneout,
        recurrent_dropout=recurrent_dropout,
        residual=bool(residual),
        learned_state=bool(learned_state),
        projected_size=output_size,
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


def _projected(params: StackParams, ys: Array) -> Array:
    if params.w_y is None:
        return ys
    ys = ys @ params.w_y
    return ys + jnp.broadcast_to(params.b_y, ys.shape)


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


def starting_states(
    stack: Stack, params: StackParams, batch_size: int | None, dtype: Any
) -> tuple[Any, ...]:
    """The states that a sequence begins with: the learned ones, or zeros; leaves [H] or [B, H]."""
    if params.state0 is None:
        return stack.initial_state(batch_size, dtype)
    shape = () if batch_size is None else (batch_size,)
    return jax.tree.map(lambda s: jnp.broadcast_to(s, (*shape, *s.shape)), params.state0)


def cells_of(layers: Sequence[Layer]) -> list[Cell]:
    """The cells of some layers, of a bidirectional one both."""
    cells: list[Cell] = []
    for layer in layers:
        cells += [layer] if isinstance(layer, Cell) else list(layer)
    return cells


def require_one_direction(stack: Stack) -> None:
    """Refuse a stack that cannot go step by step.

    Raises:
        TypeError: naming the first layer that goes backwards.
    """
    for number, layer in enumerate(stack.layers, start=1):
        if not isinstance(layer, Cell):
            raise TypeError(
                "Layer mismatch: expected a stack that runs forward, step by step, got a "
                f"{type(layer).__name__.lower()} layer {number}."
            )
