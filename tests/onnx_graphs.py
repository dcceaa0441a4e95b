"""Small ONNX graphs as exporters write them, and what onnxruntime and `lstm_jax` compute."""

import warnings
from importlib import import_module

import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax

D, H, T, B = 3, 4, 6, 5
OPERATORS = {"lstm": ("LSTM", 4), "gru": ("GRU", 3), "rnn": ("RNN", 1)}
CONSTANTS = {
    "0": np.array([0]),
    "1": np.array([1]),
    "2": np.array([2]),
    "-1": np.array([-1]),
    "-2": np.array([-2]),
    "far": np.array([-(2**31)]),
    "last": np.array(-1),
    "ones": np.array([1, 1]),
}


def onnx():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, while they are imported
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
        return import_module("onnx")


class Graph:
    """A graph that grows node by node; each method returns the name of the result."""

    def __init__(self, seed=0, opset=17):
        self.helper, self.rng, self.opset = onnx().helper, np.random.default_rng(seed), opset
        self.nodes, self.constants, self.inputs = [], dict(CONSTANTS), []

    def input(self, name, *dims, kind="FLOAT"):
        kind = getattr(onnx().TensorProto, kind)
        self.inputs.append(self.helper.make_tensor_value_info(name, kind, dims))
        return name

    def add(self, operator, *inputs, outputs=1, domain=None, **attributes):
        names = [f"v{len(self.nodes)}"] + [f"v{len(self.nodes)}.{n}" for n in range(1, outputs)]
        self.nodes.append(
            self.helper.make_node(operator, list(inputs), names, domain=domain, **attributes)
        )
        return names[0] if outputs == 1 else names

    def constant(self, *shape, array=None, dtype=np.float32):
        name = f"c{len(self.constants)}"
        made = 0.5 * self.rng.standard_normal(shape) if array is None else array
        self.constants[name] = np.asarray(made, dtype if array is None else None)
        return name

    def weights(self, kind, size, hidden=H, directions=1, dtype=np.float32):
        rows = OPERATORS[kind][1] * hidden
        shapes = ((rows, size), (rows, hidden), (2 * rows,))
        return [self.constant(directions, *shape, dtype=dtype) for shape in shapes]

    def layer(
        self, kind, xs, size, hidden=H, *, arrays=None, lengths="", start="", name=None, **said
    ):
        directions = 2 if said.get("direction") == "bidirectional" else 1
        arrays = arrays or self.weights(kind, size, hidden, directions)
        outputs = 3 if kind == "lstm" else 2
        inputs = [xs, *arrays, lengths] if lengths or start else [xs, *arrays]
        if start:
            inputs += [self.state(xs, hidden, directions, start) for _ in range(outputs - 1)]
        if kind == "gru":
            said.setdefault("linear_before_reset", 1)
        whole = self.add(
            OPERATORS[kind][0], *inputs, outputs=outputs, hidden_size=hidden, name=name, **said
        )
        return whole[0]

    def state(self, xs, hidden, directions, what):
        """A starting state for every sample, as tf2onnx has it: by the shape of the input."""
        samples = self.add("Slice", self.add("Cast", self.add("Shape", xs), to=7), "1", "2", "0")
        rows = self.add("Concat", samples, self.constant(array=np.array([hidden])), axis=0)
        row = self.constant(array=np.zeros((1, 1), np.float32))
        if what != "zeros":
            row = self.constant(1, hidden)
        state = self.add("Unsqueeze", self.add("Expand", row, rows), "0")
        return self.add("Concat", *[state] * directions, axis=0) if directions > 1 else state

    def joined(self, whole, how="reshape"):
        """Outputs [T, dirs, B, H] as [T, B, dirs·H]."""
        if how == "reshape":  # as PyTorch's default exporter: Transpose, Shape(0:2), Concat with −1
            turned = self.add("Transpose", whole, perm=[0, 2, 1, 3])
            shape = self.add("Shape", turned, start=0, end=2)
            return self.add("Reshape", turned, self.add("Concat", shape, "-1", axis=0))
        if how == "split":
            halves = self.add("Split", whole, "ones", outputs=2, axis=1)
        else:
            ends = (("0", "1"), ("1", "2"))
            halves = [self.add("Slice", whole, *ends[n], "1") for n in (0, 1)]
        return self.add("Concat", *(self.add("Squeeze", h, "1") for h in halves), axis=2)

    def backwards(self, xs, how, length=None):
        """A sequence [T, B, N] reversed in time."""
        if how == "slice":
            return self.add("Slice", xs, "-1", "far", "0", "-1")
        if length is None:
            shape = self.add("Shape", xs)
            steps, samples = (self.add("Slice", shape, *e) for e in (("0", "1"), ("1", "2")))
            length = self.add("Expand", steps, samples)
        return self.add("ReverseSequence", xs, length, time_axis=0, batch_axis=1)

    def model(self, *outputs):
        numpy_helper, helper = onnx().numpy_helper, self.helper
        floating = onnx().TensorProto.FLOAT
        ends = [helper.make_tensor_value_info(name, floating, None) for name in outputs]
        constants = [numpy_helper.from_array(a, name) for name, a in self.constants.items()]
        graph = helper.make_graph(self.nodes, "by hand", self.inputs, ends, constants)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("other", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def theirs(model, **feed):
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = runtime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, feed)[0]


def sequence(batch_first=False, seed=1):
    xs = np.random.default_rng(seed).standard_normal((T, B, D)).astype(np.float32)
    return xs.swapaxes(0, 1) if batch_first else xs


def ours(net, params, xs, lengths=None):
    sequences = lstm_jax.Sequences(lengths=lengths)
    return np.asarray(lstm_jax.unroll_stack(net, params, jnp.asarray(xs), sequences=sequences)[1])
