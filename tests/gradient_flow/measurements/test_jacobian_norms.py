"""Log-norms of the transition against dense autodiff, known answers, and exact arithmetic."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import CELLS, random_problem
from dense import (
    LSTM_BLOCKS,
    LSTM_PATHS,
    all_states,
    assert_logs_close,
    log_norm,
    transitions,
)
from high_precision import log_singular_values, lstm_matrices, product
from slow_cases import slow_but

import lstm_jax
from gradient_flow import autodiff_norms, jacobian_norms
from lstm_jax.cells import LSTMState

ALL_NORMS = ("spectral", "frobenius", "smallest")


def measure(problem, **options):
    return jacobian_norms(problem.cell, problem.params, problem.state0, problem.xs, **options)


def shapes(problem, **options):
    """What `measure` returns, by its shapes alone: traced, but not compiled."""
    return jax.eval_shape(
        lambda params: measure(problem._replace(params=params), **options), problem.params
    )


# Against dense autodiff.


@pytest.mark.slow
def test_the_reference(x64):
    """The masked tail of `dense` is the tail: `jacrev` of an unroll that starts at k."""
    cell, params, xs, state0, *_ = random_problem("lstm", 40)
    dense = transitions(cell, params, state0, xs)
    states = all_states(cell.step, params, state0, xs)
    for k in (0, 17, 39):

        def from_k(state, k=k):
            return lstm_jax.unroll(cell, params, xs[k:], state, gradient="autodiff")[0]

        jacobian = jax.jacrev(from_k)(jax.tree.map(lambda s, k=k: s[k], states))
        for name in LSTM_BLOCKS:
            expected = getattr(getattr(jacobian, name[0]), name[1])
            np.testing.assert_allclose(dense[name][40 - k], expected, rtol=1e-12, atol=1e-30)


@pytest.mark.parametrize("name", slow_but(CELLS, "lstm"))
def test_every_block_at_every_lag_is_that_of_autodiff(x64, name):
    problem = random_problem(name, 40)
    dense = transitions(problem.cell, problem.params, problem.state0, problem.xs)
    flow = measure(problem, blocks=tuple(dense))
    assert set(dense) >= ({*LSTM_BLOCKS, *LSTM_PATHS} if name == "lstm" else {"hh"}) | {"ss"}
    assert list(flow.lags) == list(range(41)) and list(flow.times) == [40]
    for norm in ("spectral", "frobenius"):
        for block, matrices in dense.items():
            curve = getattr(flow, norm)[block]
            assert curve.shape == (41,) and curve.dtype == jnp.float64
            assert_logs_close(curve, log_norm(matrices, norm), 1e-10)
    assert flow.smallest == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gru", "rnn_tanh"])
def test_an_orderly_product_has_its_smallest_singular_value_from_numpy(x64, name):
    """At short lags a plain product is still well enough conditioned for numpy."""
    problem = random_problem(name, 4)
    dense = transitions(problem.cell, problem.params, problem.state0, problem.xs)
    flow = measure(problem, blocks=tuple(dense), norms=["smallest"], lags=[0, 1, 2])
    for block, matrices in dense.items():
        # Condition 1e6 at most, so numpy itself is good to about 1e-10.
        assert_logs_close(flow.smallest[block], log_norm(matrices[:3], "smallest"), 1e-8)


@pytest.mark.slow
def test_the_starting_state_ties_nothing_to_c(x64):
    """At k = 0, D_0 = 0: total_c is cc there, though not one step later."""
    flow = measure(random_problem("lstm", 6), blocks=["total_c", "cc"])
    total, cc = flow.spectral["total_c"], flow.spectral["cc"]
    assert_logs_close(total[6], cc[6], 1e-12)
    assert abs(total[5] - cc[5]) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn_relu"])
def test_the_closed_form_and_jacfwd_agree(x64, name):
    problem = random_problem(name, 60)
    step = problem.cell.step
    names = [a + b for a in problem.state0._fields for b in problem.state0._fields] + ["ss"]
    closed = measure(problem, blocks=names)
    general = measure(problem._replace(cell=step), blocks=names)
    for norm in ("spectral", "frobenius"):
        for block in names:
            assert_logs_close(getattr(general, norm)[block], getattr(closed, norm)[block], 1e-12)


@pytest.mark.slow
def test_the_closed_form_and_jacfwd_agree_on_the_smallest_too(x64):
    problem = random_problem("lstm", 60)
    options = dict(blocks=["ss", "hc"], norms=["smallest"])
    closed = measure(problem, **options)
    general = measure(problem._replace(cell=problem.cell.step), **options)
    # The smallest is as sensitive to the last digit of each J as J is badly conditioned.
    for block in ("ss", "hc"):
        assert_logs_close(general.smallest[block], closed.smallest[block], 1e-9)


@pytest.mark.slow
def test_the_chain_of_one_step_derivatives_is_not_the_whole_derivative(x64):
    flow = measure(random_problem("lstm", 40), blocks=["total_c", "chain_c"])
    total, chain = flow.spectral["total_c"], flow.spectral["chain_c"]
    assert_logs_close(total[:2], chain[:2], 1e-12)
    # From lag 2 on, o at each step between depends on C before it.
    assert (np.abs(np.expm1(np.asarray(chain - total)))[2:] > 1e-3).all()


# What is returned.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "norms", "blocks"),
    [("lstm", ["frobenius"], ["hc", "total_c", "carousel"]), ("gru", ["smallest"], ["hh"])],
)
def test_chosen_times_and_lags_are_slices(x64, name, norms, blocks):
    problem = random_problem(name, 20)
    times, lags = [20, 3], [5, 0, 11, 3]
    options = dict(norms=norms, blocks=blocks)
    flow = measure(problem, times=times, lags=lags, **options)
    assert list(flow.times) == times and list(flow.lags) == lags
    for n, t in enumerate(times):
        shorter = problem._replace(xs=problem.xs[:t])
        alone = measure(shorter, **options)
        for norm in norms:
            for block, curve in getattr(alone, norm).items():
                got = np.asarray(getattr(flow, norm)[block])
                assert got.shape == (2, 4)
                expected = [float(curve[lag]) if lag <= t else np.nan for lag in lags]
                assert_logs_close(got[n], np.array(expected), 1e-11)


@pytest.mark.slow
def test_times_without_lags_take_them_all(x64):
    flow = measure(random_problem("gru", 7), times=[2, 5])
    assert list(flow.lags) == [0, 1, 2, 3, 4, 5]
    curves = np.asarray(flow.spectral["hh"])
    np.testing.assert_array_equal(np.isnan(curves), [[False] * 3 + [True] * 3, [False] * 6])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "blocks"), [("lstm", ["hc", "total_c", "chain_c", "carousel"]), ("rnn_tanh", ["hh"])]
)
def test_lag_0_is_the_identity(name, blocks):
    flow = measure(random_problem(name, 3), norms=ALL_NORMS, blocks=blocks)
    for block, curve in flow.spectral.items():
        zero = -np.inf if block == "hc" else 0.0
        assert curve[0] == zero and flow.smallest[block][0] == zero
        frobenius = -np.inf if block == "hc" else np.log(5) / 2
        np.testing.assert_allclose(flow.frobenius[block][0], frobenius, rtol=1e-6)


@pytest.mark.slow
def test_blocks_and_norms_come_as_asked():
    problem = random_problem("lstm", 3)
    assert set(shapes(problem).spectral) == {*LSTM_BLOCKS, *LSTM_PATHS}
    flow = shapes(problem, blocks=["ch", "ss", "ch"], norms=["frobenius"])
    assert set(flow.frobenius) == {"ch", "ss"} and flow.spectral == flow.smallest == {}
    assert set(shapes(problem, blocks=["carousel"]).frobenius) == {"carousel"}
    assert set(shapes(random_problem("gru", 3)).spectral) == {"hh"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "plain", "norms"),
    [
        ("lstm", False, ("spectral", "smallest")),
        ("lstm", True, ("spectral",)),
        ("gru", False, ("frobenius",)),
        ("gru", True, ("smallest",)),
        ("rnn_tanh", False, ("spectral", "smallest")),
    ],
)
def test_a_batch_is_its_samples_one_by_one(x64, name, plain, norms):
    problem = random_problem(name, 12, 3)
    cell = problem.cell.step if plain else problem.cell
    blocks = None if plain or name != "lstm" else ["total_c", "chain_c", "carousel"]
    options = dict(times=[12, 5], norms=norms, blocks=blocks)
    flow = jacobian_norms(
        cell, problem.params, problem.state0, problem.xs, batched=True if plain else None, **options
    )
    for n in range(3):
        state0 = jax.tree.map(lambda s, n=n: s[n], problem.state0)
        alone = jacobian_norms(cell, problem.params, state0, problem.xs[:, n], **options)
        for norm in norms:
            for block, curves in getattr(alone, norm).items():
                got = getattr(flow, norm)[block]
                assert got.shape == (3, 2, 13)
                assert_logs_close(got[n], curves, 1e-9 if norm == "smallest" else 1e-12)


@pytest.mark.slow
def test_a_batch_without_chosen_times_has_no_axis_for_them():
    flow = measure(random_problem("gru", 4, 3))
    assert flow.spectral["hh"].shape == (3, 5)


@pytest.mark.slow
def test_a_missing_state_is_zeros():
    problem = random_problem("lstm", 5, 2)
    still = problem._replace(state0=jax.tree.map(jnp.zeros_like, problem.state0))
    given, missing = measure(still), measure(problem._replace(state0=None))
    for block, curve in given.spectral.items():
        np.testing.assert_array_equal(missing.spectral[block], curve)


# Known answers.


def orthogonal_network(gamma, dtype, size=8):
    """An identity RNN at rest whose W_h is γ times an orthogonal matrix."""
    cell = lstm_jax.rnn(2, size, activation="identity")
    params = cell.init(jax.random.key(0), dtype)
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((size, size)))[0]
    params = params._replace(w_h=jnp.asarray(gamma * q, dtype))
    return cell, params


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [0.9, 1.1])
def test_a_scaled_rotation_has_log_norm_lag_log_gamma(x64, gamma):
    cell, params = orthogonal_network(gamma, jnp.float64)
    flow = jacobian_norms(cell, params, None, jnp.zeros((300, 2)), norms=ALL_NORMS)
    expected = flow.lags * np.log(gamma)
    # Each of 300 products rounds by a few units of 1e-16.
    assert_logs_close(flow.spectral["hh"], expected, 1e-12)
    assert_logs_close(flow.smallest["hh"], expected, 1e-12)
    assert_logs_close(flow.frobenius["hh"], expected + np.log(8) / 2, 1e-12)


@pytest.mark.parametrize(
    ("gamma", "length"),
    slow_but([(0.9, 300), (0.5, 10_000), (0.9, 10_000), (1.1, 10_000)], (0.5, 10_000)),
)
def test_a_scaled_rotation_in_float32(gamma, length):
    cell, params = orthogonal_network(gamma, jnp.float32)
    lags = [1, 10, length // 2, length]
    flow = jacobian_norms(cell, params, None, jnp.zeros((length, 2)), norms=ALL_NORMS, lags=lags)
    expected = np.array(lags) * np.log(gamma)
    # A step adds some 1e-7 to a log that grows by |log γ| ≥ 0.095 a step: 1e-6 of the whole, and ten
    # times that to be safe; 1e-6 for the rounding of the logarithm itself near 0.
    assert_logs_close(flow.spectral["hh"], expected, 1e-6, 1e-5)
    assert_logs_close(flow.smallest["hh"], expected, 1e-6, 1e-5)
    assert_logs_close(flow.frobenius["hh"], expected + np.log(8) / 2, 1e-6, 1e-5)


@pytest.mark.slow
def test_an_lstm_without_recurrent_weights_is_its_carousel():
    length = 2000
    cell, params, xs, state0, *_ = random_problem("lstm", length, dtype=jnp.float32)
    params = params._replace(w_h=jnp.zeros_like(params.w_h))
    flow = jacobian_norms(cell, params, state0, xs, norms=ALL_NORMS, lags=[1, 2, 30, length])
    z_f = np.asarray(xs, np.float64) @ np.asarray(params.w_x, np.float64)[:, 5:10]
    log_f = -np.log1p(np.exp(-(z_f + np.asarray(params.b, np.float64)[None, 5:10])))
    sums = np.stack([log_f[length - lag :].sum(0) for lag in flow.lags])
    for block in ("cc", "carousel", "total_c", "chain_c"):
        assert_logs_close(flow.spectral[block], sums.max(1), 1e-6, 1e-5)
        assert_logs_close(flow.smallest[block], sums.min(1), 1e-6, 1e-5)
        frobenius = np.logaddexp.reduce(2 * sums, axis=1) / 2
        assert_logs_close(flow.frobenius[block], frobenius, 1e-6, 1e-5)
    for norm in ALL_NORMS:
        for block in ("hh", "ch"):
            assert np.isneginf(getattr(flow, norm)[block]).all()
    assert np.isfinite(flow.smallest["hc"]).all()


@pytest.mark.slow
def test_a_carousel_keeps_the_digits_of_an_open_gate(x64):
    """Where 1 − f is below the precision of f, log f is still −(1 − f), not 0."""
    cell, params, xs, state0, *_ = random_problem("lstm", 10)
    w_x, w_h = jnp.zeros_like(params.w_x), jnp.zeros_like(params.w_h)
    params = params._replace(w_x=w_x, w_h=w_h, b=jnp.full_like(params.b, 40.0))
    flow = jacobian_norms(cell, params, state0, xs, blocks=["carousel"])
    np.testing.assert_allclose(
        flow.spectral["carousel"], -np.arange(11) * np.log1p(np.exp(-40.0)), rtol=1e-12
    )


# Long sequences.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "length"), [("lstm", 300), ("lstm", 10_000), ("gru", 10_000), ("rnn_tanh", 10_000)]
)
def test_float32_agrees_with_float64_where_autodiff_returns_zero(name, length):
    biases = {"lstm": {"forget_bias": 0.0}}.get(name, {})
    make = {"lstm": lstm_jax.lstm, "gru": lstm_jax.gru, "rnn_tanh": lstm_jax.rnn}[name]
    cell = make(3, 16, **biases)
    params = cell.init(jax.random.key(0), jnp.float32)
    xs = jax.random.normal(jax.random.key(1), (length, 3), jnp.float32)
    lags = [lag for lag in (1, 2, 10, 100, 300, 1000, 3000, 10_000) if lag <= length]
    single = jacobian_norms(cell, params, None, xs, lags=lags)
    with jax.enable_x64(True):
        widen = partial(jax.tree.map, lambda leaf: leaf.astype(jnp.float64))
        double = jacobian_norms(cell, widen(params), None, widen(xs), lags=lags)
    for norm in ("spectral", "frobenius"):
        for block, curve in getattr(single, norm).items():
            assert curve.dtype == jnp.float32
            assert np.isfinite(curve).all()
            # A step adds some 1e-7 of float32 rounding, and takes about 0.5 off the log.
            assert_logs_close(curve, getattr(double, norm)[block], 1e-5, 1e-4)
    assert single.spectral["hh"][-1] < -104  # below the smallest float32, denormals included
    by_autodiff = autodiff_norms(cell, params, None, xs)
    assert by_autodiff[length] == 0.0 < by_autodiff[1]


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["spectral", "smallest"])
def test_parts_that_drift_1000_decades_apart_are_both_right(norm):
    rates = {"a": 0.5, "b": 0.999, "c": 2.0}

    def step(params, state, x):
        return {name: params[name] * state[name] for name in state}, x

    params = {name: jnp.full(2, rate, jnp.float32) for name, rate in rates.items()}
    state0 = {name: jnp.zeros(2, jnp.float32) for name in rates}
    flow = jacobian_norms(
        step, params, state0, jnp.zeros((4000, 1)), norms=[norm], lags=[1, 1000, 4000]
    )
    curves = getattr(flow, norm)
    for name, rate in rates.items():
        # A float32 log is good to 1e-7 of itself; 0.999 as float32 to 3e-8, 3e-5 of its log.
        assert_logs_close(curves[name + name], flow.lags * np.log(np.float32(rate)), 1e-6, 1e-5)
    for block in ("ab", "ac", "ba", "bc", "ca", "cb"):
        assert np.isneginf(curves[block]).all()


# Steps of one's own.


def mixed_step(params, state, x):
    """A dict of a scalar, a matrix, a counter and a key; the key and the counter matter."""
    key, now = jax.random.split(state["k"])
    noise = jax.random.uniform(now, state["m"].shape, state["m"].dtype, 0.5, 1.0)
    even = jnp.where(state["n"] % 2 == 0, 1.0, 0.5).astype(state["a"].dtype)
    a = even * params["p"] * jnp.tanh(state["a"]) + jnp.sum(state["m"] * noise)
    m = noise * jnp.sin(state["m"] + state["a"] * params["q"]) + x["u"]
    return {"a": a, "m": m, "k": key, "n": state["n"] + 1}, a


@pytest.mark.slow
def test_a_dict_with_a_scalar_a_matrix_a_counter_and_a_key(x64):
    rng = np.random.default_rng(0)
    params = {"p": jnp.asarray(0.7), "q": jnp.asarray(rng.standard_normal((2, 3)))}
    state0 = {
        "a": jnp.asarray(0.3),
        "m": jnp.asarray(rng.standard_normal((2, 3))),
        "k": jax.random.key(3),
        "n": jnp.asarray(0, jnp.int32),
    }
    length, one_step = 5, jax.jit(mixed_step)
    xs = {"u": jnp.asarray(rng.standard_normal((length, 2, 3)))}
    flow = jacobian_norms(mixed_step, params, state0, xs, blocks=["aa", "am", "ma", "mm", "ss"])
    assert set(jacobian_norms(mixed_step, params, state0, xs).spectral) == {"aa", "am", "ma", "mm"}
    states = [state0]
    for n in range(length):
        states.append(one_step(params, states[-1], {"u": xs["u"][n]})[0])

    @jax.jit
    def jacobians(states):
        """Of all tails, in one program."""

        def last(k, moving):
            state = {**states[k], **moving}
            for n in range(k, length):
                state, _ = one_step(params, state, {"u": xs["u"][n]})
            return {"a": state["a"], "m": state["m"]}

        return [
            jax.jacrev(partial(last, k))({"a": state["a"], "m": state["m"]})
            for k, state in enumerate(states)
        ]

    for k, jacobian in enumerate(jacobians(states)):
        sizes = {"a": 1, "m": 6}
        blocks = {
            row + column: np.asarray(jacobian[row][column]).reshape(sizes[row], sizes[column])
            for row in sizes
            for column in sizes
        }
        blocks["ss"] = np.block([[blocks["aa"], blocks["am"]], [blocks["ma"], blocks["mm"]]])
        for norm in ("spectral", "frobenius"):
            for name, matrix in blocks.items():
                assert_logs_close(
                    getattr(flow, norm)[name][length - k], log_norm(matrix, norm), 1e-12
                )


def rates_step(params, state, x):
    return jax.tree.map(lambda rate, s: rate * s, params, state), None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("state", "names"),
    [
        (jnp.ones(2), {"ss"}),
        ((jnp.ones(2), jnp.ones(3)), {"00", "01", "10", "11"}),
        (((jnp.ones(2),), jnp.ones(3)), {"0.0,0.0", "0.0,1", "1,0.0", "1,1"}),
        ({"hidden": jnp.ones(2)}, {"hidden,hidden"}),
        (
            {"h": jnp.ones(2), "cell": jnp.ones(1)},
            {"h,h", "h,cell", "cell,h", "cell,cell"},
        ),
        ({"layers": [LSTMState(jnp.ones(1), jnp.ones(1))]}, None),
    ],
    ids=["array", "pair", "nested", "long", "mixed", "deep"],
)
def test_names_of_blocks(state, names):
    rates = jax.tree.map(lambda s: jnp.full_like(s, 0.5), state)
    flow = jax.eval_shape(
        lambda rates: jacobian_norms(rates_step, rates, state, jnp.zeros((3, 1))), rates
    )
    parts = ["layers.0.h", "layers.0.c"]
    assert set(flow.spectral) == (names or {f"{a},{b}" for a in parts for b in parts})


@pytest.mark.slow
def test_a_part_called_s_is_not_taken_for_the_whole():
    rates = {"s": jnp.full(2, 0.5), "h": jnp.full(2, 0.9)}
    state0 = {"s": jnp.ones(2), "h": jnp.ones(2)}
    blocks = ["s,s", "h,h", "ss"]
    flow = jacobian_norms(rates_step, rates, state0, jnp.zeros((3, 1)), blocks=blocks)
    for block, rate in zip(blocks, (0.5, 0.9, 0.9), strict=True):
        np.testing.assert_allclose(flow.spectral[block], flow.lags * np.log(rate), rtol=1e-5)


@pytest.mark.slow
def test_a_derivative_that_does_not_exist_is_nan_not_zero():
    def step(params, state, x):
        return jnp.sqrt(0 * state), None

    flow = jacobian_norms(step, None, jnp.ones(2), jnp.zeros((3, 1)), norms=ALL_NORMS)
    for norm in ALL_NORMS:
        curve = getattr(flow, norm)["ss"]
        assert np.isfinite(curve[0]) and np.isnan(curve[1:]).all()


# Transformations.


@pytest.mark.slow
def test_under_jit_and_vmap(x64):
    problem = random_problem("lstm", 10)
    blocks = ["hh", "total_c", "carousel"]
    direct = measure(problem, blocks=blocks)

    @jax.jit
    def curves(params, state0, xs):
        flow = jacobian_norms(problem.cell, params, state0, xs, blocks=blocks)
        return flow.spectral, flow.frobenius

    traced = curves(problem.params, problem.state0, problem.xs)
    for got, expected in zip(traced, (direct.spectral, direct.frobenius), strict=True):
        for block in expected:
            assert_logs_close(got[block], expected[block], 1e-12)

    several = jax.tree.map(lambda p: jnp.stack([p, 0.5 * p]), problem.params)
    mapped, _ = jax.vmap(curves, in_axes=(0, None, None))(several, problem.state0, problem.xs)
    halved = problem._replace(params=jax.tree.map(lambda p: 0.5 * p, problem.params))
    halved = measure(halved, blocks=blocks)
    for block, expected in direct.spectral.items():
        assert_logs_close(mapped[block][0], expected, 1e-12)
        assert_logs_close(mapped[block][1], halved.spectral[block], 1e-12)


@pytest.mark.slow
def test_under_jit_with_the_data_held_fixed():
    """What `jax.jit` closes over is concrete, but what is computed of it is traced."""
    problem = random_problem("gru", 5)
    expected = measure(problem).spectral["hh"]
    curve = jax.jit(lambda p: measure(problem._replace(params=p)).spectral["hh"])
    assert_logs_close(curve(problem.params), expected, 1e-6)
    assert_logs_close(jax.jit(lambda: measure(problem).spectral["hh"])(), expected, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["spectral", "frobenius"])
def test_the_gradient_of_log_norms(x64, norm):
    problem = random_problem("lstm", 8)
    weights = {"hh": 1.0, "total_c": -0.7, "chain_c": 0.4, "carousel": 0.3}

    def log_norm_of(params):
        flow = measure(problem._replace(params=params), norms=[norm], blocks=list(weights))
        curves = getattr(flow, norm)
        return sum(weight * curves[block][6] for block, weight in weights.items())

    direction = jax.tree.map(
        lambda p: jnp.asarray(np.random.default_rng(1).standard_normal(p.shape)), problem.params
    )
    gradient = jax.grad(log_norm_of)(problem.params)
    slope = sum(jnp.vdot(g, d) for g, d in zip(gradient, direction, strict=True))

    def moved(size):
        return log_norm_of(jax.tree.map(lambda p, d: p + size * d, problem.params, direction))

    size = 1e-5
    differences = (moved(size) - moved(-size)) / (2 * size)
    # Central differences at 1e-5: 1e-10 of truncation and 1e-11 of rounding, on slopes about 1.
    np.testing.assert_allclose(slope, differences, rtol=1e-7, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["spectral", "frobenius"])
def test_a_product_that_becomes_zero_leaves_the_gradient_finite(norm):
    cell = lstm_jax.rnn(2, 3, activation="identity")
    params = cell.init(jax.random.key(0))
    nilpotent = params._replace(w_h=jnp.array([[0, 1.0, 2.0], [0, 0, 3.0], [0, 0, 0]]))

    def log_norm_of(params):
        flow = jacobian_norms(cell, params, None, jnp.ones((6, 2)), norms=[norm])
        return getattr(flow, norm)["hh"][2]

    gradient = jax.grad(log_norm_of)(nilpotent)
    assert all(np.isfinite(leaf).all() for leaf in gradient)
    assert np.abs(gradient.w_h).max() > 0.1


@pytest.mark.slow
def test_a_gradient_far_below_the_range_of_float32():
    cell, params = orthogonal_network(0.5, jnp.float32)

    def log_norm_of(scale):
        scaled = params._replace(w_h=scale * params.w_h)
        flow = jacobian_norms(cell, scaled, None, jnp.zeros((400, 2)), lags=[400])
        return flow.frobenius["hh"][0]

    # log ‖P‖ = 400 (log scale + log γ), so its derivative at scale 1 is 400.
    np.testing.assert_allclose(jax.grad(log_norm_of)(jnp.float32(1.0)), 400.0, rtol=1e-4)


# The smallest singular value, against exact arithmetic.


@pytest.mark.slow
def test_smallest_singular_values_of_an_lstm(x64):
    cell, params, xs, state0, *_ = random_problem("lstm", 60, hidden_size=3, scale=1.0)
    blocks = ("ss", *LSTM_BLOCKS, "total_c", "chain_c")
    lags = (1, 10, 30, 59)
    flow = jacobian_norms(cell, params, state0, xs, blocks=blocks, norms=ALL_NORMS, lags=lags)
    states = all_states(cell.step, params, state0, xs)
    beyond_float64 = set()
    for n, lag in enumerate(lags):
        for block, matrix in lstm_matrices(cell, params, states, xs, lag).items():
            logs = log_singular_values(matrix)
            assert_logs_close(flow.smallest[block][n], logs[-1], 1e-8)
            assert_logs_close(flow.spectral[block][n], logs[0], 1e-10)
            plain = np.array(matrix.tolist(), dtype=np.float64).reshape(matrix.rows, matrix.cols)
            # Rounded to float64 even the exact product has lost it, by whole factors of e.
            if logs[0] - logs[-1] > np.log(1e18):
                beyond_float64.add(block)
                assert abs(log_norm(plain, "smallest") - logs[-1]) > 0.1
    assert beyond_float64 == set(blocks)


@pytest.mark.slow
def test_smallest_singular_values_in_float32():
    cell, params, xs, state0, *_ = random_problem(
        "lstm", 60, hidden_size=3, scale=1.0, dtype=jnp.float32
    )
    blocks = ("ss", "hh", "total_c", "chain_c")
    flow = jacobian_norms(
        cell, params, state0, xs, blocks=blocks, norms=["smallest"], lags=[10, 59]
    )
    states = all_states(cell.step, params, state0, xs)
    with jax.enable_x64(True):
        # The truth: exact Jacobians at the float32 states, multiplied exactly.
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), (params, states, xs))
        for n, lag in enumerate((10, 59)):
            matrices = lstm_matrices(cell, *wide, lag)
            # A rounding of J_j moves its smallest singular value by up to eps times J_j's condition.
            conditions = [
                np.linalg.cond(transition_matrix(cell, *wide, j)) for j in range(60 - lag, 60)
            ]
            bound = float(jnp.finfo(jnp.float32).eps) * sum(conditions)
            assert bound < 0.05
            for block in blocks:
                expected = log_singular_values(matrices[block])[-1]
                assert_logs_close(flow.smallest[block][n], expected, bound)


def transition_matrix(cell, params, states, xs, n):
    """The dense J_{n+1}."""
    jacobian = cell.step_jacobian(params, jax.tree.map(lambda s: s[n], states), xs[n])
    return np.block(
        [[np.diag(b) if b.ndim == 1 else np.asarray(b) for b in line] for line in jacobian]
    )


@pytest.mark.parametrize("seed", slow_but(range(3), 0))
def test_smallest_singular_value_of_random_matrices(x64, seed):
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((60, 4, 4))

    def step(params, state, x):
        return x @ state, None

    flow = jacobian_norms(
        step, None, jnp.zeros(4), jnp.asarray(factors), norms=["spectral", "smallest"], lags=[60]
    )
    logs = log_singular_values(product(factors))
    assert logs[0] - logs[-1] > np.log(1e18)
    assert_logs_close(flow.smallest["ss"][0], logs[-1], 1e-8)
    assert_logs_close(flow.spectral["ss"][0], logs[0], 1e-10)
    plain = np.linalg.multi_dot(factors[::-1])
    assert abs(log_norm(plain, "smallest") - logs[-1]) > 1


class TestSaturation:
    """Slopes that round to 0 in terms of the function's value are small, not zero."""

    @pytest.mark.slow
    def test_a_tanh_far_out(self):
        cell = lstm_jax.rnn(1, 1)
        params = lstm_jax.RNNParams(jnp.zeros((1, 1)), jnp.ones((1, 1)), jnp.full(1, 10.0))
        flow = jacobian_norms(cell, params, None, jnp.zeros((3, 1)), lags=[3])
        z = np.array([10.0, 11.0, 11.0])  # h is 1 to 4e-9 from the first step on
        expected = np.sum(np.log(4) - 2 * z - 2 * np.log1p(np.exp(-2 * z)))
        assert_logs_close(flow.spectral["hh"], np.array([expected]), 1e-5)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["lstm", "gru"])
    def test_gates_far_open_in_float32_as_in_float64(self, name):
        cell, params, xs, state0, *_ = random_problem(name, 20, dtype=jnp.float32)
        params = params._replace(b=params.b + 15)
        low = jacobian_norms(cell, params, state0, xs)
        with jax.enable_x64(True):
            wide = jax.tree.map(
                lambda a: jnp.asarray(np.asarray(a, np.float64)), (params, state0, xs)
            )
            high = jacobian_norms(cell, *wide)
        for block, logs in high.spectral.items():
            assert np.isfinite(logs[1:]).all()
            # The states are float32's own, and gates this far out turn 1e-7 of z into 1e-6 of a slope.
            assert_logs_close(low.spectral[block][1:], np.asarray(logs[1:]), 1e-3, 1e-5)


class TestDrift:
    """Units that do not talk to each other drift apart, and the small one may come back."""

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_a_plain_step(self, x64, dtype):
        xs = np.array([[1e-3, 1e3]] * 20 + [[1.0, 1e-3]] * 20, dtype)
        flow = jacobian_norms(
            lambda p, s, x: (s * x, s),
            (),
            jnp.zeros(2, dtype),
            jnp.asarray(xs),
            norms=["spectral", "smallest"],
        )
        logs = np.cumsum(np.log(xs[::-1].astype(np.float64)), axis=0)
        assert_logs_close(flow.spectral["ss"][1:], logs.max(1), 1e-4)
        assert_logs_close(flow.smallest["ss"][1:], logs.min(1), 1e-4)

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_an_lstm_without_recurrent_weights(self, x64, dtype):
        cell = lstm_jax.lstm(2, 2)
        w_x = np.zeros((2, 8), dtype)
        w_x[0, 2] = w_x[1, 3] = 1.0
        params = lstm_jax.LSTMParams(
            jnp.asarray(w_x), jnp.zeros((2, 8), dtype), jnp.zeros(8, dtype)
        )
        xs = jnp.asarray(np.array([[-1, 8]] * 800 + [[8, -1]] * 700, dtype))
        flow = jacobian_norms(cell, params, None, xs, lags=[100, 700, 1400, 1500])
        for norm in (flow.spectral, flow.frobenius):
            assert_logs_close(norm["cc"], np.asarray(norm["carousel"], np.float64), 1e-4, 1e-5)
