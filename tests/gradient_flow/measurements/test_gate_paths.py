"""The ways through gates, kept and cut, against products of the matrices that are left."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import random_like
from dense import all_states, assert_logs_close, log_norm, tail

import lstm_jax
from gradient_flow import gate_path_norms, jacobian_norms

CELLS = {
    "lstm": lambda: lstm_jax.lstm(3, 4),
    "gru": lambda: lstm_jax.gru(3, 4),
    "rnn": lambda: lstm_jax.rnn(3, 4),
    "coupled": lambda: lstm_jax.lstm(3, 4, coupled_gates=True, peepholes=True),
}


def problem(name, time=6):
    cell, rng = CELLS[name](), np.random.default_rng(5)
    params = random_like(rng, jax.eval_shape(cell.init, jax.random.key(0)))
    state0 = random_like(rng, jax.eval_shape(cell.initial_state))
    return cell, params, state0, random_like(rng, jax.ShapeDtypeStruct((time, 3), jnp.float32))


def with_stops(params, state, inputs):
    """The LSTM written out, with a stop before every gate that is not kept, kept[4]."""
    x, kept = inputs
    z = jnp.split(x @ params.w_x + params.b, 4)
    weights = jnp.split(params.w_h, 4, axis=1)
    for n in range(4):
        h = jnp.where(kept[n], state.h, jax.lax.stop_gradient(state.h))
        z[n] = z[n] + h @ weights[n]
    i, f, o = (jax.nn.sigmoid(z[n]) for n in (0, 1, 3))
    c = f * state.c + i * jnp.tanh(z[2])
    return state._replace(h=o * jnp.tanh(c), c=c), None


@jax.jit
def tails_with_stops(params, states, xs, kept):
    """∂s_T/∂s_k for every k, by `jacrev` of the steps from there on."""
    inputs = (xs, jnp.broadcast_to(kept, (len(xs), 4)))

    def whole(at):
        k, state = at
        return jax.jacrev(lambda s: tail(with_stops, params, inputs, k, s))(state)

    return jax.lax.map(whole, (jnp.arange(len(xs) + 1), states))


@pytest.mark.slow
def test_an_lstm_with_stopped_gradients(x64):
    cell, params, state0, xs = problem("lstm")
    sets = ["", "i", "f", "go", "ifgo"]
    found = gate_path_norms(
        cell, params, state0, xs, kept=sets, lags=range(7), norms=["spectral", "frobenius"]
    )
    states = all_states(cell.step, params, state0, xs)
    for number, kept in enumerate(sets):
        mask = jnp.asarray([gate in kept for gate in "ifgo"])
        jacobian = tails_with_stops(params, states, xs, mask)
        for block in ("hh", "hc", "ch", "cc"):
            expected = np.asarray(getattr(getattr(jacobian, block[0]), block[1]))[::-1]
            for norm in ("spectral", "frobenius"):
                curve = getattr(found, norm)[block][number]
                assert_logs_close(curve, log_norm(expected, norm), 1e-10)


@pytest.mark.slow
def test_all_subsets_in_order(x64):
    cell, params, state0, xs = problem("lstm")
    found = gate_path_norms(cell, params, state0, xs, blocks=["cc", "ss"], lags=[0, 6])
    assert found.kept == tuple(s for n in range(5) for s in combinations("ifgo", n))
    assert found.spectral["cc"].shape == (16, 2) and found.frobenius == {}
    flow = jacobian_norms(cell, params, state0, xs, blocks=["cc", "ss", "carousel"], lags=[0, 6])
    assert_logs_close(found.spectral["cc"][-1], flow.spectral["cc"], 1e-10)
    assert_logs_close(found.spectral["ss"][-1], flow.spectral["ss"], 1e-10)
    assert_logs_close(found.spectral["cc"][0], flow.spectral["carousel"], 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gru", "rnn", "coupled"])
def test_all_and_none_of_the_gates(x64, name):
    cell, params, state0, xs = problem(name)
    gates = cell.gate_names
    found = gate_path_norms(cell, params, state0, xs, kept=[(), gates], lags=range(7))
    flow = jacobian_norms(cell, params, state0, xs)
    for block, curves in found.spectral.items():
        assert_logs_close(curves[1], flow.spectral[block], 1e-10)
    states = all_states(cell.step, params, state0, xs)
    diagonals = [
        cell.paths.direct(params, jax.tree.map(lambda s, t=t: s[t], states), xs[t])
        for t in range(6)
    ]
    last = "c" if name == "coupled" else "h"
    direct = np.asarray([getattr(getattr(d, last), last) for d in diagonals])
    expected = np.prod(direct[2:], axis=0)  # lag 4
    with np.errstate(divide="ignore"):
        assert_logs_close(found.spectral[2 * last][0, 4], np.log(abs(expected).max()), 1e-10)


@pytest.mark.slow
def test_a_batch_is_its_samples(x64):
    cell, params, _, _ = problem("gru")
    xs = jax.random.normal(jax.random.key(3), (5, 2, 3))
    both = gate_path_norms(cell, params, None, xs, kept=["r", "un"], lags=[5, 2])
    assert both.spectral["hh"].shape == (2, 2, 2)
    for n in range(2):
        alone = gate_path_norms(cell, params, None, xs[:, n], kept=["r", "un"], lags=[5, 2])
        assert_logs_close(both.spectral["hh"][n], alone.spectral["hh"], 1e-10)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"kept": ["x"]}, ValueError, "Unknown gate: expected one of 'i', 'f', 'g', 'o', got 'x'"),
        ({"kept": "if"}, TypeError, "expected kept as a list of sets of gates, got 'if'"),
        ({"kept": []}, TypeError, "expected kept as a list"),
        ({"blocks": ["carousel"]}, ValueError, "Unknown block"),
        ({"lags": [7]}, ValueError, "expected lags from 0 to 6, got 7"),
        ({"norms": ["smallest"]}, ValueError, "Unknown norm"),
    ],
)
def test_refusals(without_type_checker, change, error, words):
    cell, params, state0, xs = problem("lstm")
    with pytest.raises(error, match=words):
        gate_path_norms(cell, params, state0, xs, **change)


def test_refusals_of_cells(without_type_checker):
    cell, params, state0, xs = problem("lstm")
    with pytest.raises(TypeError, match="expected a cell from lstm, gru or rnn"):
        gate_path_norms(cell.step, params, state0, xs)
    with pytest.raises(ValueError, match="expected a cell that has paths"):
        gate_path_norms(cell._replace(paths=None), params, state0, xs)
    with pytest.raises(ValueError, match="first at step 3 of 6"):
        gate_path_norms(cell, params, state0, xs.at[2].set(jnp.inf))
