"""Graphs as exporters write them, against onnxruntime: how nodes are wired; what stands around is named."""

import warnings
from importlib import import_module

import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close

import lstm_jax
from lstm_jax import weights

pytestmark = pytest.mark.peer
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

    def layer(self, kind, xs, size, hidden=H, *, arrays=None, lengths="", name=None, **said):
        directions = 2 if said.get("direction") == "bidirectional" else 1
        arrays = arrays or self.weights(kind, size, hidden, directions)
        inputs = [xs, *arrays, lengths] if lengths else [xs, *arrays]
        outputs = 3 if kind == "lstm" else 2
        if kind == "gru":
            said.setdefault("linear_before_reset", 1)
        whole = self.add(
            OPERATORS[kind][0], *inputs, outputs=outputs, hidden_size=hidden, name=name, **said
        )
        return whole[0]

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


@pytest.mark.parametrize("how", ["reshape", "split", "slice"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_two_bidirectional_layers(how, batch_first):
    """Batch first with a batch of any size: the shape is computed where PyTorch computes it."""
    graph = Graph()
    xs = graph.input("x", *(("B", "T", D) if batch_first else ("T", "B", D)))
    swap = (lambda v: graph.add("Transpose", v, perm=[1, 0, 2])) if batch_first else (lambda v: v)
    for size in (D, 2 * H):
        whole = graph.layer("lstm", swap(xs), size, direction="bidirectional")
        xs = swap(graph.joined(whole, how))
    model = graph.model(xs)
    net, params = weights.from_onnx(model)
    pair = [lstm_jax.bidirectional(lstm_jax.lstm(size, H)) for size in (D, 2 * H)]
    assert net == lstm_jax.stack(*pair)
    expected = theirs(model, x=sequence(batch_first))
    got = ours(net, params, sequence())
    assert_close(got.swapaxes(0, 1) if batch_first else got, expected, 3e-6)


@pytest.mark.parametrize("how", ["reverse", "slice"])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("embedded", [False, True])
def test_layers_that_other_nodes_run_backward(how, both, embedded):
    """Alone, beside a forward layer, and on an embedding, which is named."""
    graph = Graph()
    if embedded:
        ids = graph.input("ids", "B", "T", kind="INT64")
        rows = graph.add("Gather", graph.constant(7, D), ids)
        xs = graph.add("Transpose", rows, perm=[1, 0, 2])
    else:
        xs = graph.input("x", "T", "B", D)
    halves = [graph.layer("gru", xs, D)] if both else []
    halves.append(graph.layer("gru", graph.backwards(xs, how), D))
    flat = [graph.add("Squeeze", half, "1") for half in halves]
    flat[-1] = graph.backwards(flat[-1], how)
    ys = graph.add("Concat", *flat, axis=2) if both else flat[0]
    top = graph.layer("rnn", ys, (1 + both) * H)
    model = graph.model(graph.add("Squeeze", top, "1"))
    if embedded:
        with pytest.warns(UserWarning, match="Left out: Gather 'v0'.* before GRU 'v[0-9]+'"):
            net, params = weights.from_onnx(model)
        ids = np.random.default_rng(2).integers(0, 7, (B, T))
        expected = theirs(model, ids=ids)
        got = ours(net, params, graph.constants[f"c{len(CONSTANTS)}"][ids].swapaxes(0, 1))
    else:
        net, params = weights.from_onnx(model)
        expected, got = theirs(model, x=sequence()), ours(net, params, sequence())
    assert_close(got, expected, 3e-6)
    if embedded and not both:  # its time is that of the only node on it
        return
    made = lstm_jax.bidirectional if both else lstm_jax.backward
    assert net.layers[0] == made(lstm_jax.gru(D, H))
