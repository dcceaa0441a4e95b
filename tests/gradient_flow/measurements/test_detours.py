"""Paths by detours against all words in E and R, written out; their sum; and what is refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import random_like, random_problem
from dense import all_states, assert_logs_close, log_norm

import lstm_jax
from gradient_flow import detour_norms, jacobian_norms
from gradient_flow.long_products.scaled_matrix import with_exponent
from gradient_flow.measurements import detour_terms
from gradient_flow.step_jacobians.state_layout import layout_of


def cells():
    return {
        "lstm": lstm_jax.lstm(3, 4),
        "gru": lstm_jax.gru(3, 4),
        "rnn": lstm_jax.rnn(3, 4),
        "projected": lstm_jax.lstm(3, 4, peepholes=True, projection_size=2),
    }


def problem(name, time, hidden=None):
    cell = cells()[name] if hidden is None else lstm_jax.lstm(3, hidden)
    rng = np.random.default_rng(time)
    params = random_like(rng, jax.eval_shape(cell.init, jax.random.key(0)))
    state0 = random_like(rng, jax.eval_shape(cell.initial_state))
    return cell, params, state0, random_like(rng, jax.ShapeDtypeStruct((time, 3), jnp.float32))


def matrices(jacobian):
    rows = [[jnp.diag(b) if b.ndim == 1 else b for b in row] for row in jacobian]
    return np.asarray(jnp.block(rows))


def steps(cell, params, state0, xs):
    """E_t and R_t of every step as whole matrices."""
    states = all_states(cell.step, params, state0, xs)
    kept = jnp.ones(len(cell.gate_names))
    for t, x in enumerate(xs):
        state = jax.tree.map(lambda s, t=t: s[t], states)
        e = cell.paths.direct(params, state, x)
        yield matrices(e), matrices(cell.paths.through(params, state, x, kept))


@pytest.mark.parametrize(
    "name",
    ["gru", *(pytest.param(n, marks=pytest.mark.slow) for n in ("lstm", "rnn", "projected"))],
)
def test_each_term_is_the_sum_of_its_words(x64, name):
    cell, params, state0, xs = problem(name, 6)
    found = detour_norms(cell, params, state0, xs, most=3, lags=range(7))
    sizes = layout_of(state0).sizes
    ends = np.cumsum(sizes)
    parts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    each = list(steps(cell, params, state0, xs))
    for lag in range(7):
        terms = np.zeros((5, ends[-1], ends[-1]))
        for word in itertools.product((0, 1), repeat=lag):
            path = np.eye(ends[-1])
            for pair, which in zip(reversed(each), word, strict=False):
                path = path @ pair[which]
            terms[min(sum(word), 4)] += path
        for block, (row, column) in layout_of(state0).places().items():
            expected = terms[:, parts[row], parts[column]]
            for norm in ("spectral", "frobenius"):
                curve = getattr(found, norm)[block][lag]
                assert_logs_close(curve, log_norm(expected, norm), 1e-10)
                whole = log_norm(expected.sum(0)[None], norm)[0]
                assert_logs_close(getattr(found, f"whole_{norm}")[block][lag], whole, 1e-10)


@pytest.mark.slow
def test_the_terms_add_up_to_the_transition(x64):
    """As matrices, at every lag of a long walk, relative to the largest term."""
    cell, params, state0, xs = problem("lstm", 300)
    params = jax.tree.map(lambda p: 0.5 * p, params)
    states = all_states(cell.step, params, state0, xs)
    terms = detour_terms.identity_terms(layout_of(state0), 5)
    back = jax.jit(detour_terms.step_back)
    parts = jax.jit(detour_terms.direct_and_recurrent(cell, None, layout_of(state0)))
    for k in reversed(range(300)):
        terms = back(terms, *parts(params, jax.tree.map(lambda s, k=k: s[k], states), xs[k]))
        for line, others in zip(*terms, strict=True):
            for block, other in zip(line, others, strict=True):
                top = jnp.maximum(block.exponent.max(), other.exponent.max())[None]
                counted = with_exponent(block, top).sum(0)
                beyond, whole = with_exponent(other, top)
                error = jnp.abs(counted + beyond - whole).max()
                assert error <= 1e-12 * max(jnp.abs(counted).max(), jnp.abs(beyond).max())


@pytest.mark.slow
def test_the_whole_and_the_carousel(x64):
    cell, params, state0, xs = problem("lstm", 120, hidden=6)
    found = detour_norms(cell, params, state0, xs, most=2, blocks=["cc", "hh", "ss", "total_c"])
    flow = jacobian_norms(
        cell, params, state0, xs, blocks=["cc", "hh", "ss", "total_c", "carousel"]
    )
    for block in found.spectral:
        for norm in ("spectral", "frobenius"):
            expected = getattr(flow, norm)[block][found.lags]
            assert_logs_close(getattr(found, f"whole_{norm}")[block], expected, 1e-10)
    carousel = flow.spectral["carousel"][found.lags]
    assert_logs_close(found.spectral["cc"][:, 0], carousel, 1e-10)


@pytest.mark.slow
def test_nothing_underflows(x64):
    """In float32 as in float64, where a plain product has long been 0."""
    cell, *arguments = problem("lstm", 2_000)
    exact = detour_norms(cell, *arguments, most=2, lags=[2_000], blocks=["cc"])
    single = jax.tree.map(lambda a: a.astype(jnp.float32), arguments)
    found = detour_norms(cell, *single, most=2, lags=[2_000], blocks=["cc"])
    assert (exact.spectral["cc"] < -300).all()
    np.testing.assert_allclose(found.spectral["cc"], exact.spectral["cc"], rtol=1e-4)


@pytest.mark.slow
def test_a_step_with_its_detours_stopped(x64):
    cell, params, state0, xs = problem("gru", 9)

    def step(params, state, x):
        return cell.step(params, state, x)

    def direct(params, state, x):
        from_x = x @ params.w_x + params.b
        from_h = jax.lax.stop_gradient(state.h @ params.w_h)
        x_r, x_u, x_n = jnp.split(from_x, 3)
        h_r, h_u, h_n = jnp.split(from_h, 3)
        u = jax.nn.sigmoid(x_u + h_u)
        n = jnp.tanh(x_n + jax.nn.sigmoid(x_r + h_r) * (h_n + params.b_hn))
        h = (1 - u) * n + u * state.h
        return state._replace(h=h), h

    ours = detour_norms(cell, params, state0, xs, most=2)
    theirs = detour_norms(step, params, state0, xs, most=2, direct=direct, blocks=["hh"])
    assert_logs_close(theirs.spectral["hh"], ours.spectral["hh"], 1e-9)


@pytest.mark.slow
def test_a_batch_is_its_samples(x64):
    cell, params, xs, state0, *_ = random_problem("lstm", 8, 2)
    lags = [0, 8, 3, 3]
    both = detour_norms(cell, params, state0, xs, most=1, lags=lags, blocks=["ch"])
    assert both.spectral["ch"].shape == (2, 4, 3) and both.whole_spectral["ch"].shape == (2, 4)
    for n in range(2):
        own = jax.tree.map(lambda s, n=n: s[n], state0)
        alone = detour_norms(cell, params, own, xs[:, n], most=1, lags=lags, blocks=["ch"])
        assert_logs_close(both.spectral["ch"][n], alone.spectral["ch"], 1e-10)


@pytest.mark.slow
def test_without_recurrence_there_is_no_detour(x64):
    """W_h = 0: the one honest −∞."""
    cell, params, state0, xs = problem("lstm", 5)
    params = params._replace(w_h=jnp.zeros_like(params.w_h))
    found = detour_norms(cell, params, state0, xs, most=1)
    assert (found.spectral["cc"][1:, 1:] == -jnp.inf).all()
    assert jnp.isfinite(found.spectral["cc"][:, 0]).all()
    assert (found.whole_spectral["hh"][1:] == -jnp.inf).all()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"most": -1}, ValueError, "expected most from 0 to 64, got -1"),
        ({"most": 65}, ValueError, "expected most from 0 to 64, got 65"),
        ({"most": 1.5}, ValueError, "expected most from 0 to 64, got 1.5"),
        ({"norms": ["smallest"]}, ValueError, "Unknown norm: expected one of"),
        ({"blocks": ["carousel"]}, ValueError, "cc without a detour"),
        ({"blocks": ["cx"]}, ValueError, "cx"),
        ({"lags": [99]}, ValueError, "expected lags from 0 to 3, got 99"),
        ({"direct": lambda p, s, x: (s, x)}, ValueError, "expected direct for a plain step only"),
    ],
)
def test_refusals(without_type_checker, change, error, words):
    cell, params, state0, xs = problem("lstm", 3)
    with pytest.raises(error, match=words):
        detour_norms(cell, params, state0, xs, **change)


def test_refusals_of_steps(without_type_checker):
    cell, params, state0, xs = problem("gru", 3)

    def step(params, state, x):
        return cell.step(params, state, x)

    def another(params, state, x):
        return state._replace(h=state.h + 1), x

    with pytest.raises(ValueError, match="expected direct, the step without its detours, got None"):
        detour_norms(step, params, state0, xs)
    with pytest.raises(ValueError, match="got other states at step 1"):
        detour_norms(step, params, state0, xs, direct=another)
    net = lstm_jax.stack(lstm_jax.gru(3, 4))
    with pytest.raises(TypeError, match="got a stack"):
        detour_norms(net, net.init(jax.random.key(0)), None, xs)
    with pytest.raises(ValueError, match="expected a cell that has paths"):
        detour_norms(cell._replace(paths=None), params, state0, xs)
    bad = params._replace(w_h=params.w_h.at[0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match="w_h"):
        detour_norms(cell, bad, state0, xs)
