"""Whole stacks to and from Flax, against Flax's own layers on the same parameters."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close, slow
from flax import linen, nnx

import lstm_jax
from lstm_jax import backward, bidirectional, gru, lstm, rnn, stack, weights
from lstm_jax.layers.stack import Backward, Bidirectional

B, T, D, H = 2, 5, 3, 4
NETS = {
    "three kinds": stack(lstm(D, H), gru(H, 5), rnn(5, H)),
    "bidirectional": stack(bidirectional(gru(D, H)), bidirectional(lstm(2 * H, H), lstm(2 * H, 2))),
    "backward": stack(backward(lstm(D, H))),
    "dropout": stack(lstm(D, H), lstm(H, H), dropout=0.5),
}
pytestmark = pytest.mark.usefixtures("standard_promotion")


def drawn(net, seed=0, b_hn=True):
    """Parameters with every number another; for nnx a GRU's b_hn is zero."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda a: jnp.asarray(0.5 * rng.standard_normal(a.shape)),
        jax.eval_shape(net.init, jax.random.key(0)),
    )
    if b_hn:
        return params
    return jax.tree.map_with_path(
        lambda path, a: jnp.zeros_like(a) if "b_hn" in jax.tree_util.keystr(path) else a, params
    )


def linen_layer(layer):
    kinds = {"lstm": linen.OptimizedLSTMCell, "gru": linen.GRUCell, "rnn": linen.SimpleCell}

    def one(cell, **options):
        return linen.RNN(kinds[cell.kind](cell.hidden_size, param_dtype=jnp.float64), **options)

    if isinstance(layer, Bidirectional):
        return linen.Bidirectional(one(layer.forward), one(layer.backward))
    if isinstance(layer, Backward):
        return one(layer.cell, reverse=True, keep_order=True)
    return one(layer)


def nnx_layer(layer, lstm_cell=nnx.OptimizedLSTMCell):
    kinds = {"lstm": lstm_cell, "gru": nnx.GRUCell, "rnn": nnx.SimpleCell}

    def one(cell, **options):
        rngs = nnx.Rngs(0)
        sizes = (cell.input_size, cell.hidden_size)
        dtypes = {"dtype": jnp.float64, "param_dtype": jnp.float64}
        return nnx.RNN(kinds[cell.kind](*sizes, rngs=rngs, **dtypes), **options)

    if isinstance(layer, Bidirectional):
        return nnx.Bidirectional(one(layer.forward), one(layer.backward))
    if isinstance(layer, Backward):
        return one(layer.cell, reverse=True, keep_order=True)
    return one(layer)


@pytest.mark.parametrize("name", [slow(name) for name in NETS])
def test_a_stack_computes_the_same_in_linen(x64, name):
    net = NETS[name]
    params = drawn(net)
    xs = jax.random.normal(jax.random.key(1), (B, T, D), jnp.float64)
    _, ys = lstm_jax.unroll_stack(net, params, jnp.swapaxes(xs, 0, 1))
    model = linen.Sequential([linen_layer(layer) for layer in net.layers])
    tree = weights.to_flax(net, params)
    assert_close(jnp.swapaxes(model.apply({"params": tree}, xs), 0, 1), ys, 1e-12)
    again, back = weights.from_flax({"params": tree})
    alone = [x.cell if isinstance(x, Backward) else x for x in net.layers]
    assert again == stack(*alone)  # arrays tell neither dropout nor that a layer runs backward
    assert_close(back, params, 0.0)
    # Into the variables of that model, as it draws them.
    drawn_there = model.init(jax.random.key(0), xs)
    assert_close(weights.to_flax(net, params, like=drawn_there), {"params": tree}, 0.0)


@pytest.mark.parametrize(
    ("name", "lstm_cell"),
    [
        slow("three kinds", nnx.OptimizedLSTMCell),
        slow("bidirectional", nnx.LSTMCell),
        slow("backward", nnx.OptimizedLSTMCell),
        slow("bidirectional", nnx.OptimizedLSTMCell),
        slow("dropout", nnx.OptimizedLSTMCell),
    ],
)
def test_a_stack_computes_the_same_in_nnx(x64, name, lstm_cell):
    net = NETS[name]
    params = drawn(net, b_hn=False)
    xs = jax.random.normal(jax.random.key(1), (B, T, D), jnp.float64)
    _, ys = lstm_jax.unroll_stack(net, params, jnp.swapaxes(xs, 0, 1))
    model = nnx.Sequential(*(nnx_layer(layer, lstm_cell) for layer in net.layers))
    nnx.update(model, weights.to_flax(net, params, like=model))
    assert_close(jnp.swapaxes(model(xs), 0, 1), ys, 1e-12)
    again, back = weights.from_flax(model)
    assert again == stack(*net.layers)  # a module tells that a layer runs backward
    assert_close(back, params, 0.0)
    alone = [x.cell if isinstance(x, Backward) else x for x in net.layers]
    from_state, back = weights.from_flax(nnx.state(model))
    assert from_state == stack(*alone)
    assert_close(back, params, 0.0)
    if lstm_cell is nnx.OptimizedLSTMCell:
        nnx.update(model, jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param)))
        nnx.update(model, weights.to_flax(net, params, api="nnx"))
        assert_close(jnp.swapaxes(model(xs), 0, 1), ys, 1e-12)


class Tagger(linen.Module):
    """Two layers and two directions in a compact method: the tree names cells by their class alone."""

    @linen.compact
    def __call__(self, xs):
        xs = linen.RNN(linen.OptimizedLSTMCell(H))(xs)
        xs = linen.RNN(linen.OptimizedLSTMCell(H))(xs)
        both = linen.Bidirectional(linen.RNN(linen.GRUCell(H)), linen.RNN(linen.GRUCell(H)))
        return linen.Dense(2)(both(xs))


@pytest.mark.slow
def test_where_several_readings_fit_all_are_named_and_the_caller_chooses():
    xs = jax.random.normal(jax.random.key(1), (B, T, D))
    variables = Tagger().init(jax.random.key(0), xs)
    with pytest.raises(ValueError, match="expected layers=, because the sizes fit in several") as e:
        weights.from_flax(variables)
    assert "('GRUCell_0', 'GRUCell_1')" in str(e.value) and len(str(e.value)) < 1000
    layers = ["OptimizedLSTMCell_0", "OptimizedLSTMCell_1", ("GRUCell_0", "GRUCell_1")]
    assert f"layers={layers}" in str(e.value)
    net, params = weights.from_flax(variables, layers=layers)
    assert net == stack(lstm(D, H), lstm(H, H), bidirectional(gru(H, H)))
    _, ys = lstm_jax.unroll_stack(net, params, jnp.swapaxes(xs, 0, 1))
    dense = variables["params"]["Dense_0"]
    expected = Tagger().apply(variables, xs)
    assert_close(jnp.swapaxes(ys @ dense["kernel"], 0, 1), expected, 2e-6)
    # Back into the same variables; what is not recurrent stays.
    other = jax.tree.map(lambda a: a + 1, params)
    written = weights.to_flax(net, other, like=variables, layers=layers)
    assert_close(weights.from_flax(written, layers=layers)[1], other, 0.0)
    assert written["params"]["Dense_0"] is not dense
    assert_close(written["params"]["Dense_0"], dense, 0.0)
    with pytest.raises(
        lstm_jax.ShapeError, match="expected OptimizedLSTMCell_0 of input size 4, .*got 3"
    ):
        weights.from_flax(variables, layers=layers[1::-1])
    with pytest.raises(ValueError, match="expected layers= of 'GRUCell_0', .*got 'lstm'"):
        weights.from_flax(variables, layers=["lstm"])


def test_the_sizes_tell_where_one_reading_alone_fits():
    cells = {
        f"LSTMCell_{n}": weights.to_flax(lstm(d, h), drawn(lstm(d, h)))
        for n, (d, h) in enumerate([(3, 4), (4, 5), (4, 5)])
    }
    # 3 → 4, and then two directions 4 → 5 each: on top of each other they would not fit.
    net, _ = weights.from_flax(cells)
    assert net == stack(lstm(3, 4), bidirectional(lstm(4, 5)))
    with pytest.raises(ValueError, match="decoder 4 → 5, encoder 3 → 6 do not fit on top of each"):
        weights.from_flax(
            {
                "encoder": weights.to_flax(lstm(3, 6), drawn(lstm(3, 6))),
                "decoder": cells["LSTMCell_1"],
            }
        )
    named = {"z": {"cell": cells["LSTMCell_0"]}, "a": {"cell": cells["LSTMCell_1"]}}
    assert weights.from_flax(named)[0] == stack(lstm(3, 4), lstm(4, 5))
    assert weights.from_flax(named, layers=["a"])[0] == stack(lstm(4, 5))
    # Ten and more layers: numbers are numbers.
    many = {
        "layers": {n: {"cell": weights.to_flax(gru(3, 3), drawn(gru(3, 3), n))} for n in range(11)}
    }
    _, params = weights.from_flax(
        dict(layers=dict(sorted(many["layers"].items(), key=lambda p: str(p[0]))))
    )
    assert_close(params.layers[10], drawn(gru(3, 3), 10), 0.0)


def test_what_a_module_of_nnx_says_is_heard():
    rngs = nnx.Rngs(0)
    xs = jax.random.normal(jax.random.key(1), (B, T, D))
    relu = nnx.RNN(nnx.SimpleCell(D, D, residual=True, activation_fn=jax.nn.relu, rngs=rngs))
    net, params = weights.from_flax(relu)
    _, ys = lstm_jax.unroll_stack(net, params, jnp.swapaxes(xs, 0, 1))
    assert net == stack(rnn(D, D, activation="relu"))
    assert_close(jnp.swapaxes(ys, 0, 1), relu(xs), 1e-6)
    with pytest.raises(ValueError, match="sigmoid gates and tanh .*, got hard_sigmoid and tanh"):
        weights.from_flax(nnx.RNN(nnx.GRUCell(D, H, gate_fn=jax.nn.hard_sigmoid, rngs=rngs)))
    pair = [nnx.RNN(nnx.GRUCell(D, H, rngs=rngs)) for _ in range(2)]
    with pytest.raises(ValueError, match="expected merge_fn to put both .* side by side, got add"):
        weights.from_flax(nnx.Bidirectional(*pair, merge_fn=jnp.add))
    with pytest.raises(ValueError, match="expected keep_order=True beside reverse"):
        weights.from_flax(nnx.RNN(nnx.GRUCell(D, H, rngs=rngs), reverse=True))
    cell = nnx.LSTMCell(D, H, rngs=rngs)
    assert weights.from_flax(cell)[0] == weights.from_flax(nnx.state(cell))[0] == lstm(D, H)


def test_parameters_may_be_traced():
    model = nnx.Sequential(nnx.RNN(nnx.LSTMCell(D, H, rngs=nnx.Rngs(0))))
    xs = jnp.ones((T, B, D))

    @jax.jit
    def loss(state):
        net, params = weights.from_flax(state)
        return lstm_jax.unroll_stack(net, params, xs)[1].sum()

    state = nnx.state(model, nnx.Param)
    gradients = jax.grad(loss)(state)
    assert all(jnp.any(leaf) for leaf in jax.tree.leaves(gradients))
    assert_close(loss(state), model(jnp.swapaxes(xs, 0, 1)).sum(), 1e-5)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (stack(lstm(D, D), lstm(D, D), residual=True), "with residual connections"),
        (stack(lstm(D, H), output_size=2), "an output projection, which is a Dense of its own"),
        (stack(lstm(D, H), zoneout=0.1), "zoneout"),
        (stack(lstm(D, H), learned_state=True), "a learned starting state"),
        (stack(lstm(D, H, peepholes=True)), "with peepholes"),
        (stack(bidirectional(gru(D, H, reset_after=False))), "reset gate before the product"),
    ],
)
def test_a_stack_that_flax_does_not_compute_is_refused(net, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        weights.to_flax(net, net.init(jax.random.key(0)))


def test_a_tree_that_does_not_fit_is_refused():
    net = stack(lstm(D, H))
    params = net.init(jax.random.key(0))
    cases = [
        (lstm(D, 5), lstm_jax.ShapeError, r"cell.ii.kernel \[3, 5\] as in like=, got \[3, 4\]"),
        (gru(D, H), ValueError, "expected a cell for layers_0.cell, with .* got lstm"),
        (bidirectional(lstm(D, H)), ValueError, r"layers of \[1\] directions in like=, got \[2\]"),
    ]
    for other, error, message in cases:
        like = weights.to_flax(stack(other), stack(other).init(jax.random.key(0)))
        with pytest.raises(error, match=message):
            weights.to_flax(net, params, like=like)
    with pytest.raises(ValueError, match="recurrent layers of Flax, got none"):
        weights.to_flax(net, params, like={"Dense_0": {"kernel": jnp.ones((D, H))}})
    with pytest.raises(ValueError, match="expected form=None beside like"):
        weights.to_flax(net, params, "LSTMCell", like={})
    with pytest.raises(ValueError, match="expected layers= beside like="):
        weights.to_flax(net, params, layers=["a"])


def test_through_the_door():
    """States, variables and modules, with both directions of a layer as one."""
    rngs = nnx.Rngs(0)
    xs = jax.random.normal(jax.random.key(1), (B, T, D))
    both = nnx.Bidirectional(*(nnx.RNN(nnx.GRUCell(D, H, rngs=rngs)) for _ in range(2)))
    back = nnx.RNN(nnx.OptimizedLSTMCell(2 * H, H, rngs=rngs), reverse=True, keep_order=True)
    relu = nnx.RNN(nnx.SimpleCell(H, H, activation_fn=jax.nn.relu, rngs=rngs))
    model = nnx.Sequential(both, back, relu, nnx.Linear(H, 2, rngs=rngs))
    names = ["layers.0", "layers.1.cell", "layers.2.cell"]
    for source in (model, nnx.state(model), nnx.to_pure_dict(nnx.state(model, nnx.Param))):
        found = weights.recurrent_layers(source)
        assert [(layer.name, layer.directions) for layer in found] == list(
            zip(names, (2, 1, 1), strict=True)
        )
        assert all(layer.assumed == () for layer in found) == (source is model)
        net, params = found[0].load()
        _, ys = lstm_jax.unroll_stack(net, params, jnp.swapaxes(xs, 0, 1))
        assert_close(jnp.swapaxes(ys, 0, 1), both(xs), 1e-6)
    loaded = [layer.load()[0].layers[0] for layer in weights.recurrent_layers(model)]
    assert loaded[1:] == [backward(lstm(2 * H, H)), rnn(H, H, activation="relu")]
    assert weights.load(model, "layers.1")[0].layers == (backward(lstm(2 * H, H)),)
    with pytest.raises(
        ValueError, match="expected no gate_order for 'layers.0', whose module says"
    ):
        weights.load(model, "layers.0", gate_order="run")
    odd = nnx.RNN(nnx.GRUCell(D, H, gate_fn=jax.nn.hard_sigmoid, rngs=rngs))
    with pytest.raises(ValueError, match="got hard_sigmoid and tanh"):
        weights.load(odd)
    # linen's OptimizedLSTMCell has a name that begins as an optimizer's does.
    variables = Tagger().init(jax.random.key(0), xs)
    found = weights.recurrent_layers(variables)
    assert [layer.name for layer in found] == [
        *("OptimizedLSTMCell_0", "OptimizedLSTMCell_1", "GRUCell_0", "GRUCell_1"),
    ]
    assert weights.recurrent_layers({"optimizer": variables, "optim_state": variables}) == ()


def test_an_ensemble_is_refused_by_that_word():
    @nnx.vmap
    def made(key):
        rngs = nnx.Rngs(key)
        return nnx.Sequential(
            nnx.RNN(nnx.LSTMCell(D, H, rngs=rngs)), nnx.RNN(nnx.GRUCell(H, D, rngs=rngs))
        )

    many = nnx.state(made(jax.random.split(jax.random.key(0), 5)), nnx.Param)
    message = r"kernel of rank 2, got \[5, 3, 4\]. Of an ensemble's stacked arrays take one"
    with pytest.raises(lstm_jax.ShapeError, match=message):
        weights.from_flax(many)
    net, _ = weights.from_flax(jax.tree.map(lambda a: a[0], many))
    assert net == stack(lstm(D, H), gru(H, D))
    stacked = {"rnn.weight_ih_l0": np.ones((5, 16, 3)), "rnn.weight_hh_l0": np.ones((5, 16, 4))}
    with pytest.raises(ValueError, match="stacked ones of an ensemble. Take one member"):
        weights.load(stacked)
