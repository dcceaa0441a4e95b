"""Norms by probes against the exact ones, their intervals over many keys, and large states."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import random_problem
from dense import assert_logs_close
from slow_cases import slow_but

import gradient_flow
import lstm_jax
from gradient_flow import jacobian_norms, probe_norms
from gradient_flow.step_jacobians.state_layout import from_flat, layout_of, moving_parts
from gradient_flow.step_jacobians.vector_products import step_jvp, step_vjp

KEY = jax.random.key(3)


def problem(cell, time=30):
    params = cell.init(jax.random.key(0))
    return cell, params, None, jax.random.normal(jax.random.key(1), (time, 3))


CELLS = {
    "lstm": lambda: lstm_jax.lstm(3, 12),
    "gru": lambda: lstm_jax.gru(3, 12),
    "rnn": lambda: lstm_jax.rnn(3, 12),
    "variant": lambda: lstm_jax.lstm(3, 12, peepholes=True, projection_size=8, layer_norm=True),
}


@pytest.mark.parametrize("name", slow_but(CELLS, "lstm"))
def test_moves_are_products_with_the_step_jacobian(x64, name):
    cell, params, _, xs = problem(CELLS[name]())
    state, _ = lstm_jax.unroll(cell, params, xs)
    layout = layout_of(state)
    blocks = [
        [jnp.diag(b) if b.ndim == 1 else b for b in row]
        for row in cell.step_jacobian(params, state, xs[0])
    ]
    j = np.asarray(jnp.block(blocks))
    rows = jax.random.normal(KEY, (5, len(j)))

    def step(params, state, x):
        return cell.step(params, state, x)

    for one in (cell, step):
        jvp = step_jvp(one, layout, form_jacobian=False)
        _, forth = jax.jit(jvp)(params, state, xs[0], rows.T)
        vjp = step_vjp(one, layout)

        @jax.jit
        @jax.vmap
        def backward(row, vjp=vjp):
            parts = list(moving_parts(layout, from_flat(layout, state, row)))
            _, before, _ = vjp(params, state, xs[0], parts)
            return jnp.concatenate([jnp.ravel(part) for part in before])

        back = backward(rows)
        np.testing.assert_allclose(forth.T, rows @ j.T, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(back, rows @ j, rtol=1e-10, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "block"), [("lstm", "hc"), ("gru", "ss")])
def test_intervals_hold_the_exact_norms(x64, name, block):
    """At 99.9 % each, none is missed by these keys."""
    given = problem(CELLS[name]())
    exact = jacobian_norms(*given, blocks=[block])
    lags = [1, 5, 30]
    measure = jax.jit(  # once for all keys
        partial(
            probe_norms,
            block=block,
            probes=gradient_flow.Probes(8, lags=lags, spectral_lags=lags, confidence=0.999),
        ),
        static_argnums=0,
    )
    for seed in range(7):
        found = measure(*given, jax.random.key(seed))
        frobenius, spectral = (
            np.asarray(n[block])[lags] for n in (exact.frobenius, exact.spectral)
        )
        assert (found.frobenius_low <= frobenius).all()
        assert (frobenius <= found.frobenius_high).all()
        assert (found.spectral <= spectral + 1e-12).all()
        assert (spectral <= found.spectral_high).all()
        np.testing.assert_allclose(found.spectral, spectral, atol=0.05)


@pytest.mark.slow
def test_the_interval_is_not_wider_than_it_says(x64):
    """A transition of rank one, for which it is exact: 80 % intervals miss one of five."""

    def step(params, state, x):
        return params * state.sum() + x, state

    params, xs, state0 = jnp.linspace(1.0, 2.0, 6), jnp.zeros((3, 6)), jnp.ones(6)
    exact = jacobian_norms(step, params, state0, xs).frobenius["ss"][3]
    measure = jax.jit(
        lambda key: probe_norms(
            step,
            params,
            state0,
            xs,
            key,
            probes=gradient_flow.Probes(number=4, lags=[3], confidence=0.8),
        )
    )
    held = 0
    for seed in range(300):
        found = measure(jax.random.key(seed))
        held += bool(found.frobenius_low[0] <= exact <= found.frobenius_high[0])
    # Binomial: 240 ± 4.3 standard deviations of 6.9.
    assert 210 < held < 270


@pytest.mark.slow
def test_with_as_many_probes_as_columns_the_spectral_norm_is_exact(x64):
    given = problem(lstm_jax.lstm(3, 6))
    exact = jacobian_norms(*given, blocks=["ch"]).spectral["ch"]
    found = probe_norms(
        *given,
        KEY,
        block="ch",
        probes=gradient_flow.Probes(number=6, lags=[0], spectral_lags=[2, 9, 30]),
    )
    assert_logs_close(found.spectral, exact[np.asarray([2, 9, 30])], 1e-9)
    np.testing.assert_allclose(found.spectral_high, found.spectral, atol=1e-9)


@pytest.mark.slow
def test_nothing_underflows():
    cell = lstm_jax.rnn(3, 16, activation="identity", w_h_init=lstm_jax.orthogonal(0.5))
    params, xs = cell.init(jax.random.key(0)), jnp.zeros((1_500, 3))
    found = probe_norms(
        cell,
        params,
        None,
        xs,
        KEY,
        probes=gradient_flow.Probes(lags=[1_500], spectral_lags=[1_500]),
    )
    expected = 1_500 * np.log(0.5)
    np.testing.assert_allclose(found.spectral, expected, rtol=1e-5)
    whole = expected + np.log(4)  # √16 times as large
    assert found.frobenius_low[0] < whole < found.frobenius_high[0]


@pytest.mark.slow
def test_a_thousand_units():
    """H = 1024, against what an orthogonal matrix must give; J itself would be formed for every step."""
    cell = lstm_jax.rnn(3, 1_024, activation="identity", w_h_init=lstm_jax.orthogonal(0.9))
    params, xs = cell.init(jax.random.key(0)), jnp.zeros((50, 3))
    found = probe_norms(
        cell, params, None, xs, KEY, probes=gradient_flow.Probes(lags=[50], spectral_lags=[50])
    )
    expected = 50 * np.log(0.9)
    np.testing.assert_allclose(found.spectral, expected, rtol=1e-4)
    np.testing.assert_allclose(found.frobenius, expected + np.log(32), atol=0.02)


@pytest.mark.slow
def test_a_batch_a_stack_and_no_recurrence(x64):
    cell, params, xs, state0, *_ = random_problem("lstm", 6, 2)
    both = probe_norms(
        cell,
        params,
        state0,
        xs,
        KEY,
        probes=gradient_flow.Probes(number=4, spectral_lags=[6]),
        block="hh",
    )
    exact = jacobian_norms(cell, params, state0, xs, blocks=["hh"]).spectral["hh"][:, 6]
    assert both.frobenius.shape == (2, len(both.lags)) and both.spectral.shape == (2, 1)
    assert (both.spectral[:, 0] <= exact + 1e-12).all() and (
        exact <= both.spectral_high[:, 0]
    ).all()
    net = lstm_jax.stack(lstm_jax.gru(3, 6), lstm_jax.gru(6, 6))
    of_net = probe_norms(
        net,
        net.init(KEY),
        None,
        xs[:, 0],
        KEY,
        probes=gradient_flow.Probes(number=6, spectral_lags=[4]),
        block="1.h,1.h",
    )
    exact = jacobian_norms(net, net.init(KEY), None, xs[:, 0], blocks=["1.h,1.h"], lags=[4])
    assert_logs_close(of_net.spectral, exact.spectral["1.h,1.h"], 1e-9)
    still = params._replace(w_h=jnp.zeros_like(params.w_h))
    none = probe_norms(
        cell,
        still,
        state0,
        xs,
        KEY,
        block="hh",
        probes=gradient_flow.Probes(number=2, spectral_lags=[3]),
    )
    assert (none.frobenius[:, 1:] == -jnp.inf).all() and (none.spectral == -jnp.inf).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"number": 0}, "expected probes from 1 to 12, got 0"),
        ({"number": 13}, "expected probes from 1 to 12, got 13"),
        ({"iterations": 0}, "expected iterations to be a positive integer"),
        ({"confidence": 1.0}, "expected confidence below 1, got 1.0"),
        ({"confidence": 0}, "expected confidence as a finite number above 0"),
        ({"lags": [31]}, "expected lags from 0 to 30, got 31"),
        ({"spectral_lags": [31]}, "expected spectral_lags from 0 to 30, got 31"),
        ({"block": "carousel"}, "Unknown block"),
    ],
)
def test_refusals(without_type_checker, change, words):
    with pytest.raises(ValueError, match=words):
        options = {"number": 4, **change}
        block = options.pop("block", "cc")
        probes = gradient_flow.Probes(**options)
        probe_norms(*problem(lstm_jax.lstm(3, 12)), KEY, block=block, probes=probes)
    with pytest.raises(TypeError, match="expected one key"):
        probe_norms(*problem(lstm_jax.lstm(3, 12)), 3)
    with pytest.raises(TypeError, match=r"expected probes as Probes\(...\), got int"):
        probe_norms(*problem(lstm_jax.lstm(3, 12)), KEY, probes=4)
