"""Products and cotangents by an associative scan: against the serial form, autodiff and known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import CELLS, random_like, random_problem
from dense import all_states, transitions
from slow_cases import slow_but

import lstm_jax
from gradient_flow import jacobian_norms, parallel_cotangents, parallel_transitions
from gradient_flow.long_products.scaled_matrix import ScaledMatrix, as_scaled
from gradient_flow.parallel_in_time.associative_scan import running_products
from lstm_jax import NonFiniteError, ShapeError

FORMS = ("parallel", "serial")


def value(found):
    return np.asarray(found.matrix) * 2.0 ** np.asarray(found.exponent, float)[..., None, :]


def arguments(problem):
    return problem.cell, problem.params, problem.state0, problem.xs


def linear(params, state, x):
    return params @ state, None


def one_of(problem, n):
    """One sample of a batch."""
    state0 = jax.tree.map(lambda s: s[n], problem.state0)
    return problem._replace(xs=problem.xs[:, n], state0=state0)


# Products.


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", slow_but([1, 2, 7], 7))
def test_running_products_in_their_order(x64, length, reverse, form):
    factors = np.random.default_rng(0).standard_normal((length, 3, 3))
    found = running_products(as_scaled(jnp.asarray(factors)), reverse=reverse, form=form)
    for t in range(length):
        some = factors[t:][::-1] if reverse else factors[: t + 1]
        expected = np.linalg.multi_dot([*some, np.eye(3)]) if len(some) > 1 else some[0]
        np.testing.assert_allclose(
            value(found)[t], expected, rtol=0, atol=1e-13 * np.abs(expected).max()
        )


@pytest.mark.parametrize(
    ("name", "batch", "form"),
    slow_but(
        [(*case, form) for case in (*((n, 2) for n in CELLS), ("gru", None)) for form in FORMS],
        ("lstm", 2, "parallel"),
    ),
)
def test_transitions_are_those_of_autodiff(x64, name, batch, form):
    problem = random_problem(name, 13, batch)
    found = parallel_transitions(*arguments(problem), form=form)
    assert list(found.lags) == list(range(14))
    matrices = value(found) if batch else value(found)[None]
    for n in range(batch or 1):
        one = one_of(problem, n) if batch else problem
        expected = transitions(one.cell, one.params, one.state0, one.xs)["ss"]
        np.testing.assert_allclose(matrices[n], expected, rtol=1e-9, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_both_forms_are_equal_and_have_the_norms_of_the_walk_back(x64, dtype):
    problem = random_problem("lstm", 300, 2, dtype=dtype)
    parallel, serial = (parallel_transitions(*arguments(problem), form=form) for form in FORMS)
    flow = jacobian_norms(*arguments(problem), blocks=["ss"])
    tolerance = 1e-11 if dtype == jnp.float64 else 1e-3
    for norm in ("spectral", "frobenius"):
        logs = parallel.log_norms(norm)
        assert logs.dtype == dtype and logs.shape == (2, 301)
        # Beyond what float32 holds, 10^−38.
        assert logs.min() < -88
        np.testing.assert_allclose(logs, serial.log_norms(norm), rtol=0, atol=tolerance)
        np.testing.assert_allclose(logs, getattr(flow, norm)["ss"], rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [0.5, 1.1])
def test_ten_thousand_steps_in_float32(gamma):
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    matrix = jnp.asarray(gamma * turn, jnp.float32)
    found = parallel_transitions(linear, matrix, jnp.zeros(4), jnp.zeros(10_000))
    expected = found.lags * np.log(gamma)
    np.testing.assert_allclose(found.log_norms(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_columns_keep_scales_of_their_own(form):
    """Units that do not talk to each other, 10^−3000 and 10^+400 apart, in float32."""
    found = parallel_transitions(
        lambda p, s, x: (p * s, None),
        jnp.asarray([0.5, 1.1]),
        jnp.zeros(2),
        jnp.zeros(10_000),
        form=form,
    )
    one, other = found.matrix[-1, 0, 0], found.matrix[-1, 1, 1]
    logs = np.log([one, other]) + np.log(2) * np.asarray(found.exponent[-1], float)
    np.testing.assert_allclose(logs, 10_000 * np.log([0.5, 1.1]), rtol=1e-5)


@pytest.mark.slow
def test_no_recurrence_is_minus_infinity():
    problem = random_problem("rnn_tanh", 20)
    params = problem.params._replace(w_h=jnp.zeros_like(problem.params.w_h))
    found = parallel_transitions(*arguments(problem._replace(params=params)))
    assert found.log_norms()[0] == 0 and (found.log_norms()[1:] == -np.inf).all()


# The backward pass.


def autodiff_cotangents(step, params, state0, xs, d_states):
    """∂ℓ/∂s_k by `jax.grad` with respect to nudges of every state."""

    def total(nudges):
        def keep(state, inputs):
            x, nudge, d = inputs
            after, _ = step(params, state, x)
            after = jax.tree.map(jnp.add, after, nudge)
            added = sum(
                jnp.sum(a * b)
                for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(d), strict=True)
            )
            return after, added

        first, later = nudges
        start = jax.tree.map(jnp.add, state0, first)
        return jnp.sum(jax.lax.scan(keep, start, (xs, later, d_states))[1])

    zeros = jax.tree.map(jnp.zeros_like, (state0, d_states))
    first, later = jax.jit(jax.grad(total))(zeros)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, later)


@pytest.mark.parametrize(
    ("name", "batch", "form"),
    slow_but(
        [(*case, f) for case in (("lstm", None), ("gru", 2), ("rnn_relu", 2)) for f in FORMS],
        ("gru", 2, "parallel"),
    ),
)
def test_cotangents_are_those_of_autodiff(x64, name, batch, form):
    problem = random_problem(name, 13, batch)
    states = all_states(problem.cell.step, problem.params, problem.state0, problem.xs)
    d_states = random_like(np.random.default_rng(1), jax.tree.map(lambda s: s[1:], states))
    found = parallel_cotangents(*arguments(problem), d_states, form=form)
    expected = autodiff_cotangents(
        problem.cell.step, problem.params, problem.state0, problem.xs, d_states
    )
    for field in expected._fields:
        ours, theirs = getattr(found.d_states, field), getattr(expected, field)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12 * jnp.abs(theirs).max())
        logs = np.log(np.linalg.norm(theirs, axis=-1)).T
        np.testing.assert_allclose(found.log_norms[field], logs if batch else logs.T, atol=1e-11)


@pytest.mark.slow
def test_the_backward_pass_is_that_of_bptt(x64):
    """A loss of outputs and of the final state, whose gradient at s_0 `bptt` gives."""
    problem = random_problem("lstm", 40, 3)
    d_hs, d_state = problem.hs_weights, problem.state_weights
    expected = lstm_jax.bptt(
        *arguments(problem)[:2], problem.xs, problem.state0, d_hs=d_hs, d_state=d_state
    )
    d_states = type(d_state)(d_hs.at[-1].add(d_state.h), jnp.zeros_like(d_hs).at[-1].set(d_state.c))
    found = parallel_cotangents(*arguments(problem), d_states)
    for ours, theirs in zip(found.d_states, expected.state0, strict=True):
        np.testing.assert_allclose(ours[0], theirs, rtol=0, atol=1e-12 * jnp.abs(theirs).max())


@pytest.mark.slow
def test_a_cotangent_that_no_float_holds():
    """A loss at T = 2000 alone: 2^−2000 at k = 0."""
    d_states = jnp.zeros((2000, 2)).at[-1].set(1.0)
    found = parallel_cotangents(
        lambda p, s, x: (p * s, None), jnp.asarray(0.5), jnp.ones(2), jnp.zeros(2000), d_states
    )
    assert (found.d_states[0] == 0).all()
    expected = -(2000 - np.arange(2001)) * np.log(2) + np.log(2) / 2
    np.testing.assert_allclose(found.log_norms["s"], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_a_stack_and_its_step(x64):
    net = lstm_jax.stack(lstm_jax.lstm(3, 3), lstm_jax.gru(3, 2), residual=False)
    params = random_like(
        np.random.default_rng(1), jax.eval_shape(net.init, jax.random.key(0)), scale=0.6
    )
    xs = jax.random.normal(jax.random.key(1), (9, 2, 3))
    state0 = net.initial_state(2)
    d_states = jax.tree.map(lambda s: jnp.ones((9, *s.shape)), state0)
    closed = parallel_cotangents(net, params, None, xs, d_states)
    plain = parallel_cotangents(net.step, params, state0, xs, d_states, batched=True)
    expected = autodiff_cotangents(net.step, params, state0, xs, d_states)
    assert set(closed.log_norms) == {"0.h", "0.c", "1.h"}
    for tree in (closed.d_states, plain.d_states):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), tree, expected)


@pytest.mark.slow
def test_a_counter_is_carried_along(x64):
    def step(params, state, x):
        return {"a": 0.5 * state["a"] * state["n"].astype(x.dtype), "n": state["n"] + 1}, None

    state0 = {"a": jnp.ones(2), "n": jnp.asarray(1)}
    d_states = {"a": jnp.ones((4, 2)), "n": jnp.zeros(4, int)}
    found = parallel_cotangents(step, None, state0, jnp.zeros(4), d_states)
    # a_t = a_{t−1} t / 2.
    expected = [1.0]
    for t in (4, 3, 2):
        expected.append(1 + expected[-1] * t / 2)
    expected.append(expected[-1] / 2)
    np.testing.assert_allclose(found.d_states["a"][:, 0], expected[::-1], rtol=1e-14)


# Compilation and refusals.


@pytest.mark.slow
def test_a_second_call_compiles_nothing():
    traced = []

    def step(params, state, x):
        traced.append(1)
        return jnp.tanh(params * state + x), None

    def call(w):
        parallel_transitions(step, w, jnp.ones(3), jnp.ones((9, 3)))
        return parallel_cotangents(step, w, jnp.ones(3), jnp.ones((9, 3)), jnp.ones((9, 3)))

    call(jnp.asarray(0.5))
    before = len(traced)
    call(jnp.asarray(0.6))
    # The two checks of the state's shape may trace the step, and nothing else does.
    assert len(traced) <= before + 2


def test_an_unknown_form_or_norm(without_type_checker):
    problem = random_problem("gru", 3)
    with pytest.raises(ValueError, match="Unknown form: expected one of 'parallel', 'serial'"):
        parallel_transitions(*arguments(problem), form="both")
    with pytest.raises(ValueError, match="Unknown form"):
        parallel_cotangents(*arguments(problem), problem.state0, form="")
    with pytest.raises(ValueError, match="Unknown norm"):
        parallel_transitions(*arguments(problem)).log_norms("smallest")


def test_cotangents_that_do_not_fit(without_type_checker):
    problem = random_problem("gru", 6)
    good = type(problem.state0)(jnp.zeros((6, 5)))
    with pytest.raises(ShapeError, match=r"expected d_states.h \[6, 5\], got \[5, 5\]"):
        parallel_cotangents(*arguments(problem), good._replace(h=jnp.zeros((5, 5))))
    with pytest.raises(TypeError, match="expected d_states as"):
        parallel_cotangents(*arguments(problem), good.h)
    with pytest.raises(NonFiniteError, match="finite d_states.h, got NaN first at step 3 of 6"):
        parallel_cotangents(*arguments(problem), good._replace(h=good.h.at[2].set(jnp.nan)))


@pytest.mark.parametrize("which", ["transitions", "cotangents"])
def test_what_is_not_finite_is_named_with_its_step(without_type_checker, which):
    def call(*args):
        if which == "transitions":
            return parallel_transitions(*args)
        return parallel_cotangents(*args, jnp.zeros((9, 2)))

    with pytest.raises(NonFiniteError, match="finite states, got an infinity first at step 4 of 9"):
        call(linear, 1e10 * jnp.eye(2), jnp.ones(2), jnp.zeros(9))
    with pytest.raises(NonFiniteError, match="finite xs, got NaN first at step 3 of 9"):
        call(linear, jnp.eye(2), jnp.ones(2), jnp.zeros(9).at[2].set(jnp.nan))

    def longer(params, state, x):
        return jnp.concatenate([state, state]), None

    with pytest.raises(ShapeError, match="expected the step to keep the state"):
        call(longer, None, jnp.ones(2), jnp.zeros(9))


@pytest.mark.slow
def test_an_exponent_for_each_column():
    found = running_products(ScaledMatrix(jnp.ones((3, 2, 2)), jnp.zeros((3, 2), jnp.int32)))
    assert found.exponent.shape == (3, 2) and found.exponent.dtype == jnp.int32
