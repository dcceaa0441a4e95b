r"""The description of a stack of recurrent layers, in one direction or in both, and its parameters.

    y⁰ = xs
    yˡ = layer_l(d(yˡ⁻¹))                    d: dropout, between layers only
    yˡ = layer_l(d(yˡ⁻¹)) + yˡ⁻¹             with residual connections, l ≥ 2
    ys = yᴸ W_y + b_y                        with an output projection, else yᴸ

A bidirectional layer is two cells over the same sequence, one of them backwards, their outputs side by side;
a backward layer is one cell, backwards.

Axes: xs[T, D] or xs[T, B, D]; ys[T, ..., O]; w_y[P, O], b_y[O] with P the last layer's output size.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, Float, PyTree
from lstm_jax.cells.cell import Cell, require_cell, state_shapes
from lstm_jax.dropout import require_rate, zoneout_rates
from lstm_jax.initializers import uniform
from lstm_jax.time_loop.step_masks import StepMasks, require_recurrent_dropout, state_after_step
from lstm_jax.validation import require_bool, require_key, require_positive_int


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
        """The sum of both cells' output sizes."""
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
        """The cell's output size."""
        return self.cell.output_size

    def init(self, key: Array, dtype: Any = float) -> Any:
        """Draw the cell's parameters."""
        return self.cell.init(key, dtype)

    def initial_state(self, batch_size: int | None = None, dtype: Any = float) -> Any:
        """The cell's starting state."""
        return self.cell.initial_state(batch_size, dtype)


Layer = Cell | Bidirectional | Backward


class Both(NamedTuple):
    """Parameters, or states, of the two cells of a bidirectional layer."""

    forward: PyTree
    backward: PyTree


class StackParams(NamedTuple):
    """Parameters of a stack.

    Attributes:
        layers: one entry for each layer: a cell's params, or `Both`.
        state0: the learned starting state of each layer, leaves [H]; None where it is not learned.
        w_y: [P, O] of the output projection; None without one.
        b_y: [O] of the output projection; None without one.
    """

    layers: tuple[PyTree, ...]
    state0: tuple[PyTree, ...] | None = None
    w_y: Float[Array, "p o"] | None = None
    b_y: Float[Array, "o"] | None = None


class Stack(NamedTuple):
    """Layers and their connections; make it with `stack`. Hashable: a static argument of `jax.jit`."""

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
        """The size O of an output: of the projection, or of the last layer."""
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
        """All layers for one time step, without dropout: ``(states, y)``, as the step of a cell.

        For streams, for generating, and for the microscope.

        Raises:
            TypeError: a stack with a bidirectional or backward layer, which needs the whole sequence.
        """
        require_one_direction(self)
        after = []
        for number, (cell, cell_params, state) in enumerate(
            zip(cells_of(self.layers), params.layers, states, strict=True)
        ):
            below = x
            rates = zoneout_rates(self.zoneout, state)
            state, x = step_with_zoneout(cell, cell_params, state, x, rates)
            after.append(state)
            x = x + below if self.residual and number else x
        return tuple(after), projected(params, x)


def step_with_zoneout(
    cell: Cell, params: PyTree, state: PyTree, x: Array, rates: PyTree
) -> tuple[PyTree, Array]:
    """A step under zoneout at evaluation: ``(k s + (1 − k) s̃, its h)``, with the rates k of each leaf."""
    after, out = cell.step(params, state, x)
    if not any(rates):
        return after, out
    zoneout = type(state)(*(jnp.asarray(rate, x.dtype) for rate in rates))
    after = state_after_step(StepMasks(zoneout=zoneout), after, state)
    return after, after.h


def bidirectional(forward: Cell, backward: Cell | None = None) -> Bidirectional:
    """A layer of two cells over the same sequence, the second one backwards, for `stack`.

    Args:
        forward: from `lstm`, `gru` or `rnn`.
        backward: from `lstm`, `gru` or `rnn`; if None, like ``forward``, with other parameters.

    Raises:
        TypeError: an argument that is not a cell.
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

    Its outputs stay aligned with its inputs. With lengths it begins with the last step of each sequence.

    Args:
        cell: from `lstm`, `gru` or `rnn`.

    Raises:
        TypeError: an argument that is not a cell.
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
        *layers: cells from `lstm`, `gru` or `rnn`, or layers from `bidirectional` or `backward`, lowest
            first. Kinds and sizes may differ; each layer's input size is the output size of the one below.
        dropout: rate at which the outputs between layers are dropped.
        variational: whether one mask of that dropout serves all steps (Gal & Ghahramani 2016).
        zoneout: rate at which units keep their state, in every layer, as for `unroll`.
        recurrent_dropout: rate at which h_{t−1} is dropped, one mask for all steps, as for `unroll`.
        residual: whether every layer but the first adds its input to its output.
        learned_state: whether the starting state is a parameter.
        output_size: O of a linear projection of the outputs; none if None.

    Returns:
        A `Stack` over `StackParams`; its state is a tuple with one state for each layer, for a
        bidirectional one `Both`.

    Raises:
        TypeError: an argument that is neither a cell nor a layer.
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
        zoneout_rates(zoneout, state_shapes(cell))
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


def projected(params: StackParams, ys: Array) -> Array:
    """The outputs of the last layer through the output projection, if there is one."""
    w_y, b_y = params.w_y, params.b_y
    if w_y is None or b_y is None:
        return ys
    ys = ys @ w_y
    return ys + jnp.broadcast_to(b_y, ys.shape)


def starting_states(
    stack: Stack, params: StackParams, batch_size: int | None, dtype: Any
) -> tuple[Any, ...]:
    """The states that a sequence begins with: the learned ones, or zeros; leaves [H] or [B, H]."""
    if params.state0 is None:
        return stack.initial_state(batch_size, dtype)
    shape = () if batch_size is None else (batch_size,)
    return jax.tree.map(lambda s: jnp.broadcast_to(s, (*shape, *s.shape)), params.state0)


def cells_of(layers: Sequence[Layer]) -> list[Cell]:
    """The cells of some layers, both of a bidirectional one."""
    cells: list[Cell] = []
    for layer in layers:
        cells += [layer] if isinstance(layer, Cell) else list(layer)
    return cells


def require_one_direction(stack: Stack) -> None:
    """Refuse a stack that cannot go step by step.

    Raises:
        TypeError: naming the first layer that runs backwards.
    """
    for number, layer in enumerate(stack.layers, start=1):
        if not isinstance(layer, Cell):
            raise TypeError(
                "Layer mismatch: expected a stack that runs forward, step by step, got a "
                f"{type(layer).__name__.lower()} layer {number}."
            )
