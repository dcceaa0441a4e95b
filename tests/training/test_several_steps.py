"""Several steps in one call, against steps one by one: the same bits, however they are grouped."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from comparison import slow
from training.problems import TARGETS, leaves, line, recurrent

from lstm_jax.training import init_state, train_step
from lstm_jax.training.several_steps import several_steps, sweep_steps

OPTIMIZER = optax.adam(0.01)


def grouped(call, state, data, groups, begin=0):
    rows = []
    for count in groups:
        state, found = call(state, data, begin, count)
        rows += [
            jax.tree.map(lambda leaf, n=n: np.asarray(leaf[n]), found.metrics) for n in range(count)
        ]
        begin += count
    return state, rows


def same(a, b):
    for one, other in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_numbers_do_not_depend_on_how_steps_are_grouped(x64):
    problem, data = recurrent(dropout=0.3), np.float64(1)
    call = jax.jit(several_steps(train_step(problem, OPTIMIZER), "stop", most=8))
    begun = init_state(problem, OPTIMIZER, 0)
    first = grouped(call, begun, data, [1] * 12)
    for groups in ([8, 4], [5, 7], [2, 8, 2]):
        same(grouped(call, begun, data, groups), first)
    # One program for all of them, and its steps are the step.
    assert call._cache_size() == 1
    step, state = jax.jit(train_step(problem, OPTIMIZER)), begun
    for row in first[1]:
        state, metrics = step(state, data)
        np.testing.assert_allclose(row.loss, metrics.loss, rtol=1e-12)
        np.testing.assert_allclose(row.gradient_norms, metrics.gradient_norms, rtol=1e-10)


def worse_at(bad):
    """A problem whose loss, gradient or parameters are not finite in the step after ``bad`` steps."""

    def loss(params, carry, batch, key):
        value = ((params["w"] - batch) ** 2).sum()
        return value * jnp.where(carry == bad, jnp.nan, 1.0), (carry + 1, {})

    return line._replace(loss=loss, carry=lambda: jnp.zeros((), jnp.int32), carry_axes=None)


def test_a_step_that_is_not_finite_ends_the_call_and_those_behind_it():
    problem, sgd = worse_at(3), optax.sgd(0.1)
    call = jax.jit(several_steps(train_step(problem, sgd), "stop", most=8))
    state, rows = call(init_state(problem, sgd, 0), TARGETS, 0, 8)
    assert rows.metrics.finite.tolist() == [True] * 3 + [False] * 5
    assert np.isnan(rows.metrics.loss[3]) and not rows.metrics.loss[4:].any()
    assert state.step == 3
    after, rows = call(state, TARGETS, 8, 8)
    assert not rows.metrics.finite.any()
    same(after, state)


@pytest.mark.parametrize("what", ["loss", "parameters"])
def test_a_step_that_is_skipped_changes_nothing_but_its_number(what):
    if what == "loss":
        # The carry counts the steps that were taken.
        problem, sgd = worse_at(3), optax.adam(0.1)
    else:
        # Loss and gradient are finite, and the update is too long.
        problem = line._replace(loss=lambda p, c, b, k: (100 * line.loss(p, c, b, k)[0], (c, {})))
        sgd = optax.scale_by_schedule(lambda n: jnp.where(n == 3, -1e38, -1e-3))
    call = jax.jit(several_steps(train_step(problem, sgd, on_nonfinite="skip"), "skip", most=8))
    begun = init_state(problem, sgd, 0)
    before, _ = call(begun, TARGETS, 0, 3)
    state, rows = call(begun, TARGETS, 0, 6)
    assert rows.metrics.finite[:6].tolist() == [True] * 3 + [False] * 3
    assert state.step == 6 and before.step == 3
    same(state._replace(step=before.step), before)


@pytest.mark.parametrize("one_by_one", [slow(True), False])
def test_a_sweep_is_its_runs_one_by_one(x64, one_by_one):
    problem, data = recurrent(dropout=0.3), np.float64(1)
    step = train_step(problem, OPTIMIZER, on_nonfinite="skip")
    seeds = np.arange(2, dtype=np.uint32)
    states = jax.vmap(lambda seed: init_state(problem, OPTIMIZER, seed))(seeds)
    call = jax.jit(sweep_steps(step, "freeze", 4, one_by_one=one_by_one))
    after, rows = call(*call(states, data, 0, 3)[:1], data, 3, 2)
    alone = jax.jit(several_steps(step, "stop", most=4))
    for n in range(2):
        state, _ = alone(jax.tree.map(lambda leaf, n=n: leaf[n], states), data, 0, 3)
        state, expected = alone(state, data, 3, 2)
        for came, wanted in zip(leaves(after), leaves(state), strict=True):
            np.testing.assert_allclose(came[n], wanted, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(rows.metrics.loss[n], expected.metrics.loss, rtol=1e-12)
        assert rows.metrics.finite[n].tolist() == [True, True, False, False]
