"""Graphs as exporters write them, against onnxruntime: how nodes are wired; what stands around is named."""

import warnings
from importlib import import_module

import jax
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


def test_a_sequence_reversed_at_its_own_lengths():
    """Lengths are an input; the nodes and the nodes that reverse must have the same."""
    for other in (False, True):
        graph = Graph()
        xs = graph.input("x", "T", "B", D)
        lengths = graph.input("lengths", "B", kind="INT32")
        long = graph.add("Cast", lengths, to=7)
        length = None if other else long
        back = graph.layer("lstm", graph.backwards(xs, "reverse", length), D, lengths=lengths)
        halves = [
            graph.add("Squeeze", graph.layer("lstm", xs, D, lengths=lengths), "1"),
            graph.backwards(graph.add("Squeeze", back, "1"), "reverse", length),
        ]
        top = graph.layer("gru", graph.add("Concat", *halves, axis=2), 2 * H, lengths=lengths)
        model = graph.model(graph.add("Squeeze", top, "1"))
        if other:
            with pytest.raises(
                ValueError, match="LSTM 'v.*' on the outputs of LSTM 'v.*, got it on 'x'"
            ):
                weights.from_onnx(model)
            continue
        net, params = weights.from_onnx(model)
        own = np.array([6, 2, 4, 1, 5], np.int32)
        expected = theirs(model, x=sequence(), lengths=own)
        assert_close(ours(net, params, sequence(), own), expected, 3e-6)


@pytest.mark.parametrize("how", ["matmul", "flat", "gemm"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_dense_layer_on_a_sequence(how, batch_first):
    graph = Graph(opset=13)
    xs = graph.input("x", *("B", "T", D) if batch_first else ("T", "B", D))
    swap = (lambda v: graph.add("Transpose", v, perm=[1, 0, 2])) if batch_first else (lambda v: v)
    ys = swap(graph.add("Squeeze", graph.layer("gru", swap(xs), D), "1"))
    w, b = graph.constant(2, H) if how == "gemm" else graph.constant(H, 2), graph.constant(2)
    shape = graph.add("Slice", graph.add("Shape", ys), "0", "2")
    if how != "matmul":
        ys = graph.add("Reshape", ys, graph.constant(array=np.array([-1, H])))
    if how == "gemm":
        ys = graph.add("Gemm", ys, w, b, transB=1)
    else:
        ys = graph.add("Add", graph.add("MatMul", ys, w), b)
    if how != "matmul":
        ys = graph.add("Reshape", ys, graph.add("Concat", shape, "2", axis=0))
    model = graph.model(ys)
    net, params = weights.from_onnx(model)
    assert net == lstm_jax.stack(lstm_jax.gru(D, H), output_size=2)
    got = ours(net, params, sequence())
    expected = theirs(model, x=sequence(batch_first))
    assert_close(got.swapaxes(0, 1) if batch_first else got, expected, 3e-6)
    assert np.array_equal(params.b_y, graph.constants[b])


@pytest.mark.parametrize("how", ["last", "dense", "state", "unknown"])
def test_what_stands_behind_is_named(how):
    """The last step alone is a final state; what is made of it is left out, also an operator of others."""
    graph = Graph()
    below = graph.layer("gru", graph.input("x", "T", "B", D), D)
    whole = graph.layer("lstm", graph.add("Squeeze", below, "1"), H)
    last = graph.add("Gather", graph.add("Squeeze", whole, "1"), "last", axis=0)
    ys = {
        "last": lambda: last,
        "dense": lambda: graph.add("MatMul", last, graph.constant(H, 2), name="head"),
        "state": lambda: graph.add("Squeeze", f"{whole}.1", "0"),
        "unknown": lambda: graph.add("Odd", whole, domain="other", name="odd"),
    }[how]()
    model = graph.model(ys)
    if how in ("dense", "unknown"):
        named = {"dense": "Gather 'v.*', MatMul 'head'", "unknown": "Odd 'odd'"}[how]
        with pytest.warns(UserWarning, match=f"Left out: {named} at the output"):
            net, params = weights.from_onnx(model)
    else:
        net, params = weights.from_onnx(model)
    assert net == lstm_jax.stack(lstm_jax.gru(D, H), lstm_jax.lstm(H, H))
    if how != "unknown":
        got = ours(net, params, sequence())[-1]
        got = got @ graph.constants[f"c{len(graph.constants) - 1}"] if how == "dense" else got
        assert_close(got, theirs(model, x=sequence()), 3e-6)


def test_a_linear_layer_between_is_named():
    graph = Graph()
    xs = graph.input("x", "T", "B", D)
    pair = {"direction": "bidirectional"}
    first = graph.joined(graph.layer("lstm", xs, D, name="first", **pair))
    w, b = graph.constant(2 * H, 2 * H), graph.constant(2 * H)
    dense = graph.add("Add", graph.add("MatMul", first, w, name="dense"), b, name="bias")
    model = graph.model(graph.joined(graph.layer("lstm", dense, 2 * H, name="second", **pair)))
    with pytest.raises(
        ValueError, match=r"'second' .* got it on what MatMul 'dense', Add 'bias' m"
    ):
        weights.from_onnx(model)
    parts = [weights.from_onnx(model, node=name) for name in ("first", "second")]
    middle = ours(*parts[0], sequence()) @ graph.constants[w] + graph.constants[b]
    assert_close(ours(*parts[1], middle), theirs(model, x=sequence()), 3e-6)
    with pytest.warns(UserWarning, match="'first', 'second' as a stack, which they are not in the"):
        net, _ = weights.from_onnx(model, node=["first", "second"])
    assert len(net.layers) == 2


def gates_by_slices(graph, arrays):
    """Weights as older exporters have them: the gates of PyTorch, i f g o, cut and put in ONNX's order."""
    made = []
    for name, axis in zip(arrays, (0, 0, 0), strict=True):
        stored = graph.constants[name][0]
        blocks = np.split(stored, len(stored) // H, axis)
        order = [block for n in range(0, len(blocks), 4) for block in (n, n + 2, n + 3, n + 1)]
        own = graph.constant(array=np.concatenate([blocks[n] for n in order], axis))
        place = {block: n for n, block in enumerate(order)}
        ends = graph.constant(array=np.array([[n * H] for n in range(len(blocks) + 1)]))
        cuts = [
            graph.add("Gather", ends, graph.constant(array=np.array(n)))
            for n in range(9)[: len(blocks) + 1]
        ]
        parts = [
            graph.add("Slice", own, cuts[place[n]], cuts[place[n] + 1], "0")
            for n in range(len(blocks))
        ]
        made.append(graph.add("Unsqueeze", graph.add("Concat", *parts, axis=0), "0"))
    return made


def stored_otherwise(graph, arrays, how):
    """Weights that the graph computes out of other constants."""
    if how == "slices":
        return gates_by_slices(graph, arrays)
    if how == "half":
        stored = [graph.constant(array=graph.constants[a].astype(np.float16)) for a in arrays]
        return [graph.add("Cast", name, to=1) for name in stored]
    scale = graph.constant(array=np.float32(0.01))
    zero = graph.constant(array=np.int8(3))
    stored = [np.clip(graph.constants[a] * 100 + 3, -128, 127).astype(np.int8) for a in arrays]
    names = [graph.constant(array=array) for array in stored]
    return [graph.add("DequantizeLinear", name, scale, zero) for name in names]


@pytest.mark.parametrize("how", ["slices", "half", "quantised"])
@pytest.mark.parametrize("where", ["graph", "branch", "loop"])
def test_weights_that_are_computed_also_outside_of_a_branch_or_a_loop(how, where):
    graph = Graph()
    xs = graph.input("x", "T", "B", D)
    arrays = stored_otherwise(graph, graph.weights("lstm", D), how)
    helper = graph.helper
    if where == "graph":
        model = graph.model(graph.add("Squeeze", graph.layer("lstm", xs, D, arrays=arrays), "1"))
        net, params = weights.from_onnx(model)
        assert_close(ours(net, params, sequence()), theirs(model, x=sequence()), 3e-6)
        return
    inner = [
        helper.make_node("LSTM", [xs, *arrays], ["whole"], hidden_size=H, name="inside"),
        helper.make_node("Squeeze", ["whole", "1"], ["out"]),
    ]
    out = helper.make_tensor_value_info("out", 1, None)
    if where == "branch":
        shape = graph.add("Shape", xs)
        many = graph.add(
            "Greater", graph.add("ReduceSum", shape, keepdims=0), graph.constant(array=np.array(2))
        )
        zeros = [helper.make_node("Identity", [xs], ["same"])]
        same = helper.make_tensor_value_info("same", 1, None)
        branches = [
            helper.make_graph(inner, "then", [], [out]),
            helper.make_graph(zeros, "else", [], [same]),
        ]
        ys = graph.add("If", many, then_branch=branches[0], else_branch=branches[1])
    else:
        flags = [
            helper.make_tensor_value_info("number", 7, []),
            helper.make_tensor_value_info("go", 9, []),
        ]
        inner.append(helper.make_node("Identity", ["go"], ["on"]))
        going = helper.make_tensor_value_info("on", 9, [])
        body = helper.make_graph(inner, "body", flags, [going, out])
        ys = graph.add("Loop", graph.constant(array=np.array(1)), "", body=body)
    model = graph.model(ys)
    with pytest.warns(UserWarning, match=r"'inside' \(lstm 3 → 4\) alone. Left out .* subgraph"):
        net, params = weights.from_onnx(model)
    (listed,) = weights.recurrent_layers(model)
    assert listed[:6] == ("inside", "lstm", D, H, 1, 1)
    assert_close(listed.load()[1], params, 0)
    expected = theirs(model, x=sequence()).reshape(T, B, H)
    assert_close(ours(net, params, sequence()), expected, 3e-6)


def test_half_precision_between_single_inputs_and_outputs():
    """As converters with keep_io_types have it; onnxruntime has no LSTM in float16 on a CPU."""
    graph = Graph()
    xs = graph.add("Cast", graph.input("x", "T", "B", D), to=10)
    for size in (D, 2 * H):
        arrays = graph.weights("lstm", size, directions=2, dtype=np.float16)
        graph.constants[arrays[2]][:, 4 * H :] = 0  # the sum of two biases is rounded
        whole = graph.layer("lstm", xs, size, arrays=arrays, direction="bidirectional")
        xs = graph.joined(whole)
    w = graph.constant(2 * H, 2, dtype=np.float16)
    model = graph.model(graph.add("Cast", graph.add("MatMul", xs, w), to=1))
    net, params = weights.from_onnx(model)
    assert len(net.layers) == 2 and net.output_size == 2
    assert params.w_y.dtype == params.layers[0].forward.w_x.dtype == np.float16
    single = Graph()
    single.nodes = [node for node in graph.nodes if node.op_type != "Cast"]
    single.constants = {
        name: array.astype(np.float32) if array.dtype == np.float16 else array
        for name, array in graph.constants.items()
    }
    single.input("v0", "T", "B", D)
    expected = theirs(single.model(graph.nodes[-1].input[0]), v0=sequence())
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), params)
    assert_close(ours(net, params, sequence()), expected, 3e-6)


def test_a_node_that_cannot_be_read_is_listed_with_its_reason():
    graph = Graph()
    xs = graph.input("x", "T", "B", D)
    below = graph.layer("lstm", xs, D, name="good")
    above = graph.layer("gru", graph.add("Squeeze", below, "1"), H, name="bad", clip=3.0)
    unknown = graph.add("Odd", xs, domain="other")
    graph.layer("rnn", xs, D, arrays=[unknown, graph.constant(1, H, H)], name="worse")
    model = graph.model(graph.add("Squeeze", above, "1"))
    good, bad, worse = weights.recurrent_layers(model)
    assert (good.name, good.refused) == ("good", None)
    assert bad[:6] == ("bad", "gru", H, H, 1, 1) and worse[:6] == ("worse", "rnn", 0, H, 1, 1)
    assert "GRU 'bad' without clip, got clip=3" in bad.refused
    assert "W of RNN 'worse' as a constant, got none" in worse.refused
    assert weights.load(model, "good")[0] == lstm_jax.stack(lstm_jax.lstm(D, H))
    with pytest.raises(ValueError, match="'bad' as a cell here, got .* without clip, got clip=3"):
        weights.load(model, "bad")
    with pytest.raises(ValueError, match="GRU 'bad' without clip, got clip=3"):
        weights.from_onnx(model, node="bad")
    with pytest.raises(ValueError, match=r"without clip.* node= among 'good' \(lstm 3 → 4\)\."):
        weights.from_onnx(model)


def test_a_node_in_a_function_of_the_model():
    graph = Graph()
    xs = graph.input("x", "T", "B", D)
    arrays = graph.weights("lstm", D)
    body = [
        graph.helper.make_node("LSTM", ["a", "b", "c", "d"], ["whole"], hidden_size=H),
        graph.helper.make_node("Squeeze", ["whole", "e"], ["f"]),
    ]
    opsets = [graph.helper.make_opsetid("", 17)]
    layer = graph.helper.make_function("other", "Layer", list("abcde"), ["f"], body, opsets)
    model = graph.model(graph.add("Layer", xs, *arrays, "1", domain="other"))
    model.functions.append(layer)
    net, params = weights.from_onnx(model)
    assert net == lstm_jax.stack(lstm_jax.lstm(D, H)) and len(weights.recurrent_layers(model)) == 1
    assert_close(ours(net, params, sequence()), theirs(model, x=sequence()), 3e-6)


def test_ill_nodes_are_refused_by_name():
    """A node without its input, its matrix or its outputs is said of that node alone."""
    helper = onnx().helper
    for inputs, outputs in ((["x"], ["y"]), (["", "w", "r"], ["y"]), (["x", "w", "r"], [])):
        graph = Graph()
        graph.input("x", "T", "B", D)
        graph.constants |= {
            "w": np.ones((1, H, D), np.float32),
            "r": np.ones((1, H, H), np.float32),
        }
        ill = helper.make_node("RNN", inputs, outputs, name="ill", hidden_size=H)
        graph.layer("gru", "x", D, name="good")
        graph.nodes.append(ill)
        model = graph.model("v0")
        good, bad = weights.recurrent_layers(model)
        assert good.name == "good" and good.refused is None and bad.name == "ill"
        with pytest.raises(ValueError, match="RNN 'ill'.*node= among 'good'"):
            weights.from_onnx(model)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("ends", ["states", "own ends", "last steps", "first steps"])
def test_final_states_of_both_directions(kind, ends):
    """The backward direction ends at the first step; its output at the last is no state of the stack's."""
    graph = Graph()
    xs = graph.input("x", "T", "B", D)
    ys = graph.joined(graph.layer(kind, xs, D, direction="bidirectional"))
    forward, backward = (graph.add("Slice", ys, *e, "2") for e in (("0", "H"), ("H", "far on")))
    graph.constants |= {"H": np.array([H]), "far on": np.array([2**31]), "first": np.array(0)}
    at = {"own ends": ("last", "first"), "last steps": ("last",) * 2, "first steps": ("first",) * 2}
    if ends == "states":
        out = graph.add("Transpose", "v0.1", perm=[1, 0, 2])
    else:
        parts = zip((forward, backward), at[ends], strict=True)
        out = graph.add("Concat", *(graph.add("Gather", *p, axis=0) for p in parts), axis=1)
    model = graph.model(out)
    if ends.endswith("steps"):
        with pytest.warns(UserWarning, match="Left out: .*Gather.* at the output"):
            weights.from_onnx(model)
        return
    net, params = weights.from_onnx(model)
    (state,), _ = lstm_jax.unroll_stack(net, params, jnp.asarray(sequence()))
    got = np.concatenate([state.forward.h, state.backward.h], -1)
    assert_close(got, theirs(model, x=sequence()).reshape(B, 2 * H), 3e-6)


def test_operators_of_others_are_the_nearest():
    """What onnxruntime makes of an LSTM where it quantises a model."""
    graph = Graph()
    odd = graph.add("DynamicQuantizeLSTM", graph.input("x", "T", "B", D), domain="other", name="q")
    model = graph.model(odd)
    found = weights.recurrent_layers(model)
    assert found == () and found.misses[0].startswith(
        "q: DynamicQuantizeLSTM, an operator of other."
    )
    with pytest.raises(ValueError, match="got none. Nearest: q: DynamicQuantizeLSTM"):
        weights.from_onnx(model)
    with pytest.raises(ValueError, match="Nearest: q: DynamicQuantizeLSTM"):
        weights.load(model)


def test_a_mask_that_changes_nothing_is_followed():
    """Outputs past the end are zero in ONNX; a graph that sets them to zero again is still a stack."""
    graph = Graph()
    xs, lengths = graph.input("x", "T", "B", D), graph.input("lengths", "B", kind="INT32")
    for size in (D, H):
        ys = graph.add("Squeeze", graph.layer("gru", xs, size, lengths=lengths), "1")
        shape = graph.add("Slice", graph.add("Shape", ys), "0", "1")
        zero, one = (graph.constant(array=np.array(n)) for n in (0, 1))
        steps = graph.add("Range", zero, graph.add("Squeeze", shape, "0"), one)
        steps = graph.add("Unsqueeze", steps, graph.constant(array=np.array([1, 2])))
        own = graph.add("Unsqueeze", graph.add("Cast", lengths, to=7), "1")
        nothing = graph.constant(array=np.float32(0))
        xs = graph.add("Where", graph.add("Less", steps, own), ys, nothing)
    model = graph.model(xs)
    net, params = weights.from_onnx(model)
    assert len(net.layers) == 2
    own = np.array([6, 2, 4, 1, 5], np.int32)
    expected = theirs(model, x=sequence(), lengths=own)
    assert_close(ours(net, params, sequence(), own), expected, 3e-6)


@pytest.mark.parametrize("what", ["lengths", "shape"])
def test_what_agrees_for_one_size_is_not_followed(what):
    """Constants of five steps and three samples, which is what the first of two runs has."""
    graph = Graph()
    xs = graph.input("x", "T", "B", D)
    lengths = graph.constant(array=np.full(3, 5, np.int32)) if what == "lengths" else ""
    ys = graph.add("Squeeze", graph.layer("gru", xs, D, lengths=lengths, name="below"), "1")
    if what == "shape":
        ys = graph.add("Reshape", ys, graph.constant(array=np.array([5, 3, H])), name="five")
    model = graph.model(graph.add("Squeeze", graph.layer("gru", ys, H, name="above"), "1"))
    message = (
        "sequence_lens of GRU 'below' .* a constant" if what == "lengths" else "'above' .* 'five'"
    )
    with pytest.raises(ValueError, match=message):
        weights.from_onnx(model)


@pytest.mark.parametrize(("axis", "declared"), [(0, True), (1, True), (1, False)])
def test_lengths_as_the_sum_of_a_mask(axis, declared):
    """[T, B] or [B, T], and [B, T] where the file does not name the axes."""
    graph = Graph()
    names = [("T", "B"), ("B", "T")][axis] if declared else (None, None)
    xs, mask = graph.input("x", "T", "B", D), graph.input("mask", *names, kind="BOOL")
    lengths = graph.add("ReduceSum", graph.add("Cast", mask, to=6), str(axis), keepdims=0)
    for size in (D, H):
        xs = graph.add("Squeeze", graph.layer("lstm", xs, size, lengths=lengths), "1")
    model = graph.model(xs)
    net, params = weights.from_onnx(model)
    assert len(net.layers) == 2
    own = np.array([6, 2, 4, 1, 5], np.int32)
    valid = np.arange(T) < own[:, None]
    expected = theirs(model, x=sequence(), mask=valid if axis else valid.T)
    assert_close(ours(net, params, sequence(), own), expected, 3e-6)


def test_no_two_inputs_have_the_same_lengths():
    from lstm_jax.weights.onnx.marks import marked_inputs

    graph = Graph()
    for n in range(16):
        graph.input(f"lengths {n}", "B", kind="INT32")
    for run in (0, 1):
        rng = np.random.default_rng(run)
        marks = marked_inputs(onnx(), graph.model().graph, D, run, 1, rng)
        assert len({lengths.tobytes() for lengths in marks.lengths.values()}) == 16
        assert all(lengths.max() == marks.sizes[0] for lengths in marks.lengths.values())


def test_zeros_of_a_size_that_is_not_known():
    """The shape behind an operator of others is not known, but zeros are zeros."""
    for what in ("zeros", "others"):
        graph = Graph()
        xs = graph.add("Odd", graph.input("x", "T", "B", D), domain="other", name="odd")
        ys = graph.add("Squeeze", graph.layer("lstm", xs, D, name="only", start=what), "1")
        model = graph.model(ys)
        (listed,) = weights.recurrent_layers(model)
        if what == "zeros":
            assert listed.assumed == ()
            with pytest.warns(UserWarning, match="Left out: Odd 'odd' before LSTM 'only'"):
                assert weights.from_onnx(model)[0] == lstm_jax.stack(lstm_jax.lstm(D, H))
        else:
            assert "its initial_h, which is computed" in listed.assumed[0]
            with pytest.raises(ValueError, match="initial_h of LSTM 'only' .* a computed value"):
                weights.from_onnx(model)


def test_lengths_that_are_given_are_not_said_to_be_left_out():
    net = lstm_jax.stack(lstm_jax.gru(D, H))
    model = weights.to_onnx(net, net.init(jax.random.key(0)))
    assert weights.recurrent_layers(model)[0].assumed == ()


def drawn_graph(seed):
    """Layers, options and the nodes that exporters put around them, drawn; the model, its feed, the sizes."""
    graph = Graph(seed, opset=int(np.random.default_rng(seed).choice([13, 15, 17])))
    draw = graph.rng.choice
    batch_first, turned_once = draw([False, True], 2)
    xs = graph.input("x", *("B", "T", D) if batch_first else ("T", "B", D))
    lengths = graph.input("lengths", "B", kind="INT32") if draw([False, True]) else ""
    if lengths and draw([False, True]):
        lengths = graph.add("Cast", graph.add("Cast", lengths, to=7), to=6)

    def swap(v, also=True):
        return graph.add("Transpose", v, perm=[1, 0, 2]) if batch_first and also else v

    xs, size, sizes = swap(xs, turned_once), D, []
    for _ in range(draw([1, 2, 3])):
        kind, hidden = str(draw([*OPERATORS])), int(draw([2, 3, 4]))
        way = str(draw(["forward", "reverse", "bidirectional", "turned", "two nodes"]))
        below = swap(xs, not turned_once)
        said = {"lengths": lengths, "start": str(draw(["", "zeros", "learned"]))}
        if way in ("turned", "two nodes"):
            length = graph.add("Cast", lengths, to=7) if lengths else None
            how = "reverse" if lengths else str(draw(["reverse", "slice"]))
            back = graph.layer(kind, graph.backwards(below, how, length), size, hidden, **said)
            ys = graph.backwards(graph.add("Squeeze", back, "1"), how, length)
            if way == "two nodes":
                first = graph.add("Squeeze", graph.layer(kind, below, size, hidden, **said), "1")
                ys = graph.add("Concat", first, ys, axis=2)
        else:
            whole = graph.layer(kind, below, size, hidden, direction=way, **said)
            if way != "bidirectional":
                ys = graph.add("Squeeze", whole, "1")
            else:
                ways = ["split", "slice", "reshape"] if graph.opset > 13 else ["slice"]
                ys = graph.joined(whole, str(draw(ways)))
        size = hidden * (2 if way in ("bidirectional", "two nodes") else 1)
        sizes.append((kind, size, way))
        xs = swap(graph.add("Dropout", ys) if draw([False, True]) else ys, not turned_once)
    if draw([False, True]):
        sizes.append(("dense", 2, ""))
        xs = graph.add("MatMul", xs, graph.constant(size, 2))
        xs = graph.add("Add", xs, graph.constant(2)) if not lengths else xs
    return graph.model(swap(xs, turned_once)), batch_first, bool(lengths), sizes


@pytest.mark.parametrize("seed", range(24))
def test_drawn_graphs(seed):
    model, batch_first, ragged, sizes = drawn_graph(seed)
    net, params = weights.from_onnx(model)
    assert [layer.output_size for layer in net.layers] == [n for k, n, _ in sizes if k != "dense"]
    assert net.projected_size == (2 if sizes[-1][0] == "dense" else None)
    backward = [
        isinstance(layer, type(lstm_jax.backward(lstm_jax.rnn(1, 1)))) for layer in net.layers
    ]
    assert backward == [way in ("reverse", "turned") for k, _, way in sizes if k != "dense"]
    own = np.array([6, 2, 4, 1, 5], np.int32)
    feed = {"x": sequence(batch_first)} | ({"lengths": own} if ragged else {})
    got = ours(net, params, sequence(), own if ragged else None)
    assert_close(got.swapaxes(0, 1) if batch_first else got, theirs(model, **feed), 3e-6)
