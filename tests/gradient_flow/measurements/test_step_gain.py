"""The gain of one step of an LSTM, its terms and its bound, against autodiff and the equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import random_like, random_problem
from dense import all_states

import lstm_jax
from gradient_flow import jacobian_norms, step_gain
from gradient_flow.measurements.step_gain import TERMS


def problem(time=12, scale=1.5):
    cell, rng = lstm_jax.lstm(3, 4), np.random.default_rng(2)
    params = random_like(rng, jax.eval_shape(cell.init, jax.random.key(0)), scale=scale)
    return cell, params, jnp.asarray(rng.standard_normal((time, 3)))


def matrices(cell, params, xs):
    """The four terms of every step in numpy, by the equations."""
    states = jax.tree.map(np.asarray, all_states(cell.step, params, cell.initial_state(), xs))
    params = jax.tree.map(np.asarray, params)
    follows = np.zeros(4)
    for t, x in enumerate(np.asarray(xs)):
        h, c = states.h[t], states.c[t]
        z = x @ params.w_x + h @ params.w_h + params.b
        i, f, g, o = (1 / (1 + np.exp(-part)) for part in np.split(z, 4))
        g = np.tanh(np.split(z, 4)[2])
        w_i, w_f, w_g, _ = (w.T for w in np.split(params.w_h, 4, axis=1))
        factors = {"f": c * f * (1 - f), "i": g * i * (1 - i), "g": i * (1 - g**2)}
        terms = {"f": np.diag(f)}
        for name, w in (("f", w_f), ("i", w_i), ("g", w_g)):
            terms[f"through_{name}"] = np.diag(factors[name]) @ w @ np.diag(follows)
        yield terms, (i, f, g)
        follows = o * (1 - np.tanh(states.c[t + 1]) ** 2)


def norm(matrix):
    return np.linalg.norm(matrix, 2)


def test_every_number_by_the_equations(x64):
    cell, params, xs = problem()
    found = step_gain(cell, params, None, xs)
    assert found.gain.shape == (12,)
    for t, (terms, _) in enumerate(matrices(cell, params, xs)):
        whole = sum(terms.values())
        np.testing.assert_allclose(found.gain[t], norm(whole), rtol=1e-11)
        u, _, v = np.linalg.svd(whole)
        for name in TERMS:
            np.testing.assert_allclose(found.norms[name][t], norm(terms[name]), rtol=1e-11)
            left = norm(whole - terms[name])
            np.testing.assert_allclose(found.without[name][t], left, rtol=1e-11)
            assert found.pushes[name][t] == (norm(whole) > 1 and left <= 1)
            part = u[:, 0] @ terms[name] @ v[0]
            np.testing.assert_allclose(found.parts[name][t], part, rtol=1e-8, atol=1e-12)
    assert (found.gain > 1).any() and (found.gain < 1).any()
    assert any(found.pushes[name].any() for name in TERMS)
    np.testing.assert_allclose(sum(found.parts.values()), found.gain, rtol=1e-11)


@pytest.mark.slow
def test_the_gain_is_chain_c_at_lag_one(x64):
    cell, params, xs = problem()
    flow = jacobian_norms(cell, params, None, xs, blocks=["chain_c"], lags=[1], times=range(1, 13))
    gain = step_gain(cell, params, None, xs).gain
    np.testing.assert_allclose(np.log(gain), flow.spectral["chain_c"][:, 0], atol=1e-11)


def test_the_bound_holds_for_every_memory_within_the_range(x64):
    """Other memories in the range, the gates held: none comes above it, and one comes near."""
    cell, params, xs = problem()
    found = step_gain(cell, params, None, xs)
    assert (found.largest >= found.gain).all()
    states = all_states(cell.step, params, cell.initial_state(), xs)
    most = np.abs(np.asarray(states.c[:-1])).max(0)
    rng = np.random.default_rng(0)
    w_i, w_f, w_g, _ = (np.asarray(w).T for w in np.split(np.asarray(params.w_h), 4, axis=1))
    o = [0.0 * most]
    for t in range(12):
        state = jax.tree.map(lambda s, t=t: s[t], states)
        o.append(np.asarray(cell.gates(params, state, xs[t])["o"]))
    for t, (_, (i, f, g)) in enumerate(matrices(cell, params, xs)):
        for _ in range(50):
            c = rng.uniform(-1, 1, 4) * most
            through = (
                (c * f * (1 - f))[:, None] * w_f
                + (g * i * (1 - i))[:, None] * w_i
                + (i * (1 - g**2))[:, None] * w_g
            )
            gain = norm(np.diag(f) + through * (o[t] * (1 - np.tanh(c) ** 2))[None, :])
            assert gain <= found.largest[t] * (1 + 1e-12)
    assert found.largest[0] == pytest.approx(float(found.gain[0]), rel=1e-12)


def test_a_batch_is_its_samples(x64):
    cell, params, xs, state0, *_ = random_problem("lstm", 5, 2)
    both = step_gain(cell, params, state0, xs)
    for n in range(2):
        alone = step_gain(cell, params, jax.tree.map(lambda s, n=n: s[n], state0), xs[:, n])
        np.testing.assert_allclose(both.gain[n], alone.gain, rtol=1e-12)
        np.testing.assert_allclose(both.largest[n], alone.largest, rtol=1e-12)


def test_closed_gates_allow_no_growth(x64):
    """f = 1 and i = 0: exactly the constant error carousel."""
    cell, params, xs = problem()
    b = jnp.concatenate([jnp.full(4, -800.0), jnp.full(4, 800.0), jnp.zeros(8)])
    found = step_gain(cell, params._replace(b=b), None, xs)
    np.testing.assert_allclose(found.gain, 1, rtol=1e-12)
    np.testing.assert_allclose(found.largest, 1, rtol=1e-12)


def test_refusals(without_type_checker):
    cell, params, xs, state0, *_ = random_problem("gru", 3)
    with pytest.raises(ValueError, match="expected an lstm without optional parts, got gru"):
        step_gain(cell, params, state0, xs)
    with pytest.raises(ValueError, match="got lstm_peephole"):
        step_gain(lstm_jax.lstm(3, 4, peepholes=True), params, state0, xs)
    cell, params, xs, state0, *_ = random_problem("lstm", 3)
    with pytest.raises(ValueError, match="first at step 2 of 3"):
        step_gain(cell, params, state0, xs.at[1].set(jnp.nan))
