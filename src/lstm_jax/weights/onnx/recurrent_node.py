"""Read a recurrent node of an ONNX graph as cells: attributes, constants, starting state.

inputs      X, W, R, B, sequence_lens, initial_h, initial_c, P    X, initial_h, initial_c may be computed
attributes  direction, hidden_size, layout, activations (+ alpha, beta), clip, input_forget,
            linear_before_reset
"""

from typing import Any, NamedTuple

import numpy as np

from lstm_jax.cells import Cell
from lstm_jax.cells.specification import Specification
from lstm_jax.validation import ShapeError, require_one_of, show_shape
from lstm_jax.weights.arrays import require_one_dtype, require_shape, to_numpy
from lstm_jax.weights.onnx.one_direction import (
    ACTIVATIONS,
    GATES,
    OPERATORS,
    OneDirection,
    read_direction,
)

STANDARD = {"lstm": ["sigmoid", "tanh", "tanh"], "gru": ["sigmoid", "tanh"], "rnn": ["tanh"]}
DIRECTIONS = ("forward", "reverse", "bidirectional")
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
MEANING = {activation.lower(): name for name, activation in ACTIVATIONS.items()}


class Node(NamedTuple):
    """A recurrent node.

    Attributes:
        name: for messages.
        direction: ``"forward"``, ``"reverse"`` or ``"bidirectional"``.
        batch_first: whether X and Y have the batch as their first axis.
        pairs: one or two cells with their NumPy params.
        inputs: name in ONNX's documentation -> name in the graph, for the inputs that are used.
    """

    name: str
    direction: str
    batch_first: bool
    pairs: list[tuple[Cell, Any]]
    inputs: dict[str, str]


def name_of(node: Any) -> str:
    """The name of a node in messages: ``LSTM 'encoder'``."""
    return f"{node.op_type} {node.name or next(filter(None, node.output), '')!r}"


def attributes_of(onnx: Any, node: Any) -> dict[str, Any]:
    """A node's attributes, text as text."""

    def text(value: Any) -> Any:
        return value.decode() if isinstance(value, bytes) else value

    found = {a.name: text(onnx.helper.get_attribute_value(a)) for a in node.attribute}
    return {k: [text(v) for v in a] if isinstance(a, list) else a for k, a in found.items()}


def read_node(onnx: Any, node: Any, values: dict[str, Any]) -> Node:
    """A recurrent node as cells with their params.

    Args:
        onnx: the package.
        node: RNN, GRU or LSTM.
        values: name -> NumPy array, of the graph's constants; other values are not read.

    Raises:
        ValueError: weights that are not constants, or an attribute that changes the node's function.
        ShapeError, DtypeError: weights that do not fit each other.
    """
    name, kind, said = name_of(node), OPERATORS[node.op_type], attributes_of(onnx, node)
    inputs = {field: given for field, given in zip(INPUTS, node.input, strict=False) if given}
    arrays = {}
    for field in ("W", "R", "B", "P"):
        if field not in inputs and field in "BP":
            continue
        array = values.get(inputs.get(field, ""))
        if not isinstance(array, np.ndarray):
            raise ValueError(
                f"Weight mismatch: expected {field} of {name} as a constant, got none."
            )
        arrays[field] = to_numpy(f"{field} of {name}", array)
    direction = said.get("direction", "forward")
    require_one_of(f"direction of {name}", direction, DIRECTIONS)
    count = 2 if direction == "bidirectional" else 1
    for field, array in arrays.items():
        if array.ndim != (3 if field in "WR" else 2) or array.shape[0] != count:
            raise ShapeError(
                f"Shape mismatch: expected {field} of {name} with {count} as its first axis, direction "
                f"{direction!r}, got {show_shape(array.shape)}."
            )
    require_one_dtype({f"{field} of {name}": array for field, array in arrays.items()})
    hidden_size = arrays["R"].shape[2]
    if said.get("hidden_size", hidden_size) != hidden_size:
        raise ShapeError(
            f"Shape mismatch: expected R of {name} [{count}, {GATES[kind]}H, H] "
            f"(H={said['hidden_size']}), got {show_shape(arrays['R'].shape)}."
        )
    arrays.setdefault("B", np.zeros((count, 2 * GATES[kind] * hidden_size), arrays["W"].dtype))
    specification = Specification(
        kind,
        arrays["W"].shape[2],
        hidden_size,
        reset_after=kind != "gru" or bool(said.get("linear_before_reset", 0)),
        peepholes="P" in arrays,
        coupled_gates=bool(said.get("input_forget", 0)),
    )
    pairs = []
    for number, activation in enumerate(_activations(name, kind, said, count)):
        each = OneDirection(**{field: array[number] for field, array in arrays.items()})
        pairs.append(read_direction(name, specification._replace(activation=activation), each))
    return Node(name, direction, bool(said.get("layout", 0)), pairs, inputs)


def _activations(name: str, kind: str, said: dict[str, Any], count: int) -> list[str]:
    """The activation of each direction's cell, by `lstm_jax`'s name; refuses activations without a cell."""
    if "clip" in said:
        raise ValueError(
            f"Attribute mismatch: expected {name} without clip, got clip={said['clip']:g}."
        )
    names = [a.lower() for a in said.get("activations", STANDARD[kind] * count)]
    if kind == "rnn" and len(names) == count and set(names) <= set(MEANING):
        alpha, beta = said.get("activation_alpha", []), said.get("activation_beta", [])
        affine = "affine" in names
        if set(alpha) <= ({1.0} if affine else set()) and set(beta) <= ({0.0} if affine else set()):
            if bool(alpha) == affine:
                return [MEANING[a] for a in names]
    elif names == STANDARD[kind] * count and not set(said) & {
        "activation_alpha",
        "activation_beta",
    }:
        return ["tanh"] * count
    known = "Tanh, Relu or Affine(1, 0)" if kind == "rnn" else " ".join(STANDARD[kind])
    shown = {key: said[key] for key in said if key.startswith("activation")}
    raise ValueError(f"Attribute mismatch: expected {name} with activations {known}, got {shown}.")


def starting_state(node: Node, values: dict[str, Any]) -> list[dict[str, np.ndarray]]:
    """Each direction's starting state as constants ``h[H]`` and ``c[H]``, zeros where the node has none.

    In ``values`` an array is a constant; the caller checks all other values.

    Raises:
        ShapeError: a constant of another shape.
        ValueError: a constant that is not the same for every sample.
    """
    states = []
    for number, (cell, params) in enumerate(node.pairs):
        state = {}
        for field in ("h", "c")[: 2 if "LSTM" in node.name.split()[0] else 1]:
            array = values.get(node.inputs.get(f"initial_{field}", ""))
            zeros = np.zeros(cell.hidden_size, params.w_x.dtype)
            if not isinstance(array, np.ndarray):
                state[field] = zeros
                continue
            label = f"initial_{field} of {node.name}"
            array = array.swapaxes(0, 1) if node.batch_first and array.ndim == 3 else array
            if array.ndim == 3 and (array != array[:, :1]).any():
                raise ValueError(
                    f"State mismatch: expected {label} as one constant for every sample, got different ones."
                )
            array = array[:, :1] if array.ndim == 3 else array
            shape = (len(node.pairs), 1, cell.hidden_size)
            require_shape(label, array, shape, "one constant for every sample")
            state[field] = array[number, 0]
        states.append(state)
    return states
