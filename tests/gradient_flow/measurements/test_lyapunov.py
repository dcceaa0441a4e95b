"""The Lyapunov spectrum against dense QR iteration in float64, known answers, and mean-field theory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import CELLS, random_like, random_problem
from dense import all_states
from slow_cases import slow_but

import lstm_jax
from gradient_flow import (
    decades_per_100,
    jacobian_norms,
    kaplan_yorke_dimension,
    lyapunov_spectrum,
)
from gradient_flow.measurements import lyapunov
from gradient_flow.step_jacobians.state_layout import flat_parts, from_flat, layout_of
from gradient_flow.step_jacobians.vector_products import step_jvp
from lstm_jax import NonFiniteError, ShapeError, gru, lstm, rnn, stack


def measure(problem, **options):
    return lyapunov_spectrum(problem.cell, problem.params, problem.state0, problem.xs, **options)


def sample(tree, n, axis):
    return jax.tree.map(lambda leaf: jnp.take(leaf, n, axis=axis), tree)


def dense_jacobians(step, params, state0, xs):
    """J_1 … J_T by `jacfwd` of the flattened state."""
    layout = layout_of(state0)

    def one(state, x):
        def move(flat):
            return flat_parts(layout, step(params, from_flat(layout, state, flat), x)[0])

        return jax.jacfwd(move)(flat_parts(layout, state))

    states = all_states(step, params, state0, xs)
    before = jax.tree.map(lambda s: s[:-1], states)
    return np.asarray(jax.jit(jax.vmap(one))(before, xs), np.float64)


def dense_growths(jacobians, q):
    """Sums of log |R_ii| after each step of a plain QR iteration, [T, k]."""
    found = []
    for jacobian in jacobians:
        q, r = np.linalg.qr(jacobian @ q)
        found.append(np.log(np.abs(np.diag(r))))
    return np.cumsum(found, axis=0)


def starting_tangents(key, samples, size, k):
    drawn = jax.random.normal(key, (samples, size, k), jnp.float32)
    return np.linalg.qr(np.asarray(drawn, np.float64))[0]


# Against a dense iteration.


@pytest.mark.parametrize(
    ("name", "batch"),
    slow_but([*((name, 2) for name in CELLS), ("gru", None)], ("gru", None)),
)
@pytest.mark.slow
def test_every_point_of_the_curve_is_that_of_a_dense_iteration(x64, name, batch):
    problem = random_problem(name, 37, batch)
    if name == "rnn_relu":  # all units alive, so that the reference has no log 0
        params = problem.params._replace(w_h=abs(problem.params.w_h), b=problem.params.b + 5)
        problem = problem._replace(params=params, state0=jax.tree.map(abs, problem.state0))
    size = sum(layout_of(problem.cell.initial_state()).sizes)
    key = jax.random.key(3)
    for k in (2, size):
        found = measure(problem, k=k, key=key)
        assert list(found.steps) == [8, 16, 24, 32, 37]
        curves = found.curve if batch else found.curve[None]
        starts = starting_tangents(key, batch or 1, size, k)
        expected = []
        for n in range(batch or 1):
            one = (problem.state0, problem.xs)
            if batch:
                one = sample(problem.state0, n, 0), sample(problem.xs, n, 1)
            jacobians = dense_jacobians(problem.cell.step, problem.params, *one)
            growths = dense_growths(jacobians, starts[n])
            expected.append(growths[found.steps - 1] / found.steps[:, None])
        np.testing.assert_allclose(curves, expected, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found.exponents, np.mean(expected, axis=0)[-1], atol=1e-9)
        assert found.exponents.shape == found.standard_error.shape == found.spread.shape == (k,)


@pytest.mark.slow
@pytest.mark.parametrize("every", [3, 40, "auto"])
def test_the_steps_between_two_decompositions_do_not_matter(x64, every):
    problem = random_problem("gru", 40)
    expected = measure(problem, every=1, k=2).exponents
    np.testing.assert_allclose(measure(problem, every=every, k=2).exponents, expected, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn_tanh"])
def test_float32_is_float64(name):
    problem = random_problem(name, 300, dtype=jnp.float32)
    found = measure(problem, k=3)
    assert found.exponents.dtype == found.curve.dtype == found.standard_error.dtype == jnp.float32
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), float), problem.inputs)
        expected = lyapunov_spectrum(problem.cell, wide.params, wide.state0, wide.xs, k=3).exponents
    np.testing.assert_allclose(found.exponents, expected, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_the_closed_form_and_jvp_agree(x64, name):
    problem = random_problem(name, 30, 2)
    closed = measure(problem)
    general = measure(problem._replace(cell=problem.cell.step), batched=True)
    np.testing.assert_allclose(general.curve, closed.curve, atol=1e-8)


@pytest.mark.slow
def test_all_exponents_sum_up_to_log_det(x64):
    """Σ log |R_ii| = log |det J| at every step, whatever Q is."""
    problem = random_problem("gru", 200, hidden_size=7)
    jacobians = dense_jacobians(problem.cell.step, problem.params, problem.state0, problem.xs)
    expected = np.mean(np.linalg.slogdet(jacobians)[1])
    np.testing.assert_allclose(jnp.sum(measure(problem).exponents), expected, atol=1e-11)


STACKS = {
    "plain": stack(lstm(3, 4), gru(4, 3), rnn(3, 2)),
    "residual_zoneout": stack(lstm(3, 4), lstm(4, 4), zoneout=0.2, residual=True, output_size=2),
    "variants": stack(gru(3, 4, reset_after=False), lstm(4, 5, peepholes=True, projection_size=3)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STACKS)
def test_a_stack_moves_tangents_as_jacfwd_does(x64, name):
    net = STACKS[name]
    rng = np.random.default_rng(1)
    params = random_like(rng, jax.eval_shape(net.init, jax.random.key(0)), scale=0.6)
    states = random_like(rng, jax.eval_shape(net.initial_state))
    xs = jnp.asarray(rng.standard_normal((1, 3)))
    layout = layout_of(states)
    q = jnp.asarray(rng.standard_normal((sum(layout.sizes), 4)))
    (jacobian,) = dense_jacobians(net.step, params, states, xs)
    for network in (net, net.step):
        after, moved = jax.jit(step_jvp(network, layout))(params, states, xs[0], q)
        np.testing.assert_allclose(moved, jacobian @ q, atol=1e-13)
        expected = net.step(params, states, xs[0])[0]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14), after, expected)


@pytest.mark.slow
def test_a_stacks_spectrum_is_that_of_its_step(x64):
    net = STACKS["residual_zoneout"]
    params = random_like(np.random.default_rng(1), jax.eval_shape(net.init, jax.random.key(0)))
    xs = jax.random.normal(jax.random.key(1), (40, 2, 3))
    closed = lyapunov_spectrum(net, params, None, xs, k=5)
    plain = lyapunov_spectrum(net.step, params, net.initial_state(2), xs, k=5, batched=True)
    np.testing.assert_allclose(plain.exponents, closed.exponents, atol=1e-8)
    np.testing.assert_allclose(plain.standard_error, closed.standard_error, atol=1e-8)


@pytest.mark.slow
def test_a_dict_with_a_scalar_a_matrix_a_counter_and_a_key(x64):
    """h' = a h in a matrix of 2 × 2 and e' = h_00 + b e in a scalar: log a four times, log b once."""

    def step(params, state, x):
        after = {
            "count": state["count"] + 1,
            "e": jnp.asarray(state["h"])[0, 0] + 0.25 * state["e"],
            "h": 0.5 * state["h"] + x,
            "key": jax.random.split(state["key"])[0],
        }
        return after, None

    state0 = {
        "count": jnp.asarray(0),
        "e": jnp.asarray(0.3),
        "h": jnp.ones((2, 2)),
        "key": jax.random.key(7),
    }
    found = lyapunov_spectrum(step, None, state0, jnp.zeros(400), skip=100)
    np.testing.assert_allclose(found.exponents, np.log([0.5, 0.5, 0.5, 0.5, 0.25]), atol=1e-12)


# Known answers.


def linear(matrix, states=None):
    """A network that applies one matrix at every step."""
    return lambda params, state, x: (params @ state, None), jnp.asarray(matrix)


def random_basis(size, seed=0):
    """Far from orthogonal, well conditioned enough."""
    rng = np.random.default_rng(seed)
    return np.eye(size) + 0.4 * rng.standard_normal((size, size)) / np.sqrt(size)


def test_a_linear_network_has_the_logs_of_its_eigenvalues(x64):
    """Not those of its singular values: the matrix is not normal."""
    values = np.array([1.1, -0.8, 0.5, 0.3, -0.1])
    basis = random_basis(5)
    matrix = basis @ np.diag(values) @ np.linalg.inv(basis)
    assert np.abs(np.log(np.linalg.svd(matrix)[1]) - np.log(np.abs(values))).max() > 0.05
    step, w = linear(matrix)
    found = lyapunov_spectrum(step, w, jnp.ones(5), jnp.zeros(700), skip=300)
    # After 300 steps the tangents span the invariant subspaces to 1.375^−300.
    np.testing.assert_allclose(found.exponents, np.log(np.abs(values)), atol=1e-11)
    np.testing.assert_allclose(found.curve[0], np.log(np.abs(values)), atol=1e-11)
    assert jnp.max(found.standard_error) < 1e-11


@pytest.mark.slow
def test_a_pair_of_complex_eigenvalues_shares_the_log_of_its_modulus(x64):
    angle = 0.7
    turn = 0.9 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    whole = np.zeros((3, 3))
    whole[:2, :2], whole[2, 2] = turn, 0.4
    basis = random_basis(3)
    step, w = linear(basis @ whole @ np.linalg.inv(basis))
    found = lyapunov_spectrum(step, w, jnp.ones(3), jnp.zeros(2200), skip=200)
    # The volume that the two span grows as 0.9² a step; each of them turns, and so comes to it as 1/T.
    np.testing.assert_allclose(jnp.sum(found.exponents[:2]), 2 * np.log(0.9), atol=1e-12)
    np.testing.assert_allclose(found.exponents[:2], np.log(0.9), atol=2e-3)
    np.testing.assert_allclose(found.exponents[2], np.log(0.4), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [0.5, 1.1])
def test_a_scaled_rotation_over_ten_thousand_steps_in_float32(gamma):
    """The product is 10^−3010, or 10^+414."""
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
    step, w = linear((gamma * turn).astype(np.float32))
    still = jnp.zeros(8, jnp.float32)
    found = lyapunov_spectrum(step, w, still, jnp.zeros(10_000, jnp.float32))
    np.testing.assert_allclose(found.exponents, np.log(gamma), atol=1e-6)


@pytest.mark.slow
def test_the_first_exponent_is_the_slope_of_the_log_norm(x64):
    problem = random_problem("gru", 3000, hidden_size=6, seed=4, scale=0.8)
    lags = list(range(500, 2501, 50))
    flow = jacobian_norms(
        problem.cell, problem.params, None, problem.xs, norms=["frobenius"], lags=lags
    )
    slope = -float(decades_per_100(flow.lags, flow.frobenius["hh"])) * np.log(10) / 100
    found = measure(problem._replace(state0=None), k=2, skip=500)
    # The two average over the same steps with other weights: apart by a few standard errors at most.
    apart = abs(found.exponents[0] - slope)
    assert apart < 4 * found.standard_error[0] < abs(found.exponents[0] - found.exponents[1])


def mean_field_exponent(gain, noise):
    r"""λ_1 of x' = g W tanh(x) + noise for N → ∞: ½ log g² E tanh'², at a variance Δ = g² E tanh² + noise².

    Molgedey, Schuchhardt & Schuster 1992, from Sompolinsky, Crisanti & Sommers 1988.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    weights = weights / weights.sum()
    variance = 1.0
    for _ in range(2000):
        fields = np.tanh(np.sqrt(variance) * nodes)
        variance = gain**2 * weights @ fields**2 + noise**2
    return 0.5 * np.log(gain**2 * weights @ (1 - fields**2) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize(("gain", "noise"), [(2.0, 0.0), (4.0, 0.0), (1.5, 1.0), (0.9, 0.5)])
def test_a_random_tanh_network_follows_mean_field_theory(gain, noise):
    """Chaos above g = 1, λ_1 > 0; noise orders it, λ_1 < 0 at g = 1.5 too."""
    size, batch = 500, 4
    rng = np.random.default_rng(0)
    cell = lstm_jax.rnn(size, size)
    params = cell.init(jax.random.key(0))._replace(
        w_x=jnp.eye(size),
        w_h=jnp.asarray(gain * rng.standard_normal((size, size)) / np.sqrt(size), jnp.float32),
        b=jnp.zeros(size),
    )
    xs = jnp.asarray(noise * rng.standard_normal((700, batch, size)), jnp.float32)
    start = type(cell.initial_state())(jnp.asarray(rng.standard_normal((batch, size)), jnp.float32))
    found = lyapunov_spectrum(cell, params, start, xs, k=1, skip=200)
    expected = mean_field_exponent(gain, noise)
    assert (expected > 0) == (gain > 1 and noise == 0)
    # Five units of 1/N, for one draw of W.
    np.testing.assert_allclose(found.exponents[0], expected, atol=0.01)


@pytest.mark.slow
def test_a_random_tanh_network_below_gain_1_is_linear_at_rest(x64):
    """g < 1 without inputs: h comes to rest, and λ_1 is the log of W's spectral radius."""
    rng = np.random.default_rng(1)
    matrix = 0.8 * rng.standard_normal((30, 30)) / np.sqrt(30)
    radius = np.sort(np.abs(np.linalg.eigvals(matrix)))[::-1]

    def step(params, state, x):
        return jnp.tanh(params @ state), None

    start = jnp.asarray(rng.standard_normal(30))
    found = lyapunov_spectrum(step, jnp.asarray(matrix), start, jnp.zeros(4000), skip=2000)
    assert found.exponents[0] < 0
    np.testing.assert_allclose(found.exponents[0], np.log(radius[0]), atol=2e-3)
    np.testing.assert_allclose(jnp.sum(found.exponents), np.linalg.slogdet(matrix)[1], rtol=1e-9)


# Digits.


@pytest.mark.slow
def test_steps_that_spread_are_taken_again_one_at_a_time(x64):
    """Eigenvalues a thousandfold apart: eight steps in one go would leave nothing of the smallest."""
    values = 10.0 ** -np.arange(0.0, 9.1, 3.0)
    basis = random_basis(4)
    step, w = linear(basis @ np.diag(values) @ np.linalg.inv(basis))
    run = (step, w, jnp.ones(4), jnp.zeros(100))
    found = lyapunov_spectrum(*run, skip=20)
    np.testing.assert_allclose(found.exponents, np.log(values), atol=1e-6)
    at_once = lyapunov_spectrum(*run, skip=20, every=8)
    assert at_once.spread[-1] * np.finfo(float).eps > 1 > found.spread[-1] * np.finfo(float).eps
    assert abs(at_once.exponents[-1] - np.log(values[-1])) > 1
    np.testing.assert_allclose(at_once.exponents[0], np.log(values[0]), atol=1e-12)


def test_saturated_units_keep_their_own_digits():
    """Slopes from 1 to 1e−12 in float32, where a plain QR would leave the rounding of the largest."""
    rng = np.random.default_rng(2)
    slopes = np.array([1e-12, 1.0, 1e-6, 0.5, 1e-9, 1e-3], np.float32)
    matrix = (slopes[:, None] * rng.standard_normal((6, 6))).astype(np.float32)
    step, w = linear(matrix)
    found = lyapunov_spectrum(step, w, jnp.zeros(6), jnp.zeros(200), skip=50)
    expected = np.sort(np.log(np.abs(np.linalg.eigvals(matrix.astype(np.float64)))))[::-1]
    np.testing.assert_allclose(found.exponents, expected, atol=1e-4)


# Directions that are gone.


@pytest.mark.parametrize("length", slow_but([1, 20], 1))
def test_a_network_without_recurrence_has_nothing_but_minus_infinity(length):
    problem = random_problem("rnn_tanh", length)
    params = problem.params._replace(w_h=jnp.zeros_like(problem.params.w_h))
    found = measure(problem._replace(params=params))
    assert (found.exponents == -np.inf).all() and (found.curve == -np.inf).all()
    assert np.isnan(found.standard_error).all()


def test_dead_units_are_minus_infinity_and_the_others_are_not_harmed(x64):
    """Two of five relu units never fire, so that their rows of J are zero."""
    cell = lstm_jax.rnn(2, 5, activation="relu")
    params = random_like(
        np.random.default_rng(0), jax.eval_shape(cell.init, jax.random.key(0)), scale=0.2
    )
    b = jnp.asarray([3.0, -9.0, 3.0, -9.0, 3.0])
    found = lyapunov_spectrum(cell, params._replace(b=b), None, jnp.zeros((2000, 2)), skip=1000)
    alive = np.ix_([0, 2, 4], [0, 2, 4])
    assert (found.exponents[3:] == -np.inf).all() and (found.spread[3:] == np.inf).all()
    expected = np.linalg.slogdet(np.asarray(params.w_h)[alive])[1]
    np.testing.assert_allclose(jnp.sum(found.exponents[:3]), expected, atol=1e-10)
    assert np.isfinite(found.standard_error[:3]).all() and np.isnan(found.standard_error[3:]).all()


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("every", ["auto", 8])
def test_spaced_steps_neither_underflow_nor_overflow(k, every):
    """Runs of eight steps that shrink, or grow, a tangent 10^±240-fold in float32; −5.76 in the mean."""
    rates = np.repeat([-69.0, 57.48], 8).astype(np.float32)

    def step(params, state, x):
        return jnp.exp(x) * jnp.asarray([[1.0, 0.5], [0.0, 0.9]], jnp.float32) @ state, None

    xs = jnp.asarray(np.tile(rates, 20))
    found = lyapunov_spectrum(step, None, jnp.zeros(2, jnp.float32), xs, k=k, every=every, skip=160)
    expected = np.array([-5.76, -5.76 + np.log(0.9)])[:k]
    np.testing.assert_allclose(found.exponents, expected, atol=2e-2)
    np.testing.assert_allclose(
        jnp.sum(found.exponents), np.sum(expected), atol=1e-4 + 2e-2 * (k < 2)
    )


def test_a_step_at_which_every_unit_saturates(x64):
    """Slopes of 4 e^−120, 10^−51.5, at every twentieth step, in float32 as in float64; in logs by hand."""
    cell = lstm_jax.rnn(1, 1)
    drives = np.where(np.arange(200) % 20 == 7, 60.0, 0.3)[:, None]
    found = []
    for dtype in ("float32", "float64"):
        one = jnp.ones((1, 1), dtype)
        params = lstm_jax.RNNParams(one, 0.9 * one, jnp.zeros(1, dtype))
        run = (cell, params, None, jnp.asarray(drives, dtype))
        found.append(lyapunov_spectrum(*run, every="auto").exponents[0])
    h, logs = 0.0, []
    for (drive,) in drives:
        z = abs(drive + 0.9 * h)
        h = np.tanh(drive + 0.9 * h)
        logs.append(np.log(4 * 0.9) - 2 * z - 2 * np.log1p(np.exp(-2 * z)))
    np.testing.assert_allclose(found[0], np.mean(logs), rtol=1e-6)
    np.testing.assert_allclose(found[1], np.mean(logs), rtol=1e-13)
    assert found[0] < -5


# Derivatives.


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "rnn_tanh"])
def test_derivatives_by_the_parameters_are_those_of_differences(x64, name):
    """Reverse and forward mode, under jit and vmap; gaps of one and of more steps."""
    problem = random_problem(name, 11, hidden_size=3, scale=0.8)
    weights = jnp.asarray([1.0, -0.5, 0.3])

    def value(params):
        found = lyapunov_spectrum(problem.cell, params, problem.state0, problem.xs, skip=1, k=3)
        return weights @ found.exponents + jnp.sum(found.drift)

    rng = np.random.default_rng(0)
    direction = random_like(rng, problem.params)
    move = lambda size: jax.tree.map(lambda p, d: p + size * d, problem.params, direction)  # noqa: E731
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), move(0.0), move(0.1))
    sizes = 1e-3 * jnp.asarray([-2.0, -1.0, 1.0, 2.0])
    values = jax.jit(jax.vmap(lambda size: value(move(size))))(sizes)
    # To the fourth order.
    expected = jnp.asarray([1.0, -8.0, 8.0, -1.0]) @ values / 12e-3
    gradients = jax.jit(jax.vmap(jax.grad(value)))(both)
    slope = sum(jnp.vdot(g[0], d) for g, d in zip(gradients, direction, strict=True))
    np.testing.assert_allclose(slope, expected, rtol=1e-7)
    forward = jax.jit(lambda p: jax.jvp(value, (p,), (direction,))[1])(problem.params)
    np.testing.assert_allclose(forward, slope, rtol=1e-9)


@pytest.mark.slow
def test_the_derivative_of_a_linear_networks_exponents(x64):
    """dλ_i/d log a = 1 for a W, and dλ_i/db_j = δ_ij / b_i for a diagonal b; without jit."""
    values = jnp.asarray([1.3, 0.7, 0.2])

    def first_two(b):
        def step(params, state, x):
            return params * state, None

        return lyapunov_spectrum(step, b, jnp.ones(3), jnp.zeros(60), skip=40, k=2).exponents

    np.testing.assert_allclose(
        jax.jacrev(first_two)(values), [[1 / 1.3, 0, 0], [0, 1 / 0.7, 0]], atol=1e-6
    )


# Maps and ODEs.


def henon(params, state, x):
    a, b = params
    return jnp.stack([1 - a * state[0] ** 2 + state[1], b * state[0]]), None


def test_henons_map_has_its_published_exponents(x64):
    """0.4192 and −1.6232 (Sprott 2003), together log b; of dimension 1.258."""
    start = jnp.asarray(0.1 * np.random.default_rng(0).random((16, 2)))
    found = lyapunov_spectrum(
        henon, (1.4, 0.3), start, jnp.zeros((5_000, 16)), skip=200, batched=True
    )
    np.testing.assert_allclose(found.exponents, [0.4192, -1.6232], atol=3e-3)
    assert abs(found.exponents[0] - 0.4192) < 4 * found.standard_error[0]
    np.testing.assert_allclose(jnp.sum(found.exponents), np.log(0.3), atol=1e-12)
    np.testing.assert_allclose(kaplan_yorke_dimension(found.exponents), 1.258, atol=2e-3)
    # The mean so far, minus the mean of the first half.
    half = jnp.mean(found.curve[:, np.searchsorted(found.steps, 2400)], axis=0)
    np.testing.assert_allclose(found.drift, found.exponents - half, atol=1e-15)
    assert 0 < abs(found.drift[0]) < 0.01


def test_the_system_of_lorenz_has_its_published_exponents(x64):
    """0.906, 0 and −14.572 in a unit of time (Sprott 2003), together −σ − 1 − β; of dimension 2.062."""
    dt = 0.01

    def step(params, state, x):
        def slope(s):
            sigma, rho, beta = params
            return jnp.stack(
                [sigma * (s[1] - s[0]), s[0] * (rho - s[2]) - s[1], s[0] * s[1] - beta * s[2]]
            )

        k1 = slope(state)
        k2 = slope(state + dt / 2 * k1)
        k3 = slope(state + dt / 2 * k2)
        k4 = slope(state + dt * k3)
        return state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    start = jnp.asarray(1 + np.random.default_rng(0).random((16, 3)))
    xs = jnp.zeros((20_000, 16))
    found = lyapunov_spectrum(step, (10.0, 28.0, 8 / 3), start, xs, skip=2_000, batched=True)
    per_time = found.exponents / dt
    np.testing.assert_allclose(per_time, [0.906, 0.0, -14.572], atol=0.02)
    np.testing.assert_allclose(jnp.sum(per_time), -41 / 3, atol=1e-3)
    np.testing.assert_allclose(kaplan_yorke_dimension(per_time), 2.062, atol=2e-3)


def test_the_kaplan_yorke_dimension(without_type_checker):
    dimension = jax.jit(kaplan_yorke_dimension, static_argnames="size")
    cases = {
        (0.906, 0.0, -14.572): 2 + 0.906 / 14.572,
        (-0.1, -0.2): 0.0,  # a fixed point
        (0.0, -0.2): 1.0,  # a cycle
        (0.5, -0.1, -0.2): 3.0,  # volume grows
        (0.5, -jnp.inf): 1.0,
    }
    for exponents, expected in cases.items():
        np.testing.assert_allclose(dimension(jnp.asarray(exponents)), expected, rtol=1e-6)
    many = jnp.asarray([[0.2, -0.1, -0.4], [-1.0, -2.0, -3.0]])
    np.testing.assert_allclose(dimension(many), [2.25, 0.0], rtol=1e-6)
    # The largest of more: where their sum is not negative yet, nobody knows.
    assert np.isnan(dimension(jnp.asarray([0.5, -0.1]), size=3))
    np.testing.assert_allclose(dimension(jnp.asarray([0.5, -1.0]), size=9), 1.5)
    assert np.isnan(dimension(jnp.asarray([jnp.nan, -1.0])))
    slopes = jax.grad(kaplan_yorke_dimension)(jnp.asarray([0.2, -0.1, -0.4]))
    np.testing.assert_allclose(slopes, [2.5, 2.5, 0.1 / 0.4**2], rtol=1e-6)
    with pytest.raises(ValueError, match="expected a size of at least 2 exponents, got 1"):
        kaplan_yorke_dimension(jnp.asarray([0.5, -0.1]), size=1)


# Confidence, warm-up, keys.


def scalar(params, state, x):
    return x * state, None


def test_the_standard_error_over_samples_is_that_of_their_mean(x64):
    xs = jnp.exp(jax.random.normal(jax.random.key(0), (40, 30)))
    found = lyapunov_spectrum(scalar, None, jnp.ones(30), xs, batched=True)
    each = np.mean(np.log(xs), axis=0)
    assert found.curve.shape == (30, 5, 1)
    np.testing.assert_allclose(found.curve[:, -1, 0], each, atol=1e-12)
    np.testing.assert_allclose(found.exponents, each.mean(), atol=1e-12)
    np.testing.assert_allclose(found.standard_error, each.std(ddof=1) / np.sqrt(30), atol=1e-12)


@pytest.mark.slow
def test_the_standard_error_of_one_sample_is_that_of_its_blocks(x64):
    xs = jnp.exp(jax.random.normal(jax.random.key(0), (4000,)))
    found = lyapunov_spectrum(scalar, None, jnp.asarray(1.0), xs)
    blocks = np.log(np.asarray(xs)).reshape(20, 200).mean(axis=1)
    np.testing.assert_allclose(found.standard_error, blocks.std(ddof=1) / np.sqrt(20), atol=1e-12)
    # 1/√4000 for independent steps; 20 blocks know it to a sixth.
    np.testing.assert_allclose(found.standard_error, 4000**-0.5, rtol=0.5)
    # Chunks that do not divide: the first 24 of 44 steps are left out, six blocks at the end remain.
    short = lyapunov_spectrum(scalar, None, jnp.asarray(1.0), xs[:44], every=2)
    pairs = np.log(np.asarray(xs[4:44])).reshape(20, 2).mean(axis=1)
    np.testing.assert_allclose(short.standard_error, pairs.std(ddof=1) / np.sqrt(20), atol=1e-12)


def test_one_block_has_no_standard_error():
    found = lyapunov_spectrum(scalar, None, jnp.asarray(1.0), jnp.ones(8))
    assert np.isnan(found.standard_error).all() and found.exponents == 0


@pytest.mark.parametrize("skip", slow_but([1, 8, 13], 13))
def test_the_warm_up_moves_state_and_tangents_and_counts_for_nothing(x64, skip):
    problem = random_problem("gru", 30)
    key = jax.random.key(5)
    found = measure(problem, skip=skip, key=key)
    jacobians = dense_jacobians(problem.cell.step, problem.params, problem.state0, problem.xs)
    growths = dense_growths(jacobians, starting_tangents(key, 1, 5, 5)[0])
    expected = (growths[-1] - growths[skip - 1]) / (30 - skip)
    np.testing.assert_allclose(found.exponents, expected, atol=1e-9)
    assert found.steps[-1] == 30 - skip and found.steps[0] == 8


@pytest.mark.slow
def test_the_key_is_that_of_the_first_tangents(x64):
    problem = random_problem("gru", 9)
    default, same, other = (
        measure(problem, key=key).exponents for key in (None, jax.random.key(0), jax.random.key(1))
    )
    np.testing.assert_array_equal(default, same)
    assert (default != other).any()


# Compilation and refusals.


def test_a_second_call_compiles_nothing():
    traced = []

    def step(params, state, x):
        traced.append(1)
        return jnp.tanh(params * state + x), None

    run = lambda w: lyapunov_spectrum(step, w, jnp.ones(3), jnp.ones((20, 3)), k=2)  # noqa: E731
    run(jnp.asarray(0.5))
    before = len(traced)
    run(jnp.asarray(0.6))
    # The check of the state's shape may trace the step, and nothing else does.
    assert len(traced) <= before + 1


@pytest.mark.slow
def test_under_jit(x64):
    problem = random_problem("gru", 12)

    def first(params):
        found = lyapunov_spectrum(problem.cell, params, problem.state0, problem.xs, k=1)
        return found.exponents[0]

    np.testing.assert_allclose(
        jax.jit(first)(problem.params), measure(problem, k=1).exponents[0], atol=1e-13
    )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(k=0), "expected k from 1 to 5, got 0"),
        (dict(k=6), "expected k from 1 to 5, got 6"),
        (dict(k=2.0), "expected k from 1 to 5, got 2.0"),
        (dict(skip=6), "expected skip from 0 to 5, got 6"),
        (dict(skip=-1), "expected skip from 0 to 5, got -1"),
        (dict(every=0), "expected every to be a positive integer, got 0"),
        (dict(every="often"), "expected every to be a positive integer, got 'often'"),
    ],
)
def test_numbers_out_of_range(without_type_checker, options, match):
    with pytest.raises(ValueError, match=match):
        measure(random_problem("gru", 6), **options)


def test_what_is_not_finite_is_named_with_its_step(without_type_checker):
    problem = random_problem("gru", 6)
    with pytest.raises(NonFiniteError, match="expected finite xs, got NaN first at step 3 of 6"):
        measure(problem._replace(xs=problem.xs.at[2].set(jnp.nan)))
    step, w = linear(1e10 * np.eye(2, dtype=np.float32))
    with pytest.raises(NonFiniteError, match="finite states, got an infinity first at step 4 of 9"):
        lyapunov_spectrum(step, w, jnp.ones(2), jnp.zeros(9))


def test_a_step_whose_state_changes_shape(without_type_checker):
    def step(params, state, x):
        return jnp.concatenate([state, state]), None

    with pytest.raises(ShapeError, match="expected the step to keep the state"):
        lyapunov_spectrum(step, None, jnp.ones(2), jnp.zeros(9))


def test_a_key_that_is_none(without_type_checker):
    with pytest.raises(TypeError, match="expected one key from jax.random.key"):
        measure(random_problem("gru", 6), key=3)


def test_the_error_of_one_sample_is_that_of_the_rates_of_its_blocks(x64):
    """The rates of 20 blocks of two chunks each; the first chunk is left over."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, 41)
    growth = rng.standard_normal((41, 3))
    found = lyapunov._error_of_blocks(jnp.asarray(np.cumsum(growth, axis=0)), np.cumsum(lengths))
    rates = growth[1:].reshape(20, 2, 3).sum(1) / lengths[1:].reshape(20, 2).sum(1)[:, None]
    np.testing.assert_allclose(found, rates.std(axis=0, ddof=1) / np.sqrt(20), rtol=1e-12)
