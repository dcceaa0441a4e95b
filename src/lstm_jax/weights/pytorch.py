"""Weights to and from PyTorch: ``nn.RNN``, ``nn.LSTM``, ``nn.GRU`` and their cells, as a state dict.

    weight_ih_l0 [GH, D]     weight_hh_l0 [GH, P]     bias_ih_l0, bias_hh_l0 [GH]     weight_hr_l0 [P, H]

l0 is the first layer, ``_reverse`` after it the backward direction; `gate_order` has the gates.
Only ``proj_size`` gives ``weight_hr``; without it P = H. An ``nn.RNNCell``, ``nn.LSTMCell`` or
``nn.GRUCell`` has the names without ``_l0``.

PyTorch is not imported: tensors are recognised by their methods, and the results are NumPy arrays.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from lstm_jax.array_types import PyTree
from lstm_jax.cells import Cell
from lstm_jax.cells.lstm_variants import LSTMVariantParams
from lstm_jax.cells.specification import Specification, make_cell, specify
from lstm_jax.layers.stack import Backward, Stack, StackParams, stack
from lstm_jax.validation import (
    ShapeError,
    require_bool,
    require_one_of,
    require_text,
    show_shape,
)
from lstm_jax.weights.arrays import (
    require_names,
    require_one_dtype,
    require_shape,
    to_jax,
    to_numpy,
)
from lstm_jax.weights.cell_specification import (
    KINDS,
    checked_params,
    directions,
    joined,
    require_options,
)
from lstm_jax.weights.two_biases import TwoBiases, merge, split

LAYERED = re.compile(
    r"(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)_l(0|[1-9]\d{0,8})(_reverse)?"
)
SINGLE = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def from_pytorch(
    state_dict: Mapping[str, Any], *, prefix: str = "", activation: str = "tanh"
) -> tuple[Cell | Stack, PyTree]:
    """A recurrent PyTorch module's ``state_dict()`` as a cell or a stack, with its parameters.

    Kind, sizes, layers, directions and projection are read from names and shapes. Two biases become one where
    only their sum matters; absent ones become zeros. A state dict has no dropout, so the stack has none.

    Args:
        state_dict: name -> tensor or array, all of one floating dtype, which is the parameters' dtype.
        prefix: of the names, as ``"encoder.lstm"``. Other names are ignored; all names with it are read.
        activation: ``"tanh"`` or ``"relu"``, the ``nonlinearity`` of an ``nn.RNN``, which is not in a state
            dict.

    Returns:
        For a module of layers, also of one layer, a `Stack` and `StackParams`; for a module of one cell, a
        `Cell` and its params.

    Raises:
        ValueError: a name that is missing, or one that is unexpected under the prefix; an activation with a
            GRU or LSTM.
        ShapeError: a tensor whose shape does not fit the others.
        DtypeError: tensors that are not all of one floating dtype, or float64 without ``jax_enable_x64``.
        TypeError: anything but a dict of arrays, or a prefix that is no text.

    Example:
        >>> import numpy as np, lstm_jax
        >>> from lstm_jax import weights
        >>> state_dict = {"weight_ih_l0": np.ones((20, 3), "f"), "weight_hh_l0": np.ones((20, 5), "f")}
        >>> net, params = weights.from_pytorch(state_dict)  # of torch.nn.LSTM(3, 5, bias=False)
        >>> net.layers, params.layers[0].w_x.shape
        ((lstm(input_size=3, hidden_size=5),), (3, 20))
    """
    require_one_of("activation", activation, ("tanh", "relu"))
    require_text("prefix", prefix)
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"Type mismatch: expected a state dict, got a {type(state_dict).__name__}. Pass the result of "
            "the module's state_dict()."
        )
    require_names("the state dict", state_dict)
    dot = f"{prefix}." if prefix and not prefix.endswith(".") else prefix
    arrays: dict[str, Any] = {
        name.removeprefix(dot): value
        for name, value in state_dict.items()
        if isinstance(name, str) and name.startswith(dot)
    }
    if not arrays:
        raise ValueError(f"Name mismatch: expected weights under the prefix {prefix!r}, got none.")
    if any(name in SINGLE for name in arrays):
        endings, biased = [[""]], "bias_ih" in arrays or "bias_hh" in arrays
    else:
        endings, biased = _endings(arrays)
    parts = ["weight_ih", "weight_hh"] + ["bias_ih", "bias_hh"] * biased
    first = endings[0][0]
    if f"weight_hr{first}" in arrays:
        parts.append("weight_hr")
    expected = {part + ending for layer in endings for ending in layer for part in parts}
    _require_names(dot, arrays, expected)
    # Names before dtypes: counters of other modules are no weights.
    arrays = {name: to_numpy(dot + name, value) for name, value in arrays.items()}
    require_one_dtype(arrays)

    specification = _specify(arrays, first, dot, activation)
    layers: list[Any] = []
    params: list[Any] = []
    for layer in endings:
        made, layer_params = joined([_read(arrays, ending, dot, specification) for ending in layer])
        layers.append(made)
        params.append(layer_params)
        specification = specification._replace(input_size=made.output_size)
    if first == "":
        return layers[0], to_jax(params[0])
    return stack(*layers), to_jax(StackParams(tuple(params)))


def _endings(arrays: Mapping[str, Any]) -> tuple[list[list[str]], bool]:
    """``[["_l0", "_l0_reverse"], …]`` for all layers, and whether there are biases."""
    found = [match for name in arrays if (match := LAYERED.fullmatch(name))]
    numbers = {int(match[2]) for match in found}
    count = 1 + max(numbers, default=0)
    # A name says how many layers there are; only the others show that it is true.
    if len(numbers) < count and numbers:
        missing = next(n for n in range(count) if n not in numbers)
        raise ValueError(
            f"Name mismatch: expected 'weight_ih_l{missing}' beside the weights of layer {count - 1}, got a "
            "state dict without it."
        )
    backward = any(match[3] for match in found)
    endings = [[f"_l{n}"] + [f"_l{n}_reverse"] * backward for n in range(count)]
    return endings, any(match[1].startswith("bias") for match in found)


def _require_names(dot: str, arrays: Mapping[str, Any], expected: set[str]) -> None:
    for name in sorted(set(arrays) - expected):
        raise ValueError(
            f"Name mismatch: expected the weights of one recurrent module, got {dot + name!r} beside them. "
            "Give its prefix=, or take it from the whole by weights.load."
        )
    for name in sorted(expected - set(arrays)):
        raise ValueError(f"Name mismatch: expected {dot + name!r}, got a state dict without it.")


def _specify(
    arrays: dict[str, np.ndarray], ending: str, dot: str, activation: str
) -> Specification:
    """The specification of all layers, from the shapes of the first."""
    for part in ("weight_ih", "weight_hh", "weight_hr"):
        shape = arrays[part + ending].shape if part + ending in arrays else (1, 1)
        if len(shape) != 2 or 0 in shape:
            raise ShapeError(
                f"Shape mismatch: expected {dot}{part}{ending} as a matrix, got {show_shape(shape)}."
            )
    w_h, w_r = arrays[f"weight_hh{ending}"], arrays.get(f"weight_hr{ending}")
    hidden_size = (w_h if w_r is None else w_r).shape[1]
    gates, rest = divmod(w_h.shape[0], hidden_size)
    if rest or gates not in KINDS or (w_r is not None and gates != 4):
        raise ShapeError(
            f"Shape mismatch: expected {dot}weight_hh{ending} of 1, 3 or 4 gates of {hidden_size} units "
            f"(4 with a projection), got {show_shape(w_h.shape)}."
        )
    if KINDS[gates] != "rnn" and activation != "tanh":
        raise ValueError(
            f"Option mismatch: expected activation='tanh' with {gates} gates, got {activation!r}."
        )
    return Specification(
        KINDS[gates],
        arrays[f"weight_ih{ending}"].shape[1],
        hidden_size,
        activation=activation,
        projection_size=None if w_r is None else w_r.shape[0],
    )


def _read(
    arrays: dict[str, np.ndarray], ending: str, dot: str, specification: Specification
) -> tuple[Cell, Any]:
    """One direction of one layer: its cell, and its params in NumPy."""
    kind, input_size, hidden_size = specification[:3]
    output_size = specification.projection_size or hidden_size
    rows = len(specification.gates) * hidden_size
    shapes = {
        "weight_ih": (rows, input_size),
        "weight_hh": (rows, output_size),
        "bias_ih": (rows,),
        "bias_hh": (rows,),
        "weight_hr": (output_size, hidden_size),
    }
    for part, shape in shapes.items():
        if part + ending in arrays:
            legend = f"D={input_size}, H={hidden_size}"
            require_shape(f"{dot}{part}{ending}", arrays[part + ending], shape, legend)
    w_x, w_h = arrays[f"weight_ih{ending}"].T, arrays[f"weight_hh{ending}"].T
    zeros = np.zeros(rows, w_x.dtype)
    b_x, b_h = (arrays.get(f"{part}{ending}", zeros) for part in ("bias_ih", "bias_hh"))
    params = merge(kind, "pytorch", TwoBiases(w_x, w_h, b_x, b_h))
    if specification.projection_size:
        w_r: Any = arrays[f"weight_hr{ending}"].T
        params = LSTMVariantParams(*params)._replace(w_r=w_r)
    return make_cell(specification), params


def to_pytorch(
    net: Cell | Stack, params: PyTree, *, prefix: str = "", bias: bool = True
) -> dict[str, np.ndarray]:
    """A cell or a stack as the state dict of the PyTorch module that computes the same.

    Args:
        net: a `Stack` for ``nn.RNN``, ``nn.LSTM`` or ``nn.GRU``, or a `Cell` for ``nn.RNNCell``,
            ``nn.LSTMCell`` or ``nn.GRUCell``. A stack's dropout is not part of it.
        params: of the net.
        prefix: of each name, as ``"encoder.lstm"``.
        bias: whether the module has biases.

    Returns:
        Name -> NumPy array, of the parameters' dtype. ``module.load_state_dict({name:
        torch.from_numpy(array) for name, array in to_pytorch(net, params).items()})`` takes them in.

    Raises:
        ValueError: options that no PyTorch module has: peepholes, coupled gates, layer normalisation, the GRU
            with reset before the product, the activation identity, layers of different kinds, activations,
            sizes or directions, residual connections, an output projection, zoneout, a learned starting
            state; or ``bias=False`` with a bias that is not zero.
        ShapeError, DtypeError, TypeError: params that are not the net's.

    Example:
        >>> import jax, lstm_jax
        >>> from lstm_jax import weights
        >>> net = lstm_jax.stack(lstm_jax.gru(3, 4))
        >>> {n: a.shape for n, a in weights.to_pytorch(net, net.init(jax.random.key(0))).items()}
        {'weight_ih_l0': (12, 3), 'weight_hh_l0': (12, 4), 'bias_ih_l0': (12,), 'bias_hh_l0': (12,)}
    """
    require_text("prefix", prefix)
    require_bool("bias", bias)
    params = checked_params(net, params)
    dot = f"{prefix}." if prefix and not prefix.endswith(".") else prefix
    if isinstance(net, Cell):
        if require_options("PyTorch", net, ("projection",)).projection_size:
            raise ValueError(
                "Option mismatch: expected a projection in a layer for PyTorch, got a cell. Put it into "
                "lstm_jax.stack."
            )
        return _written(net, params, dot, "", bias)
    if not isinstance(net, Stack):
        raise TypeError(
            f"Cell mismatch: expected a cell or a stack, got {type(net).__name__}. Put it into "
            "lstm_jax.stack."
        )
    _require_uniform(net)
    written: dict[str, np.ndarray] = {}
    for number, (layer, layer_params) in enumerate(zip(net.layers, params.layers, strict=True)):
        pairs = zip(directions(layer, layer_params), ("", "_reverse"), strict=False)
        for (cell, cell_params), back in pairs:
            written |= _written(cell, cell_params, dot, f"_l{number}{back}", bias)
    return written


def _written(cell: Cell, params: Any, dot: str, ending: str, bias: bool) -> dict[str, np.ndarray]:
    kind = require_options("PyTorch", cell, ("projection",)).kind
    w_x, w_h, b_x, b_h = split(kind, "pytorch", params)
    written = {"weight_ih": w_x.T, "weight_hh": w_h.T}
    if bias:
        written |= {"bias_ih": b_x, "bias_hh": b_h}
    elif b_x.any() or b_h.any():
        raise ValueError(
            f"Bias mismatch: expected biases of zero for bias=False, got others in {cell}."
        )
    if getattr(params, "w_r", None) is not None:
        written["weight_hr"] = params.w_r.T
    # A copy in row order, as torch.from_numpy needs it; JAX's arrays are read-only.
    return {f"{dot}{part}{ending}": np.array(array, order="C") for part, array in written.items()}


def _require_uniform(net: Stack) -> None:
    """Refuse a stack that is not one PyTorch module."""
    refused = {
        "residual connections": net.residual,
        "a layer that runs backward alone": any(isinstance(x, Backward) for x in net.layers),
        "an output projection, which is a separate nn.Linear (w_y transposed, b_y)": net.projected_size,
        "zoneout": net.zoneout,
        "a learned starting state, which PyTorch takes as h_0 and c_0 with each call": net.learned_state,
    }
    for words, has in refused.items():
        if has:
            raise ValueError(
                f"Option mismatch: expected a stack that PyTorch has, got one with {words}."
            )
    first = directions(net.layers[0], net.layers[0])[0][0]
    expected = (len(directions(net.layers[0], net.layers[0])), _alike(first))
    for number, layer in enumerate(net.layers):
        pairs = directions(layer, layer)
        for cell, _ in pairs:
            if (len(pairs), _alike(cell)) != expected:
                raise ValueError(
                    "Layer mismatch: expected layers that are alike for PyTorch, got "
                    f"{net.layers[0]} and, as layer {number + 1}, {layer}."
                )


def _alike(cell: Cell) -> Specification:
    """The common properties of the cells of one PyTorch module: all but the input size."""
    return specify(cell)._replace(input_size=0)
