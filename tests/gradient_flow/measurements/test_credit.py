"""Credit against autodiff of the whole run: states, inputs, each step's own part of the gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import CELLS, random_problem
from dense import all_states, assert_logs_close
from slow_cases import slow_but

import lstm_jax
from gradient_flow import credit, input_credit, jacobian_norms
from lstm_jax.layers.stack import StackParams
from lstm_jax.validation import NonFiniteError, ShapeError


def loss(state):
    return sum(jnp.sum(jnp.sin(leaf) + leaf**2) for leaf in jax.tree.leaves(state))


def log_norms(rows):
    return np.log(np.linalg.norm(np.asarray(rows).reshape(len(rows), -1), axis=1))


def by_autodiff(step, params, state0, xs):
    """∂ℓ/∂s_k, ∂ℓ/∂x_k, and G_k by giving every step parameters of its own."""

    def run(nudges, each, xs):
        state = jax.tree.map(jnp.add, state0, jax.tree.map(lambda n: n[0], nudges))
        for t in range(len(xs)):
            own = jax.tree.map(lambda p, t=t: p[t], each)
            state, _ = step(own, state, xs[t])
            state = jax.tree.map(lambda s, n, t=t: s + n[t + 1], state, nudges)
        return loss(state)

    length = len(xs)
    nudges = jax.tree.map(lambda s: jnp.zeros((length + 1, *s.shape)), state0)
    each = jax.tree.map(lambda p: jnp.broadcast_to(p, (length, *p.shape)), params)
    return jax.jit(jax.grad(run, argnums=(0, 1, 2)))(nudges, each, xs)


def gate_columns(cell, each):
    """G_k by gate, as rows of numbers."""
    gates = cell.gate_names
    leaves = each._asdict()
    found = {}
    for number, gate in enumerate(gates):
        columns = [np.split(leaves[n], len(gates), -1)[number] for n in ("w_x", "w_h", "b")]
        if gate == "n":
            columns.append(leaves["b_hn"])
        found[gate] = np.concatenate([c.reshape(len(c), -1) for c in columns], axis=1)
    return found


@pytest.mark.parametrize("name", slow_but(CELLS, "gru"))
def test_every_part_is_that_of_autodiff(x64, name):
    cell, params, xs, state0, *_ = random_problem(name, 7)
    found = credit(cell, params, state0, xs, loss)
    d_states, d_each, d_xs = by_autodiff(cell.step, params, state0, xs)
    for part, d_part in d_states._asdict().items():
        assert_logs_close(found.states[part], log_norms(d_part), 1e-10)
    assert_logs_close(found.inputs, log_norms(d_xs), 1e-10)
    parts = gate_columns(cell, d_each)
    assert set(found.weights) == set(found.shares) == set(parts)
    for gate, rows in parts.items():
        assert_logs_close(found.weights[gate], log_norms(rows), 1e-10)
        whole = rows.sum(0)
        np.testing.assert_allclose(found.shares[gate], rows @ whole / (whole @ whole), atol=1e-12)
        np.testing.assert_allclose(found.shares[gate].sum(), 1, atol=1e-12)


@pytest.mark.slow
def test_a_variant_a_step_and_a_stack(x64):
    """What belongs to no gate, and what has none, goes by its own name."""
    cell = lstm_jax.lstm(3, 4, peepholes=True, projection_size=2)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (5, 3))
    state0 = cell.initial_state()
    ours = credit(cell, params, state0, xs, loss)
    assert set(ours.weights) == {"i", "f", "g", "o", "p", "w_r"}

    def step(params, state, x):
        return cell.step(params, state, x)

    plain = credit(step, params, state0, xs, loss)
    assert set(plain.weights) == {"w_x", "w_h", "b", "p", "w_r"}
    for name in ("p", "w_r"):
        assert_logs_close(plain.weights[name], ours.weights[name], 1e-10)
        np.testing.assert_allclose(plain.shares[name], ours.shares[name], atol=1e-12)
    assert_logs_close(plain.inputs, ours.inputs, 1e-10)
    net = lstm_jax.stack(cell)
    of_net = credit(net, StackParams((params,)), (state0,), xs, loss)
    assert_logs_close(of_net.states["0.c"], ours.states["c"], 1e-10)
    assert_logs_close(of_net.weights["layers.0.p"], ours.weights["p"], 1e-10)


@pytest.mark.slow
def test_a_state_with_a_counter(x64):
    def step(params, state, x):
        h = jnp.tanh(params * state["h"] + x)
        return {"h": h, "step": state["step"] + 1}, h

    state0 = {"h": jnp.ones(3), "step": jnp.int32(0)}
    found = credit(step, jnp.float64(0.5), state0, jnp.ones((4, 3)), lambda s: s["h"].sum())
    assert set(found.states) == {"h"} and set(found.weights) == {"params"}
    without = credit(
        lambda p, h, x: (jnp.tanh(p * h + x), h),
        jnp.float64(0.5),
        jnp.ones(3),
        jnp.ones((4, 3)),
        jnp.sum,
    )
    assert_logs_close(found.states["h"], without.states["s"], 1e-12)


@pytest.mark.slow
def test_a_batch_is_its_samples(x64):
    cell, params, xs, state0, *_ = random_problem("lstm", 6, 3)
    both = credit(cell, params, state0, xs, loss)
    for n in range(3):
        own = jax.tree.map(lambda s, n=n: s[n], state0)
        alone = credit(cell, params, own, xs[:, n], loss)
        jax.tree.map(
            lambda a, b, n=n: assert_logs_close(a[n], b, 1e-10),
            both._replace(shares=None),
            alone._replace(shares=None),
        )


@pytest.mark.slow
def test_nothing_underflows():
    """10⁻⁶⁰⁰ in float32, and the same as the transition says of one output."""
    cell = lstm_jax.rnn(3, 4, activation="identity", w_h_init=lstm_jax.orthogonal(0.5))
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (2_000, 3))
    found = credit(cell, params, None, xs, lambda state: state.h[0])
    expected = np.log(0.5) * np.arange(2_000, -1, -1)
    np.testing.assert_allclose(found.states["h"], expected, rtol=1e-4, atol=1e-4)
    assert found.inputs[0] < -1_000 and found.weights["h"][0] < -1_000
    assert found.shares["h"][0] == 0 and abs(found.shares["h"].sum() - 1) < 1e-5


@pytest.mark.slow
def test_saturated_units_keep_their_digits():
    """A slope of 10⁻¹⁵, which 1 − tanh² rounds to 0 in float32."""
    cell = lstm_jax.rnn(1, 1)
    params = lstm_jax.RNNParams(jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.full(1, 17.0))
    xs = jnp.zeros((1, 1))
    found = credit(cell, params, None, xs, lambda state: state.h.sum())
    expected = jacobian_norms(cell, params, None, xs).spectral["hh"]
    np.testing.assert_allclose(found.states["h"], expected[::-1], rtol=1e-5)
    assert -40 < found.states["h"][0] < -30


def test_without_recurrence_there_is_no_credit(x64):
    cell, params, xs, state0, *_ = random_problem("rnn_tanh", 4)
    params = params._replace(w_h=jnp.zeros_like(params.w_h))
    found = credit(cell, params, state0, xs, loss)
    assert (found.states["h"][:-1] == -jnp.inf).all() and (found.inputs[:-1] == -jnp.inf).all()
    np.testing.assert_allclose(found.shares["h"], [0, 0, 0, 1], atol=1e-15)


@pytest.mark.slow
def test_the_states_are_those_of_the_run(x64):
    cell, params, xs, state0, *_ = random_problem("gru", 3)
    seen = []
    credit(cell, params, state0, xs, lambda state: seen.append(1) or jnp.sum(state.h))
    assert seen
    states = all_states(cell.step, params, state0, xs)
    found = credit(cell, params, state0, xs, lambda state: jnp.sum(state.h * states.h[-1]))
    assert_logs_close(found.states["h"][-1:], log_norms(states.h[-1:]), 1e-10)


# Any sequence function.


def attention(xs):
    """Causal self-attention, one head, weights of its own."""
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (xs @ jax.random.normal(key, (xs.shape[-1], xs.shape[-1])) for key in keys)
    scores = jnp.where(jnp.tri(len(xs), dtype=bool), q @ k.T, -jnp.inf)
    return jax.nn.softmax(scores) @ v


@pytest.mark.slow
def test_the_input_credit_of_a_recurrence_is_that_of_credit(x64):
    cell, params, xs, state0, *_ = random_problem("lstm", 6, 2)

    def run(xs):
        return lstm_jax.unroll(cell, params, xs, state0)[1]

    found = input_credit(run, xs, lambda ys: jnp.sum(ys[-1] ** 2))
    expected = credit(cell, params, state0, xs, lambda state: jnp.sum(state.h**2)).inputs
    assert found.shape == (2, 6)
    assert_logs_close(found, expected, 1e-10)


@pytest.mark.slow
def test_the_input_credit_of_attention(x64):
    xs = jax.random.normal(jax.random.key(1), (12, 4))
    found = input_credit(attention, xs, lambda ys: ys[7].sum())
    gradient = jax.grad(lambda xs: attention(xs)[7].sum())(xs)
    assert_logs_close(found[:8], log_norms(gradient[:8]), 1e-12)
    assert (found[8:] == -jnp.inf).all()  # causal


# Refusals.


def test_refusals(without_type_checker):
    cell, params, xs, state0, *_ = random_problem("lstm", 3)
    with pytest.raises(TypeError, match="expected a loss that returns a number"):
        credit(cell, params, state0, xs, lambda state: state.h)
    with pytest.raises(NonFiniteError, match="first at step 2 of 3"):
        credit(cell, params, state0, xs.at[1].set(jnp.nan), loss)
    with pytest.raises(NonFiniteError, match="the loss's gradient"):
        credit(cell, params, state0, xs, lambda state: jnp.sum(jnp.sqrt(state.h - state.h)))
    with pytest.raises(ShapeError, match=r"expected xs \[T, D\] or \[T, B, D\], got \[3\]"):
        input_credit(attention, jnp.ones(3), jnp.sum)
    with pytest.raises(TypeError, match="expected a loss that returns a number"):
        input_credit(attention, jnp.ones((3, 2)), lambda ys: ys)
    with pytest.raises(ShapeError, match="keep state.h as"):

        def grows(params, state, x):
            return state._replace(h=jnp.append(state.h, 0.0)), x

        credit(grows, params, state0, xs, loss)
