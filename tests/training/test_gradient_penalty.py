"""The penalty on vanishing gradients against autodiff of its formula, and its cotangents against autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close, random_problem, slow

import lstm_jax
from lstm_jax.training.gradient_penalty import state_cotangents, vanishing_penalty

SLOPES = {
    "rnn_tanh": lambda h: 1 - h**2,
    "rnn_relu": lambda h: (h > 0).astype(h.dtype),
    "rnn_identity": jnp.ones_like,
}


def cotangents_by_autodiff(problem, loss, lengths):
    """The gradient by zeros that are added to h_t after every step, and what the loss adds at each."""

    def run(added):
        def step(state, at):
            x, e, t = at
            after, _ = problem.cell.step(problem.params, state, x)
            own = jnp.asarray(t < lengths)[..., None]
            h = jnp.where(own, after.h + e, state.h)
            return state._replace(h=h), jnp.where(own, h, jnp.zeros_like(h))

        steps = jnp.arange(len(problem.xs))
        return jax.lax.scan(step, problem.state0, (problem.xs, added, steps))

    return jax.grad(lambda added: loss(*run(added)))(jnp.zeros_like(problem.hs_weights))


def penalty_by_formula(name, w_h, hs, d_totals, squared):
    """Ω, term by term, as a function of W_h with h_t and δh_t held."""
    power, terms = 2 if squared else 1, []
    for h, d in zip(hs.reshape(-1, hs.shape[-1]), d_totals.reshape(-1, hs.shape[-1]), strict=True):
        if not np.any(d):
            continue
        jacobian = jnp.diag(SLOPES[name](h)) @ w_h.T
        q = jnp.linalg.norm(d @ jacobian) / jnp.linalg.norm(d)
        terms.append((q**power - 1) ** 2)
    return sum(terms) / len(terms)


def of_problem(name, batch, lengths, time=6):
    """A random problem, its trajectory, and its loss with the loss's gradient by outputs and final state."""
    problem = random_problem(name, time, batch)

    def loss(state, hs):
        return jnp.sum(problem.hs_weights * jnp.sin(hs)) + jnp.sum(
            problem.state_weights.h * jnp.cos(state.h)
        )

    state, hs = lstm_jax.unroll(
        problem.cell,
        problem.params,
        problem.xs,
        problem.state0,
        sequences=lstm_jax.Sequences(lengths=lengths),
    )
    return problem, hs, loss, jax.grad(loss, argnums=(0, 1))(state, hs)


# The activation only brings its slope: each meets one case, and tanh all of them.
CASES = [
    ("rnn_tanh", 3, [6, 1, 4]),
    ("rnn_relu", None, None),
    ("rnn_identity", 2, [0, 6]),
    slow("rnn_tanh", None, None),
    slow("rnn_tanh", None, 4),
    slow("rnn_tanh", 1, None),
    slow("rnn_tanh", 3, None),
    slow("rnn_tanh", 2, [0, 6]),
    slow("rnn_relu", 3, [6, 1, 4]),
]


@pytest.mark.parametrize(("name", "batch", "lengths"), CASES)
def test_cotangents_are_those_of_autodiff(x64, name, batch, lengths):
    lengths = None if lengths is None else jnp.asarray(lengths)
    problem, hs, loss, (d_state, d_hs) = of_problem(name, batch, lengths)
    expected = jax.jit(
        lambda: cotangents_by_autodiff(problem, loss, len(hs) if lengths is None else lengths)
    )()
    ours = state_cotangents(
        problem.cell, problem.params, hs, d_hs=d_hs, d_state=d_state, lengths=lengths
    )
    assert_close(ours, expected, 1e-12)


@pytest.mark.parametrize(("name", "batch", "lengths"), CASES)
def test_the_penalty_is_its_formula_and_its_gradient_that_of_autodiff(x64, name, batch, lengths):
    lengths = None if lengths is None else jnp.asarray(lengths)
    problem, hs, _, (d_state, _) = of_problem(name, batch, lengths)
    cell, params, *_ = problem
    d_totals = state_cotangents(cell, params, hs, d_state=d_state, lengths=lengths)
    for squared in (False, True):
        omega, d_w_h = jax.value_and_grad(penalty_by_formula, argnums=1)(
            name, params.w_h, hs, d_totals, squared
        )
        ours = jax.jit(lambda d, s=squared: vanishing_penalty(cell, params, hs, d, squared=s))(
            d_totals
        )
        assert float(omega) > 1e-3
        assert_close(ours, type(ours)(omega, d_w_h), 1e-12)


def test_a_long_sequence_is_no_other_case(x64):
    """From 32 steps on the loop's weight comes with its transpose."""
    problem, hs, loss, (d_state, d_hs) = of_problem("rnn_tanh", 2, None, time=40)
    expected = cotangents_by_autodiff(problem, loss, len(hs))
    ours = state_cotangents(problem.cell, problem.params, hs, d_hs=d_hs, d_state=d_state)
    assert_close(ours, expected, 1e-12)


@pytest.mark.parametrize("squared", [False, True])
def test_norms_that_are_kept_cost_nothing(x64, squared):
    cell = lstm_jax.rnn(3, 7, activation="identity", w_h_init=lstm_jax.orthogonal())
    params = cell.init(jax.random.key(1))
    d_totals = jax.random.normal(jax.random.key(2), (9, 2, 7))
    omega, d_w_h = vanishing_penalty(cell, params, d_totals, d_totals, squared=squared)
    assert float(omega) < 1e-29 and float(abs(d_w_h).max()) < 1e-14


def test_a_small_step_against_the_gradient_makes_the_penalty_smaller():
    problem, hs, _, (d_state, d_hs) = of_problem("rnn_tanh", 3, None)
    cell, params, *_ = problem
    d_totals = state_cotangents(cell, params, hs, d_hs=d_hs, d_state=d_state)
    omega, d_w_h = vanishing_penalty(cell, params, hs, d_totals)
    moved = params._replace(w_h=params.w_h - 0.1 * d_w_h)
    assert vanishing_penalty(cell, moved, hs, d_totals).omega < omega


def test_the_scale_of_the_cotangents_does_not_matter():
    """Also where their squares underflow in float32."""
    problem, hs, _, (d_state, d_hs) = of_problem("rnn_tanh", 3, None)
    cell, params, *_ = problem
    d_totals = state_cotangents(cell, params, hs, d_hs=d_hs, d_state=d_state)
    expected = vanishing_penalty(cell, params, hs, d_totals)
    small = vanishing_penalty(cell, params, hs, d_totals * 2.0**-80)
    assert_close(small, expected, 1e-6)


@pytest.mark.parametrize("name", SLOPES)
def test_zeros_are_no_trouble(name):
    cell, params, *_ = random_problem(name, hidden_size=5)
    hs = jnp.full((4, 2, 5), 0.5)
    none = vanishing_penalty(cell, params, hs, jnp.zeros_like(hs))
    assert none.omega == 0 and not none.d_w_h.any()
    # Nothing comes back through this w_h: each norm falls to zero, and no direction is better.
    stuck = params._replace(w_h=jnp.zeros_like(params.w_h))
    omega, d_w_h = vanishing_penalty(cell, stuck, hs, jnp.ones_like(hs))
    assert omega == 1 and not d_w_h.any()


CELL, PARAMS, XS, *_ = random_problem("rnn_tanh", 4, 2)
HS = jnp.ones((4, 2, 5))
LSTM = random_problem("lstm", 4, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: vanishing_penalty(LSTM.cell, LSTM.params, HS, HS),
            ValueError,
            "expected a vanilla cell from rnn, got lstm",
        ),
        (lambda: vanishing_penalty("rnn", PARAMS, HS, HS), TypeError, "expected a cell"),
        (lambda: vanishing_penalty(CELL, LSTM.params, HS, HS), TypeError, "expected params as"),
        (
            lambda: vanishing_penalty(CELL, PARAMS, HS[..., :3], HS),
            ValueError,
            r"expected hs \[T, 5\] or \[T, B, 5\], got \[4, 2, 3\]",
        ),
        (
            lambda: vanishing_penalty(CELL, PARAMS, HS, HS[:3]),
            ValueError,
            r"expected d_totals \[4, 2, 5\], got \[3, 2, 5\]",
        ),
        (
            lambda: vanishing_penalty(CELL, PARAMS, HS, HS.astype(jnp.bfloat16)),
            TypeError,
            "expected d_totals float32",
        ),
        (
            lambda: vanishing_penalty(CELL, PARAMS, HS, HS, squared="no"),
            ValueError,
            "expected squared as True or False",
        ),
        (
            lambda: vanishing_penalty(CELL, jax.tree.map(jnp.int32, PARAMS), HS, HS),
            TypeError,
            "expected floating params",
        ),
        (
            lambda: state_cotangents(CELL, PARAMS, HS, d_hs=HS[0]),
            ValueError,
            "expected d_hs",
        ),
        (
            lambda: state_cotangents(CELL, PARAMS, HS, d_state=HS[0]),
            TypeError,
            "expected d_state as",
        ),
        (
            lambda: state_cotangents(CELL, PARAMS, HS, lengths=[4, 5]),
            ValueError,
            "expected lengths from 0 to 4",
        ),
    ],
)
def test_what_does_not_fit_is_refused(without_type_checker, call, error, message):
    with pytest.raises(error, match=message):
        call()
