"""Every recurrent node of an ONNX graph and its subgraphs, each as a layer by itself, and stacks of them.

What stands around a node, an embedding before it or a linear layer behind it, does not matter to its weights:
they are constants, or computed from constants (`lstm_jax.weights.onnx.evaluate`). A node in a branch of an
``If`` or in the body of a ``Loop`` is found as well. A node that no cell computes is listed with its reason.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lstm_jax.layers.stack import Backward, Both, Stack, StackParams, stack
from lstm_jax.weights.arrays import require_one_dtype, to_jax
from lstm_jax.weights.cell_specification import joined
from lstm_jax.weights.onnx.evaluate import Values, evaluate, free_inputs
from lstm_jax.weights.onnx.one_direction import OPERATORS
from lstm_jax.weights.onnx.recurrent_node import (
    INPUTS,
    Node,
    attributes_of,
    read_node,
    starting_state,
)

STARTS = ("initial_h", "initial_c")


class NodeLayer(NamedTuple):
    """A recurrent node.

    Attributes:
        name: of the node; where it has none, of its first output.
        kind: of its cell.
        sizes: D, H and the number of directions; 0 where the graph does not tell one.
        node: its cells with their params; None where it is refused.
        start: each direction's starting state, zeros where it is not a constant.
        around: what the layer alone does not do, each in a few words: a starting state that is computed,
            sequence_lens that are not an input of the model.
        refused: the error that says why it is no layer; None where it is one.
        place: number of the node among those of the model's own graph; None in a subgraph.
    """

    name: str
    kind: str
    sizes: tuple[int, int, int]
    node: Node | None
    start: list[dict[str, np.ndarray]]
    around: tuple[str, ...]
    refused: Exception | None
    place: int | None

    @property
    def backward(self) -> bool:
        """Whether it runs backward alone."""
        return self.node is not None and self.node.direction == "reverse"

    def starting_at(self, rows: dict[str, np.ndarray]) -> "NodeLayer":
        """The node with other starting states ``h`` or ``c`` [dirs, 1, H]."""
        each = [{n: a[number, 0] for n, a in rows.items()} for number in range(len(self.start))]
        return self._replace(start=[s | own for s, own in zip(self.start, each, strict=True)])


def recurrent_nodes(onnx: Any, model: Any) -> tuple[tuple[NodeLayer, ...], Values]:
    """The recurrent nodes of a model in the order of its file, those of subgraphs behind the others.

    Returns:
        The nodes, and the constants of the model's own graph that take part in them.
    """
    opset = opset_of(model)
    found: list[NodeLayer] = []
    every: list[Values] = []
    waiting = [(model.graph, Values({}, lengths=frozenset(free_inputs(onnx, model.graph))))]
    while waiting:
        graph, outer = waiting.pop(0)
        inner = [each for node in graph.node for each in subgraphs(node)]
        below = inner.copy()
        for each in below:
            below += [g for node in each.node for g in subgraphs(node)]
        # Names that a subgraph takes from outside are among the inputs of its nodes.
        wanted = {name for each in below for node in each.node for name in node.input}
        wanted |= {name for node in graph.node if is_recurrent(node) for name in node.input[1:]}
        values = evaluate(onnx, graph, opset, wanted, outer=outer)
        for place, node in enumerate(graph.node):
            if is_recurrent(node):
                found.append(_read(onnx, node, values, None if every else place))
        every.append(values)
        waiting += [(each, values) for each in inner]
    return tuple(found), every[0]


def nearest(model: Any) -> list[str]:
    """Sentences on the operators of others that have the names of recurrent ones, as quantised models do."""
    graphs, found = [model.graph], []
    for graph in graphs:
        for node in graph.node:
            graphs += subgraphs(node)
            if any(word in node.op_type for word in OPERATORS) and not is_recurrent(node):
                found.append(
                    f"{name_in(node)}: {node.op_type}, an operator of {node.domain or 'others'}. Load the "
                    "model that it was made from"
                )
    return found


def opset_of(model: Any) -> int:
    """The version of ONNX's own operators in a model."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)


def is_recurrent(node: Any) -> bool:
    """Whether a node is one of ONNX's own RNN, GRU and LSTM."""
    return node.op_type in OPERATORS and node.domain in ("", "ai.onnx")


def name_in(node: Any) -> str:
    """The name of a node; where it has none, that of its first output."""
    return node.name or next((name for name in node.output if name), "")


def subgraphs(node: Any) -> list[Any]:
    """The graphs among a node's attributes."""
    each = [[a.g] if a.HasField("g") else list(a.graphs) for a in node.attribute]
    return [graph for graphs in each for graph in graphs]


def _read(onnx: Any, proto: Any, values: Values, place: int | None) -> NodeLayer:
    given = dict(zip(INPUTS, proto.input, strict=False))
    name, kind, said = name_in(proto), OPERATORS[proto.op_type], attributes_of(onnx, proto)
    arrays = [values.known.get(given.get(field, ""), np.zeros(0)) for field in "WR"]
    D, H = (int(array.shape[2]) if array.ndim == 3 else 0 for array in arrays)
    count = 2 if said.get("direction") == "bidirectional" else 1
    layer = NodeLayer(name, kind, (D, said.get("hidden_size", H), count), None, [], (), None, place)
    try:
        node = read_node(onnx, proto, values.known)
        start = starting_state(node, values.known)
    except (ValueError, TypeError) as error:
        return layer._replace(refused=error)
    around = [
        f"its {field}, which is computed"
        for field in STARTS
        if given.get(field) and not {given[field]} & (values.zero | values.known.keys())
    ]
    if given.get("sequence_lens", "") not in ("", *values.lengths):
        around.append("its sequence_lens, which are constants or computed")
    return layer._replace(node=node, start=start, around=tuple(around))


def chosen_nodes(found: Sequence[NodeLayer], names: Sequence[str]) -> list[NodeLayer]:
    """The nodes of these names, in their order.

    Raises:
        ValueError: a name that is no node's or that of several, or nodes that do not fit on each other.
        ValueError, ShapeError, DtypeError: a node that no cell computes.
    """
    nodes = []
    for name in names:
        same = [one for one in found if one.name == name]
        if len(same) != 1:
            known = ", ".join(repr(one.name) for one in found) or "none"
            raise ValueError(
                f"Node mismatch: expected node as one of {known}, got {name!r}"
                f"{f', which {len(same)} nodes are called' if same else ''}."
            )
        if same[0].refused is not None:
            raise same[0].refused
        nodes += same
    for below, above in zip(nodes[:-1], nodes[1:], strict=True):
        size = below.sizes[1] * below.sizes[2]
        if above.sizes[0] != size:
            raise ValueError(
                f"Node mismatch: expected {above.name!r} on {above.sizes[0]} inputs, got {size} of "
                f"{below.name!r} below it."
            )
    return nodes


def stack_of(
    groups: Sequence[Sequence[tuple[NodeLayer, bool]]],
    residual: bool = False,
    projection: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[Stack, StackParams]:
    """A stack of nodes.

    Args:
        groups: for each layer one node, or a forward and a backward one; and whether each runs backward.
        residual: whether the layers have residual connections.
        projection: its matrix and its bias.

    Raises:
        DtypeError: nodes whose weights differ in dtype.
    """
    layers: list[Any] = []
    params: list[Any] = []
    starts = []
    for group in groups:
        halves = [pair for one, _ in group if one.node for pair in one.node.pairs]
        layer, layer_params = joined(halves)
        layers.append(Backward(halves[0][0]) if [back for _, back in group] == [True] else layer)
        params.append(layer_params)
        starts.append([state for one, _ in group for state in one.start])
    learned = any(leaf.any() for start in starts for state in start for leaf in state.values())
    size = None if projection is None else projection[0].shape[1]
    net = stack(*layers, residual=residual, learned_state=learned, output_size=size)
    made: Any = StackParams(tuple(params))
    if learned:
        made = made._replace(state0=tuple(map(_state, net.initial_state(), starts)))
    if projection is not None:
        made = made._replace(w_y=projection[0], b_y=projection[1])
    leaves = jax.tree_util.tree_flatten_with_path(made)[0]
    require_one_dtype({jax.tree_util.keystr(path): leaf for path, leaf in leaves})
    return net, to_jax(made)


def _state(like: Any, start: list[dict[str, np.ndarray]]) -> Any:
    if isinstance(like, Both):
        return Both(*(type(s)(**arrays) for s, arrays in zip(like, start, strict=True)))
    return type(like)(**start[0])


def described(one: NodeLayer) -> str:
    """A node in messages: ``'lstm' (lstm 3 → 5)``."""
    direction = "" if one.node is None else one.node.direction
    way = {"bidirectional": ", both ways", "reverse": ", backward"}.get(direction, "")
    return f"{one.name!r} ({one.kind} {one.sizes[0]} → {one.sizes[1]}{way})"
