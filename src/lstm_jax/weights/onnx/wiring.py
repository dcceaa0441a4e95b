"""How the recurrent nodes of an ONNX graph are wired, seen by marked numbers that go through the graph.

Exporters put Transpose, Reshape, Slice and many other nodes between two recurrent nodes. None is understood
by its name here: the inputs of the graph and the outputs of every recurrent node are random whole numbers of
few steps and samples (`marks`), what stands between is run (`evaluate`), and what arrives at the next node
must be exactly the numbers that arrive in a stack (`chain`). A recurrent node is never run. All is seen
twice, with other numbers and other T and B, so that no shape agrees by chance.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lstm_jax.weights.onnx.chain import Chain, shows
from lstm_jax.weights.onnx.evaluate import Values, evaluate
from lstm_jax.weights.onnx.left_out import named, nodes_behind
from lstm_jax.weights.onnx.marks import marked_inputs
from lstm_jax.weights.onnx.recurrent_node import name_of
from lstm_jax.weights.onnx.recurrent_nodes import NodeLayer, described, opset_of


class Wiring(NamedTuple):
    """A graph as a stack.

    Attributes:
        groups: for each layer its nodes' places in the graph, the forward one first, and whether each runs
            backward.
        residual: whether there are residual connections.
        left_out: what stands around the layers, each in a few words.
        projection: matrix and bias of the output projection; None without one.
        starts: place of a node -> ``h`` and ``c`` [dirs, 1, H] that the graph repeats for every sample.
    """

    groups: tuple[tuple[tuple[int, bool], ...], ...]
    residual: bool
    left_out: tuple[str, ...]
    projection: tuple[np.ndarray, np.ndarray] | None
    starts: dict[int, dict[str, np.ndarray]]


def read_wiring(onnx: Any, model: Any, nodes: Sequence[NodeLayer], constants: Values) -> Wiring:
    """How recurrent nodes of a model are wired.

    Args:
        onnx: the package.
        model: a ``ModelProto``.
        nodes: of the model. Others are not followed.
        constants: of the model's own graph.

    Raises:
        ValueError: nodes that are not wired as a stack, are in a branch or a loop, or are refused; the
            message names the node.
    """
    found: dict[int, NodeLayer] = {}
    for one in nodes:
        if one.refused is not None:
            raise one.refused
        if one.place is None:
            raise ValueError(
                "Graph mismatch: expected every recurrent node in the model's own graph, got "
                f"{described(one)} in a branch or a loop."
            )
        if not any(model.graph.node[one.place].output):
            raise ValueError(
                f"Graph mismatch: expected outputs of {name_of(model.graph.node[one.place])}, got none."
            )
        found[one.place] = one
    seen: list[Wiring] = []
    error = ValueError("Graph mismatch: expected one wiring for all sizes, got several.")
    # The batch is the second axis of a sequence; where that does not fit inputs of other ranks, the first.
    for batch_axis in (1, 0):
        try:
            runs = [_run(onnx, model, found, constants, n, batch_axis) for n in (0, 1)]
        except ValueError as refusal:
            error = refusal if batch_axis else error
            continue
        (leaves, form), (other, other_form) = map(jax.tree.flatten, runs)
        if str(form) == str(other_form) and all(map(np.array_equal, leaves, other)):
            seen.append(runs[0])
            if not runs[0].left_out:
                break
    if not seen:
        raise error
    return min(seen, key=lambda wiring: len(wiring.left_out))


def _run(
    onnx: Any, model: Any, found: dict[int, NodeLayer], constants: Values, run: int, batch_axis: int
) -> Wiring:
    rng, graph = np.random.default_rng(run), model.graph
    marks = marked_inputs(onnx, graph, found[min(found)].sizes[0], run, batch_axis, rng)
    chain = Chain(onnx, graph, found, constants, marks, rng)
    nodes = [graph.node[place] for place in found]
    names = [output.name for output in graph.output]
    known = evaluate(
        onnx,
        graph,
        opset_of(model),
        names + [name for node in nodes for name in (*node.input, *node.output)],
        outer=Values({}),
        fed=constants.known | marks.fed,
        replaced=chain.replaced,
    ).known
    return _wiring(chain, {name: known.get(name, np.zeros(0)) for name in names})


def _wiring(chain: Chain, outputs: dict[str, np.ndarray]) -> Wiring:
    """The stack, once all nodes have been seen, and what its outputs are."""
    product = chain.product
    (residual, top), *others = chain.tops()
    for also, sums in others:
        multiplied = product is not None and np.array_equal(product.top, sums)
        if multiplied or any(shows(value, sums, 1) for value in outputs.values()):
            residual, top = also, sums
    equal_halves = len({half.ys.shape for half in chain.open}) == 1
    directions = chain.open[0].ys.shape[2] * len(chain.open) if equal_halves else 1
    understood = {name for name, value in outputs.items() if shows(value, top, directions)}
    projection = None
    if not understood and product is not None and np.array_equal(product.top, top):
        biases = {name: chain.projection_bias(value) for name, value in outputs.items()}
        for name, bias in biases.items():
            if bias is not None:
                projection = product.w, bias
                understood.add(name)
    for name, value in outputs.items():
        if name not in understood and not chain.is_final(value):
            nodes = nodes_behind(chain.graph, name)
            what = named(nodes) if nodes else "what is no output of the last layer"
            chain.left_out.append(f"{what} at the output {name!r}")
    chain.close(residual)
    later = chain.residual[1:]
    if len(set(later)) > 1:
        raise ValueError(
            "Graph mismatch: expected residual connections around every layer but the first, or around none, "
            f"got {later} from the second layer on."
        )
    return Wiring(tuple(chain.groups), any(later), tuple(chain.left_out), projection, chain.starts)
