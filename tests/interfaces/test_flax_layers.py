"""Flax's own recurrent layers and the drop-in ones: same variables, same numbers, same gradients."""

from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from comparison import assert_close, slow
from flax import linen, nnx

import lstm_jax.linen
import lstm_jax.nnx
from lstm_jax.weights.equinox import from_equinox, to_equinox
from lstm_jax.weights.flax import from_flax, to_flax

B, T, D, H = 3, 7, 2, 4
KINDS = ["LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell"]
CALLS = {
    "plain": {},
    "carry": {"with_carry": True},
    "lengths": {"seq_lengths": (7, 2, 5)},
    "reverse": {"reverse": True},
    "reverse in order": {"reverse": True, "keep_order": True},
    "reverse lengths": {"reverse": True, "seq_lengths": (7, 2, 5)},
    "reverse lengths in order": {"reverse": True, "keep_order": True, "seq_lengths": (1, 7, 5)},
    "time first": {"time_major": True},
}
pytestmark = pytest.mark.usefixtures("standard_promotion")


def linen_layers(kind, **options):
    """Flax's layer and ours, on the same drawn-anew variables."""
    make = partial(getattr(linen, kind), H, param_dtype=jnp.float64)
    layers = [rnn(make(**options), return_carry=True) for rnn in (linen.RNN, lstm_jax.linen.RNN)]
    xs = jax.random.normal(jax.random.key(1), (B, T, D), jnp.float64)
    started = [layer.init(jax.random.key(0), xs) for layer in layers]
    assert_close(started[1], started[0], 0.0)
    rng = np.random.default_rng(3)
    variables = jax.tree.map(lambda a: jnp.asarray(0.5 * rng.standard_normal(a.shape)), started[0])
    return [lambda v, xs, layer=layer, **call: layer.apply(v, xs, **call) for layer in layers], (
        variables,
        xs,
    )


def nnx_layers(kind, **options):
    options = {"dtype": jnp.float64, "param_dtype": jnp.float64, **options}
    layers = [
        rnn(getattr(nnx, kind)(D, H, rngs=nnx.Rngs(0), **options), return_carry=True)
        for rnn in (nnx.RNN, lstm_jax.nnx.RNN)
    ]
    (graph, params, rest), (own_graph, own_params, own_rest) = (
        nnx.split(layer, nnx.Param, ...) for layer in layers
    )
    assert_close(nnx.to_pure_dict(own_params), nnx.to_pure_dict(params), 0.0)
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda a: jnp.asarray(0.5 * rng.standard_normal(a.shape)), params)
    xs = jax.random.normal(jax.random.key(1), (B, T, D), jnp.float64)
    return [
        lambda p, xs, graph=graph, rest=rest, **call: nnx.merge(graph, p, rest, copy=True)(
            xs, **call
        )
        for graph, rest in ((graph, rest), (own_graph, own_rest))
    ], (params, xs)


def merged(graph, state):
    """A layer as a function that a transformation may trace."""
    return lambda xs, **call: nnx.merge(graph, state, copy=True)(xs, **call)


def called(run, call, params, xs):
    """Carry, outputs (zero in the padding) and every gradient."""
    call = dict(call)
    if call.pop("with_carry", False):
        like = jax.eval_shape(run, params, xs)[0]
        rng = np.random.default_rng(4)
        call["initial_carry"] = jax.tree.map(lambda s: jnp.asarray(rng.random(s.shape)), like)
    lengths = call.get("seq_lengths", (T,) * B)
    own = jnp.asarray(np.arange(T) < np.array(lengths)[:, None])[..., None]
    if "seq_lengths" in call:
        call["seq_lengths"] = jnp.array(lengths)
    if call.get("time_major"):
        xs, own = jnp.swapaxes(xs, 0, 1), jnp.swapaxes(own, 0, 1)

    def loss(params, xs):
        carry, outputs = run(params, xs, **call)
        outputs = jnp.where(own, outputs, 0)
        rng = np.random.default_rng(5)
        terms = [
            jnp.sum(rng.random(a.shape) * jnp.sin(a)) for a in jax.tree.leaves((carry, outputs))
        ]
        return sum(terms), (carry, outputs)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(params, xs)


LAYERS = {"linen": linen_layers, "nnx": nnx_layers}
# What a call asks is the layer's own; a cell brings its weights and its carry.
QUICK = [
    ("linen", "LSTMCell", "lengths"),
    ("nnx", "GRUCell", "reverse lengths in order"),
    ("nnx", "SimpleCell", "carry"),
]
ALL = [
    *((api, "LSTMCell", call) for api in LAYERS for call in CALLS),
    *(
        (api, kind, call)
        for api in LAYERS
        for kind in KINDS[1:]
        for call in ("carry", "reverse lengths")
    ),
]


@pytest.mark.parametrize(
    ("api", "kind", "call"), [*QUICK, *(slow(*case) for case in ALL if case not in QUICK)]
)
def test_a_layer_is_flaxs_own(x64, api, kind, call):
    layers = LAYERS[api]
    (theirs, ours), arguments = layers(kind)
    expected = called(theirs, CALLS[call], *arguments)
    assert_close(
        jax.tree.leaves(called(ours, CALLS[call], *arguments)), jax.tree.leaves(expected), 1e-11
    )


@pytest.mark.parametrize(
    ("layers", "options"),
    [
        (linen_layers, {"residual": True}),
        (nnx_layers, {"activation_fn": jax.nn.relu}),
        slow(linen_layers, {"activation_fn": jax.nn.relu}),
        slow(nnx_layers, {"residual": True}),
    ],
    ids=["linen, residual", "nnx, relu", "linen, relu", "nnx, residual"],
)
def test_options_of_the_simple_cell(x64, layers, options):
    (theirs, ours), arguments = layers("SimpleCell", **options)
    expected = called(theirs, {}, *arguments)
    assert_close(jax.tree.leaves(called(ours, {}, *arguments)), jax.tree.leaves(expected), 1e-11)


@pytest.mark.parametrize("layers", [slow(linen_layers), nnx_layers], ids=["linen", "nnx"])
def test_dtypes_are_those_that_flax_returns(layers):
    rounded = {"param_dtype": jnp.float32, "dtype": jnp.bfloat16}
    if layers is linen_layers:
        cells = [
            rnn(linen.LSTMCell(H, **rounded), return_carry=True)
            for rnn in (linen.RNN, lstm_jax.linen.RNN)
        ]
        variables = cells[0].init(jax.random.key(0), jnp.ones((B, T, D)))
        runs = [lambda xs, cell=cell: cell.apply(variables, xs) for cell in cells]
    else:
        runs = [
            rnn(nnx.LSTMCell(D, H, rngs=nnx.Rngs(0), **rounded), return_carry=True)
            for rnn in (nnx.RNN, lstm_jax.nnx.RNN)
        ]
    xs = jax.random.normal(jax.random.key(2), (B, T, D))
    expected, ours = (run(xs) for run in runs)
    assert jax.tree.map(jnp.result_type, ours) == jax.tree.map(jnp.result_type, expected)
    assert_close(ours, expected, 0.05)


def test_any_number_of_batch_axes():
    layer = lstm_jax.nnx.LSTM(D, H, return_carry=True, rngs=nnx.Rngs(0))
    xs = jax.random.normal(jax.random.key(0), (2, 3, T, D))
    lengths = jnp.array([[7, 2, 1], [3, 4, 5]])
    (c, h), outputs = layer(xs, seq_lengths=lengths)
    flat = layer(xs.reshape(6, T, D), seq_lengths=lengths.reshape(6))
    assert_close(((c.reshape(6, H), h.reshape(6, H)), outputs.reshape(6, T, H)), flat, 0.0)
    assert layer(xs[0, 0])[1].shape == (T, H)
    one = lstm_jax.linen.GRU(H)
    variables = one.init(jax.random.key(0), xs)
    assert one.apply(variables, xs).shape == (2, 3, T, H)


def test_within_flaxs_bidirectional_layer():
    xs = jax.random.normal(jax.random.key(0), (B, T, D))
    lengths = jnp.array([7, 2, 5])
    own = (np.arange(T) < np.array(lengths)[:, None])[..., None]
    found = []
    for rnn in (nnx.RNN, lstm_jax.nnx.RNN):
        pair = [rnn(nnx.GRUCell(D, H, rngs=nnx.Rngs(seed))) for seed in (0, 1)]
        found.append(jnp.where(own, nnx.Bidirectional(*pair)(xs, seq_lengths=lengths), 0))
    assert_close(found[1], found[0], 1e-6)


def test_changing_one_line_of_a_model_that_is_trained():
    class Model(nnx.Module):
        def __init__(self, rnn, rngs):
            self.layer = rnn(nnx.OptimizedLSTMCell(D, H, rngs=rngs))
            self.readout = nnx.Linear(H, 1, rngs=rngs)

        def __call__(self, xs):
            return self.readout(self.layer(xs)[:, -1])

    xs = jax.random.normal(jax.random.key(0), (16, T, D))
    ys = xs[:, :, :1].sum(1)

    def trained(rnn):
        model = Model(rnn, nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)

        @nnx.jit
        def step(model, optimizer):
            loss = lambda model: ((model(xs) - ys) ** 2).mean()  # noqa: E731
            value, gradient = nnx.value_and_grad(loss)(model)
            optimizer.update(model, gradient)
            return value

        return [float(step(model, optimizer)) for _ in range(30)]

    theirs, ours = trained(nnx.RNN), trained(lstm_jax.nnx.RNN)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    assert ours[-1] < 0.9 * ours[0]


def test_the_rule_is_what_differentiates():
    xs, carry = jnp.ones((B, T, D)), jnp.zeros((B, H))
    layer, plain = (
        partial(
            lstm_jax.nnx.RNN(nnx.GRUCell(D, H, rngs=nnx.Rngs(0)), gradient=gradient),
            initial_carry=carry,
        )
        for gradient in ("bptt", "autodiff")
    )
    by_rule, by_autodiff = (
        str(jax.make_jaxpr(jax.jvp, static_argnums=0)(layer, (xs,), (xs,)))
        for layer in (layer, plain)
    )
    assert "linear_map" in by_rule and "linear_map" not in by_autodiff


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("api", ["linen", "nnx"])
def test_weights_there_and_back(kind, api):
    rng = np.random.default_rng(0)
    name = {"GRUCell": "gru", "SimpleCell": "rnn"}.get(kind, "lstm")
    cell = getattr(lstm_jax, name)(D, H)
    shapes = jax.eval_shape(cell.init, jax.random.key(0))
    params = jax.tree.map(lambda s: jnp.asarray(rng.random(s.shape), jnp.float32), shapes)
    if name == "gru" and api == "nnx":
        with pytest.raises(ValueError, match="expected b_hn of zeros"):
            to_flax(cell, params, kind, api=api)
        params = params._replace(b_hn=jnp.zeros(H))
    again, back = from_flax(to_flax(cell, params, kind, api=api))
    assert again is cell
    assert_close(back, params, 0.0)


def test_what_does_not_fit_is_refused(without_type_checker):
    with pytest.raises(ValueError, match="expected one of Flax's LSTMCell, .* got ConvLSTMCell"):
        layer = lstm_jax.linen.RNN(linen.ConvLSTMCell(4, (3, 3)))
        layer.init(jax.random.key(0), jnp.ones((B, T, 5, 5, 1)))
    with pytest.raises(ValueError, match="sigmoid gates and tanh .*got sigmoid and relu"):
        lstm_jax.nnx.LSTM(D, H, activation_fn=jax.nn.relu, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="got hard_sigmoid and tanh"):
        lstm_jax.nnx.GRU(D, H, gate_fn=jax.nn.hard_sigmoid, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="Unknown gradient"):
        lstm_jax.nnx.LSTM(D, H, gradient="magic", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="expected the layers of a Flax LSTMCell"):
        from_flax({"ii": {}, "x": {}})
    with pytest.raises(ValueError, match=r"expected i with bias and kernel, got \['kernel'\]"):
        from_flax({"i": {"kernel": jnp.ones((D, H))}, "h": {"kernel": jnp.ones((H, H))}})
    with pytest.raises(ValueError, match=r"expected dense_h with a kernel, got \['bias'\]"):
        from_flax({"dense_i": {"kernel": jnp.ones((D, H))}, "dense_h": {"bias": jnp.ones(H)}})
    with pytest.raises(lstm_jax.ShapeError, match=r"expected dense_h.kernel .*got \[3, 0\]"):
        kernels = {"dense_i": {"kernel": jnp.ones((D, H))}, "dense_h": {"kernel": jnp.ones((3, 0))}}
        from_flax(kernels)
    with pytest.raises(lstm_jax.ShapeError, match=r"expected b \[4\] of a Flax rnn, got \[3\]"):
        from_flax(
            {
                "i": {"kernel": jnp.ones((D, H)), "bias": jnp.ones(3)},
                "h": {"kernel": jnp.ones((H, H))},
            }
        )
    with pytest.raises(ValueError, match="expected a cell that Flax's GRUCell can hold, got lstm"):
        cell = lstm_jax.lstm(D, H)
        to_flax(cell, cell.init(jax.random.key(0)), "GRUCell")


def test_weights_that_are_not_the_cells_are_refused(without_type_checker):
    cell = lstm_jax.lstm(D, H)
    params = cell.init(jax.random.key(0))
    layers = to_flax(cell, params, "LSTMCell")
    with pytest.raises(ValueError, match=r"expected ii with kernel, got \['bias', 'kernel'\]"):
        from_flax(layers | {"ii": layers["ii"] | {"bias": jnp.zeros(H)}})
    with pytest.raises(lstm_jax.DtypeError, match="expected gate 2 float32 .*got float16"):
        half = layers["hf"] | {"bias": jnp.zeros(H, jnp.float16)}
        from_flax(layers | {"hf": half})
    with pytest.raises(lstm_jax.DtypeError, match="expected floating kernels, got int32"):
        from_flax(jax.tree.map(lambda a: a.astype(jnp.int32), layers))
    with pytest.raises(lstm_jax.DtypeError, match="got float64 while jax_enable_x64 is off"):
        from_flax(jax.tree.map(lambda a: np.asarray(a, np.float64), layers))
    with pytest.raises(
        TypeError, match="expected the parameters of a Flax cell as a dict of dicts"
    ):
        from_flax(params.w_x)
    with pytest.raises(lstm_jax.ShapeError, match="params.w_x"):
        to_flax(lstm_jax.lstm(D, 5), params, "LSTMCell")
    with pytest.raises(TypeError, match="expected params as"):
        to_flax(lstm_jax.gru(D, H), params, "LSTMCell")
    with pytest.raises(ValueError, match="with the activation identity"):
        linear = lstm_jax.rnn(D, H, activation="identity")
        to_flax(linear, linear.init(jax.random.key(0)), "SimpleCell")
    with pytest.raises(lstm_jax.ShapeError, match="params.w_x"):
        to_equinox(lstm_jax.lstm(D, 5), params)
    with pytest.raises(TypeError, match="expected Equinox's LSTMCell or GRUCell, got flax"):
        from_equinox(nnx.LSTMCell(D, H, rngs=nnx.Rngs(0)))


def test_partitioned_variables():
    init = linen.with_partitioning(jax.nn.initializers.lecun_normal(), (None, "model"))
    layers = [rnn(linen.LSTMCell(H, kernel_init=init)) for rnn in (linen.RNN, lstm_jax.linen.RNN)]
    xs = jax.random.normal(jax.random.key(1), (B, T, D))
    variables = [layer.init(jax.random.key(0), xs) for layer in layers]
    assert jax.tree.structure(variables[0]) == jax.tree.structure(variables[1])
    theirs, ours = (layer.apply(variables[0], xs) for layer in layers)
    assert_close(ours, theirs, 1e-6)
    with pytest.raises(ValueError, match="expected the params of the cell, from init"):
        layers[1].apply({}, xs)


def test_a_carry_that_is_drawn_and_weights_of_another_type():
    xs = jax.random.normal(jax.random.key(1), (B, T, D))
    found = []
    for rnn in (nnx.RNN, lstm_jax.nnx.RNN):
        cell = nnx.GRUCell(D, H, rngs=nnx.Rngs(0))
        carry_init = cell.initialize_carry
        cell.initialize_carry = partial(carry_init, carry_init=jax.nn.initializers.normal())
        layer = rnn(cell, rngs=nnx.Rngs(3))
        found.append((layer(xs, rngs=nnx.Rngs(5)), layer(xs)))
    assert_close(found[1], found[0], 1e-6)

    class Frozen(nnx.Variable):
        pass

    layer = lstm_jax.nnx.GRU(D, H, rngs=nnx.Rngs(0))
    expected = layer(xs)
    layer.cell.dense_i.kernel = Frozen(layer.cell.dense_i.kernel[...])
    assert_close(layer(xs), expected, 0.0)
    assert not isinstance(layer.cell.dense_i.kernel, nnx.Param)


def test_the_version_of_flax_is_one_that_this_was_written_for():
    assert tuple(map(int, flax.__version__.split(".")[:2])) >= (0, 12)


def test_the_same_functions_by_their_other_names():
    """`jax.lax.logistic` and `jax.lax.tanh` are what sigmoid and tanh call."""
    options = {"gate_fn": jax.lax.logistic, "activation_fn": jax.lax.tanh}
    ours = lstm_jax.nnx.LSTM(D, H, rngs=nnx.Rngs(0), **options)
    theirs = lstm_jax.nnx.LSTM(D, H, rngs=nnx.Rngs(0))
    xs = jnp.ones((2, 5, D))
    assert jnp.array_equal(ours(xs), theirs(xs))


@pytest.mark.parametrize(
    ("api", "kind", "options"),
    [
        slow("nnx", "OptimizedLSTMCell", {}),
        ("nnx", "GRUCell", {"reverse": True}),
        ("nnx", "LSTMCell", {"reverse": True, "keep_order": True}),
        slow("linen", "SimpleCell", {"time_major": True}),
        slow("linen", "LSTMCell", {"reverse": True}),
        slow("linen", "GRUCell", {"reverse": True, "keep_order": True}),
    ],
)
def test_past_the_end_as_in_flax(x64, api, kind, options):
    """Flax's network runs on over the padding; a loss that reads it there is the same, and its gradient."""
    make = {
        "nnx": lambda: getattr(nnx, kind)(
            D, H, rngs=nnx.Rngs(0), dtype=jnp.float64, param_dtype=jnp.float64
        ),
        "linen": lambda: getattr(linen, kind)(H, param_dtype=jnp.float64),
    }[api]
    xs = jax.random.normal(jax.random.key(1), (B, T, D), jnp.float64)
    lengths = jnp.array([7, 0, 5])
    if options.get("time_major"):
        xs = jnp.swapaxes(xs, 0, 1)
    theirs, ours = (
        (
            nnx.RNN(make(), return_carry=True),
            lstm_jax.nnx.RNN(make(), return_carry=True, outside="flax"),
        )
        if api == "nnx"
        else (
            linen.RNN(make(), return_carry=True),
            lstm_jax.linen.RNN(make(), return_carry=True, outside="flax"),
        )
    )
    if api == "linen":
        variables = theirs.init(jax.random.key(0), xs)
        theirs, ours = (partial(layer.apply, variables) for layer in (theirs, ours))
    else:
        theirs, ours = (merged(*nnx.split(layer)) for layer in (theirs, ours))

    zeros = jnp.zeros((B, H), jnp.float64)
    start = (zeros, zeros) if "LSTM" in kind else zeros

    def pooled(run, xs):
        carry, outputs = run(xs, seq_lengths=lengths, initial_carry=start, **options)
        last = outputs[-1] if options.get("time_major") else outputs[:, -1]
        return jnp.sum(jnp.sin(last)) + jnp.sum(jax.tree.leaves(carry)[0]), (carry, outputs)

    expected, found = (
        jax.jit(jax.value_and_grad(partial(pooled, run), has_aux=True))(xs)
        for run in (theirs, ours)
    )
    assert_close(jax.tree.leaves(found), jax.tree.leaves(expected), 1e-11)
    padding = np.moveaxis(np.asarray(found[0][1][1]), 0 if options.get("time_major") else 1, 0)[
        5:, 2
    ]
    assert np.any(padding) and not np.array_equal(padding[0], padding[1])


def test_past_the_end_with_two_batch_axes_and_traced_lengths():
    xs = jax.random.normal(jax.random.key(1), (2, B, T, D))
    lengths = jnp.array([[7, 0, 5], [1, 2, 3]])
    make = lambda: nnx.OptimizedLSTMCell(D, H, rngs=nnx.Rngs(0))  # noqa: E731
    options = {"return_carry": True, "reverse": True}
    ours = lstm_jax.nnx.RNN(make(), outside="flax", **options)
    found = nnx.jit(lambda layer, xs, lengths: layer(xs, seq_lengths=lengths))(ours, xs, lengths)
    for n in range(2):
        expected = nnx.RNN(make(), **options)(xs[n], seq_lengths=lengths[n])
        assert_close(jax.tree.map(lambda a, n=n: a[n], found), expected, 2e-6)


def test_past_the_end_the_last_output():
    layer = lstm_jax.nnx.GRU(D, H, outside="last", return_carry=True, rngs=nnx.Rngs(0))
    xs = jax.random.normal(jax.random.key(1), (B, T, D))
    h, outputs = layer(xs, seq_lengths=jnp.array([7, 2, 5]))
    np.testing.assert_array_equal(outputs[:, -1], h)
    with pytest.raises(ValueError, match="Unknown outside.*'flax', got 'padding'"):
        lstm_jax.nnx.GRU(D, H, outside="padding", rngs=nnx.Rngs(0))


@pytest.mark.parametrize("shape", [(0, T, D), (B, 0, D), (0, 2, T, D)])
def test_no_sequences_and_no_steps_run_where_flax_runs(shape):
    cell = nnx.OptimizedLSTMCell(D, H, rngs=nnx.Rngs(0))
    xs = jnp.zeros(shape)
    theirs, ours = (rnn(cell, return_carry=True)(xs) for rnn in (nnx.RNN, lstm_jax.nnx.RNN))
    assert_close(ours, theirs, 0.0)
    if 0 in shape[:-2]:
        lengths = jnp.zeros(shape[:-2], int)
        assert lstm_jax.nnx.RNN(cell)(xs, seq_lengths=lengths).shape == theirs[1].shape
        layers = [rnn(linen.GRUCell(H)) for rnn in (linen.RNN, lstm_jax.linen.RNN)]
        expected, variables = (layer.init(jax.random.key(0), xs) for layer in layers)
        assert_close(variables, expected, 0.0)
        assert layers[1].apply(variables, xs).shape == layers[0].apply(variables, xs).shape


@pytest.mark.parametrize(
    ("error", "message", "inputs", "call"),
    [
        (lstm_jax.ShapeError, r"inputs \[\*batch, T, D\], D=2, got \[3, 7, 5\]", (B, T, 5), {}),
        (
            lstm_jax.ShapeError,
            r"inputs \[T, \*batch, D\], D=2, got \[7, 3, 5\]",
            (T, B, 5),
            {"time_major": True},
        ),
        (
            lstm_jax.ShapeError,
            r"seq_lengths \[3\] beside inputs \[3, 7, 2\], got \[2\]",
            (B, T, D),
            {"seq_lengths": np.array([1, 2])},
        ),
        (
            ValueError,
            "seq_lengths from 0 to 7, got 1 to 9",
            (B, T, D),
            {"seq_lengths": np.array([1, 2, 9])},
        ),
        (
            TypeError,
            "seq_lengths as whole numbers, got float64",
            (B, T, D),
            {"seq_lengths": np.array([1.0, 2, 3])},
        ),
        (
            TypeError,
            r"initial_carry as \(c, h\), of a lstm",
            (B, T, D),
            {"initial_carry": np.zeros((B, H), "f")},
        ),
        (
            lstm_jax.ShapeError,
            r"initial_carry.0 \[3, 4\] \(inputs \[3, 7, 2\]\), got \[3, 5\]",
            (B, T, D),
            {"initial_carry": (np.zeros((B, 5), "f"), np.zeros((B, H), "f"))},
        ),
    ],
)
def test_messages_speak_of_what_the_caller_gave(without_type_checker, error, message, inputs, call):
    layer = lstm_jax.nnx.LSTM(D, H, rngs=nnx.Rngs(0))
    with pytest.raises(error, match=message):
        layer(jnp.zeros(inputs), **call)
