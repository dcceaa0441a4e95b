"""Every recurrent node of an ONNX graph and its subgraphs, each as a layer by itself.

What stands around a node, an embedding before it or a linear layer behind it, does not matter to its weights:
they are constants, or computed from constants (`lstm_jax.weights.onnx.fold_constants`). A node in a branch of
an ``If`` or in the body of a ``Loop`` is found as well.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from lstm_jax.layers.stack import Backward, Bidirectional, Layer, Stack, StackParams, stack
from lstm_jax.weights.arrays import require_one_dtype, to_jax
from lstm_jax.weights.cell_specification import joined
from lstm_jax.weights.onnx.fold_constants import Constants
from lstm_jax.weights.onnx.one_direction import OPERATORS
from lstm_jax.weights.onnx.recurrent_node import INPUTS, read_node, starting_state

WEIGHTS, STARTS = ("W", "R", "B", "P"), ("initial_h", "initial_c")


class NodeLayer(NamedTuple):
    """A recurrent node as a layer.

    Attributes:
        name: of the node; where it has none, of its first output.
        layer: a cell, `Bidirectional`, or `Backward` for a node that runs in reverse.
        params: of the layer, in NumPy.
        state0: its starting state where that is a constant other than zero, else None.
        around: what the layer alone does not do, each in a few words: a starting state that is computed,
            sequence_lens that are not an input of the model.
    """

    name: str
    layer: Layer
    params: Any
    state0: Any
    around: tuple[str, ...]


def recurrent_nodes(onnx: Any, model: Any) -> tuple[NodeLayer, ...]:
    """The recurrent nodes of a model in the order of its file, those of subgraphs at the node that has them.

    Raises:
        ValueError, ShapeError, DtypeError: of a node whose weights or attributes no cell has; it is named.
    """
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    found: list[NodeLayer] = []
    waiting: list[tuple[Any, Constants | None]] = [(model.graph, None)]
    while waiting:
        graph, outer = waiting.pop(0)
        constants = Constants(onnx, graph, opset, outer)
        for node in graph.node:
            if node.op_type in OPERATORS and node.domain in ("", "ai.onnx"):
                found.append(_read(onnx, node, constants))
            inner = [(a.g, constants) for a in node.attribute if a.HasField("g")]
            inner += [(g, constants) for a in node.attribute for g in a.graphs]
            waiting += inner
    return tuple(found)


def _read(onnx: Any, node: Any, constants: Constants) -> NodeLayer:
    given = dict(zip(INPUTS, node.input, strict=False))
    values = {
        name: constants.get(name)
        for field, name in given.items()
        if name and field in (*WEIGHTS, *STARTS)
    }
    arrays = {name: value for name, value in values.items() if value is not None}
    read = read_node(onnx, node, arrays)
    made, params = joined(read.pairs)
    layer: Layer = made
    if read.direction == "reverse":
        layer = Backward(read.pairs[0][0])
    start = starting_state(read, arrays)
    around = [
        f"its {field}, which is computed"
        for field in STARTS
        if given.get(field) and values[given[field]] is None and not constants.is_zero(given[field])
    ]
    lengths = given.get("sequence_lens")
    if lengths and not constants.is_given(lengths):
        around.append("its sequence_lens, which are constants or computed")
    state0 = None
    if any(leaf.any() for state in start for leaf in state.values()):
        states = [
            type(cell.initial_state())(**s) for (cell, _), s in zip(read.pairs, start, strict=True)
        ]
        state0 = states[0] if len(states) == 1 else type(params)(*states)
    return NodeLayer(_plain_name(node), layer, params, state0, tuple(around))


def _plain_name(node: Any) -> str:
    return node.name or next((name for name in node.output if name), "")


def chosen_stack(found: tuple[NodeLayer, ...], names: list[str]) -> tuple[Stack, StackParams]:
    """Some nodes as a stack, in this order.

    Raises:
        ValueError: a name that is no node's or that of several, or nodes that do not fit on each other.
        DtypeError: nodes whose weights differ in dtype.
    """
    layers = []
    for name in names:
        same = [one for one in found if one.name == name]
        if len(same) != 1:
            known = ", ".join(repr(one.name) for one in found) or "none"
            raise ValueError(
                f"Node mismatch: expected node as one of {known}, got {name!r}"
                f"{f', which {len(same)} nodes are called' if same else ''}."
            )
        layers += same
    for below, above in zip(layers[:-1], layers[1:], strict=True):
        if above.layer.input_size != below.layer.output_size:
            raise ValueError(
                f"Node mismatch: expected {above.name!r} on {above.layer.input_size} inputs, got "
                f"{below.layer.output_size} of {below.name!r} below it."
            )
    learned = any(one.state0 is not None for one in layers)
    net = stack(*(one.layer for one in layers), learned_state=learned)
    params = StackParams(tuple(one.params for one in layers))
    if learned:
        states = [one.layer.initial_state() if one.state0 is None else one.state0 for one in layers]
        params = params._replace(state0=tuple(states))
    named = {
        f"{one.name} {n}": np.asarray(leaf)
        for one in layers
        for n, leaf in enumerate(jax.tree.leaves(one.params))
    }
    require_one_dtype(named)
    return net, to_jax(params)


def described(one: NodeLayer) -> str:
    """A node in messages: ``'lstm' (lstm 3 → 5)``."""
    layer = one.layer
    cell = layer.forward if isinstance(layer, Bidirectional) else layer
    cell = cell.cell if isinstance(cell, Backward) else cell
    both = ", both ways" if isinstance(layer, Bidirectional) else ""
    back = ", backward" if isinstance(layer, Backward) else ""
    return f"{one.name!r} ({cell.kind} {cell.input_size} → {cell.hidden_size}{both}{back})"
