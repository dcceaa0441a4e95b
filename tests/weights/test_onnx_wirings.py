"""How the nodes of ONNX graphs are wired, as exporters write them; against onnxruntime."""

import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close
from onnx_graphs import CONSTANTS, OPERATORS, B, D, Graph, H, T, onnx, ours, sequence, theirs

import lstm_jax
from lstm_jax import weights

pytestmark = pytest.mark.peer


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
