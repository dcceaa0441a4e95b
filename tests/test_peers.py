"""Forward values and every gradient against other frameworks, in float64 and asymmetric numbers."""

import warnings
from functools import partial
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close, loss, random_problem

import lstm_jax

pytestmark = [pytest.mark.peer, pytest.mark.usefixtures("x64")]

TIMES = [1, 2, 50]
BATCH, D, H = 4, 3, 5


def peer(name):
    """Import another framework; a test that needs an absent one is skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, while they are imported
        pytest.importorskip(name.split(".")[0])
        return import_module(name)


@partial(jax.jit, static_argnums=0)
def outputs_and_gradients(cell, problem):
    problem = problem._replace(cell=cell)
    outputs = lstm_jax.unroll(cell, *problem.inputs)
    return outputs, jax.grad(loss, argnums=1)(problem, problem.inputs, "bptt")


def ours(problem):
    """Outputs, and the gradient by hand; one program for all frameworks."""
    return outputs_and_gradients(problem.cell, problem._replace(cell=None))


@pytest.mark.parametrize("time", TIMES, ids=lambda time: f"T={time}")
@pytest.mark.parametrize("name", ["rnn_tanh", "rnn_relu", "lstm", "gru"])
def test_torch(name, time):
    torch = peer("torch")
    problem = random_problem(name, time, BATCH, input_size=D, hidden_size=H)
    (state, hs), gradients = ours(problem)

    def tensor(array):
        return torch.tensor(np.asarray(array), dtype=torch.float64)

    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}.get(name, torch.nn.RNN)
    options = {"nonlinearity": name.removeprefix("rnn_")} if kind is torch.nn.RNN else {}
    layer = kind(D, H, dtype=torch.float64, **options)
    # Torch adds two biases. Any split of ours gives the same function.
    share = np.random.default_rng(5).standard_normal(problem.params.b.shape)
    b_ih, b_hh = np.asarray(problem.params.b) - share, share
    if name == "gru":  # inside n they are ours: one outside of the reset gate, one inside
        b_ih[2 * H :], b_hh[2 * H :] = problem.params.b[2 * H :], problem.params.b_hn
    with torch.no_grad():
        layer.weight_ih_l0.copy_(tensor(problem.params.w_x.T))
        layer.weight_hh_l0.copy_(tensor(problem.params.w_h.T))
        layer.bias_ih_l0.copy_(tensor(b_ih))
        layer.bias_hh_l0.copy_(tensor(b_hh))
    xs = tensor(problem.xs).requires_grad_()
    state0 = [tensor(leaf)[None].requires_grad_() for leaf in problem.state0]
    out, final = layer(xs, tuple(state0) if name == "lstm" else state0[0])
    final = list(final) if name == "lstm" else [final]
    total = (tensor(problem.hs_weights) * torch.sin(out)).sum()
    for weight, leaf in zip(problem.state_weights, final, strict=True):
        total = total + (tensor(weight)[None] * leaf).sum()
    total.backward()

    def array(tensor):
        return jnp.asarray(tensor.detach().numpy())

    assert_close(hs, array(out), 1e-12)
    assert_close(list(state), [array(leaf)[0] for leaf in final], 1e-12)
    d_b = gradients.params.b
    d_b_hh = jnp.concatenate([d_b[: 2 * H], gradients.params.b_hn]) if name == "gru" else d_b
    assert_close(
        {
            "weight_ih": gradients.params.w_x.T,
            "weight_hh": gradients.params.w_h.T,
            "bias_ih": d_b,
            "bias_hh": d_b_hh,
            "input": gradients.xs,
            "state0": list(gradients.state0),
        },
        {
            "weight_ih": array(layer.weight_ih_l0.grad),
            "weight_hh": array(layer.weight_hh_l0.grad),
            "bias_ih": array(layer.bias_ih_l0.grad),
            "bias_hh": array(layer.bias_hh_l0.grad),
            "input": array(xs.grad),
            "state0": [array(leaf.grad)[0] for leaf in state0],
        },
        1e-12,
    )


def split(array, names):
    """Columns gate by gate: ``{name: [..., H]}``."""
    return dict(zip(names, jnp.split(array, len(names), axis=-1), strict=True))


def flax_lstm(p):
    """ii, if, ig, io without and hi, hf, hg, ho with a bias: kernels [in, out]."""
    w_x, w_h, b = split(p.w_x, "ifgo"), split(p.w_h, "ifgo"), split(p.b, "ifgo")
    from_x = {f"i{gate}": {"kernel": w_x[gate]} for gate in "ifgo"}
    return from_x | {f"h{gate}": {"kernel": w_h[gate], "bias": b[gate]} for gate in "ifgo"}


def flax_gru(p):
    """ir, iz, in with a bias and hr, hz, hn of which hn alone has one; z is our u."""
    w_x, w_h, b = split(p.w_x, "rzn"), split(p.w_h, "rzn"), split(p.b, "rzn")
    layers = {f"i{gate}": {"kernel": w_x[gate], "bias": b[gate]} for gate in "rzn"}
    layers |= {f"h{gate}": {"kernel": w_h[gate]} for gate in "rzn"}
    layers["hn"]["bias"] = p.b_hn
    return layers


def flax_simple(p):
    return {"i": {"kernel": p.w_x, "bias": p.b}, "h": {"kernel": p.w_h}}


def carry_of(state):
    """Flax carries (c, h)."""
    return (state.c, state.h) if hasattr(state, "c") else state.h


def state_of(carry, like):
    return type(like)(h=carry[1], c=carry[0]) if hasattr(like, "c") else type(like)(carry)


def compare_with_step(problem, step, convert=lambda params: params, fixed=()):
    """Scan ``step(params, state, x) -> state`` of a peer, on our parameters but the ``fixed``."""

    def peer_loss(inputs):
        def scanned(state, x):
            state = step(convert(inputs.params), state, x)
            return state, state.h

        state, hs = jax.lax.scan(scanned, inputs.state0, inputs.xs)
        final = jax.tree.map(lambda v, s: jnp.sum(v * s), problem.state_weights, state)
        return jnp.sum(problem.hs_weights * jnp.sin(hs)) + sum(final), (state, hs)

    (_, outputs), gradients = jax.jit(jax.value_and_grad(peer_loss, has_aux=True))(problem.inputs)
    own_outputs, own_gradients = ours(problem)
    own, theirs = own_gradients.params._asdict(), gradients.params._asdict()
    for name in fixed:
        assert not np.any(theirs.pop(name))
        own.pop(name)
    assert_close(own_outputs, outputs, 1e-12)
    assert_close((own, own_gradients[1:]), (theirs, gradients[1:]), 1e-12)


@pytest.mark.parametrize("time", TIMES, ids=lambda time: f"T={time}")
@pytest.mark.parametrize(
    ("name", "kind", "layout"),
    [
        ("lstm", "LSTMCell", flax_lstm),
        ("lstm", "OptimizedLSTMCell", flax_lstm),
        ("gru", "GRUCell", flax_gru),
        ("rnn_tanh", "SimpleCell", flax_simple),
    ],
)
def test_flax_linen(name, kind, layout, time):
    linen = peer("flax.linen")
    problem = random_problem(name, time, BATCH, input_size=D, hidden_size=H)
    cell = getattr(linen, kind)(H, param_dtype=jnp.float64)
    started = jax.eval_shape(cell.init, jax.random.key(0), carry_of(problem.state0), problem.xs[0])
    shapes = jax.tree.map(jnp.shape, started["params"])
    assert shapes == jax.tree.map(jnp.shape, layout(problem.params))

    def step(params, state, x):
        carry, _ = cell.apply({"params": layout(params)}, carry_of(state), x)
        return state_of(carry, state)

    compare_with_step(problem, step)


def nnx_layers(name, kind, params):
    """The layers of a Flax NNX cell: as in linen, or our own concatenated matrices."""
    if kind == "LSTMCell":
        layers = flax_lstm(params)
        layers["if_"] = layers.pop("if")
        return layers
    layers = {"dense_i": {"kernel": params.w_x}, "dense_h": {"kernel": params.w_h}}
    layers["dense_h" if name == "lstm" else "dense_i"]["bias"] = params.b
    return layers


@pytest.mark.parametrize("time", TIMES, ids=lambda time: f"T={time}")
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lstm", "LSTMCell"),
        ("lstm", "OptimizedLSTMCell"),
        ("gru", "GRUCell"),
        ("rnn_tanh", "SimpleCell"),
    ],
)
def test_flax_nnx(name, kind, time):
    nnx = peer("flax.nnx")
    problem = random_problem(name, time, BATCH, input_size=D, hidden_size=H)
    if name == "gru":  # theirs has no bias b_hn
        problem = problem._replace(params=problem.params._replace(b_hn=jnp.zeros(H)))
    options = {"dtype": jnp.float64, "param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
    cell = getattr(nnx, kind)(D, H, **options)
    graph, started = nnx.split(cell)
    started = nnx.to_pure_dict(started)
    layers = nnx_layers(name, kind, problem.params)
    assert jax.tree.map(jnp.shape, started) == jax.tree.map(jnp.shape, layers)

    def step(params, state, x):
        merged = nnx.merge(graph, nnx.State(nnx_layers(name, kind, params)))
        carry, _ = merged(carry_of(state), x)
        return state_of(carry, state)

    compare_with_step(problem, step, fixed=("b_hn",) if name == "gru" else ())


@pytest.mark.parametrize("time", TIMES, ids=lambda time: f"T={time}")
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_equinox(name, time):
    equinox = peer("equinox")
    problem = random_problem(name, time, None, input_size=D, hidden_size=H)
    kind = {"lstm": equinox.nn.LSTMCell, "gru": equinox.nn.GRUCell}[name]
    blank = kind(D, H, dtype=jnp.float64, key=jax.random.key(0))

    def step(params, state, x):
        fields = {"weight_ih": params.w_x.T, "weight_hh": params.w_h.T, "bias": params.b}
        if name == "gru":
            fields["bias_n"] = params.b_hn
        cell = equinox.tree_at(
            lambda c: [getattr(c, field) for field in fields], blank, list(fields.values())
        )
        if name == "gru":
            return type(state)(cell(x, state.h))
        return type(state)(*cell(x, (state.h, state.c)))

    compare_with_step(problem, step)


@pytest.mark.parametrize("time", TIMES, ids=lambda time: f"T={time}")
@pytest.mark.parametrize("name", ["lstm", "rnn_relu"])
def test_haiku(name, time):
    haiku = peer("haiku")
    problem = random_problem(name, time, BATCH, input_size=D, hidden_size=H)

    def core(x, state):
        if name == "lstm":
            _, state = haiku.LSTM(H)(x, haiku.LSTMState(state.h, state.c))
            return lstm_jax.LSTMState(state.hidden, state.cell)
        return lstm_jax.RNNState(haiku.VanillaRNN(H, double_bias=False)(x, state.h)[1])

    def layers(params):
        if name == "rnn_relu":
            return {
                "vanilla_rnn/linear": {"w": params.w_x, "b": params.b},
                "vanilla_rnn/linear_1": {"w": params.w_h},
            }
        # One matrix for [x, h], gates in the order i, g, f, o, and a forget bias of one on top.
        i, f, g, o = jnp.split(jnp.concatenate([params.w_x, params.w_h]), 4, axis=1)
        b_i, b_f, b_g, b_o = jnp.split(params.b, 4)
        w, b = jnp.concatenate([i, g, f, o], axis=1), jnp.concatenate([b_i, b_g, b_f - 1, b_o])
        return {"lstm/linear": {"w": w, "b": b}}

    transformed = haiku.without_apply_rng(haiku.transform(core))
    compare_with_step(
        problem, lambda params, state, x: transformed.apply(params, x, state), convert=layers
    )
