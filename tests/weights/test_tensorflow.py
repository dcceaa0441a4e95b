"""The LSTM of TensorFlow 1 against its published equations, written as a loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close

import lstm_jax
from lstm_jax import weights

D, H, T, B = 3, 5, 6, 4


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def loop(kernel, bias, forget_bias, xs):
    """i, j, f, o = [x, h] W + b;  c = c σ(f + forget_bias) + σ(i) tanh(j);  h = tanh(c) σ(o)."""
    h, c, out = np.zeros((B, H)), np.zeros((B, H)), []
    for x in xs:
        i, j, f, o = np.split(np.concatenate([x, h], 1) @ kernel + bias, 4, axis=1)
        c = c * sigmoid(f + forget_bias) + sigmoid(i) * np.tanh(j)
        h = np.tanh(c) * sigmoid(o)
        out.append(h)
    return np.stack(out)


@pytest.mark.parametrize("forget_bias", [1.0, 0.0, 2.5])
def test_cell(forget_bias, x64):
    rng = np.random.default_rng(0)
    kernel, bias = 0.5 * rng.standard_normal((D + H, 4 * H)), rng.standard_normal(4 * H)
    cell, params = weights.from_tensorflow_cell(kernel, bias, forget_bias=forget_bias)
    xs = rng.standard_normal((T, B, D))
    _, hs = lstm_jax.unroll(cell, params, jnp.asarray(xs))
    assert_close(np.asarray(hs), loop(kernel, bias, forget_bias, xs), 1e-12)
    written = weights.to_tensorflow_cell(cell, params, forget_bias=forget_bias)
    assert_close(written, (kernel, bias), 1e-15)


def test_refused():
    with pytest.raises(lstm_jax.ShapeError, match=r"kernel \[D \+ H, 4H\], got \[4, 16\]"):
        weights.from_tensorflow_cell(np.ones((4, 16), "f"), np.ones(16, "f"))
    with pytest.raises(lstm_jax.ShapeError, match=r"bias \[16\] \(H=4\), got \[4\]"):
        weights.from_tensorflow_cell(np.ones((7, 16), "f"), np.ones(4, "f"))
    for cell in (lstm_jax.gru(D, H), lstm_jax.lstm(D, H, layer_norm=True)):
        with pytest.raises(ValueError, match="got "):
            weights.to_tensorflow_cell(cell, cell.init(jax.random.key(0)))
