"""How the recurrent nodes of an ONNX graph are wired, seen by marked numbers that go through the graph.

Exporters put Transpose, Reshape, Slice and many other nodes between two recurrent nodes. None is understood
by its name here: the inputs of the graph and the outputs of every recurrent node are random whole numbers of
few steps and samples (`marks`), what stands between is run (`evaluate`), and what arrives at the next node
must be exactly the numbers that arrive in a stack (`chain`). A recurrent node is never run. All is seen
twice, with other numbers and other T and B, so that no shape agrees by chance.
"""

from typing import Any, NamedTuple

import numpy as np

from lstm_jax.weights.onnx.chain import Chain, shows
from lstm_jax.weights.onnx.evaluate import Values, evaluate
from lstm_jax.weights.onnx.left_out import named, nodes_behind
from lstm_jax.weights.onnx.marks import marked_inputs
from lstm_jax.weights.onnx.recurrent_nodes import NodeLayer, opset_of


class Wiring(NamedTuple):
    """A graph as a stack.

    Attributes:
        groups: for each layer its nodes' places in the graph, the forward one first, and whether each runs
            backward.
        residual: whether there are residual connections.
        left_out: what stands around the layers, each in a few words.
        starts: place and input of a node -> starting state [dirs, 1, H] that the graph repeats for the batch.
        projection: matrix and bias of the output projection; None without one.
    """

    groups: tuple[tuple[tuple[int, bool], ...], ...]
    residual: bool
    left_out: tuple[str, ...]
    starts: dict[tuple[int, str], np.ndarray]
    projection: tuple[np.ndarray, np.ndarray] | None


def read_wiring(onnx: Any, model: Any, found: dict[int, NodeLayer], constants: Values) -> Wiring:
    """How the nodes of a model's own graph are wired.

    Args:
        onnx: the package.
        model: a ``ModelProto``.
        found: place in the graph -> recurrent node. Others are not followed.
        constants: of the graph.

    Raises:
        ValueError: nodes that are not wired as a stack; the message names the node.
    """
    seen: list[Wiring] = []
    error = ValueError("Graph mismatch: expected one wiring for all sizes, got several.")
    # The batch is the second axis of a sequence; where that does not fit inputs of other ranks, the first.
    for batch_axis in (1, 0):
        try:
            one, other = (_run(onnx, model, found, constants, n, batch_axis) for n in (0, 1))
        except ValueError as refusal:
            error = refusal if batch_axis else error
            continue
        arrays = [(*w.starts.values(), *(w.projection or ())) for w in (one, other)]
        if one[:3] == other[:3] and one.starts.keys() == other.starts.keys():
            if len(arrays[0]) == len(arrays[1]) and all(map(np.array_equal, *arrays)):
                seen.append(one)
        if seen and not seen[-1].left_out:
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
    outputs = [output.name for output in graph.output]
    wanted = outputs + [n for place in found for n in graph.node[place].input]
    wanted += [n for place in found for n in graph.node[place].output]
    known = evaluate(
        onnx,
        graph,
        opset_of(model),
        wanted,
        outer=Values({}),
        fed=constants.known | marks.fed,
        replaced=chain.replaced,
    ).known
    return _wiring(chain, {name: known.get(name) for name in outputs})


def _wiring(chain: Chain, outputs: dict[str, np.ndarray | None]) -> Wiring:
    """The stack, once all nodes have been seen."""
    residual, top = chain.tops()[0]
    for also, sums in chain.tops()[1:]:
        multiplied = chain.product is not None and np.array_equal(chain.product.top, sums)
        if multiplied or any(shows(value, sums, 1) for value in outputs.values()):
            residual, top = also, sums
    directions = chain.open[0].ys.shape[2] * len(chain.open)
    if top.shape[2] % directions:
        directions = 1
    understood = {name for name, value in outputs.items() if shows(value, top, directions)}
    projection = None
    if not understood and chain.product is not None and np.array_equal(chain.product.top, top):
        for name, value in outputs.items():
            bias = chain.projection_bias(value)
            if bias is not None:
                projection = chain.product.w, bias
                understood.add(name)
    for name, value in outputs.items():
        if name not in understood and (value is None or not chain.is_final(value)):
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
    return Wiring(tuple(chain.groups), any(later), tuple(chain.left_out), chain.starts, projection)
