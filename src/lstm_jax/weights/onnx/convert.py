"""`from_onnx` and `to_onnx`: networks to and from ONNX models of RNN, LSTM and GRU nodes.

The package ``onnx`` is imported when one of the two functions is called.
"""

import os
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.array_types import PyTree
from lstm_jax.atomic_write import write_whole
from lstm_jax.cells import Cell
from lstm_jax.layers.stack import Stack, StackParams, stack
from lstm_jax.validation import AnyPath, DtypeError, require_path
from lstm_jax.weights.cell_specification import checked_params
from lstm_jax.weights.onnx.evaluate import Values
from lstm_jax.weights.onnx.recurrent_nodes import (
    NodeLayer,
    chosen_nodes,
    described,
    nearest,
    recurrent_nodes,
    stack_of,
)
from lstm_jax.weights.onnx.wiring import read_wiring
from lstm_jax.weights.onnx.write_graph import write_model


def _onnx() -> Any:
    try:
        onnx = import_module("onnx")
        import_module("onnx.numpy_helper")
    except ImportError as error:
        raise ImportError(
            "Package missing: expected onnx to be installed, got none. Do pip install 'lstm-jax[onnx]'."
        ) from error
    return onnx


def opened_model(model: Any) -> tuple[Any, Any]:
    """The package ``onnx``, and a model from a path or as it is.

    Raises:
        ImportError, OSError, ValueError, TypeError: as `from_onnx`.
    """
    onnx = _onnx()
    if isinstance(model, (str, os.PathLike)):
        path = os.fspath(require_path("model", model))
        try:
            model = onnx.load(path)
        except OSError:
            raise
        except Exception as error:  # protobuf's error, which onnx does not export
            raise ValueError(
                f"File mismatch: expected {path} to hold an ONNX model, got {error}."
            ) from error
        if not model.HasField("graph"):
            got = "one without a graph" if os.path.getsize(path) else "an empty file"
            raise ValueError(f"File mismatch: expected {path} to hold an ONNX model, got {got}.")
    if not hasattr(model, "graph"):
        raise TypeError(
            f"Model mismatch: expected a path or an onnx.ModelProto, got {type(model).__name__}."
        )
    if not model.HasField("graph"):
        raise ValueError("Model mismatch: expected an ONNX model with a graph, got none.")
    if model.functions:  # Nodes in them, as some exporters have it, are nodes of the graph.
        model = import_module("onnx.inliner").inline_local_functions(model)
    return onnx, model


def from_onnx(model: Any, *, node: str | Sequence[str] | None = None) -> tuple[Stack, StackParams]:
    """Recurrent layers of an ONNX model as a stack, with their parameters.

    Without ``node`` they are all RNN, LSTM and GRU nodes of the graph, wired as in a stack: one on the
    outputs of the other, two side by side in both directions, with residual connections, reversed in time by
    other nodes, batch first or time first; and one linear projection of every step at the end. That is seen
    by numbers that go through the graph, whatever nodes an exporter puts between. All must have their
    sequence_lens, if any, from one input of the graph: the lengths of the stack. Initial states may be inputs
    of the graph, zeros, or constants that are the same for every sample; such constants become a learned
    starting state. Weights may be computed from constants, or be quantised.

    What stands before the first node and behind the last, such as an embedding, or a linear layer on the last
    step, is left out with a warning that names it. Where the nodes are not wired as a stack, or stand in
    branches and loops, ``node`` chooses among them.

    One thing differs: past a sequence's end the stack's outputs are zero after a projection too. A graph
    without the mask that `to_onnx` writes gives the projection's bias there.

    Args:
        model: a path, or an ``onnx.ModelProto``.
        node: name of a recurrent node, or names of several, which become a stack in this order; a node
            without a name has that of its first output. If None, all, or the only one.

    Returns:
        A `Stack` and `StackParams`, of the dtype of the weights.

    Raises:
        ImportError: without the package ``onnx``.
        OSError: a file that does not exist.
        ValueError: anything but an ONNX model; a graph without such nodes, or with several that are not wired
            as a stack; names that are no node's; an attribute that changes the function (clip, other
            activations). The message names the node.
        ShapeError: weights that do not fit the node.
        DtypeError: weights that are not all of one floating dtype, or float64 without ``jax_enable_x64``.

    Example, with the package ``onnx``::

        net, params = weights.from_onnx("encoder.onnx")
        states, ys = lstm_jax.unroll_stack(net, params, xs)
    """
    onnx, model = opened_model(model)
    found, constants = recurrent_nodes(onnx, model)
    if not found:
        near = "".join(f" Nearest: {words}." for words in nearest(model)[:1])
        raise ValueError(f"Graph mismatch: expected an RNN, GRU or LSTM node, got none.{near}")
    if node is not None:
        nodes = chosen_nodes(found, [node] if isinstance(node, str) else list(node))
        for one in nodes:
            if one.around:
                _warn(f"Node {described(one)} alone. Left out: {'; '.join(one.around)}.")
        other = _other_wiring(onnx, model, nodes, constants) if len(nodes) > 1 else None
        if other is not None:
            names = ", ".join(repr(one.name) for one in nodes)
            _warn(f"Nodes {names} as a stack, which they are not in the graph. {other}")
        return stack_of([[(one, one.backward)] for one in nodes])
    if len(found) == 1 and (found[0].refused is not None or found[0].place is None):
        (one,) = chosen_nodes(found, [found[0].name])
        _warn(f"Node {described(one)} alone. Left out is what stands around the subgraph it is in.")
        return stack_of([[(one, one.backward)]])
    try:
        wiring = read_wiring(onnx, model, found, constants)
    except (ValueError, TypeError) as error:
        choice = ", ".join(described(one) for one in found if one.refused is None)
        raise ValueError(f"{error} Choose by node= among {choice or 'none'}.") from error
    if wiring.left_out:
        alone = f"Node {described(found[0])} alone." if len(found) == 1 else "The nodes alone."
        _warn(f"{alone} Left out: {'; '.join(wiring.left_out)}.")
    at = {one.place: one.starting_at(wiring.starts.get(one.place or 0, {})) for one in found}
    groups = [[(at[place], backward) for place, backward in group] for group in wiring.groups]
    return stack_of(groups, wiring.residual, wiring.projection)


def _other_wiring(
    onnx: Any, model: Any, nodes: Sequence[NodeLayer], constants: Values
) -> str | None:
    """Why nodes that were chosen as a stack are none in the graph; None where they are."""
    try:
        wiring = read_wiring(onnx, model, nodes, constants)
    except ValueError as error:
        return str(error)
    chosen = tuple(((one.place, one.backward),) for one in nodes)
    return "It is wired otherwise." if wiring.residual or wiring.groups != chosen else None


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=3)


def to_onnx(net: Cell | Stack, params: PyTree, path: AnyPath | None = None) -> Any:
    """A cell or a stack, with its parameters, as an ONNX model.

    Inputs of the model are ``xs`` [T, B, D]; ``lengths`` [B], int32, from 1 to T (for a length of 0
    onnxruntime gives zeros as the final state, not the starting one); and the starting state of each layer,
    ``state0.0.h`` [B, H], ``state0.1.forward.c`` and so on, named as in the stack's state. All but ``xs``
    may be left out: then all steps count, and the state is the learned one or zeros. (onnxruntime warns that
    such inputs are no constants; its ``get_inputs()`` has ``xs`` alone, and
    ``get_overridable_initializers()`` the others. Both are fed by name.) Outputs are ``ys`` [T, B, O]
    and the final states, ``states.0.h`` [B, H] and so on. T and B
    are free. A cell is written as a stack of one layer.

    Args:
        net: a `Cell` or a `Stack`. Its dropout is not part of the model.
        params: of the net.
        path: of the file to write, completely or not at all; none if None.

    Returns:
        The ``onnx.ModelProto``, of operator set 17.

    Raises:
        ImportError: without the package ``onnx``.
        ValueError: options that ONNX's operators do not have: layer normalisation, a projection of h,
            zoneout.
        DtypeError: bfloat16, which the operators of this operator set do not take.
        ShapeError, TypeError: params that are not the net's.

    Example, with the packages ``onnx`` and ``onnxruntime``::

        net = lstm_jax.stack(lstm_jax.bidirectional(lstm_jax.gru(3, 4)), output_size=2)
        weights.to_onnx(net, params, "tagger.onnx")
        session = onnxruntime.InferenceSession("tagger.onnx")
        (ys,) = session.run(["ys"], {"xs": xs, "lengths": lengths})
    """
    onnx = _onnx()
    params = checked_params(net, params)
    if isinstance(net, Cell):
        net, params = stack(net), StackParams((params,))
    if not isinstance(net, Stack):
        raise TypeError(
            f"Cell mismatch: expected a cell or a stack, got {type(net).__name__}. Put it into "
            "lstm_jax.stack."
        )
    dtype = jax.tree.leaves(params)[0].dtype
    if dtype == jnp.bfloat16:
        raise DtypeError(
            "Dtype mismatch: expected params in float16, float32 or float64 for ONNX, got bfloat16."
        )
    if net.zoneout:
        raise ValueError(
            f"Option mismatch: expected a stack that ONNX has, got one with zoneout {net.zoneout!r}."
        )
    model = write_model(onnx, net, params)
    if path is not None:
        write_whole(path, model.SerializeToString())
    return model
