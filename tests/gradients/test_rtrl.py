"""The gradient forward in time against back-propagation and autodiff, at the end and at every step."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close, random_like, random_problem, slow

import lstm_jax
from lstm_jax import influence_gradient, influence_start, influence_step


@pytest.mark.parametrize(
    ("name", "time", "batch"),
    [
        ("lstm", 6, 3),
        ("gru", 6, None),
        ("rnn_tanh", 1, 3),
        ("rnn_relu", 6, 3),
        *(slow(name, time, None) for name in ("lstm", "rnn_tanh") for time in (1, 6)),
        slow("gru", 1, 3),
        slow("rnn_identity", 6, 3),
    ],
)
def test_the_same_numbers_as_bptt(x64, name, time, batch):
    cell, params, xs, state0, hs_weights, state_weights = random_problem(name, time, batch)
    cotangents = {"d_hs": hs_weights, "d_state": state_weights}
    expected = lstm_jax.bptt(cell, params, xs, state0, **cotangents)
    ours = lstm_jax.rtrl(cell, params, xs, state0, **cotangents)
    assert_close(ours._replace(xs=expected.xs), expected, 1e-12)
    assert ours.xs is None


@pytest.mark.parametrize("missing", ["d_hs", "d_state"])
def test_a_cotangent_left_out_is_zero(x64, missing):
    cell, params, xs, state0, hs_weights, state_weights = random_problem("gru", 4, 2)
    cotangents = {"d_hs": hs_weights, "d_state": state_weights}
    del cotangents[missing]
    expected = lstm_jax.bptt(cell, params, xs, None, **cotangents)
    ours = lstm_jax.rtrl(cell, params, xs, **cotangents)
    assert_close(ours._replace(xs=expected.xs), expected, 1e-12)


@pytest.mark.parametrize("name", ["lstm", slow("gru"), "rnn_tanh"])
def test_the_influence_is_the_derivative_of_the_state_at_every_step(x64, name):
    cell, params, xs, state0, *_ = random_problem(name, 5)
    influence = influence_start(cell, params, state0)
    step = jax.jit(partial(influence_step, cell))

    def states_after(params, state0):
        """s_1 … s_T, stacked over time."""

        def both(state, x):
            return (after := cell.step(params, state, x)[0]), after

        return jax.lax.scan(both, state0, xs)[1]

    states, jacobians = jax.jit(
        lambda *at: (states_after(*at), [jax.jacrev(states_after, n)(*at) for n in (0, 1)])
    )(params, state0)
    for t in range(5):
        influence = step(params, influence, xs[t])
        expected = jax.tree.map(lambda a, t=t: jnp.moveaxis(a[t], 0, -1), jacobians)
        assert_close([influence.params, influence.state0], expected, 1e-12)
        assert_close(influence.state, jax.tree.map(lambda s, t=t: s[t], states), 1e-14)


def test_a_loss_that_depends_on_the_states_as_in_learning(x64):
    cell, params, xs, state0, targets, _ = random_problem("lstm", 7)

    def whole(params):
        _, hs = lstm_jax.unroll(cell, params, xs, state0, gradient="autodiff")
        return jnp.sum((hs - targets) ** 2)

    influence = influence_start(cell, params, state0)
    total = jax.tree.map(jnp.zeros_like, params)
    for x, target in zip(xs, targets, strict=True):
        influence = influence_step(cell, params, influence, x)
        d_state = influence.state._replace(
            h=2 * (influence.state.h - target), c=jnp.zeros_like(target)
        )
        part = influence_gradient(influence, d_state)
        total = jax.tree.map(jnp.add, total, part.params)
    assert_close(total, jax.grad(whole)(params), 1e-12)


@pytest.mark.slow
def test_parameters_that_change_on_the_way(x64):
    """θ_t = θ + t δ, so that each step has its own parameters with one influence for all of them."""
    cell, params, xs, state0, *_ = random_problem("gru", 6)
    delta = random_like(np.random.default_rng(0), params, scale=0.1)

    def at(params, t):
        return jax.tree.map(lambda p, d: p + t * d, params, delta)

    def last(params):
        state = state0
        for t, x in enumerate(xs):
            state, _ = cell.step(at(params, t), state, x)
        return state.h

    influence = influence_start(cell, params, state0)
    for t, x in enumerate(xs):
        influence = influence_step(cell, at(params, t), influence, x)
    expected = jax.tree.map(lambda a: jnp.moveaxis(a, 0, -1), jax.jacrev(last)(params))
    assert_close(influence.params.h, expected, 1e-12)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length():
    cell = lstm_jax.lstm(3, 16)
    params = cell.init(jax.random.key(0))

    def temporaries(gradient, time):
        def run(params, xs, d_hs):
            return gradient(cell, params, xs, d_hs=d_hs).params

        arguments = (params, jnp.zeros((time, 3)), jnp.zeros((time, 16)))
        compiled = jax.jit(run).lower(*arguments).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(lstm_jax.rtrl, 4000) == temporaries(lstm_jax.rtrl, 400)
    assert temporaries(lstm_jax.bptt, 4000) > 5 * temporaries(lstm_jax.bptt, 400)


def test_a_stack_is_refused(without_type_checker):
    cell, params, xs, state0, *_ = random_problem("lstm", 4)
    with pytest.raises(TypeError, match="expected a cell from lstm, gru or rnn, got Stack"):
        lstm_jax.rtrl(lstm_jax.stack(cell), params, xs, state0)


def test_bad_input():
    cell, params, xs, state0, hs_weights, _ = random_problem("lstm", 4, 2)
    with pytest.raises(lstm_jax.ShapeError, match=r"expected d_hs \[4, 2, 5\], got \[4, 2, 4\]"):
        lstm_jax.rtrl(cell, params, xs, state0, d_hs=hs_weights[..., :4])
    with pytest.raises(lstm_jax.DtypeError, match="expected d_hs float32 .*, got float16"):
        lstm_jax.rtrl(cell, params, xs, state0, d_hs=hs_weights.astype(jnp.float16))
    with pytest.raises(lstm_jax.ShapeError, match="d_state"):
        lstm_jax.rtrl(cell, params, xs, state0, d_state=jax.tree.map(lambda s: s[0], state0))
    with pytest.raises(ValueError, match="no hand-derived rule"):
        lstm_jax.rtrl(cell._replace(rule=None), params, xs, state0)
    with pytest.raises(ValueError, match="no hand-derived rule"):
        influence_start(cell._replace(rule=None), params)
    with pytest.raises(lstm_jax.ShapeError, match="state0"):
        influence_start(cell, params, state0)


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        (lstm_jax.lstm(3, 5, peepholes=True), "lstm_peephole"),
        (lstm_jax.lstm(3, 5, projection_size=2), "lstm_projected"),
        (lstm_jax.gru(3, 5, reset_after=False), "gru_reset_before"),
    ],
    ids=str,
)
def test_cells_with_optional_parts_are_refused(cell, name):
    params = cell.init(jax.random.key(0))
    expected = rf"expected lstm, gru or rnn without optional parts, .*, got {name}\("
    with pytest.raises(ValueError, match=expected):
        influence_start(cell, params)
    with pytest.raises(ValueError, match=expected):
        lstm_jax.rtrl(cell, params, jnp.zeros((4, 3)))
