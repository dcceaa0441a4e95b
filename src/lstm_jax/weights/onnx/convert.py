"""Weights and whole networks to and from ONNX: the operators RNN, LSTM and GRU, one after the other.

`onnx_layer` has what a node and a cell have to do with each other, `onnx_writing` and `onnx_reading` the
graph. The package ``onnx`` is imported when one of the two functions is called.
"""

import os
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.array_types import PyTree
from lstm_jax.atomic_write import write_whole
from lstm_jax.cells import Cell
from lstm_jax.layers.stack import Stack, StackParams, stack
from lstm_jax.validation import DtypeError
from lstm_jax.weights.cell_specification import checked_params
from lstm_jax.weights.onnx.read_graph import read_graph
from lstm_jax.weights.onnx.write_graph import write_model


def _onnx() -> Any:
    try:
        onnx = import_module("onnx")
        import_module("onnx.numpy_helper")
    except ImportError as error:
        raise ImportError(
            "Package missing: expected onnx to be installed, got none; pip install 'lstm-jax[onnx]'."
        ) from error
    return onnx


def from_onnx(model: Any) -> tuple[Stack, StackParams]:
    """An ONNX model of recurrent layers as a stack, with its parameters.

    Understood is a chain of RNN, LSTM and GRU nodes, of both directions too, with what exporters put
    between them to lay axes out; residual connections; one linear projection at the end. All nodes must have
    their sequence_lens, if any, from one input of the graph: the lengths of the stack. Initial states may
    be inputs of the graph, zeros, or constants that hold for every sample, which become a learned starting
    state (zeros do not).

    One thing differs: past a sequence's end the outputs here are zero behind a projection too, where a graph
    without the mask that `to_onnx` writes gives the projection's bias.

    Args:
        model: a path, or an ``onnx.ModelProto``.

    Returns:
        A `Stack` and `StackParams`, of the dtype of the weights.

    Raises:
        ImportError: without the package ``onnx``.
        OSError: a file that is not there.
        ValueError: what is no ONNX model; a graph that is no such chain; an attribute that makes it another
            function (clip, other activations), each named with its node.
        ShapeError: weights that do not fit the node.
        DtypeError: weights that are not all of one floating dtype, or float64 without ``jax_enable_x64``.

    Example, with the package ``onnx``::

        net, params = weights.from_onnx("encoder.onnx")
        states, ys = lstm_jax.unroll_stack(net, params, xs)
    """
    onnx = _onnx()
    if isinstance(model, (str, os.PathLike)):
        path = os.fspath(model)
        try:
            model = onnx.load(path)
        except OSError:
            raise
        except Exception as error:  # protobuf's own, which onnx does not name
            raise ValueError(
                f"File mismatch: expected {path} to hold an ONNX model, got {error}."
            ) from error
        if not model.HasField("graph"):
            came = "one without a graph" if os.path.getsize(path) else "an empty file"
            raise ValueError(f"File mismatch: expected {path} to hold an ONNX model, got {came}.")
    if not hasattr(model, "graph"):
        raise TypeError(
            f"Model mismatch: expected a path or an onnx.ModelProto, got {type(model).__name__}."
        )
    if not model.HasField("graph"):
        raise ValueError("Model mismatch: expected an ONNX model with a graph, got none.")
    return read_graph(onnx, model.graph)


def to_onnx(net: Cell | Stack, params: PyTree, path: str | os.PathLike[str] | None = None) -> Any:
    """A cell or a stack, with its parameters, as an ONNX model.

    Inputs of the model are ``xs`` [T, B, D]; ``lengths`` [B], int32, from 1 to T (for a length of 0
    onnxruntime gives zeros as the final state, not the starting one); and the starting state of each layer,
    ``state0.0.h`` [B, H], ``state0.1.forward.c`` and so on, named as in the stack's own state. All but ``xs``
    may be left out: they mean all steps then, and the learned state or zeros. (onnxruntime warns that such
    inputs are no constants.) Outputs are ``ys`` [T, B, O] and the final states, ``states.0.h`` [B, H] and so
    on. T and B are free. A cell is written as a stack of one layer.

    Args:
        net: a `Cell` or a `Stack`. Its dropout is not part of the model.
        params: of the net.
        path: where to write the model; nowhere if None. The file appears whole or not at all.

    Returns:
        The ``onnx.ModelProto``, of operator set 17.

    Raises:
        ImportError: without the package ``onnx``.
        ValueError: what ONNX's operators do not have: layer normalisation, a projection of h, zoneout.
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
            f"Cell mismatch: expected a cell or a stack, got {type(net).__name__}; put it into "
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
