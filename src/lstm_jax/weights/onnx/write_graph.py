"""Write a stack as an ONNX graph.

    xs [T, B, D]                                  or the layer below
    LSTM, GRU or RNN                              [T, dirs, B, H]
    Squeeze; bidirectional: Transpose, Reshape    [T, B, dirs·H]
    Add                                           residual connections: the layer's input
    MatMul, Add, Where                            the output projection, zero past the end of a sequence
    ys [T, B, O]

A layer of two directions is one node where its cells are of one kind and size, else two, ``forward`` and
``reverse``, side by side.
"""

from typing import Any

import jax
import numpy as np

from lstm_jax.array_types import shapes_of
from lstm_jax.cells import Cell
from lstm_jax.cells.specification import specify
from lstm_jax.layers.stack import Backward, Stack, StackParams
from lstm_jax.validation import leaf_name
from lstm_jax.weights.cell_specification import directions
from lstm_jax.weights.onnx.evaluate import LONGEST
from lstm_jax.weights.onnx.one_direction import ACTIVATIONS, OPERATORS, write_direction

OPSET, IR_VERSION = 17, 8
NODES = {kind: operator for operator, kind in OPERATORS.items()}


class Graph:
    """The nodes and constants of a graph; a node has the name of its first output."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, array: Any) -> str:
        """Add an initialiser; return its name."""
        made = self.onnx.numpy_helper.from_array(np.array(array, order="C"), name)
        self.constants.append(made)
        return name

    def integers(self, name: str, *values: int) -> str:
        """Add an initialiser of int64."""
        return self.constant(name, np.array(values, np.int64))

    def add(
        self, operator: str, inputs: list[str], output: str, *more: str, **attributes: Any
    ) -> str:
        """Add a node; return its first output."""
        make = self.onnx.helper.make_node
        self.nodes.append(make(operator, inputs, [output, *more], name=output, **attributes))
        return output


def write_model(onnx: Any, net: Stack, params: StackParams) -> Any:
    """The ``onnx.ModelProto`` of a stack with NumPy params, documented at `to_onnx`."""
    graph, dtype = Graph(onnx), jax.tree.leaves(params)[0].dtype
    info, helper = onnx.helper.make_tensor_value_info, onnx.helper
    floating = helper.np_dtype_to_tensor_dtype(dtype)
    zero, one = graph.integers("zero", 0), graph.integers("one", 1)
    time = graph.add("Shape", ["xs"], "time", start=0, end=1)
    batch = graph.add("Shape", ["xs"], "batch", start=1, end=2)
    # Default inputs: all steps, and the same state for every sample.
    graph.constant("lengths", np.array([LONGEST], np.int32))
    steps = graph.add("Cast", [time], "steps", to=onnx.TensorProto.INT32)
    lengths = graph.add("Min", ["lengths", steps], "own_steps")
    lengths = graph.add("Expand", [lengths, batch], "sequence_lens")
    rows = graph.add("Concat", [batch, one], "batch_rows", axis=0)
    inputs = [
        info("xs", floating, ["T", "B", net.input_size]),
        info("lengths", onnx.TensorProto.INT32, ["B or 1"]),
    ]
    outputs = [info("ys", floating, ["T", "B", net.output_size])]

    learned = params.state0
    if learned is None:
        learned = jax.tree.map(lambda s: np.zeros(s.shape, dtype), shapes_of(net.initial_state))
    for path, leaf in jax.tree_util.tree_flatten_with_path(learned)[0]:
        name, size = leaf_name(path), leaf.shape[-1]
        graph.constant(f"state0.{name}", leaf[None].astype(dtype))
        graph.add("Expand", [f"state0.{name}", rows], f"start.{name}")
        inputs.append(info(f"state0.{name}", floating, ["B or 1", size]))
        outputs.append(info(f"states.{name}", floating, ["B", size]))

    ys = "xs"
    for number, (layer, weights) in enumerate(zip(net.layers, params.layers, strict=True)):
        below, pairs = ys, directions(layer, weights)
        specifications = [specify(cell)._replace(activation="tanh") for cell, _ in pairs]
        if len(set(specifications)) == 1:
            alone = isinstance(layer, Backward)
            ys = _node(graph, f"{number}", pairs, below, lengths, zero, reverse=alone)
        else:
            both = [
                _node(graph, f"{number}.{side}", [pair], below, lengths, zero, reverse=bool(n))
                for n, (side, pair) in enumerate(zip(("forward", "backward"), pairs, strict=True))
            ]
            ys = graph.add("Concat", both, f"layer.{number}.ys", axis=-1)
        if net.residual and number:
            ys = graph.add("Add", [ys, below], f"layer.{number}.sum")
    if params.w_y is not None:
        ys = graph.add("MatMul", [ys, graph.constant("w_y", params.w_y)], "product")
        ys = graph.add("Add", [ys, graph.constant("b_y", params.b_y)], "projected")
        # Past its end a sequence's output is zero, not b_y.
        first, last = graph.constant("first", np.array(0)), graph.add("Squeeze", [time], "last")
        step = graph.add("Range", [first, last, graph.constant("step", np.array(1))], "numbers")
        step = graph.add("Unsqueeze", [step, one], "step_numbers")
        length = graph.add("Cast", [lengths], "length", to=onnx.TensorProto.INT64)
        valid = graph.add("Less", [step, length], "own_step")
        valid = graph.add("Unsqueeze", [valid, graph.integers("two", 2)], "own_step_rows")
        ys = graph.add("Where", [valid, ys, graph.constant("nothing", np.array(0, dtype))], "shown")
    graph.add("Identity", [ys], "ys")

    made = helper.make_graph(graph.nodes, "lstm_jax", inputs, outputs, graph.constants)
    return helper.make_model(
        made,
        producer_name="lstm_jax",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )


def _node(
    graph: Graph,
    name: str,
    pairs: list[tuple[Cell, Any]],
    xs: str,
    lengths: str,
    zero: str,
    *,
    reverse: bool = False,
) -> str:
    """One recurrent operator with its states in and out; returns the outputs [T, B, dirs·H]."""
    specification = specify(pairs[0][0])
    kind, hidden_size = specification.kind, specification.hidden_size
    sides = [name] if len(pairs) == 1 else [f"{name}.forward", f"{name}.backward"]
    written = [write_direction(cell, params) for cell, params in pairs]
    arrays = {
        field: graph.constant(f"layer.{name}.{field}", np.stack(of_each))
        for field, of_each in zip(written[0]._fields, zip(*written, strict=True), strict=True)
        if of_each[0] is not None
    }
    starts = []
    for field in ("h", "c")[: 2 if kind == "lstm" else 1]:
        each = [
            graph.add("Unsqueeze", [f"start.{side}.{field}", zero], f"initial.{side}.{field}")
            for side in sides
        ]
        joined = each[0]
        if len(each) == 2:
            joined = graph.add("Concat", each, f"initial.{name}.{field}", axis=0)
        starts.append(joined)
    inputs = [xs, arrays["W"], arrays["R"], arrays["B"], lengths, *starts]
    attributes: dict[str, Any] = {
        "hidden_size": hidden_size,
        "direction": "bidirectional" if len(pairs) == 2 else ("reverse" if reverse else "forward"),
    }
    if "P" in arrays:
        inputs.append(arrays["P"])
    if specification.coupled_gates:
        attributes["input_forget"] = 1
    if kind == "gru":
        attributes["linear_before_reset"] = int(specification.reset_after)
    if kind == "rnn":
        names = [ACTIVATIONS[specify(cell).activation] for cell, _ in pairs]
        attributes["activations"] = names
        if "Affine" in names:
            attributes["activation_alpha"] = [1.0] * len(names)
            attributes["activation_beta"] = [0.0] * len(names)
    finals = [f"layer.{name}.final.{field}" for field in ("h", "c")[: len(starts)]]
    whole = graph.add(NODES[kind], inputs, f"layer.{name}.Y", *finals, **attributes)
    for final, field in zip(finals, ("h", "c"), strict=False):
        for number, side in enumerate(sides):
            index = graph.constant(f"index.{side}.{field}", np.array(number))
            graph.add("Gather", [final, index], f"states.{side}.{field}", axis=0)
    if len(pairs) == 1:
        axes = graph.integers(f"layer.{name}.axis", 1)
        return graph.add("Squeeze", [whole, axes], f"layer.{name}.out")
    swapped = graph.add("Transpose", [whole], f"layer.{name}.turned", perm=[0, 2, 1, 3])
    shape = graph.integers(f"layer.{name}.shape", 0, 0, -1)
    return graph.add("Reshape", [swapped, shape], f"layer.{name}.out")
