"""The closed-form step Jacobian, the gates and the step against what they are by definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import CELLS, assert_close, random_problem

pytestmark = pytest.mark.usefixtures("x64")


def dense(jacobian):
    """Write the diagonal blocks, vectors in closed form, as matrices."""
    return jax.tree.map(lambda block: jnp.diag(block) if block.ndim == 1 else block, jacobian)


@pytest.mark.parametrize("name", CELLS)
def test_closed_forms_are_the_derivatives_of_step(name):
    cell = CELLS[name](3, 5)

    @jax.jit
    def by_hand_and_autodiff(params, state, x):
        by_hand = cell.step_jacobian(params, state, x), cell.input_jacobian(params, state, x)
        by_state = jax.jacfwd(lambda s: cell.step(params, s, x)[0])(state)
        by_input = jax.jacfwd(lambda x: cell.step(params, state, x)[0])(x)
        return by_hand, (by_state, by_input)

    for seed in range(3):
        _, params, xs, state, *_ = random_problem(name, 1, seed=seed, scale=1.0)
        (of_state, of_input), autodiff = by_hand_and_autodiff(params, state, xs[0])
        assert_close((dense(of_state), of_input), autodiff, 1e-12)


def test_outside_of_jit_too():
    cell, params, xs, state, *_ = random_problem("lstm", 1)
    jitted = jax.jit(cell.step_jacobian)(params, state, xs[0])
    assert_close(cell.step_jacobian(params, state, xs[0]), jitted, 1e-13)


def test_the_lstms_derivatives_in_c_are_diagonals():
    cell, params, xs, state, *_ = random_problem("lstm", 1)
    jacobian = cell.step_jacobian(params, state, xs[0])
    assert jacobian.c.c.shape == jacobian.h.c.shape == (5,)
    assert jacobian.c.h.shape == jacobian.h.h.shape == (5, 5)


@pytest.mark.parametrize("name", CELLS)
def test_a_batch_by_vmap(name):
    cell, params, xs, states, *_ = random_problem(name, 1, 3)
    several = jax.jit(jax.vmap(cell.step_jacobian, in_axes=(None, 0, 0)))(params, states, xs[0])
    one = jax.jit(cell.step_jacobian)
    for n in range(3):
        alone = one(params, jax.tree.map(lambda s, n=n: s[n], states), xs[0, n])
        assert_close(jax.tree.map(lambda j, n=n: j[n], several), alone, 1e-14)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def in_numpy(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf), tree)


def test_lstm_by_its_equations():
    cell, *rest = random_problem("lstm", 1, 2, scale=1.0)
    params, xs, state, *_ = in_numpy(rest)
    z = xs[0] @ params.w_x + state.h @ params.w_h + params.b[None]
    i, f, g, o = z[:, :5], z[:, 5:10], z[:, 10:15], z[:, 15:]
    expected = {"i": sigmoid(i), "f": sigmoid(f), "g": np.tanh(g), "o": sigmoid(o)}
    gates = cell.gates(rest[0], rest[2], rest[1][0])
    assert_close(gates, expected, 1e-14)
    c = expected["f"] * state.c + expected["i"] * expected["g"]
    new, out = cell.step(rest[0], rest[2], rest[1][0])
    assert_close(new, type(new)(h=expected["o"] * np.tanh(c), c=c), 1e-14)
    assert_close(out, new.h, 0.0)


def test_gru_by_its_equations():
    cell, *rest = random_problem("gru", 1, 2, scale=1.0)
    params, xs, state, *_ = in_numpy(rest)
    from_x, from_h = xs[0] @ params.w_x + params.b[None], state.h @ params.w_h
    r = sigmoid(from_x[:, :5] + from_h[:, :5])
    u = sigmoid(from_x[:, 5:10] + from_h[:, 5:10])
    n = np.tanh(from_x[:, 10:] + r * (from_h[:, 10:] + params.b_hn[None]))
    gates = cell.gates(rest[0], rest[2], rest[1][0])
    assert set(gates) >= {"r", "u", "n"}
    assert_close({name: gates[name] for name in "run"}, {"r": r, "u": u, "n": n}, 1e-14)
    new, out = cell.step(rest[0], rest[2], rest[1][0])
    assert_close(new, type(new)(h=(1 - u) * n + u * state.h), 1e-14)
    assert_close(out, new.h, 0.0)


@pytest.mark.parametrize(
    ("name", "function", "slope"),
    [
        ("rnn_tanh", np.tanh, lambda z: 1 / np.cosh(z) ** 2),
        ("rnn_relu", lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float)),
        ("rnn_identity", lambda z: z, np.ones_like),
    ],
)
def test_rnn_by_its_equation(name, function, slope):
    cell, *rest = random_problem(name, 1, 2, scale=1.0)
    params, xs, state, *_ = in_numpy(rest)
    z = xs[0] @ params.w_x + state.h @ params.w_h + params.b[None]
    assert_close(cell.gates(rest[0], rest[2], rest[1][0]), {"slope": slope(z)}, 1e-13)
    new, out = cell.step(rest[0], rest[2], rest[1][0])
    assert_close(new, type(new)(h=function(z)), 1e-14)
    assert_close(out, new.h, 0.0)


@pytest.mark.parametrize("name", CELLS)
def test_gates_keep_the_batch_axes(name):
    cell, params, xs, state, *_ = random_problem(name, 1, 4)
    for activation in cell.gates(params, state, xs[0]).values():
        assert activation.shape == (4, 5)


@pytest.mark.parametrize("name", CELLS)
def test_repr_names_the_cell_and_its_sizes(name):
    assert repr(CELLS[name](3, 5)) == f"{name}(input_size=3, hidden_size=5)"


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("batch", [None, 4])
def test_initial_state_is_zeros(name, batch):
    state = CELLS[name](3, 5).initial_state(batch, dtype=jnp.float32)
    for leaf in state:
        assert leaf.shape == ((5,) if batch is None else (batch, 5))
        assert leaf.dtype == jnp.float32 and not leaf.any()
