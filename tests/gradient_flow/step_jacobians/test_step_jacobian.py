"""One step's Jacobian against the equations and `jacfwd`, the parts of a state, and an LSTM's factors."""

import jax
import jax.numpy as jnp
import numpy as np
from comparison import random_like

import lstm_jax
from gradient_flow.step_jacobians.scaled_entries import unscaled
from gradient_flow.step_jacobians.state_layout import flat_parts, from_flat, layout_of
from gradient_flow.step_jacobians.step_jacobian import block_jacobian, dense
from gradient_flow.step_jacobians.trajectory import run


def own_step(params, state, x):
    """A matrix, a scalar and a counter that matters; the key of the parts is their order by name."""
    m = params @ state["m"] * state["n"].astype(x.dtype) + x
    return {"a": state["a"] ** 2 + jnp.sum(state["m"]), "m": m, "n": state["n"] + 1}, None


def test_a_step_of_ones_own_by_its_equations(x64):
    rng = np.random.default_rng(0)
    w, m = rng.standard_normal((2, 2)), rng.standard_normal((2, 3))
    state = {"a": jnp.asarray(0.3), "m": jnp.asarray(m), "n": jnp.asarray(3)}
    layout = layout_of(state)
    assert layout.names == ("a", "m") and layout.sizes == (1, 6)
    blocks = jax.jit(block_jacobian(own_step, layout))(jnp.asarray(w), state, jnp.float64(0.1))
    np.testing.assert_allclose(blocks[0][0], [[0.6]], rtol=1e-14)
    np.testing.assert_allclose(blocks[0][1], np.ones((1, 6)), rtol=1e-14)
    np.testing.assert_array_equal(blocks[1][0], np.zeros((6, 1)))
    np.testing.assert_allclose(blocks[1][1], np.kron(3 * w, np.eye(3)), rtol=1e-14)


def test_the_parts_as_one_vector_and_back(x64):
    state = {"a": jnp.asarray(0.3), "m": jnp.arange(6.0).reshape(2, 3), "n": jnp.asarray(3)}
    layout = layout_of(state)
    flat = flat_parts(layout, state)
    np.testing.assert_array_equal(flat, [0.3, 0, 1, 2, 3, 4, 5])
    again = from_flat(layout, state, 2 * flat)
    np.testing.assert_array_equal(again["m"], 2 * state["m"])
    assert again["a"] == 0.6 and again["n"] == 3


NETWORKS = (
    lstm_jax.lstm(3, 4),
    lstm_jax.gru(3, 4),
    lstm_jax.rnn(3, 4),
    lstm_jax.stack(lstm_jax.lstm(3, 3), lstm_jax.gru(3, 3), residual=True),
)


def test_closed_forms_are_those_of_jacfwd(x64):
    """All networks in one program, as cells and as plain steps."""
    rng, given = np.random.default_rng(1), []
    for net in NETWORKS:
        params = random_like(rng, jax.eval_shape(net.init, jax.random.key(0)))
        given.append((params, random_like(rng, jax.eval_shape(net.initial_state))))

    @jax.jit
    def both(given, x):
        return [
            [
                dense(block_jacobian(one, layout_of(state))(params, state, x))
                for one in (net, net.step)
            ]
            for net, (params, state) in zip(NETWORKS, given, strict=True)
        ]

    for closed, general in both(given, jnp.asarray(rng.standard_normal(3))):
        assert closed.shape == general.shape and np.abs(general).max() > 0.1
        np.testing.assert_allclose(closed, general, rtol=0, atol=1e-13)


def test_the_factors_of_an_lstm_by_its_equations(x64):
    """log f_k and D_k = o_k ⊙ (1 − tanh² C_k), with D_0 = 0, and every state of the run."""
    cell, rng = NETWORKS[0], np.random.default_rng(2)
    params = random_like(rng, jax.eval_shape(cell.init, jax.random.key(0)))
    state0 = random_like(rng, jax.eval_shape(cell.initial_state))
    xs = jnp.asarray(rng.standard_normal((5, 3)))
    found = jax.jit(run, static_argnums=0)(cell, params, state0, xs)
    w_x, w_h, b = (np.asarray(leaf) for leaf in params)
    h, c = (np.asarray(leaf) for leaf in state0)
    h_c = unscaled(found.h_c)
    np.testing.assert_array_equal(h_c[0], np.zeros(4))
    for k, x in enumerate(np.asarray(xs)):
        i, f, g, o = np.split(x @ w_x + h @ w_h + b, 4)
        i, f, o = (1 / (1 + np.exp(-z)) for z in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        np.testing.assert_allclose(found.log_f[k], np.log(f), rtol=1e-12)
        np.testing.assert_allclose(h_c[k + 1], o * (1 - np.tanh(c) ** 2), rtol=1e-12)
        np.testing.assert_allclose(found.states.h[k + 1], h, rtol=1e-12)
        np.testing.assert_allclose(found.states.c[k + 1], c, rtol=1e-12)
