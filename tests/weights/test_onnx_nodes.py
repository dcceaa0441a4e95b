"""Recurrent nodes of ONNX graphs one by one: their weights, their states, and what is said of each."""

import jax
import numpy as np
import pytest
from comparison import assert_close
from onnx_graphs import B, D, Graph, H, T, onnx, ours, sequence, theirs

import lstm_jax
from lstm_jax import weights

pytestmark = pytest.mark.peer


def gates_by_slices(graph, arrays):
    """Weights as older exporters have them: PyTorch's i f g o, cut by Slice and put in ONNX's i o f g."""
    made = []
    for name in arrays:
        blocks = np.split(graph.constants[name][0], len(graph.constants[name][0]) // H)
        first = range(0, len(blocks), 4)  # B has those of both biases
        own = [blocks[k + n] for k in first for n in (0, 2, 3, 1)]
        stored = graph.constant(array=np.concatenate(own))
        ends = [graph.constant(array=np.array([n * H])) for n in range(len(blocks) + 1)]
        cut = [graph.add("Slice", stored, *pair, "0") for pair in zip(ends, ends[1:], strict=False)]
        parts = [cut[k + n] for k in first for n in (0, 3, 1, 2)]
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


def test_a_cell_that_the_graph_writes_out_is_the_nearest():
    """An exporter that has no node for a cell leaves PyTorch's names on its weights."""
    rng = np.random.default_rng(0)
    shapes = {"weight_ih": (4 * H, D), "weight_hh": (4 * H, H), "bias_ih": 4 * H, "bias_hh": 4 * H}
    arrays = {f"rnn.{k}": rng.standard_normal(s).astype("f") for k, s in shapes.items()}
    graph = Graph()
    graph.constants |= arrays
    gates = graph.add("Gemm", graph.input("x", "B", D), *list(arrays)[::2], transB=1)
    model = graph.model(graph.add("Sigmoid", gates))
    found = weights.recurrent_layers(model)
    assert found == () and found.misses[0].startswith(
        "rnn: weights named like those of PyTorch's lstm"
    )
    with pytest.raises(ValueError, match=r"Nearest: rnn: .* give named_arrays\(model\)"):
        weights.load(model)
    _, params = weights.load(weights.named_arrays(model))
    np.testing.assert_array_equal(params.layers[0].w_h, arrays["rnn.weight_hh"].T)


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


def test_a_repeated_state_of_another_size_is_refused():
    graph = Graph()
    xs = graph.input("x", "T", "B", D)
    start = graph.state(xs, H, 2, "learned")
    arrays = graph.weights("gru", D)
    whole = graph.add("GRU", xs, *arrays, "", start, outputs=2, hidden_size=H, name="one")[0]
    with pytest.raises(ValueError, match=r"initial_h of GRU 'one' \[1, 3, 4\].* got \[2, 3, 4\]"):
        weights.from_onnx(graph.model(graph.add("Squeeze", whole, "1")))


def test_a_damaged_constant_is_said_of_its_node():
    graph = Graph()
    xs = graph.input("x", "T", "B", D)
    below = graph.add("Squeeze", graph.layer("gru", xs, D, name="good"), "1")
    arrays = graph.weights("gru", H)
    model = graph.model(graph.layer("gru", below, H, arrays=arrays, name="bad"))
    (stored,) = (one for one in model.graph.initializer if one.name == arrays[0])
    stored.dims[0] = 7
    good, bad = weights.recurrent_layers(model)
    assert good.refused is None and "W of GRU 'bad' as a constant, got none" in bad.refused


def test_a_sequence_of_no_steps_is_left_out():
    graph = Graph()
    none = graph.add("Slice", graph.input("x", "T", "B", D), "0", "0", "0", name="none")
    model = graph.model(graph.add("Squeeze", graph.layer("gru", none, D, name="only"), "1"))
    with pytest.warns(UserWarning, match="Left out: Slice 'none' before GRU 'only'"):
        assert weights.from_onnx(model)[0] == lstm_jax.stack(lstm_jax.gru(D, H))
