"""Layers of TensorFlow 1 and Haiku through the door, against loops in NumPy."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax
from lstm_jax import weights

D, H, T, B = 3, 4, 5, 2


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


XS = normal(T, B, D)


def lstm_loop(xs, kernel, bias, forget_bias=1.0, order="igfo"):
    """One kernel for [x, h], with the forget bias added in the cell."""
    h, c, out = np.zeros((B, H)), np.zeros((B, H)), []
    for x in xs:
        z = dict(zip(order, np.split(np.concatenate([x, h], 1) @ kernel + bias, 4, 1), strict=True))
        c = c * sigmoid(z["f"] + forget_bias) + sigmoid(z["i"]) * np.tanh(z["g"])
        h = np.tanh(c) * sigmoid(z["o"])
        out.append(h)
    return np.stack(out)


def gru_loop(xs, gates, b_gates, candidate, b_candidate):
    """TensorFlow's GRUCell: r, u = σ([x, h] W + b);  h = u ⊙ h + (1 − u) ⊙ tanh([x, r ⊙ h] W_c + b_c)."""
    h, out = np.zeros((B, H)), []
    for x in xs:
        r, u = np.split(sigmoid(np.concatenate([x, h], 1) @ gates + b_gates), 2, 1)
        n = np.tanh(np.concatenate([x, r * h], 1) @ candidate + b_candidate)
        h = u * h + (1 - u) * n
        out.append(h)
    return np.stack(out)


def outputs(net, params):
    return np.asarray(lstm_jax.unroll_stack(net, params, jnp.asarray(XS))[1])


def lstm_named(scope, seed=0):
    return {
        f"{scope}/kernel": normal(D + H, 4 * H, seed=seed),
        f"{scope}/bias": normal(4 * H, seed=seed),
    }


@pytest.mark.parametrize(
    "scope",
    ["rnn/basic_lstm_cell", "rnn/multi_rnn_cell/cell_0/lstm_cell", "encoder/BasicLSTMCell_1"],
)
def test_an_lstm_of_tensorflow_1(x64, scope):
    kernel, bias = lstm_named(scope).values()
    # As tf.train.load_checkpoint has it: the optimizer's moments beside the weights, and a dense layer.
    source = {
        f"{scope}/kernel": kernel,
        f"{scope}/kernel/Adam": kernel,
        f"{scope}/kernel/Adam_1": kernel,
    }
    source |= {f"{scope}/bias": bias, "dense/kernel": normal(H, 8), "dense/bias": normal(8)}
    source |= {"global_step": np.int64(3), "beta1_power": np.float64(0.9)}
    (layer,) = weights.recurrent_layers(source)
    place = scope.replace("/", ".")
    assert layer[:6] == (place, "lstm", D, H, 1, 1)
    assert "forget_bias of 1" in layer.assumed[1] and "i, j, f, o" in layer.assumed[0]
    for given, loop in (
        ({}, {}),
        ({"forget_bias": 0.0}, {"forget_bias": 0.0}),
        ({"gate_order": "ifgo", "forget_bias": 2.0}, {"order": "ifgo", "forget_bias": 2.0}),
    ):
        expected = lstm_loop(XS, kernel, bias, **loop)
        np.testing.assert_allclose(outputs(*weights.load(source, **given)), expected, atol=1e-12)
    net, params = weights.load(source)
    back = weights.to_tensorflow_cell(net.layers[0], params.layers[0])
    np.testing.assert_allclose(back[0], kernel)


def test_the_older_names_and_both_directions(x64):
    old = {"rnn/lstm_cell/weights": normal(D + H, 4 * H), "rnn/lstm_cell/biases": normal(4 * H)}
    expected = lstm_loop(XS, *old.values())
    np.testing.assert_allclose(outputs(*weights.load(old)), expected, atol=1e-12)
    scope = "bidirectional_rnn/{}/lstm_cell"
    both = {
        k: v
        for n, way in enumerate(("bw", "fw"))
        for k, v in lstm_named(scope.format(way), n).items()
    }
    (layer,) = weights.recurrent_layers(both)
    assert layer[:6] == ("bidirectional_rnn", "lstm", D, H, 2, 1)
    ahead = lstm_loop(XS, *lstm_named("", 1).values())
    back = lstm_loop(XS[::-1], *lstm_named("", 0).values())[::-1]
    np.testing.assert_allclose(
        outputs(*layer.load()), np.concatenate([ahead, back], -1), atol=1e-12
    )
    plain = lstm_loop(XS, *lstm_named("", 1).values(), forget_bias=0.0)
    np.testing.assert_allclose(outputs(*layer.load(forget_bias=0.0))[..., :H], plain, atol=1e-12)


def test_a_gru_and_a_plain_network_of_tensorflow_1(x64):
    arrays = [normal(D + H, 2 * H), normal(2 * H), normal(D + H, H), normal(H)]
    names = ["gates/kernel", "gates/bias", "candidate/kernel", "candidate/bias"]
    source = {f"rnn/gru_cell/{n}": a for n, a in zip(names, arrays, strict=True)}
    (layer,) = weights.recurrent_layers(source)
    assert layer[:6] == ("rnn.gru_cell", "gru", D, H, 1, 1)
    net, params = layer.load()
    assert net == lstm_jax.stack(lstm_jax.gru(D, H, reset_after=False))
    np.testing.assert_allclose(outputs(net, params), gru_loop(XS, *arrays), atol=1e-12)
    with pytest.raises(
        ValueError, match="expected no reset_after for 'rnn.gru_cell', which resets"
    ):
        layer.load(reset_after=True)
    with pytest.raises(ValueError, match="expected no forget_bias for the|expected no forget_bias"):
        layer.load(forget_bias=1.0)
    cut = {name: a[:, 1:] if name.endswith("candidate/kernel") else a for name, a in source.items()}
    with pytest.raises(
        ValueError, match=r"Nearest: rnn.gru_cell: .*where a GRU has \[D \+ H, 2H\]"
    ):
        weights.load(cut)
    kernel, bias = normal(D + H, H), normal(H)
    net, params = weights.load(
        {"rnn/basic_rnn_cell/kernel": kernel, "rnn/basic_rnn_cell/bias": bias}
    )
    h, expected = np.zeros((B, H)), []
    for x in XS:
        h = np.tanh(np.concatenate([x, h], 1) @ kernel + bias)
        expected.append(h)
    np.testing.assert_allclose(outputs(net, params), np.stack(expected), atol=1e-12)


def haiku_arrays():
    linear = {"w": normal(D + H, 4 * H), "b": normal(4 * H)}
    gru = {"w_i": normal(D, 3 * H), "w_h": normal(H, 3 * H), "b": normal(3 * H)}
    first, second = {"w": normal(D, H), "b": normal(H)}, {"w": normal(H, H), "b": normal(H)}
    return {
        "encoder/~/lstm/linear": linear,
        "gru_1": gru,
        "vanilla_rnn/linear": first,
        "vanilla_rnn/linear_1": second,
        "linear": {"w": normal(H, 8), "b": normal(8)},
    }


def test_parameters_of_haiku(x64):
    params = haiku_arrays()
    found = {layer.name: layer for layer in weights.recurrent_layers({"params": params})}
    assert [(n, layer.kind) for n, layer in found.items()] == [
        ("encoder.~.lstm", "lstm"),
        ("gru_1", "gru"),
        ("vanilla_rnn", "rnn"),
    ]
    for name, layer in found.items():
        net, own = layer.load()
        cell, expected = weights.from_haiku(params, name.replace(".", "/"))
        assert net.layers == (cell,)
        for a, b in zip(own.layers[0], expected, strict=True):
            np.testing.assert_array_equal(a, b)
    linear = params["encoder/~/lstm/linear"]
    expected = lstm_loop(XS, linear["w"], linear["b"])
    np.testing.assert_allclose(outputs(*found["encoder.~.lstm"].load()), expected, atol=1e-12)
    assert "1 added to the forget gate, as in hk.LSTM" in found["encoder.~.lstm"].assumed[0]
    expected = lstm_loop(XS, linear["w"], linear["b"], 0.0, "ifgo")
    chosen = found["encoder.~.lstm"].load(gate_order="ifgo", forget_bias=0.0)
    np.testing.assert_allclose(outputs(*chosen), expected, atol=1e-12)
    with pytest.raises(
        ValueError, match="expected no gate_order for 'gru_1', whose names are those of"
    ):
        found["gru_1"].load(gate_order="run")


def test_names_decide_nothing_alone(x64):
    """A dense layer has the shapes of a joined kernel by chance, and an LSTM may have any name in Haiku."""
    linear = {"w": normal(D + H, 4 * H), "b": normal(4 * H)}
    found = weights.recurrent_layers({"enc/linear": linear})
    assert found == () and "fit an hk.LSTM and an hk.Linear" in found.misses[0]
    two = {"net/linear": {"w": normal(D, H), "b": normal(H)}, "net/linear_1": {"w": normal(H, H)}}
    with pytest.raises(ValueError, match="fit an hk.VanillaRNN and two hk.Linear"):
        weights.load(two)
    for named in ("dense", "lstm_dense", "rnn/dense", "lstm/readout"):
        assert weights.recurrent_layers(lstm_named(named)) == ()
    misfit = {"lstm_cell/kernel": normal(D, 4 * H), "lstm_cell/bias": normal(4 * H)}
    with pytest.raises(
        ValueError, match=r"lstm_cell.kernel \[3, 16\].*where an LSTM has \[D \+ H, 4H\]"
    ):
        weights.load(misfit)
    # Names that tell neither the order nor the forget bias: both readings are named.
    joint = {"lstm": {"w": linear["w"], "b": linear["b"]}}
    for given in ({}, {"gate_order": "igfo"}, {"forget_bias": 0.0}):
        with pytest.raises(ValueError, match="'igfo' with 1.0 as in Haiku .*'ifgo' with 0.0"):
            weights.load(joint, **given)
    net, params = weights.load(joint, gate_order="ifgo", forget_bias=0.0)
    expected = lstm_loop(XS, linear["w"], linear["b"], 0.0, "ifgo")
    np.testing.assert_allclose(outputs(net, params), expected, atol=1e-12)
    source = lstm_named("lstm_cell") | {"lstm_cell/w_f_diag": normal(H)}
    with pytest.raises(ValueError, match="got peepholes"):
        weights.load(source)
    with pytest.raises(ValueError, match="forget_bias as a .*number, got nan"):
        weights.load(lstm_named("lstm_cell"), forget_bias=float("nan"))


@pytest.mark.slow
def test_no_framework_is_imported():
    program = (
        "import sys, numpy as np; from lstm_jax import weights; "
        "a = np.ones((7, 16), 'f'); b = np.ones(16, 'f'); "
        "weights.load({'lstm_cell/kernel': a, 'lstm_cell/bias': b}); "
        "weights.load({'lstm/linear': {'w': a, 'b': b}}); "
        "weights.load({'cell': weights.to_flax(*[c := __import__('lstm_jax').gru(3, 4), "
        "c.init(__import__('jax').random.key(0))])}); "
        "print(*{'flax', 'haiku', 'equinox', 'keras', 'torch', 'onnx'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
