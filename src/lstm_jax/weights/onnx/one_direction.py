"""Convert one direction of an ONNX recurrent operator to and from a cell.

    W[GH, D]   R[GH, H]   B[2GH] = (Wb, Rb)   P[3H]         gates and peepholes as `gate_order` says

    LSTM                              `lstm`; with P, peepholes; with input_forget, coupled gates
    GRU, linear_before_reset = 1      `gru`
    GRU, linear_before_reset = 0      `gru(reset_after=False)`
    RNN with Tanh, Relu, Affine(1, 0) `rnn` with tanh, relu, identity

ONNX does not say which gate input_forget leaves: onnxruntime takes f = 1 − i, and `lstm_jax` i = 1 − f. One
becomes the other by negating the gate's weights, σ(−z) = 1 − σ(z). `write_direction` writes both gates, z_f
and −z_f, so that a runtime computes the same function with either, and also if it ignores the attribute.
"""

from typing import Any, NamedTuple

import numpy as np

from lstm_jax.cells import Cell, LSTMParams
from lstm_jax.cells.lstm_variants import LSTMVariantParams
from lstm_jax.cells.specification import Specification, make_cell
from lstm_jax.weights.arrays import require_shape
from lstm_jax.weights.cell_specification import require_options
from lstm_jax.weights.gate_order import PEEPHOLES, reorder
from lstm_jax.weights.two_biases import TwoBiases, merge, split

OPERATORS = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn"}
ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu", "identity": "Affine"}
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
KNOWN = ("reset_before", "peepholes", "coupled_gates", "identity")


class OneDirection(NamedTuple):
    """The operator's inputs without their axis of directions; ``P`` None without peepholes."""

    W: np.ndarray
    R: np.ndarray
    B: np.ndarray
    P: Any = None


def read_direction(
    name: str, specification: Specification, arrays: OneDirection
) -> tuple[Cell, Any]:
    """A cell and its NumPy params from one direction of a node.

    Args:
        name: of the node, for messages.
        specification: of the cell.
        arrays: of the node.

    Raises:
        ShapeError: an input whose shape does not fit the sizes.
    """
    kind, input_size, hidden_size = specification[:3]
    rows = GATES[kind] * hidden_size
    shapes = {
        "W": (rows, input_size),
        "R": (rows, hidden_size),
        "B": (2 * rows,),
        "P": (3 * hidden_size,),
    }
    for field, array in arrays._asdict().items():
        if array is not None:
            legend = f"each direction, D={input_size}, H={hidden_size}"
            require_shape(f"{field} of {name}", array, shapes[field], legend)
    weights = TwoBiases(arrays.W.T, arrays.R.T, *np.split(arrays.B, 2))
    params = merge(kind, "onnx", weights, reset_after=specification.reset_after)
    p = arrays.P
    if p is not None:
        p = reorder(p, PEEPHOLES["onnx"], PEEPHOLES["lstm_jax"])
    if specification.coupled_gates:
        params = _without_input_gate(params)
        p = None if p is None else np.concatenate([-p[:hidden_size], p[2 * hidden_size :]])
    if p is not None or specification.coupled_gates:
        params = LSTMVariantParams(*params)._replace(p=p)
    return make_cell(specification), params


def write_direction(cell: Cell, params: Any) -> OneDirection:
    """The inverse of `read_direction`.

    Raises:
        ValueError: layer normalisation or a projection of h, which ONNX's LSTM does not have.
    """
    specification = require_options("ONNX", cell, KNOWN)
    hidden_size, p = specification.hidden_size, getattr(params, "p", None)
    if specification.coupled_gates:
        p = None if p is None else _with_input_gate(p, hidden_size)
        four_gates: Any = (_with_input_gate(w, hidden_size) for w in params[:3])
        params = LSTMParams(*four_gates)
    w_x, w_h, b_x, b_h = split(specification.kind, "onnx", params)
    if p is not None:
        p = reorder(p, PEEPHOLES["lstm_jax"], PEEPHOLES["onnx"])
    return OneDirection(w_x.T, w_h.T, np.concatenate([b_x, b_h]), p)


def _without_input_gate(params: LSTMParams) -> LSTMParams:
    """i, f, g, o to f, g, o: the columns of f become those of i, negated; those of f are not used."""
    blocks = (np.split(w, 4, axis=-1) for w in params)
    three_gates: Any = (np.concatenate([-i, g, o], axis=-1) for i, _, g, o in blocks)
    return LSTMParams(*three_gates)


def _with_input_gate(w: np.ndarray, hidden_size: int) -> np.ndarray:
    """f, g, o to i, f, g, o."""
    return np.concatenate([-w[..., :hidden_size], w], axis=-1)
