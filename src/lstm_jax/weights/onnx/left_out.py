"""Name the nodes of an ONNX graph that stand around its recurrent nodes."""

from typing import Any

from lstm_jax.weights.onnx.recurrent_node import name_of
from lstm_jax.weights.onnx.recurrent_nodes import is_recurrent

MOVING = frozenset(
    "Cast Concat Dropout Expand Flatten Identity Reshape Split Squeeze Tile Transpose Unsqueeze".split()
)
"""Operators that are named only where no other stands beside them."""

SHOWN = 6
"""Nodes that a message names, at most."""


def nodes_behind(graph: Any, name: str) -> list[Any]:
    """The nodes between a name and the inputs of the graph, or the recurrent nodes, that it is made of.

    Constants, and what only a shape goes into, are left out.
    """
    stored = {constant.name for constant in graph.initializer}
    moving = {value.name for value in graph.input} - stored
    needed = {name}
    back = []
    for node in reversed(graph.node):
        if needed.intersection(node.output) and not is_recurrent(node):
            back.append(node)
            needed.update(node.input)
    for node in graph.node:
        if is_recurrent(node) or (moving.intersection(node.input) and node.op_type != "Shape"):
            moving.update(node.output)
    return [node for node in reversed(back) if moving.intersection(node.output)]


def only_moves(nodes: list[Any]) -> bool:
    """Whether these nodes give numbers that they are given."""
    return all(node.op_type in (*MOVING, "Gather", "Slice") for node in nodes)


def named(nodes: list[Any]) -> str:
    """Nodes in messages: ``MatMul 'p', Add 'Z'``."""
    telling = [node for node in nodes if node.op_type not in MOVING] or nodes
    more = f", … ({len(telling)} in all)" if len(telling) > SHOWN else ""
    return ", ".join(map(name_of, telling[:SHOWN])) + more
