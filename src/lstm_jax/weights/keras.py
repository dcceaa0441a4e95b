"""Weights to and from Keras: ``SimpleRNN``, ``LSTM``, ``GRU`` and ``Bidirectional``, as lists of arrays.

    kernel [D, GH]     recurrent_kernel [H, GH]     bias [GH], of a GRU with reset_after [2, GH]
                                                    bias [2GH] of CuDNNLSTM and CuDNNGRU (`keras_cudnn`)

and for ``Bidirectional`` the same again for the backward layer. Without ``use_bias`` there is no bias.
Keras's order of gates is in `gate_order`. A Keras GRU has ``reset_after`` by default.

Keras itself is not imported.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lstm_jax.array_types import PyTree
from lstm_jax.cells import Cell
from lstm_jax.cells.specification import Specification, make_cell
from lstm_jax.layers.stack import Backward, Bidirectional, Layer
from lstm_jax.validation import ShapeError, require_bool, require_one_of, show_shape
from lstm_jax.weights.arrays import require_one_dtype, require_shape, to_jax, to_numpy
from lstm_jax.weights.cell_specification import (
    KINDS,
    checked_params,
    directions,
    joined,
    require_options,
)
from lstm_jax.weights.keras_configuration import Settings, layer_settings
from lstm_jax.weights.keras_cudnn import from_cudnn_layout, is_cudnn_bias
from lstm_jax.weights.two_biases import TwoBiases, merge, split

ACTIVATIONS = ("tanh", "relu", "identity", "linear")


def from_keras(
    weights: Sequence[Any],
    *,
    kind: str | None = None,
    reset_after: bool = True,
    activation: str = "tanh",
    config: Mapping[str, Any] | None = None,
) -> tuple[Layer, PyTree]:
    """A recurrent Keras layer's ``get_weights()`` as a cell or a layer, with its parameters.

    Args:
        weights: kernel, recurrent kernel and bias, without the bias for ``use_bias=False``; for a
            ``Bidirectional`` twice as many. Two layers of a model have as many: pass one layer at a time. All
            of one floating dtype, which is the parameters' dtype.
        kind: ``"lstm"``, ``"gru"`` or ``"rnn"``, to check the kind that follows from the number of gates.
        reset_after: of the GRU.
        activation: of a SimpleRNN, ``"tanh"``, ``"relu"`` or ``"identity"``, Keras's ``"linear"``.
        config: the layer's ``get_config()``, which says activations, the form of a GRU and the direction in
            place of the two arguments above. Without it an LSTM or GRU is taken to have tanh and sigmoid.

    Returns:
        A `Cell`, or a `Bidirectional` layer for `lstm_jax.stack`, and its params; with ``go_backwards`` in
        the config a `Backward` layer, whose outputs are in the order of the inputs. Keras's weights contain
        neither dropout nor ``go_backwards``.

    Raises:
        TypeError: anything but a list of arrays.
        ValueError: a wrong number of arrays, another kind, an option of another kind, or a config with what
            no cell here computes: other activations, ``hard_sigmoid`` among them, or another ``merge_mode``.
        ShapeError: an array that does not fit the others, or a bias that contradicts ``reset_after``.
        DtypeError: arrays that are not all of one floating dtype, or float64 without ``jax_enable_x64``.

    Example:
        >>> import numpy as np
        >>> from lstm_jax import weights
        >>> arrays = [np.ones((3, 20), "f"), np.ones((5, 20), "f"), np.ones(20, "f")]
        >>> cell, params = weights.from_keras(arrays)  # of keras.layers.LSTM(5).get_weights()
        >>> cell
        lstm(input_size=3, hidden_size=5)
    """
    if kind is not None:
        require_one_of("kind", kind, tuple(KINDS.values()))
    require_one_of("activation", activation, ACTIVATIONS)
    require_bool("reset_after", reset_after)
    if not isinstance(weights, (list, tuple)) or hasattr(weights, "_fields"):
        raise TypeError(
            f"Type mismatch: expected the list of get_weights(), got {type(weights).__name__}. Files and "
            "models are taken by weights.load."
        )
    names = {2: [""], 3: [""], 4: ["forward ", "backward "], 6: ["forward ", "backward "]}
    if len(weights) not in names:
        raise ValueError(
            "Weight mismatch: expected kernel, recurrent kernel and perhaps a bias, of one layer or of two, "
            f"got {len(weights)} arrays."
        )
    sides = names[len(weights)]
    each = len(weights) // len(sides)
    parts = ["kernel", "recurrent kernel", "bias"][:each]
    arrays = {
        direction + part: to_numpy(direction + part, weights[number * each + place])
        for number, direction in enumerate(sides)
        for place, part in enumerate(parts)
    }
    require_one_dtype(arrays)
    pairs: list[tuple[Cell, Any]] = []
    settings = _settings(arrays, sides, config)
    for number, direction in enumerate(sides):
        if settings:
            activation = settings[number].activation
            told = settings[number].reset_after
            reset_after = _is_double(arrays, direction) if told is None else told
        specification = _specify(arrays, direction, kind, reset_after, activation)
        if pairs:  # The directions may be of other kinds and sizes, over the same inputs.
            specification = specification._replace(input_size=pairs[0][0].input_size)
        pairs.append(_read(arrays, direction, specification))
    cell, params = joined(pairs)
    if len(settings) == 1 and settings[0].go_backwards:
        return Backward(pairs[0][0]), to_jax(params)
    return cell, to_jax(params)


def _settings(
    arrays: dict[str, np.ndarray], sides: list[str], config: Mapping[str, Any] | None
) -> list[Settings]:
    """What a configuration says of each direction; empty without one."""
    if config is None:
        return []
    kinds = [_specify(arrays, side, None, True, "tanh").kind for side in sides]
    found = layer_settings(kinds, dict(config))
    for one in found:
        if one.refused:
            raise ValueError(f"Layer mismatch: expected a layer as a cell here, got {one.refused}.")
        if one.merge_mode not in ("concat", None):
            raise ValueError(
                "Option mismatch: expected merge_mode='concat', which puts both directions side by side as a "
                f"layer here does, got {one.merge_mode!r}."
            )
    return found


def _is_double(arrays: dict[str, np.ndarray], direction: str) -> bool:
    """Whether a GRU's bias is that of one that resets after the product: [2, 3H], or cuDNN's [6H]."""
    bias = arrays.get(f"{direction}bias")
    columns = arrays[f"{direction}kernel"].shape[-1]
    return bias is not None and (bias.ndim == 2 or bias.shape == (2 * columns,))


def _specify(
    arrays: dict[str, np.ndarray],
    direction: str,
    kind: str | None,
    reset_after: bool,
    activation: str,
) -> Specification:
    """The specification of one direction, from its shapes."""
    for part in ("kernel", "recurrent kernel"):
        shape = arrays[direction + part].shape
        if len(shape) != 2 or 0 in shape:
            raise ShapeError(
                f"Shape mismatch: expected the {direction}{part} as a matrix, got {show_shape(shape)}."
            )
    hidden_size, columns = arrays[f"{direction}recurrent kernel"].shape
    gates, rest = divmod(columns, hidden_size)
    if rest or gates not in KINDS:
        raise ShapeError(
            f"Shape mismatch: expected the {direction}recurrent kernel of 1, 3 or 4 gates of {hidden_size} "
            f"units, got {show_shape((hidden_size, columns))}."
        )
    found = KINDS[gates]
    if kind not in (None, found):
        raise ValueError(
            f"Kind mismatch: expected kind={kind!r}, got the {gates} gates of {found!r}."
        )
    if found != "rnn" and activation != "tanh":
        raise ValueError(
            f"Option mismatch: expected activation='tanh' with {gates} gates, got {activation!r}."
        )
    return Specification(
        found,
        arrays[f"{direction}kernel"].shape[0],
        hidden_size,
        activation="identity" if activation == "linear" else activation,
        reset_after=reset_after or found != "gru",
    )


def _read(
    arrays: dict[str, np.ndarray], direction: str, specification: Specification
) -> tuple[Cell, Any]:
    """One direction: its cell, and its params in NumPy."""
    kind, input_size, hidden_size = specification[:3]
    columns = len(specification.gates) * hidden_size
    double = kind == "gru" and specification.reset_after
    shapes: dict[str, tuple[int, ...]] = {
        "kernel": (input_size, columns),
        "recurrent kernel": (hidden_size, columns),
        "bias": (2, columns) if double else (columns,),
    }
    legend = f"D={input_size}, H={hidden_size}"
    if kind == "gru":
        legend += f", reset_after={specification.reset_after}"
    names = [direction + part for part in shapes]
    if names[2] in arrays and is_cudnn_bias(arrays[names[2]], columns, columns // hidden_size):
        w_x, w_h, both = (arrays[name] for name in names)
        require_shape(f"the {names[0]}", w_x, shapes["kernel"], legend)
        if kind == "gru" and not double:
            raise ShapeError(
                f"Shape mismatch: expected the {names[2]} {show_shape(shapes['bias'])} ({legend}), got "
                f"cuDNN's {show_shape(both.shape)}, of reset_after=True."
            )
        converted = from_cudnn_layout(w_x, w_h, both, columns // hidden_size)
        arrays = dict(zip(names, converted, strict=True))
    for part, shape in shapes.items():
        if direction + part in arrays:
            require_shape(f"the {direction}{part}", arrays[direction + part], shape, legend)
    w_x, w_h = arrays[f"{direction}kernel"], arrays[f"{direction}recurrent kernel"]
    bias = arrays.get(f"{direction}bias", np.zeros(shapes["bias"], w_x.dtype))
    b_x, b_h = bias if double else (bias, np.zeros_like(bias))
    weights = TwoBiases(w_x, w_h, b_x, b_h)
    params = merge(kind, "keras", weights, reset_after=specification.reset_after)
    return make_cell(specification), params


def to_keras(cell: Layer, params: PyTree, *, use_bias: bool = True) -> list[np.ndarray]:
    """A cell or a layer as the weights for ``set_weights`` of the same Keras layer.

    Args:
        cell: a `Cell` for ``SimpleRNN``, ``LSTM`` or ``GRU``, a `Bidirectional` layer for
            ``Bidirectional``, with ``backward_layer=`` where its directions are not alike, or a `Backward`
            one for ``go_backwards``. The Keras layer must have the cell's activation and ``reset_after``.
        params: of the cell.
        use_bias: whether the layer has biases.

    Returns:
        NumPy arrays of the parameters' dtype: kernel, recurrent kernel and, unless ``use_bias=False``, bias.

    Raises:
        ValueError: options that no Keras layer has: peepholes, coupled gates, layer normalisation, a
            projection; or ``use_bias=False`` with a bias that is not zero.
        ShapeError, DtypeError, TypeError: params that are not the cell's, or a stack, whose layers are
        given one by one.

    Example:
        >>> import jax, lstm_jax
        >>> from lstm_jax import weights
        >>> cell = lstm_jax.gru(3, 4)
        >>> [array.shape for array in weights.to_keras(cell, cell.init(jax.random.key(0)))]
        [(3, 12), (4, 12), (2, 12)]
    """
    require_bool("use_bias", use_bias)
    params = checked_params(cell, params)
    if not isinstance(cell, (Cell, Bidirectional, Backward)):
        raise TypeError(
            f"Cell mismatch: expected one layer of the stack after the other, got a {type(cell).__name__}."
        )
    pairs = directions(cell, params)
    written: list[np.ndarray] = []
    known = ("reset_before", "identity")
    for one, cell_params in pairs:
        specification = require_options("Keras", one, known)
        w_x, w_h, b_x, b_h = split(specification.kind, "keras", cell_params)
        written += [w_x, w_h]
        double = specification.kind == "gru" and specification.reset_after
        if use_bias:
            written.append(np.stack([b_x, b_h]) if double else b_x)
        elif b_x.any() or b_h.any():
            raise ValueError(
                f"Bias mismatch: expected biases of zero for use_bias=False, got others in {cell}."
            )
    return written
