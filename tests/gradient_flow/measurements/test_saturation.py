"""Gates and memories saturated so far that a factor of one step underflows, against mpmath."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from dense import all_states, assert_logs_close
from high_precision import DIGITS, exact, log_singular_values
from mpmath import mp

import lstm_jax
from gradient_flow import credit, detour_norms, gate_path_norms, jacobian_norms

T, H = 3, 2
CELL = lstm_jax.lstm(2, H)


def problem(dtype, memory):
    """A memory that stays at ±memory, a closed input gate, and a g driven as far."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.5 * rng.standard_normal(leaf.shape), dtype),
        jax.eval_shape(CELL.init, jax.random.key(0)),
    )
    drives = np.repeat([-1.5 * memory, 2 * memory, memory, 0.5], H)
    params = params._replace(b=params.b + jnp.asarray(drives, dtype))
    state0 = CELL.initial_state(dtype=dtype)._replace(c=jnp.asarray([memory, -memory], dtype))
    return params, state0, jnp.asarray(rng.standard_normal((T, 2)), dtype)


def exact_steps(params, state0, xs):
    """J_t as nested mpmath matrices, gate by gate, and D_t, from the states of the float run."""
    states = jax.tree.map(np.asarray, all_states(CELL.step, params, state0, xs))
    w_x, w_h, b = map(exact, params)

    def sigmoid(z):
        return 1 / (1 + mpmath.exp(-z))

    found = []
    for t in range(T):
        z = exact(xs[t]) * w_x + exact(states.h[t]) * w_h + b
        z_i, z_f, z_g, z_o = ([z[0, n * H + j] for j in range(H)] for n in range(4))
        c, c_prev = ([mpmath.mpf(float(v)) for v in states.c[n]] for n in (t + 1, t))
        slope = [sigmoid(v) * sigmoid(-v) for v in [*z_i, *z_f, *z_o]]
        tanh_slope = [1 - mpmath.tanh(v) ** 2 for v in [*z_g, *c]]
        d = [sigmoid(z_o[j]) * tanh_slope[H + j] for j in range(H)]
        by_gate = {
            "i": [mpmath.tanh(z_g[j]) * slope[j] for j in range(H)],
            "f": [c_prev[j] * slope[H + j] for j in range(H)],
            "g": [sigmoid(z_i[j]) * tanh_slope[j] for j in range(H)],
            "o": [mpmath.tanh(c[j]) * slope[2 * H + j] for j in range(H)],
        }
        rows = {
            gate: mpmath.diag(factors) * w_h[:, n * H : (n + 1) * H].T
            for n, (gate, factors) in enumerate(by_gate.items())
        }
        found.append((rows, mpmath.diag(d), mpmath.diag([sigmoid(v) for v in z_f])))
    return found


def whole(step, kept="ifgo"):
    rows, d, f = step
    none = mpmath.zeros(H)
    c_h = sum((rows[gate] for gate in "ifg" if gate in kept), start=none)
    h_h = (rows["o"] if "o" in kept else none) + d * c_h
    matrix = mpmath.zeros(2 * H)
    matrix[:H, :H], matrix[:H, H:], matrix[H:, :H], matrix[H:, H:] = h_h, d * f, c_h, f
    return matrix


def product(steps, kept="ifgo"):
    matrix = mpmath.eye(2 * H)
    for step in steps:
        matrix = whole(step, kept) * matrix
    return matrix


def largest(matrix):
    return log_singular_values(matrix)[0]


@pytest.mark.slow
def test_one_step_of_a_saturated_memory():
    """W = 0: log ‖∂h/∂C_{t−1}‖ = log σ(b_o) + log(1 − tanh² C) + log σ(b_f), at C = 60 in float32."""
    zeros = jax.tree.map(jnp.zeros_like, CELL.init(jax.random.key(0)))
    b = jnp.repeat(jnp.asarray([-30.0, 20.0, 0.0, 1.0]), H)
    state = CELL.initial_state()._replace(c=jnp.full(H, 60.0))
    found = jacobian_norms(
        CELL,
        zeros._replace(b=b),
        state,
        jnp.zeros((1, 2)),
        blocks=["hc"],
        norms=["spectral"],
    )
    expected = -np.log1p(np.exp(-1.0)) + np.log(4.0) - 120.0
    assert float(found.spectral["hc"][1]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "memory"), [("float32", 60.0), ("float64", 400.0)])
def test_an_lstm_whose_memory_saturates(x64, dtype, memory):
    params, state0, xs = problem(dtype, memory)
    tolerance = 1e-3 if dtype == "float32" else 1e-10
    names = ["hh", "hc", "ch", "cc", "ss", "total_c", "chain_c"]
    found = jacobian_norms(CELL, params, state0, xs, blocks=names, norms=["spectral"])
    with mp.workdps(DIGITS):
        steps = exact_steps(params, state0, xs)
        # The factors of a single step are below the dtype.
        assert largest(steps[-1][1]) < np.log(jnp.finfo(dtype).smallest_subnormal)
        for lag in (1, 2):
            last = steps[T - lag :]
            p, d = product(last), steps[T - lag - 1][1]
            chain = mpmath.eye(H)
            for step, before in zip(last, steps[T - lag - 1 :], strict=False):
                chain = (whole(step)[H:, :H] * before[1] + step[2]) * chain
            expected = {
                "hh": p[:H, :H],
                "hc": p[:H, H:],
                "ch": p[H:, :H],
                "cc": p[H:, H:],
                "ss": p,
                "total_c": p[H:, :H] * d + p[H:, H:],
                "chain_c": chain,
            }
            for name, matrix in expected.items():
                assert_logs_close(found.spectral[name][lag], largest(matrix), tolerance)


@pytest.mark.slow
def test_paths_of_a_saturated_lstm_by_gate_and_by_detour():
    params, state0, xs = problem("float32", 60.0)
    kept = ["", "g", "o", "if", "ifgo"]
    cut = gate_path_norms(CELL, params, state0, xs, kept=kept, lags=[1, 2], blocks=["hh", "hc"])
    paths = detour_norms(
        CELL, params, state0, xs, most=1, lags=[1, 2], blocks=["hh", "hc"], norms=["spectral"]
    )
    with mp.workdps(DIGITS):
        steps = exact_steps(params, state0, xs)
        for n, lag in enumerate((1, 2)):
            last = steps[T - lag :]
            for m, gates in enumerate(kept):
                p = product(last, gates)
                assert_logs_close(cut.spectral["hc"][m, n], largest(p[:H, H:]), 1e-3)
                assert_logs_close(cut.spectral["hh"][m, n], largest(p[:H, :H]), 1e-3)
            for place, gates in ((0, ""), (-1, "ifgo")):
                p = product(last, gates)
                value = paths.spectral if place == 0 else paths.whole_spectral
                logs = value["hc"][n, 0] if place == 0 else value["hc"][n]
                assert_logs_close(logs, largest(p[:H, H:]), 1e-3)


@pytest.mark.slow
def test_credit_of_a_saturated_lstm():
    params, state0, xs = problem("float32", 60.0)
    found = credit(CELL, params, state0, xs, lambda state: jnp.sum(state.h))
    with mp.workdps(DIGITS):
        steps = exact_steps(params, state0, xs)
        for k in range(T + 1):
            row = mpmath.matrix([[1] * H + [0] * H]) * product(steps[k:])
            d_h, d_c = row[:, :H], row[:, H:]
            d = steps[k - 1][1] if k else mpmath.zeros(H)
            for value, expected in (
                (found.states["h"][k], d_h),
                (found.states["c"][k], d_c),
                (found.total_c[k], d_h * d + d_c),
            ):
                assert_logs_close(value, largest(expected), 1e-3)


@pytest.mark.slow
def test_a_tanh_and_a_gru_driven_far_out():
    """One unit each: log tanh'(z) w, and the log of (1−u)(1−n²) r w where u is closed."""
    z = 200.0
    one, no = jnp.ones((1, 1)), jnp.zeros((2, 1))
    tanh = lstm_jax.rnn(1, 1)
    params = lstm_jax.RNNParams(one, 0.5 * one, jnp.full(1, z))
    found = jacobian_norms(tanh, params, None, no, lags=[1, 2]).spectral["hh"]
    # z_1 = 200, and z_2 = 200.5 since h_1 is 1.
    slopes = np.log(4) - 2 * np.array([z + 0.5, z]) + np.log(0.5)
    expected = np.cumsum(slopes)
    assert_logs_close(found, expected, 1e-4)
    gru = lstm_jax.gru(1, 1)
    params = lstm_jax.GRUParams(
        jnp.zeros((1, 3)), jnp.asarray([[0.0, 0.0, 0.5]]), jnp.asarray([z, -2 * z, z]), jnp.zeros(1)
    )
    found = jacobian_norms(gru, params, None, no, lags=[1]).spectral["hh"]
    # u = e^{−2z} and the way through n 2 e^{−2z − 1}: 1 + 2/e, with h_1 = 1.
    assert_logs_close(found, np.array([-2 * z + np.log(1 + 2 / np.e)]), 1e-4)
