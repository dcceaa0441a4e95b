"""Live against Haiku: outputs and gradients in float64, through the converters."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close, random_like

import lstm_jax
from lstm_jax import weights

D, H, T, B = 3, 5, 6, 4
CELLS = {
    "LSTM": lstm_jax.lstm(D, H),
    "GRU": lstm_jax.gru(D, H, reset_after=False),
    "VanillaRNN": lstm_jax.rnn(D, H, activation="relu"),
}


@pytest.mark.peer
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", CELLS)
def test_module(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, while it is imported
        haiku = pytest.importorskip("haiku")

    def run(xs):
        core = getattr(haiku, kind)(H)
        return haiku.dynamic_unroll(core, xs, core.initial_state(B))[0]

    transformed = haiku.without_apply_rng(haiku.transform(run))
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.standard_normal((T, B, D)))
    shapes = jax.eval_shape(transformed.init, jax.random.key(0), xs)
    theirs = random_like(rng, shapes, scale=0.5)
    name = {"VanillaRNN": "vanilla_rnn"}.get(kind, kind.lower())
    cell, params = weights.from_haiku(theirs, name)
    assert cell == CELLS[kind]
    ys_weights = jnp.asarray(rng.standard_normal((T, B, H)))

    def loss(ys):
        return jnp.sum(ys_weights * jnp.sin(ys)), ys

    def ours(params, xs):
        return loss(lstm_jax.unroll(cell, params, xs)[1])

    def of_haiku(params, xs):
        return loss(transformed.apply(params, xs))

    (_, own), (d_params, d_xs) = jax.jit(jax.value_and_grad(ours, argnums=(0, 1), has_aux=True))(
        params, xs
    )
    (_, out), (d_theirs, their_d_xs) = jax.jit(
        jax.value_and_grad(of_haiku, argnums=(0, 1), has_aux=True)
    )(theirs, xs)
    assert_close(own, out, 1e-12)
    assert_close(d_xs, their_d_xs, 1e-12)
    # Laid out as the weights are; the forget bias is no part of a gradient.
    written = weights.to_haiku(cell, d_params)
    if kind == "LSTM":
        written["lstm/linear"]["b"][2 * H : 3 * H] += 1
    if (
        kind == "VanillaRNN"
    ):  # its second bias, which is zero here and has the gradient of the first
        assert not written["vanilla_rnn/linear_1"].pop("b").any()
    for module, parts in written.items():
        for part, array in parts.items():
            assert_close(array, np.asarray(d_theirs[module][part]), 1e-12)
    back = weights.to_haiku(cell, params, name="other")
    again, read = weights.from_haiku(back | {"head": {"w": np.ones(2)}}, "other")
    assert again == cell
    assert_close(read, params, 1e-15)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "under 'lstm', got none"),
        ({"lstm": {"v": np.ones(2)}}, r"under 'lstm', got \['v'\]"),
        (
            {"lstm/linear": {"w": np.ones((7, 15)), "b": np.ones(15)}},
            r"\[D \+ H, 4H\], got \[7, 15\]",
        ),
        (
            {"lstm/linear": {"w": np.ones((7, 16)), "b": np.ones(15)}},
            r"linear/b \[16\] .*got \[15\]",
        ),
        (
            {"lstm": {"w_i": np.ones((3, 12)), "w_h": np.ones((4, 15)), "b": np.ones(12)}},
            r"w_h \[4, 12\] .* got \[4, 15\]",
        ),
    ],
)
def test_weights_refused(params, message):
    with pytest.raises(ValueError, match=message):
        weights.from_haiku(params, "lstm")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (lstm_jax.lstm(D, H, peepholes=True), "with peepholes"),
        (lstm_jax.gru(D, H), "expected a gru with reset_after=False"),
        (lstm_jax.rnn(D, H), "activation for Haiku: expected one of 'relu', got 'tanh'"),
    ],
)
def test_cells_refused(cell, message):
    with pytest.raises(ValueError, match=message):
        weights.to_haiku(cell, cell.init(jax.random.key(0)))
