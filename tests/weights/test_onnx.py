"""Networks as ONNX graphs: against onnxruntime and onnx's own evaluator, there and back, and what is
refused."""

import sys
import warnings
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close, random_like

import lstm_jax
from lstm_jax import weights

D, H, T, B = 3, 5, 6, 4
LENGTHS = np.array([4, 6, 1, 3], np.int32)


def peer(name):
    """Import another framework; a test that needs an absent one is skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, while they are imported
        pytest.importorskip(name.split(".")[0])
        return import_module(name)


def both_ways(make, *sizes, **options):
    return lstm_jax.bidirectional(make(*sizes, **options))


CELLS = {
    "rnn_tanh": lambda d=D: lstm_jax.rnn(d, H),
    "rnn_relu": lambda d=D: lstm_jax.rnn(d, H, activation="relu"),
    "rnn_identity": lambda d=D: lstm_jax.rnn(d, H, activation="identity"),
    "lstm": lambda d=D: lstm_jax.lstm(d, H),
    "lstm_peepholes": lambda d=D: lstm_jax.lstm(d, H, peepholes=True),
    "lstm_coupled": lambda d=D: lstm_jax.lstm(d, H, coupled_gates=True),
    "lstm_both": lambda d=D: lstm_jax.lstm(d, H, coupled_gates=True, peepholes=True),
    "gru": lambda d=D: lstm_jax.gru(d, H),
    "gru_reset_before": lambda d=D: lstm_jax.gru(d, H, reset_after=False),
}
NETS = {name: (lambda make=make: lstm_jax.stack(make())) for name, make in CELLS.items()} | {
    "both ways": lambda: lstm_jax.stack(lstm_jax.bidirectional(CELLS["lstm_peepholes"]())),
    "mixed": lambda: lstm_jax.stack(
        lstm_jax.bidirectional(lstm_jax.rnn(D, H), CELLS["rnn_identity"]()),
        lstm_jax.bidirectional(lstm_jax.gru(2 * H, H), CELLS["gru_reset_before"](2 * H)),
        CELLS["lstm"](2 * H),
        learned_state=True,
    ),
    "backward": lambda: lstm_jax.stack(
        lstm_jax.backward(CELLS["gru"]()), lstm_jax.backward(CELLS["lstm"](H)), lstm_jax.rnn(H, H)
    ),
    "residual": lambda: lstm_jax.stack(
        lstm_jax.bidirectional(CELLS["lstm_both"]()),
        lstm_jax.bidirectional(CELLS["gru"](2 * H)),
        lstm_jax.lstm(2 * H, 2 * H),
        residual=True,
        output_size=2,
        dropout=0.5,
    ),
}


def made(net, dtype=np.float32, seed=0):
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    return random_like(np.random.default_rng(seed), shapes, dtype, 0.5)


def states_of(states, before):
    leaves = jax.tree_util.tree_flatten_with_path(states)[0]
    keystr = jax.tree_util.keystr
    return {
        f"{before}.{keystr(path, simple=True, separator='.')}": np.asarray(leaf)
        for path, leaf in leaves
    }


def session(model):
    options = peer("onnxruntime").SessionOptions()
    options.log_severity_level = 3  # it warns that an input with a default is no constant
    options.intra_op_num_threads = 1
    return peer("onnxruntime").InferenceSession(model.SerializeToString(), options)


def run(runner, model, feed):
    names = [output.name for output in model.graph.output]
    return dict(zip(names, runner.run(None, feed), strict=True))


@pytest.mark.peer
@pytest.mark.parametrize("name", NETS)
def test_onnxruntime(name):
    onnx, net = peer("onnx"), NETS[name]()
    params = made(net)
    model = weights.to_onnx(net, params)
    onnx.checker.check_model(model, full_check=True)
    runner = session(model)
    rng = np.random.default_rng(1)
    xs = rng.standard_normal((T, B, D)).astype(np.float32)
    state0 = random_like(rng, jax.eval_shape(lambda: net.initial_state(B)), np.float32)
    for lengths, start in ((None, None), (LENGTHS, None), (LENGTHS, state0)):
        feed = {"xs": xs} if lengths is None else {"xs": xs, "lengths": lengths}
        feed |= {} if start is None else states_of(start, "state0")
        states, ys = lstm_jax.unroll_stack(
            net, params, jnp.asarray(xs), start, sequences=lstm_jax.Sequences(lengths=lengths)
        )
        expected = {"ys": np.asarray(ys)} | states_of(states, "states")
        assert_close(run(runner, model, feed), expected, 3e-6)


@pytest.mark.peer
@pytest.mark.usefixtures("x64")
# It has no Relu, and one activation for both directions.
@pytest.mark.parametrize("name", [name for name in NETS if name not in ("rnn_relu", "mixed")])
def test_reference_evaluator(name):
    """In float64. It leaves sequence_lens and input_forget out without a word."""
    evaluator, net = peer("onnx.reference").ReferenceEvaluator, NETS[name]()
    params = made(net, np.float64)
    model = weights.to_onnx(net, params)
    rng = np.random.default_rng(1)
    xs = rng.standard_normal((T, B, D))
    state0 = random_like(rng, jax.eval_shape(lambda: net.initial_state(B)), np.float64)
    states, ys = lstm_jax.unroll_stack(net, params, jnp.asarray(xs), state0)
    expected = {"ys": np.asarray(ys)} | states_of(states, "states")
    feed = {"xs": xs} | states_of(state0, "state0")
    assert_close(run(evaluator(model), model, feed), expected, 1e-12)


@pytest.mark.peer
@pytest.mark.parametrize("name", NETS)
def test_round_trip(name, tmp_path):
    peer("onnx")
    net = NETS[name]()
    params = made(net)
    path = tmp_path / "net.onnx"
    weights.to_onnx(net, params, path)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    again, read = weights.from_onnx(path)
    assert again == net._replace(dropout=0.0)
    assert_close(read, params, 0)
    assert weights.to_onnx(again, read).SerializeToString() == path.read_bytes()


@pytest.mark.peer
def test_a_cell_is_a_stack_of_one():
    peer("onnx")
    cell = lstm_jax.gru(D, H)
    params = made(cell)
    net, read = weights.from_onnx(weights.to_onnx(cell, params))
    assert net == lstm_jax.stack(cell)
    assert_close(read.layers, (params,), 0)


def graph_of(nodes, constants, inputs=("X",), outputs=("Y",), dims=("T", "B", D), opset=17):
    """A hand-made model in float32."""
    onnx = peer("onnx")
    info, floating = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    kinds = dict.fromkeys(("lengths", "others"), (onnx.TensorProto.INT32, ["B"]))
    return onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes,
            "by hand",
            [info(name, *kinds.get(name, (floating, list(dims)))) for name in inputs],
            [info(name, floating, None) for name in outputs],
            [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
        ),
        opset_imports=[onnx.helper.make_opsetid("", opset)],
        ir_version=8,
    )


def node_of(kind, inputs="X W R B", outputs=("Y", "Y_h"), **attributes):
    names = inputs.split(" ") if isinstance(inputs, str) else inputs
    return peer("onnx").helper.make_node(kind, names, list(outputs), name="cell", **attributes)


def numbers(kind, directions=1, size=D, seed=0, suffix=""):
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    rng = np.random.default_rng(seed)
    shapes = {"W": (gates * H, size), "R": (gates * H, H), "B": (2 * gates * H,), "P": (3 * H,)}
    return {
        name + suffix: 0.5 * rng.standard_normal((directions, *shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


@pytest.mark.peer
@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize(
    ("kind", "inputs", "attributes"),
    [
        ("RNN", "X W R B lengths", {"activations": ["Relu", "Tanh"]}),
        ("RNN", "X W R  lengths", {}),
        ("GRU", "X W R B lengths", {"linear_before_reset": 1}),
        ("GRU", "X W R B lengths", {}),
        ("LSTM", "X W R B lengths", {}),
        ("LSTM", "X W R B lengths   P", {}),
        ("LSTM", "X W R B lengths   P", {"input_forget": 1}),
        ("LSTM", "X W R B lengths", {"input_forget": 1}),
    ],
)
def test_nodes_of_others(kind, inputs, attributes, ragged):
    """Both directions with weights of their own: f and i unrelated where they are coupled, too."""
    node = node_of(kind, inputs, direction="bidirectional", hidden_size=H, **attributes)
    model = graph_of([node], numbers(kind, 2), ("X", "lengths"), ("Y", "Y_h"))
    net, params = weights.from_onnx(model)
    xs = np.random.default_rng(1).standard_normal((T, B, D)).astype(np.float32)
    lengths = LENGTHS if ragged else np.full(B, T, np.int32)
    theirs, final = session(model).run(None, {"X": xs, "lengths": lengths})
    states, ys = lstm_jax.unroll_stack(
        net, params, jnp.asarray(xs), sequences=lstm_jax.Sequences(lengths=lengths)
    )
    assert_close(np.asarray(ys), theirs.swapaxes(1, 2).reshape(T, B, 2 * H), 3e-6)
    assert_close(np.stack([states[0].forward.h, states[0].backward.h]), final, 3e-6)


@pytest.mark.peer
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_batch_first(kind):
    """layout=1, which onnxruntime does not have and the evaluator does."""
    node = node_of(kind, direction="bidirectional", hidden_size=H, layout=1)
    model = graph_of([node], numbers(kind, 2), dims=("B", "T", D))
    net, params = weights.from_onnx(model)
    xs = np.random.default_rng(1).standard_normal((T, B, D)).astype(np.float32)
    evaluator = peer("onnx.reference").ReferenceEvaluator(model)
    (theirs,) = evaluator.run(None, {"X": xs.swapaxes(0, 1)})
    _, ys = lstm_jax.unroll_stack(net, params, jnp.asarray(xs))
    theirs = theirs.transpose(1, 0, 2, 3).reshape(T, B, 2 * H)
    assert_close(np.asarray(ys), theirs, 3e-6)


@pytest.mark.peer
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_exported_by_torch(kind, batch_first, tmp_path):
    torch = peer("torch")
    peer("onnx")
    torch.manual_seed(0)

    class Tagger(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = getattr(torch.nn, kind)(
                D, H, num_layers=2, bidirectional=True, batch_first=batch_first
            )
            self.head = torch.nn.Linear(2 * H, 2)

        def forward(self, x):
            return self.head(self.rnn(x)[0])

    module = Tagger().eval()
    xs = torch.randn(T, B, D)
    given = xs.transpose(0, 1) if batch_first else xs
    path = tmp_path / "torch.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        free = {"x": {0: "a", 1: "b"}}
        torch.onnx.export(
            module, (given,), path, dynamo=False, input_names=["x"], dynamic_axes=free
        )
    net, params = weights.from_onnx(path)
    assert len(net.layers) == 2 and net.output_size == 2
    out = module(given).detach()
    theirs = (out.transpose(0, 1) if batch_first else out).numpy()
    assert_close(np.asarray(lstm_jax.unroll_stack(net, params, jnp.asarray(xs))[1]), theirs, 3e-6)


@pytest.mark.peer
def test_constant_start_becomes_the_learned_state():
    start = np.random.default_rng(2).standard_normal((1, 1, H)).astype(np.float32)
    node = node_of("LSTM", "X W R B  h h", hidden_size=H)
    constants = numbers("LSTM") | {"h": np.repeat(start, B, 1)}
    net, params = weights.from_onnx(graph_of([node], constants))
    assert net.learned_state
    assert np.array_equal(params.state0[0].h, start[0, 0])
    constants["h"] = constants["h"].copy()
    constants["h"][0, 1, 0] += 1
    with pytest.raises(ValueError, match="initial_h of LSTM 'cell' as one constant for every samp"):
        weights.from_onnx(graph_of([node], constants))


def chain(between, second="GRU", size=H, **attributes):
    """Two nodes with something between: the output of the first is ``Y``, the input of the second ``X2``."""
    onnx = peer("onnx")
    first = onnx.helper.make_node("GRU", ["X", "W", "R"], ["Y", "Y_h"], name="below", hidden_size=H)
    names = ["X2", "W2", "R2"]
    above = onnx.helper.make_node(second, names, ["Z"], name="above", hidden_size=H, **attributes)
    made = [onnx.helper.make_node(*node[:3], **node[3]) for node in between]
    constants = numbers("GRU") | numbers(second, size=size, suffix="2")
    constants |= {"one": np.array([1]), "flat": np.array([0, 0, -1]), "back": np.array([0, -1])}
    constants["half"] = np.array([0.5], np.float32)
    return graph_of([first, *made, above], constants, outputs=("Z",))


@pytest.mark.peer
def test_what_lays_axes_out_is_followed():
    squeeze = [("Squeeze", ["Y", "one"], ["X2"], {})]
    turned = [
        ("Transpose", ["Y"], ["t"], {"perm": [0, 2, 1, 3]}),
        ("Reshape", ["t", "flat"], ["X2"], {}),
    ]
    for between in (squeeze, turned):
        net, _ = weights.from_onnx(chain(between))
        assert net == lstm_jax.stack(*(lstm_jax.gru(n, H, reset_after=False) for n in (D, H)))


@pytest.mark.peer
@pytest.mark.parametrize(
    ("between", "message"),
    [
        (
            [("Relu", ["Y"], ["X2"], {})],
            "GRU 'above' on the outputs of GRU 'below', .* got it on what Relu 'X2' makes",
        ),
        (
            [("Squeeze", ["Y", "one"], ["s"], {}), ("Mul", ["s", "half"], ["X2"], {})],
            "got it on what Mul 'X2' makes",
        ),
        (
            [
                ("Squeeze", ["Y", "one"], ["s"], {}),
                ("Transpose", ["s"], ["X2"], {"perm": [1, 0, 2]}),
            ],
            "expected GRU 'above' on the outputs .* got it on what Squeeze 's', Transpose 'X2' makes",
        ),
        ([("Identity", ["Y_h"], ["X2"], {})], "GRU 'above' .* got it on what Identity 'X2' makes"),
        (
            [("Identity", ["X"], ["X2"], {})],
            r"GRU 'above' .* got it on what Identity 'X2' makes \[5, 3, 3\]",
        ),
    ],
)
def test_other_graphs_refused(between, message):
    with pytest.raises(ValueError, match=message):
        weights.from_onnx(chain(between))


@pytest.mark.peer
@pytest.mark.parametrize(
    ("kind", "inputs", "change", "attributes", "message"),
    [
        ("LSTM", "X W R B", {}, {"clip": 3.0}, "LSTM 'cell' without clip, got clip=3"),
        (
            "LSTM",
            "X W R B",
            {},
            {"activations": ["HardSigmoid", "Tanh", "Tanh"]},
            "LSTM 'cell' with activations sigmoid tanh tanh, got .*HardSigmoid",
        ),
        ("LSTM", "X W R B", {}, {"activation_alpha": [0.5]}, "got .*activation_alpha"),
        ("GRU", "X W R B", {}, {"activations": ["Sigmoid", "Relu"]}, "sigmoid tanh, got .*Relu"),
        ("RNN", "X W R B", {}, {"activations": ["Elu"]}, "Tanh, Relu or Affine.*Elu"),
        (
            "RNN",
            "X W R B",
            {},
            {"activations": ["Affine"], "activation_alpha": [2.0], "activation_beta": [0.0]},
            "Affine.*2.0",
        ),
        ("RNN", "X W R B", {}, {"activations": ["Affine"]}, "Affine"),
        ("GRU", "X W R B", {}, {"direction": "sideways"}, "Unknown direction of GRU 'cell'"),
        ("GRU", "X W R B", {}, {"direction": "bidirectional"}, r"W .* with 2 as its first axis"),
        ("GRU", "X W R B", {}, {"hidden_size": 4}, r"R of GRU 'cell' .*\(H=4\), got \[1, 15, 5\]"),
        ("GRU", "X W X B", {}, {}, "expected R of GRU 'cell' as a constant"),
        (
            "GRU",
            "X W R B",
            {"B": np.ones((1, 15), "f")},
            {},
            r"expected B of GRU 'cell' \[30\] .* got \[15\]",
        ),
        (
            "GRU",
            "X W R B",
            {"B": np.ones((1, 30))},
            {},
            "float32 as W of GRU 'cell' is, got float64",
        ),
        ("GRU", "X W R B n", {"n": np.ones(B, "i")}, {}, "sequence_lens .* got a constant"),
        ("LSTM", "X W R B   P", {"P": np.ones((1, 10), "f")}, {}, r"P.*\[15\] .* got \[10\]"),
    ],
)
def test_nodes_refused(kind, inputs, change, attributes, message):
    if kind == "LSTM" and inputs.endswith("P"):
        inputs = "X W R B    P"
    model = graph_of([node_of(kind, inputs, **attributes)], numbers(kind) | change)
    with pytest.raises((ValueError, TypeError), match=message):
        weights.from_onnx(model)


@pytest.mark.peer
def test_computed_starts_refused():
    onnx = peer("onnx")
    made = onnx.helper.make_node("Shape", ["X"], ["n"])
    floats = onnx.helper.make_node("Cast", ["n"], ["h"], to=1)
    node = node_of("GRU", "X W R B  h")
    with pytest.raises(ValueError, match="initial_h of GRU 'cell' .* got a computed value"):
        weights.from_onnx(graph_of([made, floats, node], numbers("GRU")))
    first = node_of("GRU")
    second = onnx.helper.make_node("GRU", ["s", "W2", "R2", "", "", "Y_h"], ["Z"], name="above")
    squeeze = onnx.helper.make_node("Squeeze", ["Y", "one"], ["s"])
    constants = numbers("GRU") | numbers("GRU", size=H, suffix="2") | {"one": np.array([1])}
    with pytest.raises(ValueError, match="initial_h of GRU 'above' .* got a final state"):
        weights.from_onnx(graph_of([first, squeeze, second], constants, outputs=("Z",)))


@pytest.mark.peer
def test_other_files_refused(tmp_path):
    peer("onnx")
    path = tmp_path / "net.onnx"
    cell = lstm_jax.lstm(D, H)
    weights.to_onnx(cell, made(cell), path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match="net.onnx to hold an ONNX model, got "):
        weights.from_onnx(path)
    with pytest.raises(FileNotFoundError):
        weights.from_onnx(tmp_path / "none.onnx")
    with pytest.raises(TypeError, match="expected a path or an onnx.ModelProto, got int"):
        weights.from_onnx(3)
    with pytest.raises(ValueError, match="expected an RNN, GRU or LSTM node, got none"):
        weights.from_onnx(graph_of([], {}, outputs=("X",)))


def beside(below="", above="", direction="forward", stacked=True):
    """Two nodes with these sequence_lens, one on the other or side by side."""
    node = peer("onnx").helper.make_node
    source = ["s", "W2", "R2"] if stacked else ["X", "W2", "R2"]
    made = [
        node("Cast", ["lengths"], ["cast"], to=6),
        node("Add", ["lengths", "lengths"], ["computed"]),
        node("GRU", ["X", "W", "R", "", below], ["Y"], name="below", hidden_size=H),
        node("Squeeze", ["Y", "one"], ["s"]),
        node("GRU", [*source, "", above], ["Y2"], name="above", direction=direction, hidden_size=H),
        node("Squeeze", ["Y2", "one"], ["s2"]),
        node("Concat", ["s", "s2"], ["both"], axis=2),
    ]
    constants = numbers("GRU") | numbers("GRU", size=H if stacked else D, suffix="2")
    constants |= {"one": np.array([1]), "every": np.full(B, T, np.int32)}
    out = "s2" if stacked else "both"
    if stacked:
        made.pop()
    return graph_of(made, constants, ("X", "lengths", "others"), (out,))


@pytest.mark.peer
@pytest.mark.parametrize(
    ("below", "above", "message"),
    [
        ("lengths", "", "sequence_lens of GRU 'above' from 'lengths', as GRU 'below' .* got none"),
        ("", "lengths", "GRU 'above' from none, as GRU 'below' .* got 'lengths'"),
        ("lengths", "others", "GRU 'above' from 'lengths', as GRU 'below' .* got 'others'"),
        ("lengths", "computed", "sequence_lens of GRU 'above' as an input .* got a computed value"),
        ("computed", "computed", "sequence_lens of GRU 'below' as an input .* got a computed"),
        ("every", "every", "sequence_lens of GRU 'below' as an input .* got a constant"),
    ],
)
def test_other_lengths_refused(below, above, message):
    for options in ({}, {"stacked": False, "direction": "reverse"}):
        with pytest.raises(ValueError, match=message):
            weights.from_onnx(beside(below, above, **options))


@pytest.mark.peer
def test_the_same_lengths_are_followed():
    model = beside("lengths", "cast")
    net, params = weights.from_onnx(model)
    xs = np.random.default_rng(1).standard_normal((T, B, D)).astype(np.float32)
    feed = {"X": xs, "lengths": LENGTHS, "others": LENGTHS}
    (theirs,) = session(model).run(None, feed)
    _, ys = lstm_jax.unroll_stack(
        net, params, jnp.asarray(xs), sequences=lstm_jax.Sequences(lengths=LENGTHS)
    )
    assert_close(np.asarray(ys), theirs, 3e-6)


@pytest.mark.peer
@pytest.mark.parametrize("axis", [0, 1])
def test_all_steps_are_no_lengths(axis):
    """sequence_lens [T, T, ...], computed from the shape of the input, which some exporters write."""
    node = peer("onnx").helper.make_node
    made = [
        node("Shape", ["X"], ["shape"]),
        node("Slice", ["shape", "from", "to"], ["size"]),
        node("Cast", ["size"], ["steps"], to=6),
        node("Slice", ["shape", "one", "two"], ["batch"]),
        node("Expand", ["steps", "batch"], ["all"]),
        node("GRU", ["X", "W", "R", "", "all"], ["Y"], name="below", hidden_size=H),
        node("Squeeze", ["Y", "one"], ["s"]),
        node("GRU", ["s", "W2", "R2"], ["Z"], name="above", hidden_size=H),
    ]
    constants = numbers("GRU") | numbers("GRU", size=H, suffix="2")
    constants |= {"one": np.array([1]), "two": np.array([2])}
    constants |= {"from": np.array([axis]), "to": np.array([axis + 1])}
    model = graph_of(made, constants, outputs=("Z",))
    if axis == 0:
        assert len(weights.from_onnx(model)[0].layers) == 2
    else:
        with pytest.raises(
            ValueError, match="sequence_lens of GRU 'below' .* got a computed value"
        ):
            weights.from_onnx(model)


@pytest.mark.peer
@pytest.mark.parametrize("masked", [False, True], ids=["lengths", "mask"])
def test_packed_by_torch(masked, tmp_path):
    """Lengths as an input of the graph, or as the sum of one over time."""
    torch = peer("torch")
    peer("onnx")
    torch.manual_seed(0)
    packing, longest_first = torch.nn.utils.rnn, torch.tensor([6, 4, 3, 1])

    class Packed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = torch.nn.GRU(D, H, num_layers=2, bidirectional=True)

        def forward(self, x, own):
            own = own.sum(1) if masked else own
            ys, _ = self.rnn(packing.pack_padded_sequence(x, own))
            return packing.pad_packed_sequence(ys)[0]

    module, xs, path = Packed().eval(), torch.randn(T, B, D), tmp_path / "torch.onnx"
    own = torch.arange(T) < longest_first[:, None] if masked else longest_first
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        free = {"x": {0: "a", 1: "b"}, "own": {0: "b"}}
        names = ["x", "own"]
        torch.onnx.export(
            module, (xs, own), path, dynamo=False, input_names=names, dynamic_axes=free
        )
    net, params = weights.from_onnx(path)
    lengths = longest_first.numpy()
    _, ys = lstm_jax.unroll_stack(
        net, params, jnp.asarray(xs), sequences=lstm_jax.Sequences(lengths=lengths)
    )
    assert_close(np.asarray(ys), module(xs, own).detach().numpy(), 3e-6)


def headed(*nodes, inputs=("X",), lens="", out="Z", **constants):
    """A recurrent node, a product ``p`` [T, B, 2], the projection ``q`` with a bias, and these nodes."""
    node = peer("onnx").helper.make_node
    made = [
        node("GRU", ["X", "W", "R", "", lens], ["Y"], name="below", hidden_size=H),
        node("Squeeze", ["Y", "one"], ["s"]),
        node("MatMul", ["s", "w_y"], ["p"]),
        node("Add", ["p", "b_y"], ["q"]),
        *(node(operator, given, [name], **said) for operator, given, name, said in nodes),
    ]
    rng = np.random.default_rng(3)
    known = numbers("GRU") | {"one": np.array([1]), "two": np.array([2]), "none": np.float32([0])}
    known |= {"w_y": rng.standard_normal((H, 2)).astype(np.float32)}
    known |= {"first": np.array(0), "step": np.array(1), "b_y": np.float32([0.5, -2.0])}
    return graph_of(made, known | constants, inputs, (out,))


SHOWN = ("Where", ["mask", "q", "none"], "Z", {})
MASK = (
    ("Shape", ["X"], "time", {"start": 0, "end": 1}),
    ("Squeeze", ["time"], "last", {}),
    ("Range", ["first", "last", "step"], "numbers", {}),
    ("Unsqueeze", ["numbers", "one"], "rows", {}),
    ("Cast", ["lengths"], "long", {"to": 7}),
    ("Less", ["rows", "long"], "own", {}),
    ("Unsqueeze", ["own", "two"], "mask", {}),
    SHOWN,
)


@pytest.mark.peer
@pytest.mark.parametrize(
    ("change", "lens"),
    [
        ({}, ""),
        ({4: ("Cast", ["others"], "long", {"to": 7})}, "lengths"),
        ({0: ("Shape", ["X"], "time", {"start": 1, "end": 2})}, "lengths"),
        ({5: ("LessOrEqual", ["rows", "long"], "own", {})}, "lengths"),
        ({5: ("Less", ["long", "rows"], "own", {})}, "lengths"),
        ({2: ("Range", ["step", "last", "step"], "numbers", {})}, "lengths"),
        ({6: ("Unsqueeze", ["own", "first"], "mask", {})}, "lengths"),
        ({7: ("Where", ["mask", "q", "w_y"], "Z", {})}, "lengths"),
        ({7: ("Where", ["mask", "none", "q"], "Z", {})}, "lengths"),
    ],
)
def test_other_masks_are_left_out(change, lens):
    """Only what is zero past the ends of the very sequences is what a stack computes."""
    inputs = ("X", "lengths", "others")
    weights.from_onnx(headed(*MASK, inputs=inputs, lens="lengths"))
    nodes = [change.get(number, node) for number, node in enumerate(MASK)]
    with pytest.warns(UserWarning, match="'below' .* alone. Left out: MatMul 'p'.*, Where 'Z' at"):
        net, _ = weights.from_onnx(headed(*nodes, inputs=inputs, lens=lens))
    assert net.projected_size is None


@pytest.mark.peer
def test_a_constant_mask_is_left_out():
    with pytest.warns(
        UserWarning, match="Left out: MatMul 'p', Add 'q', Where 'Z' at the output 'Z'"
    ):
        weights.from_onnx(headed(SHOWN, mask=np.array([True, False])))


@pytest.mark.peer
def test_shapes_of_the_bias_of_a_projection():
    add, row = ("Add", ["p", "b"], "Z", {}), np.array([1.0, -2.0], np.float32)
    for shape in ((2,), (1, 2), (1, 1, 2)):
        _, params = weights.from_onnx(headed(add, b=row.reshape(shape)))
        assert np.array_equal(params.b_y, row)
    for shape in ((2, 1), (2, 1, 1), (1, 2, 1), (1, 1, 1, 2)):
        with pytest.warns(UserWarning, match="Left out: MatMul 'p', Add 'Z' at the output 'Z'"):
            weights.from_onnx(headed(add, b=row.reshape(shape)))


@pytest.mark.peer
@pytest.mark.parametrize("how", ["Slice", "Gather", "Split", "Tile", "Expand"])
def test_a_constant_start_of_several_layers(how):
    """One constant [L, 1, H], cut by layer."""
    node = peer("onnx").helper.make_node
    start = np.random.default_rng(2).standard_normal((2, 1, H)).astype(np.float32)
    cut = {
        "Slice": [("Slice", ["h0", str(n), str(n + 1), "0"], [f"h{n + 1}"]) for n in (0, 1)],
        "Gather": [("Gather", ["h0", str(n)], [f"h{n + 1}"]) for n in (0, 1)],
        "Split": [("Split", ["h0"], ["h1", "h2"])],
    }
    many = [("Shape", ["X"], ["shape"]), ("Gather", ["shape", "1"], ["batch"])]
    many.append(("Concat", ["1", "batch", "1"], ["rows"]))
    repeated = [("Tile", ["c", "rows"], ["h0"])]
    if how == "Expand":
        many[-1] = ("Concat", ["1", "batch", "size"], ["rows"])
        repeated = [("Expand", ["c", "rows"], ["h0"])]
    axis = {"Concat": {"axis": 0}}
    if how in cut:
        many, repeated = [], [("Identity", ["c"], ["h0"])]
    before = [*many, *repeated, *cut.get(how, cut["Slice"])]
    made = [
        *(node(*each, **axis.get(each[0], {})) for each in before),
        node("GRU", ["X", "W", "R", "", "", "h1"], ["Y"], hidden_size=H),
        node("Squeeze", ["Y", "1"], ["s"]),
        node("GRU", ["s", "W2", "R2", "", "", "h2"], ["Z"], hidden_size=H),
    ]
    constants = numbers("GRU") | numbers("GRU", size=H, suffix="2") | {"c": start}
    constants |= {str(n): np.array([n]) for n in (0, 1, 2)} | {"size": np.array([H])}
    model = graph_of(made, constants, outputs=("Z",), opset=13)
    net, params = weights.from_onnx(model)
    assert net.learned_state
    assert_close(np.stack([state.h for state in params.state0]), start[:, 0], 0)
    xs = np.random.default_rng(1).standard_normal((T, B, D)).astype(np.float32)
    if how in ("Tile", "Expand"):  # onnxruntime wants a row for each sample
        (theirs,) = session(model).run(None, {"X": xs})
        _, ys = lstm_jax.unroll_stack(net, params, jnp.asarray(xs))
        assert_close(np.asarray(ys), theirs[:, 0], 3e-6)


@pytest.mark.peer
def test_a_part_that_is_not_there_is_no_zero_state():
    """[1, 1, H] made [2, B, H] where B is free: the second row of it is not known to be none."""
    node = peer("onnx").helper.make_node
    made = [
        node("Shape", ["X"], ["shape"]),
        node("Expand", ["c", "shape"], ["h0"]),
        node("Slice", ["h0", "one", "two", "first"], ["h"]),
        node_of("GRU", "X W R B  h", hidden_size=H),
    ]
    constants = numbers("GRU") | {"c": np.ones((1, 1, H), np.float32)}
    constants |= {"first": np.array([0]), "one": np.array([1]), "two": np.array([2])}
    with pytest.raises(ValueError, match="initial_h of GRU 'cell' .* got a computed value"):
        weights.from_onnx(graph_of(made, constants))


@pytest.mark.peer
def test_an_embedding_before_the_node_is_left_out():
    gather = peer("onnx").helper.make_node("Gather", ["E", "lengths"], ["x"], axis=0)
    constants = numbers("GRU") | {"E": np.ones((7, D), np.float32)}
    model = graph_of([gather, node_of("GRU", "x W R B")], constants, ("lengths",))
    with pytest.warns(UserWarning, match="'cell' .* alone. Left out: Gather 'x' before GRU 'cell'"):
        net, params = weights.from_onnx(model)
    assert_close(params, weights.from_onnx(graph_of([node_of("GRU")], numbers("GRU")))[1], 0)
    with pytest.warns(UserWarning):
        assert net == weights.from_onnx(model)[0]


@pytest.mark.peer
def test_other_neighbours_refused():
    node = peer("onnx").helper.make_node
    constants = numbers("GRU", 2) | numbers("GRU", suffix="2")
    constants |= {"one": np.array([1]), "flat": np.array([0, 0, -1])}
    for order in ((0, 1), (1, 0)):
        pair = [
            node("GRU", ["X", "W", "R"], ["f"], name="two", direction="bidirectional"),
            node("GRU", ["X", "W2", "R2"], ["b"], name="single"),
        ]
        made = [
            *(pair[n] for n in order),
            node("Transpose", ["f"], ["ft"], perm=[0, 2, 1, 3]),
            node("Reshape", ["ft", "flat"], ["f1"]),
            node("Squeeze", ["b", "one"], ["b1"]),
            node("Concat", ["f1", "b1"], ["Y"], axis=2),
        ]
        message = "one forward and one reverse, got .*(bidirectional.*forward|forward.*bidirect)"
        with pytest.raises(ValueError, match=message):
            weights.from_onnx(graph_of(made, constants))


@pytest.mark.peer
def test_constant_nodes():
    helper = peer("onnx").helper
    start = [0.5, -0.25, 1.0, 2.0, 0.125]
    made = [
        helper.make_node("Constant", [], ["axis"], value_int=1),
        helper.make_node("Constant", [], ["axes"], value_ints=[0, 1]),
        helper.make_node("Constant", [], ["row"], value_floats=start),
        helper.make_node("Unsqueeze", ["row", "axes"], ["h"]),
        node_of("GRU", "X W R B  h", outputs=("y",), hidden_size=H),
        helper.make_node("Squeeze", ["y", "axis"], ["s"]),
        helper.make_node("MatMul", ["s", "w_y"], ["p"]),
        helper.make_node("Constant", [], ["zero"], value_float=0.0),
        helper.make_node("Constant", [], ["b"], value_floats=[3.0]),
        helper.make_node("Add", ["p", "b"], ["Y"]),
    ]
    constants = numbers("GRU") | {"w_y": np.ones((H, 1), np.float32)}
    _, params = weights.from_onnx(graph_of(made, constants))
    assert_close(params.state0[0].h, np.float32(start), 0)
    assert_close(params.b_y, np.float32([3.0]), 0)


@pytest.mark.peer
def test_empty_files_refused(tmp_path):
    onnx, path = peer("onnx"), tmp_path / "net.onnx"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="net.onnx to hold an ONNX model, got an empty file"):
        weights.from_onnx(path)
    path.write_bytes(onnx.ModelProto(producer_name="x").SerializeToString())
    with pytest.raises(ValueError, match="net.onnx to hold an ONNX model, got one without a graph"):
        weights.from_onnx(path)
    with pytest.raises(ValueError, match="expected an ONNX model with a graph, got none"):
        weights.from_onnx(onnx.ModelProto())


@pytest.mark.peer
@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lstm_jax.lstm(D, H, layer_norm=True), "ONNX has, got .* with layer normalisation"),
        (lstm_jax.lstm(D, H, projection_size=2), "with a projection of h"),
        (lstm_jax.stack(lstm_jax.lstm(D, H), zoneout=0.1), "zoneout 0.1"),
    ],
)
def test_nets_refused(net, message):
    peer("onnx")
    with pytest.raises(ValueError, match=message):
        weights.to_onnx(net, net.init(jax.random.key(0)))


@pytest.mark.peer
def test_bfloat16_refused():
    peer("onnx")
    cell = lstm_jax.gru(D, H)
    with pytest.raises(lstm_jax.DtypeError, match="for ONNX, got bfloat16"):
        weights.to_onnx(cell, cell.init(jax.random.key(0), jnp.bfloat16))


@pytest.mark.peer
def test_a_write_that_fails_leaves_the_file(tmp_path, monkeypatch):
    peer("onnx")
    cell, path = lstm_jax.gru(D, H), tmp_path / "net.onnx"
    path.write_bytes(b"before")

    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr("lstm_jax.atomic_write.os.fsync", fail)
    with pytest.raises(OSError, match="no space"):
        weights.to_onnx(cell, made(cell), path)
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    cell = lstm_jax.gru(D, H)
    with pytest.raises(ImportError, match=r"pip install 'lstm-jax\[onnx\]'"):
        weights.to_onnx(cell, made(cell))
    with pytest.raises(ImportError, match=r"pip install 'lstm-jax\[onnx\]'"):
        weights.from_onnx("net.onnx")


@pytest.mark.peer
def test_a_declared_size_costs_nothing(bounded_work):
    model = graph_of([node_of("GRU")], numbers("GRU"), dims=(1_000_000, 4096, D))
    net, params = weights.from_onnx(model)
    small = graph_of([node_of("GRU")], numbers("GRU"))
    assert net == weights.from_onnx(small)[0]
    np.testing.assert_array_equal(params.layers[0].w_x, weights.from_onnx(small)[1].layers[0].w_x)


@pytest.mark.peer
@pytest.mark.parametrize(
    ("operator", "inputs"),
    [("ConstantOfShape", ["shape"]), ("Expand", ["one", "shape"]), ("Tile", ["one", "shape"])],
)
def test_a_constant_is_not_larger_than_the_file(operator, inputs, bounded_work):
    helper = peer("onnx").helper
    attributes = {}
    if operator == "ConstantOfShape":
        value = peer("onnx").numpy_helper.from_array(np.ones(1, np.float32))
        attributes["value"] = value
    unused = helper.make_node(operator, inputs, ["unused"], **attributes)
    constants = numbers("GRU") | {
        "shape": np.asarray([40_000, 40_000], np.int64),
        "one": np.ones((1, 1), np.float32),
    }
    net, _ = weights.from_onnx(graph_of([unused, node_of("GRU")], constants))
    assert net.layers[0].kind == "gru"


def three_nodes():
    """A GRU in a branch of an If, an LSTM behind an embedding, and a GRU on it in reverse; weights folded."""
    onnx = peer("onnx")
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    floating = onnx.TensorProto.FLOAT
    of_lstm, of_gru, inner = numbers("LSTM"), numbers("GRU", size=H, suffix="2"), numbers("GRU")
    order = np.concatenate([np.arange(2 * H, 3 * H), np.arange(H, 2 * H), np.arange(H)])
    constants = {
        "E": np.ones((7, D), np.float32),
        # W by its rows in another order, as an exporter that computes ONNX's order has it.
        "rows": np.argsort(order),
        "W2_stored": of_gru["W2"][0][order],
        "R2": of_gru["R2"],
        "half": (of_lstm["W"] / 2).astype(np.float32),
        "two": np.array(2.0, np.float32),
        "axis": np.array([0]),
        "one": np.array([1]),
        "yes": np.array(True),
        **{name: of_lstm[name] for name in ("R", "B")},
        **{f"{name}_in": inner[name] for name in ("W", "R", "B")},
    }
    branch = onnx.helper.make_graph(
        [node("GRU", ["Y_sequence", "W_in", "R_in", "B_in"], ["b"], name="inside", hidden_size=H)],
        "then",
        [],
        [info("b", floating, None)],
    )
    other = onnx.helper.make_graph(
        [node("Identity", ["Y_all"], ["e"])], "else", [], [info("e", floating, None)]
    )
    nodes = [
        node("Gather", ["E", "lengths"], ["Y_sequence"], axis=0),
        node("Mul", ["half", "two"], ["W"]),
        node("LSTM", ["Y_sequence", "W", "R", "B"], ["Y"], name="below", hidden_size=H),
        node("Squeeze", ["Y", "one"], ["s"]),
        node("Gather", ["W2_stored", "rows"], ["W2_rows"], axis=0),
        node("Unsqueeze", ["W2_rows", "axis"], ["W2"]),
        node("GRU", ["s", "W2", "R2"], ["Y_all"], name="above", direction="reverse", hidden_size=H),
        node("If", ["yes"], ["Z"], then_branch=branch, else_branch=other),
    ]
    model = graph_of(nodes, constants, ("lengths",), ("Z",))
    return model, of_lstm, of_gru, inner


@pytest.mark.peer
def test_nodes_are_taken_out_of_any_graph():
    model, of_lstm, of_gru, inner = three_nodes()
    with pytest.raises(
        ValueError, match=r"node= among 'below' \(lstm 3 → 5\), 'above' \(gru 5 → 5, back"
    ):
        weights.from_onnx(model)
    net, params = weights.from_onnx(model, node="below")
    alone = weights.from_onnx(graph_of([node_of("LSTM")], of_lstm))
    assert net == alone[0]
    assert_close(params, alone[1], 1e-7)
    net, params = weights.from_onnx(model, node=["below", "above"])
    assert net == lstm_jax.stack(
        lstm_jax.lstm(D, H), lstm_jax.backward(lstm_jax.gru(H, H, reset_after=False))
    )
    above = {name.removesuffix("2"): array for name, array in of_gru.items()} | {
        "B": np.zeros((1, 6 * H), np.float32)
    }
    expected = weights.from_onnx(
        graph_of([node_of("GRU", direction="reverse")], above, dims=("T", "B", H))
    )[1]
    assert_close(params.layers[1], expected.layers[0], 0)
    in_branch = weights.from_onnx(model, node="inside")[1]
    assert_close(in_branch, weights.from_onnx(graph_of([node_of("GRU")], inner))[1], 0)
    with pytest.raises(ValueError, match="expected node as one of 'below', .* got 'none'"):
        weights.from_onnx(model, node="none")
    with pytest.raises(ValueError, match="expected 'below' on 3 inputs, got 5 of 'above'"):
        weights.from_onnx(model, node=["above", "below"])


@pytest.mark.peer
def test_a_quantised_weight_is_its_value():
    onnx = peer("onnx")
    constants = numbers("GRU")
    stored = np.round(constants["W"] * 50).astype(np.int8)
    given = constants | {"W_q": stored, "scale": np.array(0.02, np.float32)}
    del given["W"]
    made = onnx.helper.make_node("DequantizeLinear", ["W_q", "scale"], ["W"])
    _, params = weights.from_onnx(graph_of([made, node_of("GRU")], given), node="cell")
    constants["W"] = stored.astype(np.float32) * np.float32(0.02)
    assert_close(params, weights.from_onnx(graph_of([node_of("GRU")], constants))[1], 1e-7)


@pytest.mark.peer
@pytest.mark.parametrize("shape", [(1, 2, 99), (2, 1, H), (1, 1, 1), (H,)])
def test_a_starting_state_of_zeros_has_the_shape_of_a_state(shape):
    constants = numbers("GRU") | {"h": np.zeros(shape, np.float32)}
    node = node_of("GRU", "X W R B  h", hidden_size=H)
    with pytest.raises(ValueError, match="initial_h of GRU 'cell'"):
        weights.from_onnx(graph_of([node], constants))


@pytest.mark.peer
def test_folding_is_bounded(bounded_work):
    """Each Concat doubles a constant: forty of them would be 10¹² numbers."""
    node = peer("onnx").helper.make_node
    doubled = [node("Concat", [f"c{n}", f"c{n}"], [f"c{n + 1}"], axis=0) for n in range(40)]
    start = node_of("GRU", "X c40 R B", hidden_size=H)
    constants = numbers("GRU") | {"c0": np.ones((1, 3 * H, D), np.float32)}
    with pytest.raises(ValueError, match="expected W of GRU 'cell' as a constant, got none"):
        weights.from_onnx(graph_of([*doubled, start], constants), node="cell")
