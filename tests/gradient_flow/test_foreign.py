"""The microscope on other libraries' cells: for the same weights, the numbers of the built-in cell."""

import warnings
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import random_problem
from slow_cases import slow_but

import gradient_flow
from gradient_flow import foreign
from lstm_jax.interfaces.flax_signature import carry_of
from lstm_jax.weights.equinox import to_equinox
from lstm_jax.weights.flax import to_flax

pytestmark = pytest.mark.usefixtures("x64")

T, D, H = 30, 3, 4


def peer(name):
    """Import another framework; a test that needs an absent one is skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(name.split(".")[0])
        return import_module(name)


def hold(problem, cell):
    """Every block at every lag, theirs by jacfwd against ours in closed form."""
    norms = ("spectral", "frobenius")
    arguments = (problem.params, problem.state0, problem.xs)
    ours = gradient_flow.jacobian_norms(problem.cell, *arguments, norms=norms)
    theirs = gradient_flow.jacobian_norms(
        cell.step, cell.params, cell.state0, problem.xs, norms=norms
    )
    assert set(theirs.spectral) <= set(ours.spectral)
    assert set(theirs.spectral) >= {"hh"}
    for norm in norms:
        for block, values in getattr(theirs, norm).items():
            np.testing.assert_allclose(values, getattr(ours, norm)[block], rtol=0, atol=1e-9)


FLAX = [
    ("lstm", "LSTMCell"),
    ("lstm", "OptimizedLSTMCell"),
    ("gru", "GRUCell"),
    ("rnn_tanh", "SimpleCell"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), FLAX)
def test_linen(name, kind):
    linen = peer("flax.linen")
    problem = random_problem(name, T, input_size=D, hidden_size=H)
    cell = getattr(linen, kind)(H, param_dtype=jnp.float64)
    variables = {"params": to_flax(problem.cell, problem.params, kind)}
    hold(problem, foreign.from_linen(cell, variables, D, carry_of(problem.state0)))
    zeros = foreign.from_linen(cell, variables, D).state0
    assert jax.tree.map(jnp.shape, zeros) == jax.tree.map(jnp.shape, problem.state0)


@pytest.mark.parametrize(("name", "kind"), slow_but(FLAX, ("rnn_tanh", "SimpleCell")))
def test_nnx(name, kind):
    nnx = peer("flax.nnx")
    problem = random_problem(name, T, input_size=D, hidden_size=H)
    if name == "gru":  # theirs has no bias b_hn
        problem = problem._replace(params=problem.params._replace(b_hn=jnp.zeros(H)))
    options = {"dtype": jnp.float64, "param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
    cell = getattr(nnx, kind)(D, H, **options)
    nnx.update(cell, nnx.State(to_flax(problem.cell, problem.params, kind, api="nnx")))
    hold(problem, foreign.from_nnx(cell, carry_of(problem.state0)))
    zeros = foreign.from_nnx(cell).state0
    assert jax.tree.map(jnp.shape, zeros) == jax.tree.map(jnp.shape, problem.state0)


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_equinox(name):
    equinox = peer("equinox")
    problem = random_problem(name, T, input_size=D, hidden_size=H)
    kind = {"lstm": equinox.nn.LSTMCell, "gru": equinox.nn.GRUCell}[name]
    fields = to_equinox(problem.cell, problem.params)
    cell = equinox.tree_at(
        lambda c: [getattr(c, field) for field in fields],
        kind(D, H, dtype=jnp.float64, key=jax.random.key(0)),
        list(fields.values()),
    )
    state0 = tuple(problem.state0) if name == "lstm" else problem.state0.h
    hold(problem, foreign.from_equinox(cell, state0))
    zeros = foreign.from_equinox(cell).state0
    assert jax.tree.map(jnp.shape, zeros) == jax.tree.map(jnp.shape, problem.state0)


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "rnn_relu"])
def test_haiku(name):
    haiku = peer("haiku")
    problem = random_problem(name, T, input_size=D, hidden_size=H)
    params = problem.params

    def core(x, state):
        if name == "lstm":
            return haiku.LSTM(H)(x, state)
        return haiku.VanillaRNN(H, double_bias=False)(x, state)

    if name == "lstm":
        order = [
            jnp.split(jnp.concatenate([params.w_x, params.w_h]), 4, axis=1)[n] for n in (0, 2, 1, 3)
        ]
        b_i, b_f, b_g, b_o = jnp.split(params.b, 4)
        theirs = {
            "lstm/linear": {
                "w": jnp.concatenate(order, axis=1),
                "b": jnp.concatenate([b_i, b_g, b_f - 1, b_o]),
            }
        }
        state0 = haiku.LSTMState(problem.state0.h, problem.state0.c)
    else:
        theirs = {
            "vanilla_rnn/linear": {"w": params.w_x, "b": params.b},
            "vanilla_rnn/linear_1": {"w": params.w_h},
        }
        state0 = problem.state0.h
    transformed = haiku.without_apply_rng(haiku.transform(core))
    hold(problem, foreign.from_haiku(transformed, theirs, state0))


@pytest.mark.slow
def test_a_cell_of_ones_own_keeps_its_carry():
    nnx = peer("flax.nnx")

    class Leaky(nnx.Module):
        def __init__(self, rngs):
            self.w = nnx.Param(0.5 * jax.random.normal(rngs(), (3, 3), jnp.float64))

        def __call__(self, carry, x):
            slow, fast = carry
            fast = jnp.tanh(fast @ self.w[...] + x)
            slow = 0.9 * slow + 0.1 * fast
            return (slow, fast), slow

    cell = foreign.from_nnx(Leaky(nnx.Rngs(0)), (jnp.zeros(3), jnp.zeros(3)))
    xs = jax.random.normal(jax.random.key(0), (T, 3), jnp.float64)
    flow = gradient_flow.jacobian_norms(cell.step, cell.params, cell.state0, xs)
    assert set(flow.spectral) == {"00", "01", "10", "11"}
    np.testing.assert_allclose(flow.spectral["00"][T], T * np.log(0.9), atol=1e-12)


@pytest.mark.peer
def test_a_module_without_a_known_state_needs_one():
    equinox = peer("equinox")
    with pytest.raises(TypeError, match="expected a starting state for Linear, got None"):
        foreign.from_equinox(equinox.nn.Linear(3, 3, key=jax.random.key(0)))


def test_a_flax_module_without_a_first_carry_needs_one():
    nnx, linen = peer("flax.nnx"), peer("flax.linen")
    message = (
        "expected a starting state for Linear, got None. It has no initialize_carry. Give state0="
    )
    with pytest.raises(TypeError, match=message):
        foreign.from_nnx(nnx.Linear(3, 3, rngs=nnx.Rngs(0)))
    with pytest.raises(TypeError, match=message.replace("Linear", "Dense")):
        foreign.from_linen(linen.Dense(3), {"params": {}}, 3)


def test_linen_takes_variables_and_not_their_params():
    linen = peer("flax.linen")
    params = {"kernel": jnp.zeros((3, 3)), "bias": jnp.zeros(3)}
    message = (
        r"expected variables with 'params', as cell.init returns them, got \['bias', 'kernel'\]"
    )
    with pytest.raises(ValueError, match=message):
        foreign.from_linen(linen.GRUCell(3), params, 3)


@pytest.mark.peer
def test_a_haiku_core_that_takes_a_key_is_refused():
    haiku = peer("haiku")
    with pytest.raises(TypeError, match="Put hk.without_apply_rng around hk.transform"):
        foreign.from_haiku(haiku.transform(lambda x, state: (x, state)), {}, jnp.zeros(3))


class CalledForeign(foreign.Foreign):
    """Callable, so that the checker of types lets it through to the message that a user gets."""

    def __call__(self, params, state, x):
        return self.step(params, state, x)


def test_a_foreign_cell_as_a_step_is_told_to_hand_over_its_parts():
    cell = CalledForeign(lambda params, state, x: (state, state), jnp.zeros(3), jnp.zeros(3))
    with pytest.raises(
        TypeError, match="CalledForeign. Hand over its parts: cell.step, cell.params"
    ):
        gradient_flow.jacobian_norms(cell, cell.params, cell.state0, jnp.zeros((5, 3)))
