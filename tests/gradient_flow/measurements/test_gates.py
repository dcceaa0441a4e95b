"""Gate activations over a sequence against a loop over the cell's equations."""

import jax
import numpy as np
import pytest
from comparison import random_problem

from gradient_flow import gate_activations

pytestmark = pytest.mark.usefixtures("x64")


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lstm_step(p, state, x):
    i, f, g, o = np.split(x @ p.w_x + state.h @ p.w_h + p.b, 4)
    gates = {"i": sigmoid(i), "f": sigmoid(f), "g": np.tanh(g), "o": sigmoid(o)}
    c = gates["f"] * state.c + gates["i"] * gates["g"]
    return type(state)(gates["o"] * np.tanh(c), c), gates


def gru_step(p, state, x):
    x_r, x_u, x_n = np.split(x @ p.w_x + p.b, 3)
    h_r, h_u, h_n = np.split(state.h @ p.w_h, 3)
    r, u = sigmoid(x_r + h_r), sigmoid(x_u + h_u)
    n = np.tanh(x_n + r * (h_n + p.b_hn))
    return type(state)((1 - u) * n + u * state.h), {"r": r, "u": u, "n": n}


def rnn_step(p, state, x):
    h = np.tanh(x @ p.w_x + state.h @ p.w_h + p.b)
    return type(state)(h), {"slope": 1 - h**2}


STEPS = {"lstm": lstm_step, "gru": gru_step, "rnn_tanh": rnn_step}


def by_hand(name, problem, state0, xs):
    params = jax.tree.map(np.asarray, problem.params)
    state, found = jax.tree.map(np.asarray, state0), []
    for x in np.asarray(xs):
        state, gates = STEPS[name](params, state, x)
        found.append(gates)
    return {gate: np.stack([gates[gate] for gates in found]) for gate in found[0]}


@pytest.mark.parametrize("name", STEPS)
def test_one_sequence(name):
    problem = random_problem(name, 12, scale=1.0)
    gates = gate_activations(problem.cell, problem.params, problem.state0, problem.xs)
    expected = by_hand(name, problem, problem.state0, problem.xs)
    assert set(gates) == set(expected)
    for gate, values in expected.items():
        assert gates[gate].shape == (12, 5)
        np.testing.assert_allclose(gates[gate], values, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", STEPS)
def test_a_batch(name):
    problem = random_problem(name, 6, 3, scale=1.0)
    gates = gate_activations(problem.cell, problem.params, problem.state0, problem.xs)
    for n in range(3):
        state0 = jax.tree.map(lambda s, n=n: s[n], problem.state0)
        for gate, values in by_hand(name, problem, state0, problem.xs[:, n]).items():
            assert gates[gate].shape == (6, 3, 5)
            np.testing.assert_allclose(gates[gate][:, n], values, rtol=1e-12, atol=1e-14)


def test_a_missing_state_is_zeros():
    cell, params, xs, *_ = random_problem("lstm", 5)
    given = gate_activations(cell, params, cell.initial_state(), xs)
    for gate, values in gate_activations(cell, params, None, xs).items():
        np.testing.assert_array_equal(values, given[gate])


def test_refusals(without_type_checker):
    cell, params, xs, *_ = random_problem("lstm", 5)
    with pytest.raises(ValueError, match=r"expected xs \[T, 3\].*got \[5, 2\]"):
        gate_activations(cell, params, None, xs[:, :2])
