"""Back-propagation through time by hand against `jax.grad` of the plain scan, leaf by leaf."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from comparison import CELLS, assert_close, loss, random_problem, slow

import lstm_jax


@partial(jax.jit, static_argnames=("cell", "reverse"))
def by_hand_and_autodiff(cell, reverse, problem):
    """Outputs and gradients both ways, in one program: ``((outputs, …), (outputs, …))``."""
    problem = problem._replace(cell=cell)
    unroll = partial(
        lstm_jax.unroll, cell, *problem.inputs, sequences=lstm_jax.Sequences(reverse=reverse)
    )
    state, hs = unroll(gradient="bptt")
    direct = lstm_jax.bptt(
        cell,
        *problem.inputs,
        d_hs=problem.hs_weights * jnp.cos(hs),
        d_state=problem.state_weights,
        reverse=reverse,
    )

    def gradients(gradient):
        return jax.grad(lambda inputs: loss(problem, inputs, gradient, reverse=reverse))(
            problem.inputs
        )

    autodiff = gradients("autodiff")
    return (
        ((state, hs), direct, gradients("bptt")),
        (unroll(gradient="autodiff"), autodiff, autodiff),
    )


def compare(name, time, batch, reverse, dtype, tolerance):
    problem = random_problem(name, time, batch, dtype=dtype)
    by_hand, autodiff = by_hand_and_autodiff(problem.cell, reverse, problem._replace(cell=None))
    assert_close(by_hand, autodiff, tolerance)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(autodiff))


# Every cell at one step and at several, each way and with and without a batch; then the lengths at which
# the loop changes its layout, and a long one, where errors would add up.
@pytest.mark.parametrize(
    ("name", "time", "batch", "reverse"),
    [
        ("lstm", 7, 5, False),
        ("gru", 7, 5, True),
        ("rnn_tanh", 7, None, True),
        ("rnn_relu", 7, 5, False),
        ("rnn_identity", 7, 5, True),
        ("rnn_tanh", 1, 5, False),
        *(
            slow(name, time, batch, reverse)
            for name in ("lstm", "gru", "rnn_tanh")
            for time, batch, reverse in (
                (1, None, False),
                (1, 5, True),
                (2, 1, False),
                (7, None, True),
                (300, 5, True),
                (1000, 5, False),
            )
        ),
        slow("rnn_relu", 300, 5, True),
        slow("rnn_identity", 300, None, False),
    ],
)
def test_gradients_agree_in_float64(x64, name, time, batch, reverse):
    compare(name, time, batch, reverse, jnp.float64, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("time", [7, 300], ids=lambda time: f"T={time}")
@pytest.mark.parametrize("name", CELLS)
def test_gradients_agree_in_float32(name, time):
    compare(name, time, 5, False, jnp.float32, 1e-5)


def test_relu_at_its_kink_has_slope_zero(x64):
    problem = random_problem("rnn_relu")
    still = jax.tree.map(jnp.zeros_like, problem._replace(cell=None))
    still = still._replace(hs_weights=problem.hs_weights, state_weights=problem.state_weights)
    by_hand, autodiff = by_hand_and_autodiff(problem.cell, False, still)
    assert_close(by_hand, autodiff, 0.0)


def test_missing_cotangents_are_zeros(x64):
    cell, params, xs, state0, hs_weights, state_weights = random_problem("lstm", batch=2)
    bptt = jax.jit(partial(lstm_jax.bptt, cell, params, xs, state0))
    zeros = partial(jax.tree.map, jnp.zeros_like)
    both = bptt(d_hs=hs_weights, d_state=state_weights)
    of_hs, of_state = bptt(d_hs=hs_weights), bptt(d_state=state_weights)
    assert_close(of_hs, bptt(d_hs=hs_weights, d_state=zeros(state_weights)), 0.0)
    assert_close(of_state, bptt(d_hs=zeros(hs_weights), d_state=state_weights), 0.0)
    assert_close(jax.tree.map(jnp.add, of_hs, of_state), both, 1e-14)
    assert_close(bptt(), zeros(both), 0.0)


def test_gradients_are_shaped_and_typed_as_what_they_belong_to():
    problem = random_problem("lstm", batch=2, dtype=jnp.bfloat16)
    gradients = lstm_jax.bptt(problem.cell, *problem.inputs, d_hs=problem.hs_weights)
    assert jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, problem.inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype(jnp.bfloat16)}
