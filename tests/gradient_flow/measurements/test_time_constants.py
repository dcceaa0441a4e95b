"""Gate time constants against their definition, and against the carousel they describe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import random_problem

import lstm_jax
from gradient_flow import (
    decades_per_100,
    gate_activations,
    gate_time_constants,
    half_life,
    horizon,
    jacobian_norms,
)


@pytest.mark.parametrize(("name", "gate"), [("lstm", "f"), ("gru", "u")])
def test_by_definition(x64, name, gate):
    cell, params, xs, state0, *_ = random_problem(name, 9, 2, scale=1.0)
    found = gate_time_constants(cell, params, state0, xs)
    f = np.asarray(gate_activations(cell, params, state0, xs)[gate])
    assert found.effective.shape == (2, 5)
    np.testing.assert_allclose(found.effective, -1 / np.log(f).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.at_mean, 1 / (1 - f.mean(0)), rtol=1e-12)
    np.testing.assert_allclose(found.shortest, 1 / (1 - f.min(0)), rtol=1e-12)
    np.testing.assert_allclose(found.longest, 1 / (1 - f.max(0)), rtol=1e-12)
    assert (found.effective < found.at_mean).all()


def test_the_carousel_falls_by_the_longest(x64):
    """Constant gates: half-life, decades and horizon of the curve are those that τ says."""
    cell = lstm_jax.lstm(2, 4)
    params = cell.init(jax.random.key(0))
    b_f = jnp.asarray([0.0, 1.0, 3.0, 4.0])
    params = jax.tree.map(jnp.zeros_like, params)._replace(b=jnp.zeros(16).at[4:8].set(b_f))
    xs = jnp.ones((1_000, 2))
    tau = gate_time_constants(cell, params, None, xs).effective.max()
    np.testing.assert_allclose(tau, -1 / np.log(1 / (1 + np.exp(-4.0))), rtol=1e-12)
    flow = jacobian_norms(cell, params, None, xs, blocks=["carousel"])
    curve = flow.spectral["carousel"]
    np.testing.assert_allclose(half_life(flow.lags, curve), tau * np.log(2), rtol=1e-9)
    np.testing.assert_allclose(decades_per_100(flow.lags, curve), 100 / tau / np.log(10), rtol=1e-9)
    np.testing.assert_allclose(horizon(flow.lags, curve), tau * np.log(1000), rtol=1e-9)
    np.testing.assert_allclose(horizon(flow.lags, curve, 0.5), tau * np.log(2), rtol=1e-9)


def test_half_life_of_what_grows():
    lags = np.arange(20)
    np.testing.assert_allclose(half_life(lags, lags * np.log(2.0)), -1)
    # Constant at any height, where a sum of roundings would have a sign of its own.
    for height in (0.0, -3.7, np.log(0.3)):
        assert half_life(lags, np.full(20, height)) == np.inf
        assert decades_per_100(lags, np.full(20, height)) == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "gate"), [("lstm", 1), ("gru", 1)])
def test_gates_that_are_closed_or_open_throughout(x64, name, gate, dtype):
    """Gates at exactly 1, exactly 0 and ½: ∞, 0 and 1/log 2."""
    cell = {"lstm": lstm_jax.lstm, "gru": lstm_jax.gru}[name](2, 3)
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0), dtype))
    b = params.b.at[3 * gate : 3 * gate + 3].set(jnp.asarray([800.0, -800.0, 0.0], dtype))
    found = gate_time_constants(cell, params._replace(b=b), None, jnp.ones((7, 2), dtype))
    assert found.effective.dtype == dtype
    np.testing.assert_allclose(found.effective, [np.inf, 0, 1 / np.log(2)], rtol=1e-6)
    for name in ("at_mean", "shortest", "longest"):
        np.testing.assert_array_equal(getattr(found, name), [np.inf, 1, 2])


def test_refusals(without_type_checker):
    cell, params, xs, state0, *_ = random_problem("rnn_tanh", 3)
    with pytest.raises(ValueError, match="expected a cell with gates, lstm or gru, got rnn_tanh"):
        gate_time_constants(cell, params, state0, xs)
    with pytest.raises(TypeError, match="expected a cell from lstm, gru or rnn"):
        gate_time_constants(cell.step, params, state0, xs)
