"""All singular values of the transition: against dense products, exact arithmetic and known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import CELLS, random_like, random_problem
from dense import LSTM_BLOCKS, all_states, transitions
from high_precision import log_singular_values, lstm_matrices, product
from slow_cases import slow_but

import lstm_jax
from gradient_flow import jacobian_norms, singular_spectrum
from gradient_flow.step_jacobians.state_layout import layout_of
from lstm_jax import DtypeError, NonFiniteError, ShapeError


def measure(problem, **options):
    return singular_spectrum(problem.cell, problem.params, problem.state0, problem.xs, **options)


def linear(params, state, x):
    return params @ state, None


# Against dense products.


@pytest.mark.parametrize(
    ("name", "batch"), slow_but([*((name, 2) for name in CELLS), ("gru", None)], ("gru", 2))
)
def test_short_lags_are_those_of_numpy(x64, name, batch):
    problem = random_problem(name, 5, batch)
    lags = [0, 3, 1]
    found = measure(problem, lags=lags)
    assert list(found.lags) == lags and found.alignment is None
    values = found.log_values if batch else found.log_values[None]
    for n in range(batch or 1):
        one = problem
        if batch:
            state0 = jax.tree.map(lambda s, n=n: s[n], problem.state0)
            one = problem._replace(xs=problem.xs[:, n], state0=state0)
        dense = transitions(one.cell, one.params, one.state0, one.xs)["ss"]
        expected = np.linalg.svd(dense[lags], compute_uv=False)
        # numpy's own error is ε σ_1 of each.
        np.testing.assert_allclose(np.exp(values[n]), expected, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize(
    ("block", "dtype"),
    slow_but(
        [
            (block, dtype)
            for block in ("ss", *LSTM_BLOCKS, "total_c", "chain_c")
            for dtype in (jnp.float32, jnp.float64)
        ],
        ("total_c", jnp.float64),
    ),
)
def test_every_value_of_every_block_to_its_own_accuracy(x64, block, dtype):
    """Some 20 decades between the largest and the smallest, where a plain product has 16 digits, or 7."""
    problem = random_problem("lstm", 40, dtype=dtype, hidden_size=4)
    cell, params, xs, state0, *_ = problem
    lag = 30
    states = all_states(cell.step, params, state0, xs)
    exact = lstm_matrices(cell, params, states, xs, lag)[block]
    expected = log_singular_values(exact)
    found = measure(problem, block=block, lags=[lag])
    assert found.log_values.dtype == dtype and np.ptp(expected) > 8
    tolerance = 1e-9 if dtype == jnp.float64 else 5e-3
    np.testing.assert_allclose(found.log_values[0], expected, atol=tolerance)


@pytest.mark.parametrize("dtype", slow_but([jnp.float32, jnp.float64], jnp.float32))
def test_a_spread_of_hundreds_of_decades(x64, dtype):
    """Rotations and diagonals from 1 to 10^−5 in turns, seventy times: 10^−350 between the values."""
    rng = np.random.default_rng(0)
    factors = []
    for _ in range(70):
        turn = np.eye(5) + 0.05 * rng.standard_normal((5, 5))
        factors.append(np.asarray(np.diag(10.0 ** -np.linspace(0, 5, 5)) @ turn, np.dtype(dtype)))
    expected = log_singular_values(product(factors))
    assert np.ptp(expected) > 340 * np.log(10)

    def step(params, state, x):
        return x @ state, None

    start = jnp.zeros(5, dtype)
    found = singular_spectrum(step, None, start, jnp.asarray(np.stack(factors)), lags=[70])
    eps = float(jnp.finfo(dtype).eps)
    # Each of seventy factors to c(n) ε κ, with c(5) of some 50 and κ of some 2.
    np.testing.assert_allclose(found.log_values[0], expected, rtol=0, atol=7000 * eps)


@pytest.mark.slow
def test_the_largest_and_the_smallest_are_those_of_jacobian_norms(x64):
    problem = random_problem("gru", 60, 2)
    flow = jacobian_norms(
        problem.cell, problem.params, problem.state0, problem.xs, norms=["spectral", "smallest"]
    )
    lags = [0, 1, 20, 60]
    found = measure(problem, lags=lags, block="hh")
    np.testing.assert_allclose(found.log_values[..., 0], flow.spectral["hh"][:, lags], atol=1e-10)
    np.testing.assert_allclose(found.log_values[..., -1], flow.smallest["hh"][:, lags], atol=1e-8)


@pytest.mark.slow
def test_a_time_before_the_end(x64):
    problem = random_problem("lstm", 12)
    early = measure(problem._replace(xs=problem.xs[:7]), lags=[2, 7])
    np.testing.assert_array_equal(
        measure(problem, time=7, lags=[2, 7]).log_values, early.log_values
    )
    assert list(measure(problem, time=7).lags) == list(range(8))


@pytest.mark.slow
def test_the_closed_form_and_jacfwd_agree(x64):
    net = lstm_jax.stack(lstm_jax.lstm(3, 3), lstm_jax.gru(3, 2))
    params = random_like(
        np.random.default_rng(1), jax.eval_shape(net.init, jax.random.key(0)), scale=0.6
    )
    xs = jax.random.normal(jax.random.key(1), (8, 2, 3))
    options = dict(lags=[4, 8], cotangent=jax.tree.map(jnp.ones_like, net.initial_state(2)))
    closed = singular_spectrum(net, params, None, xs, **options)
    plain = singular_spectrum(net.step, params, net.initial_state(2), xs, batched=True, **options)
    assert closed.log_values.shape == (2, 2, 8)
    np.testing.assert_allclose(plain.log_values, closed.log_values, atol=1e-8)
    np.testing.assert_allclose(plain.alignment, closed.alignment, atol=1e-8)


# Directions and the loss gradient.


@pytest.mark.slow
@pytest.mark.parametrize("block", ["ss", "ch", "total_c"])
def test_the_alignment_is_that_of_numpy(x64, block):
    problem = random_problem("lstm", 6, hidden_size=3)
    d_state = random_like(np.random.default_rng(3), problem.state0)
    found = measure(problem, block=block, lags=[1, 4], cotangent=d_state)
    dense = transitions(problem.cell, problem.params, problem.state0, problem.xs)[block]
    delta = np.concatenate([d_state.h, d_state.c]) if block == "ss" else np.asarray(d_state.c)
    for matrix, cosines in zip(dense[[1, 4]], found.alignment, strict=True):
        u = np.linalg.svd(matrix)[0]
        expected = np.abs(u.T @ delta) / np.linalg.norm(delta)
        np.testing.assert_allclose(cosines, expected, atol=1e-7)


def test_values_and_alignment_give_the_gradient_that_arrives(x64):
    """|Pᵀ δ|² = Σ σ_i² (u_i · δ)², with Pᵀ δ from back-propagation."""
    problem = random_problem("gru", 15)
    d_state = random_like(np.random.default_rng(3), problem.state0)
    gradients = lstm_jax.bptt(
        problem.cell, problem.params, problem.xs, problem.state0, d_state=d_state
    )
    found = measure(problem, lags=[15], cotangent=d_state)
    arrived = np.sum((np.exp(found.log_values) * found.alignment) ** 2) ** 0.5
    expected = np.linalg.norm(gradients.state0.h) / np.linalg.norm(d_state.h)
    np.testing.assert_allclose(arrived, expected, rtol=1e-11)


def test_survivors_and_angle_of_a_diagonal(x64):
    values = jnp.asarray([0.5, 1.0, 0.05, 2.0])
    delta = jnp.asarray([3.0, 0.0, 4.0, 0.0])
    found = singular_spectrum(
        linear, jnp.diag(values), jnp.zeros(4), jnp.zeros(10), lags=[0, 1, 10], cotangent=delta
    )
    expected = np.outer([0, 1, 10], np.log([2.0, 1.0, 0.5, 0.05]))
    np.testing.assert_allclose(found.log_values, expected, atol=1e-12)
    np.testing.assert_array_equal(found.survivors(0.1), [4, 3, 2])
    np.testing.assert_array_equal(found.survivors(0.1, relative=True), [4, 3, 1])
    # At lag 1 the direction of 0.05 is gone, which had 4 of 5; at lag 10 that of 0.5 too.
    np.testing.assert_allclose(found.angle(0.1), [0, np.arctan2(4, 3), np.pi / 2], atol=1e-7)
    np.testing.assert_allclose(found.angle(0.01)[1], 0, atol=1e-7)
    np.testing.assert_allclose(found.alignment[2], [0, 0, 0.6, 0.8], atol=1e-12)


@pytest.mark.slow
def test_ten_thousand_steps_in_float32():
    slopes = jnp.asarray([1.0, 0.999, 0.9, 0.5])
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    matrix = jnp.asarray(turn @ np.diag(slopes) @ turn.T, jnp.float32)
    found = singular_spectrum(linear, matrix, jnp.zeros(4), jnp.zeros(10_000), lags=[10_000])
    expected = 10_000 * np.log(np.sort(np.abs(np.linalg.eigvals(np.asarray(matrix, float)))))[::-1]
    # 10_000 roundings of the matrix's entries, none of them lost in another one's.
    np.testing.assert_allclose(found.log_values[0], expected, rtol=1e-4, atol=0.02)
    assert found.survivors(1e-5)[0] == 2


# Directions that are gone.


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 30])
def test_a_network_without_recurrence_has_nothing_but_minus_infinity(length):
    problem = random_problem("rnn_tanh", length)
    params = problem.params._replace(w_h=jnp.zeros_like(problem.params.w_h))
    d_state = jax.tree.map(jnp.ones_like, problem.state0)
    found = measure(problem._replace(params=params), lags=[0, 1, length], cotangent=d_state)
    assert (found.log_values[0] == 0).all() and (found.log_values[1:] == -np.inf).all()
    for relative in (False, True):
        np.testing.assert_array_equal(found.survivors(relative=relative), [5, 0, 0])
        np.testing.assert_allclose(
            found.angle(relative=relative), [0, np.pi / 2, np.pi / 2], atol=1e-3
        )


def test_directions_that_become_zero_leave_the_others_alone(x64):
    found = singular_spectrum(
        linear, jnp.diag(jnp.asarray([0.5, 0.0, 0.25])), jnp.ones(3), jnp.zeros(3000), lags=[3000]
    )
    expected = [3000 * np.log(0.5), 3000 * np.log(0.25), -np.inf]
    np.testing.assert_allclose(found.log_values[0], expected, rtol=1e-12)


# Compilation and refusals.


@pytest.mark.slow
def test_a_second_call_compiles_nothing():
    traced = []

    def step(params, state, x):
        traced.append(1)
        return jnp.tanh(params * state + x), None

    def call(w):
        return singular_spectrum(step, w, jnp.ones(3), jnp.ones((9, 3)), lags=[2, 9])

    call(jnp.asarray(0.5))
    before = len(traced)
    call(jnp.asarray(0.6))
    # The check of the state's shape may trace the step, and nothing else does.
    assert len(traced) <= before + 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(lags=[7]), "expected lags from 0 to 6, got 7"),
        (dict(lags=[]), "at least one of lags"),
        (dict(time=0), "expected time from 1 to 6, got 0"),
        (dict(time=3, lags=[4]), "expected lags from 0 to 3, got 4"),
        (dict(block="hx"), "Unknown block"),
        (dict(block="carousel"), "expected a matrix, got 'carousel'"),
    ],
)
def test_numbers_and_names_that_do_not_exist(without_type_checker, options, match):
    with pytest.raises(ValueError, match=match):
        measure(random_problem("lstm", 6), **options)


def test_cotangents_that_do_not_fit(without_type_checker):
    problem = random_problem("lstm", 6)
    zeros = jax.tree.map(jnp.zeros_like, problem.state0)
    with pytest.raises(ShapeError, match=r"expected cotangent.c \[5\], got \[4\]"):
        measure(problem, cotangent=zeros._replace(c=jnp.zeros(4)))
    with pytest.raises(DtypeError, match="expected cotangent.h float32"):
        measure(problem, cotangent=zeros._replace(h=jnp.zeros(5, jnp.int32)))
    with pytest.raises(TypeError, match="expected cotangent as"):
        measure(problem, cotangent=jnp.zeros(10))
    with pytest.raises(NonFiniteError, match="expected finite cotangent.h, got NaN"):
        measure(problem, cotangent=zeros._replace(h=jnp.full(5, jnp.nan)))


def test_thresholds_and_angles_that_make_no_sense(without_type_checker):
    found = measure(random_problem("gru", 3), lags=[1])
    with pytest.raises(ValueError, match="expected a spectrum taken with cotangent="):
        found.angle()
    for threshold in (0, -1.0, float("nan"), True):
        with pytest.raises(ValueError, match="expected threshold as a finite number above 0"):
            found.survivors(threshold)


def test_what_is_not_finite_is_named_with_its_step(without_type_checker):
    problem = random_problem("gru", 6)
    with pytest.raises(NonFiniteError, match="expected finite xs, got NaN first at step 3 of 6"):
        measure(problem._replace(xs=problem.xs.at[2].set(jnp.nan)))
    with pytest.raises(NonFiniteError, match="finite states, got an infinity first at step 4 of 9"):
        singular_spectrum(linear, 1e10 * jnp.eye(2), jnp.ones(2), jnp.zeros(9))


def test_a_step_whose_state_changes_shape(without_type_checker):
    def step(params, state, x):
        return jnp.concatenate([state, state]), None

    with pytest.raises(ShapeError, match="expected the step to keep the state"):
        singular_spectrum(step, None, jnp.ones(2), jnp.zeros(9))


@pytest.mark.slow
def test_the_size_of_the_smaller_side(x64):
    """∂(part of 2)/∂(part of 4) and its reverse have two singular values."""

    def step(params, state, x):
        a, b = state
        return (params @ b, 0.5 * b + params.T @ a), None

    w = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4)))
    start = (jnp.zeros(2), jnp.zeros(4))
    assert layout_of(start).names == ("0", "1")
    for block in ("01", "10"):
        found = singular_spectrum(step, w, start, jnp.zeros(1), lags=[1], block=block)
        np.testing.assert_allclose(np.exp(found.log_values[0]), np.linalg.svd(w)[1], rtol=1e-12)
