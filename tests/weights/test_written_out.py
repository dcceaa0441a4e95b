"""Weights of PyTorch and Keras against their documented equations in NumPy; no framework is needed."""

import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax
from lstm_jax import weights

D, H, T = 3, 4, 6
RNG = np.random.default_rng(0)
XS = RNG.standard_normal((T, D))


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lstm_step(h, c, i, f, g, o):
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru_step(h, r, u, n_x, n_h):
    u = sigmoid(u)
    return (1 - u) * np.tanh(n_x + sigmoid(r) * n_h) + u * h


def pytorch_arrays(gates):
    shapes = {"weight_ih_l0": (D,), "weight_hh_l0": (H,), "bias_ih_l0": (), "bias_hh_l0": ()}
    return {name: RNG.standard_normal((gates * H, *shape)) for name, shape in shapes.items()}


def by_pytorch(kind, arrays):
    """The equations of `torch.nn.LSTM` (i, f, g, o), `GRU` (r, z, n) and `RNN`."""
    h = c = np.zeros(H)
    outputs = []
    for x in XS:
        from_x = np.split(
            arrays["weight_ih_l0"] @ x + arrays["bias_ih_l0"], len(arrays["bias_ih_l0"]) // H
        )
        from_h = np.split(arrays["weight_hh_l0"] @ h + arrays["bias_hh_l0"], len(from_x))
        if kind == "lstm":
            h, c = lstm_step(h, c, *(a + b for a, b in zip(from_x, from_h, strict=True)))
        elif kind == "gru":
            h = gru_step(h, from_x[0] + from_h[0], from_x[1] + from_h[1], from_x[2], from_h[2])
        else:
            h = np.tanh(from_x[0] + from_h[0])
        outputs.append(h)
    return np.stack(outputs)


@pytest.mark.parametrize(("kind", "gates"), [("lstm", 4), ("gru", 3), ("rnn", 1)])
def test_pytorch(x64, kind, gates):
    arrays = pytorch_arrays(gates)
    net, params = weights.from_pytorch(arrays)
    _, ys = lstm_jax.unroll_stack(net, params, jnp.asarray(XS))
    np.testing.assert_allclose(ys, by_pytorch(kind, arrays), rtol=1e-12, atol=1e-13)
    # On the way out the same function: by PyTorch's equations again.
    back = {name: np.asarray(array) for name, array in weights.to_pytorch(net, params).items()}
    assert {name: array.shape for name, array in back.items()} == {
        name: array.shape for name, array in arrays.items()
    }
    np.testing.assert_allclose(by_pytorch(kind, back), ys, rtol=1e-12, atol=1e-13)


def by_keras(kind, kernel, recurrent, bias):
    """The equations of Keras's LSTM (i, f, c, o) and GRU with ``reset_after`` (z, r, h)."""
    h = c = np.zeros(H)
    outputs = []
    for x in XS:
        if kind == "lstm":
            h, c = lstm_step(h, c, *np.split(x @ kernel + h @ recurrent + bias, 4))
        else:
            from_x, from_h = np.split(x @ kernel + bias[0], 3), np.split(h @ recurrent + bias[1], 3)
            h = gru_step(h, from_x[1] + from_h[1], from_x[0] + from_h[0], from_x[2], from_h[2])
        outputs.append(h)
    return np.stack(outputs)


@pytest.mark.parametrize(("kind", "bias"), [("lstm", (4 * H,)), ("gru", (2, 3 * H))])
def test_keras(x64, kind, bias):
    arrays = [RNG.standard_normal(shape) for shape in ((D, bias[-1]), (H, bias[-1]), bias)]
    cell, params = weights.from_keras(arrays)
    _, hs = lstm_jax.unroll(cell, params, jnp.asarray(XS))
    np.testing.assert_allclose(hs, by_keras(kind, *arrays), rtol=1e-12, atol=1e-13)
    back = [np.asarray(array) for array in weights.to_keras(cell, params)]
    np.testing.assert_allclose(by_keras(kind, *back), hs, rtol=1e-12, atol=1e-13)
