"""Newton's method over time: the serial run where it says so, and rounds that grow with λ_1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import CELLS, random_like, random_problem
from dense import all_states
from slow_cases import slow_but

import lstm_jax
from gradient_flow import lyapunov_spectrum, parallel_states
from lstm_jax import DtypeError, NonFiniteError, ShapeError


def solve(problem, **options):
    return parallel_states(problem.cell, problem.params, problem.state0, problem.xs, **options)


def serial(step, params, state0, xs):
    return jax.tree.map(
        lambda s: s[1:], jax.jit(all_states, static_argnums=0)(step, params, state0, xs)
    )


def assert_same(found, expected, tolerance):
    assert bool(jnp.all(found.converged))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a, b, rtol=0, atol=tolerance * (1 + np.abs(b).max())
        ),
        found.states,
        expected,
    )


def tanh_network(gain, time, size=16, dtype=jnp.float32):
    """h' = tanh(g W h + x), W of variance 1/N: λ_1 from below 0 to above by the gain."""
    rng = np.random.default_rng(0)
    cell = lstm_jax.rnn(size, size)
    params = cell.init(jax.random.key(0), dtype)._replace(
        w_x=jnp.eye(size, dtype=dtype),
        w_h=jnp.asarray(gain * rng.standard_normal((size, size)) / np.sqrt(size), dtype),
        b=jnp.zeros(size, dtype),
    )
    return cell, params, jnp.asarray(0.6 * rng.standard_normal((time, size)), dtype)


@pytest.mark.parametrize(
    ("name", "batch", "dtype"),
    slow_but(
        [
            *((name, None, jnp.float64) for name in CELLS),
            ("lstm", 3, jnp.float32),
            ("rnn_tanh", 3, jnp.float64),
            ("rnn_identity", 3, jnp.float64),
            ("rnn_identity", None, jnp.float32),
        ],
        ("lstm", None, jnp.float64),
    ),
)
def test_the_serial_run(x64, name, batch, dtype):
    problem = random_problem(name, 30, batch, dtype=dtype)
    found = solve(problem)
    expected = serial(problem.cell.step, problem.params, problem.state0, problem.xs)
    assert_same(found, expected, 1e-12 if dtype == jnp.float64 else 1e-5)
    eps = float(jnp.finfo(dtype).eps)
    assert (found.correction <= 1000 * eps).all() and (found.residual <= 100 * eps).all()
    assert found.correction.dtype == found.residual.dtype == dtype
    shape = () if batch is None else (batch,)
    assert found.iterations.shape == found.converged.shape == found.correction.shape == shape
    if name == "rnn_identity":
        # Affine: a whole round is right, the next one sees it; one that was damped comes two before.
        assert ((found.iterations == 2) | (found.iterations == 4)).all()


@pytest.mark.slow
def test_a_stack_and_any_step(x64):
    net = lstm_jax.stack(lstm_jax.lstm(3, 4), lstm_jax.gru(4, 3), residual=False)
    params = random_like(
        np.random.default_rng(1), jax.eval_shape(net.init, jax.random.key(0)), scale=0.4
    )
    xs = jax.random.normal(jax.random.key(1), (40, 2, 3))
    expected = serial(net.step, params, net.initial_state(2), xs)
    assert_same(parallel_states(net, params, None, xs), expected, 1e-12)
    plain = parallel_states(net.step, params, net.initial_state(2), xs, batched=True)
    assert_same(plain, expected, 1e-12)


@pytest.mark.slow
def test_ten_thousand_steps_where_the_network_forgets():
    cell, params, xs = tanh_network(0.7, 10_000)
    found = parallel_states(cell, params, None, xs)
    assert_same(found, serial(cell.step, params, cell.initial_state(), xs), 1e-5)
    assert found.iterations <= 10


@pytest.mark.slow
def test_rounds_grow_with_the_first_exponent():
    """λ_1 from well below 0 to well above: few rounds, more, and none that are enough."""
    rounds, exponents = [], []
    for gain in (0.5, 1.0, 1.3, 4.0):
        cell, params, xs = tanh_network(gain, 1000)
        found = parallel_states(cell, params, None, xs, max_iterations=60)
        exponent = lyapunov_spectrum(cell, params, None, xs, k=1, skip=100).exponents[0]
        rounds.append(int(found.iterations))
        exponents.append(float(exponent))
        assert bool(found.converged) == (exponent < 0)
        if found.converged:
            assert_same(found, serial(cell.step, params, cell.initial_state(), xs), 1e-4)
    assert exponents == sorted(exponents) and exponents[-1] > 0.1 and exponents[0] < -0.5
    assert rounds == sorted(set(rounds)) and rounds[-1] == 60 and rounds[0] <= 6


@pytest.mark.slow
def test_chaos_is_not_called_converged():
    cell, params, xs = tanh_network(4.0, 200)
    found = parallel_states(cell, params, None, xs, max_iterations=210)
    states = serial(cell.step, params, cell.initial_state(), xs)
    assert not found.converged and found.iterations == 210
    assert found.correction > 1e-3 and np.isfinite(found.states.h).all()
    # What it did not converge to, a run in another arithmetic does not find either.
    assert np.abs(np.asarray(found.states.h - states.h)).max() > 1e-3


@pytest.mark.slow
def test_the_first_states_are_exact_after_as_many_rounds(x64):
    cell, params, xs = tanh_network(3.0, 60, dtype=jnp.float64)
    expected = serial(cell.step, params, cell.initial_state(dtype=jnp.float64), xs).h
    for rounds in (1, 5, 12):
        found = parallel_states(cell, params, None, xs, max_iterations=rounds)
        assert found.iterations == rounds and not found.converged
        np.testing.assert_allclose(found.states.h[:rounds], expected[:rounds], atol=1e-12)
        assert np.abs(found.states.h - expected).max() > 1e-6


@pytest.mark.slow
def test_a_guess_shortens_the_way(x64):
    problem = random_problem("gru", 50, 2)
    first = solve(problem)
    again = solve(problem, guess=first.states)
    assert (again.iterations == 1).all() and (first.iterations > 2).all()
    assert_same(again, first.states, 1e-13)


@pytest.mark.slow
def test_the_tolerance_decides(x64):
    problem = random_problem("gru", 50)
    loose, tight = solve(problem, tolerance=1e-2), solve(problem, tolerance=1e-13)
    assert loose.converged and tight.converged and loose.iterations < tight.iterations
    assert loose.correction <= 1e-2 and tight.correction <= 1e-13


def test_states_that_are_not_finite_on_the_way_are_set_back(x64):
    """x ↦ x − x³/4 is unstable from beyond √8, where a far guess begins; Newton comes back from there."""

    def step(params, state, x):
        return state - state**3 / 4 + x, None

    xs = jnp.zeros(12)
    guess = jnp.full((12, 1), 1e150)
    found = parallel_states(step, None, jnp.ones(1), xs, guess=guess)
    assert_same(found, serial(step, None, jnp.ones(1), xs), 1e-12)


@pytest.mark.slow
def test_a_run_that_overflows_does_not_converge():
    def step(params, state, x):
        return 1e10 * state, None

    found = parallel_states(step, None, jnp.ones(2), jnp.zeros(9))
    assert not found.converged


@pytest.mark.slow
def test_no_recurrence_takes_two_rounds():
    problem = random_problem("rnn_tanh", 20)
    params = problem.params._replace(w_h=jnp.zeros_like(problem.params.w_h))
    found = solve(problem._replace(params=params))
    expected = serial(problem.cell.step, params, problem.state0, problem.xs)
    assert_same(found, expected, 1e-6)
    assert found.iterations <= 2


@pytest.mark.slow
def test_a_second_call_compiles_nothing():
    traced = []

    def step(params, state, x):
        traced.append(1)
        return jnp.tanh(params * state + x), None

    def call(w, most):
        options = dict(max_iterations=most, tolerance=1e-3 * most)
        return parallel_states(step, w, jnp.ones(3), jnp.ones((9, 3)), **options)

    call(jnp.asarray(0.5), 5)
    before = len(traced)
    call(jnp.asarray(0.6), 7)
    # The check of the state's shape may trace the step, and nothing else does.
    assert len(traced) <= before + 1


@pytest.mark.parametrize("most", [0, -1, 2.0, True])
def test_rounds_that_are_no_number(without_type_checker, most):
    with pytest.raises(ValueError, match="expected max_iterations to be a positive integer"):
        solve(random_problem("gru", 3), max_iterations=most)


@pytest.mark.parametrize("tolerance", [0, -1e-3, float("nan"), float("inf")])
def test_tolerances_that_make_no_sense(without_type_checker, tolerance):
    with pytest.raises(ValueError, match="expected tolerance as a finite number above 0"):
        solve(random_problem("gru", 3), tolerance=tolerance)


def test_states_that_no_newton_step_can_correct(without_type_checker):
    def step(params, state, x):
        return {"a": state["a"], "n": state["n"] + 1}, None

    with pytest.raises(DtypeError, match="leaves are all floating"):
        parallel_states(step, None, {"a": jnp.ones(2), "n": jnp.asarray(0)}, jnp.zeros(3))

    def longer(params, state, x):
        return jnp.concatenate([state, state]), None

    with pytest.raises(ShapeError, match="expected the step to keep the state"):
        parallel_states(longer, None, jnp.ones(2), jnp.zeros(9))


def test_arguments_that_do_not_fit(without_type_checker):
    problem = random_problem("gru", 6)
    with pytest.raises(ShapeError, match=r"expected guess.h \[6, 5\], got \[5\]"):
        solve(problem, guess=problem.state0)
    with pytest.raises(NonFiniteError, match="expected finite xs, got NaN first at step 3 of 6"):
        solve(problem._replace(xs=problem.xs.at[2].set(jnp.nan)))
