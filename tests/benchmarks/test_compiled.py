"""Cells, stacks and measurements compile for an H100, and not only lower, where there is the compiler."""

import jax
import jax.numpy as jnp
import pytest
from benchmarks import deviceless
from comparison import CELLS, random_problem
from test_lowering import MEASUREMENTS

import lstm_jax
from lstm_jax import loop

T, B, D, H = 24, 3, 8, 16


@pytest.fixture(autouse=True)
def compiler(monkeypatch):
    """As on a GPU, with the compiler for one."""
    monkeypatch.setitem(loop.PLATFORMS, "cpu", loop.GPU)
    try:
        deviceless.h100()
    except deviceless.NoCompiler as missing:
        pytest.skip(str(missing))


VARIANTS = {
    **{name: (make, {}) for name, make in CELLS.items()},
    "peephole": (lambda d, h: lstm_jax.lstm(d, h, peepholes=True), {}),
    "layer norm": (lambda d, h: lstm_jax.lstm(d, h, layer_norm=True, projection_size=5), {}),
    "reset before": (lambda d, h: lstm_jax.gru(d, h, reset_after=False), {}),
    "lengths": (lstm_jax.lstm, {"lengths": jnp.array([24, 7, 0])}),
    "reverse": (lstm_jax.gru, {"lengths": jnp.array([24, 7, 0]), "reverse": True}),
    "truncated": (lstm_jax.gru, {"truncate": 5}),
    "segments": (lstm_jax.lstm, {"segments": 4}),
    "by autodiff": (lstm_jax.lstm, {"gradient": "autodiff"}),
}


@pytest.mark.compiler
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_gradient(name, dtype):
    make, options = VARIANTS[name]
    cell = make(D, H)
    params = cell.init(jax.random.key(0), dtype)
    xs = jnp.ones((T, B, D), dtype)

    def gradient(params, xs):
        total = lambda params, xs: jnp.sum(lstm_jax.unroll(cell, params, xs, **options)[1])  # noqa: E731
        return jax.grad(total, argnums=(0, 1))(params, xs)

    program = deviceless.compiled(gradient, params, xs)
    # Layer norm has its means and variances, and the projection another product.
    most = 35 if name == "layer norm" else 15
    assert 2 * T < deviceless.launches(program.as_text()) < most * T


@pytest.mark.compiler
def test_a_stack_in_both_directions():
    net = lstm_jax.stack(
        lstm_jax.bidirectional(lstm_jax.lstm(D, H)), lstm_jax.gru(2 * H, H), dropout=0.5
    )
    params = net.init(jax.random.key(0))
    xs = jnp.ones((T, B, D))

    def gradient(params, xs, key):
        return jax.grad(lambda p: jnp.sum(lstm_jax.unroll_stack(net, p, xs, key=key)[1]))(params)

    program = deviceless.compiled(gradient, params, xs, jax.random.key(1))
    # Three unrolls, and what draws the dropout.
    assert deviceless.launches(program.as_text()) < 3 * 10 * T


@pytest.mark.compiler
@pytest.mark.parametrize("apart", [True, False])
def test_steps_are_kept_apart(monkeypatch, apart):
    """h_t and C_t of a step come out of one kernel; otherwise C_t is computed again in every later step."""
    monkeypatch.setitem(loop.PLATFORMS, "cpu", loop.GPU._replace(apart=apart))
    cell = lstm_jax.lstm(D, H)
    params, xs = cell.init(jax.random.key(0)), jnp.ones((T, B, D))
    program = deviceless.compiled(lambda p, xs: lstm_jax.unroll(cell, p, xs), params, xs).as_text()
    both = f"(f32[{B},{H}]{{1,0}}, f32[{B},{H}]{{1,0}}) fusion("
    # Twelve steps an iteration, and the zeros of the start.
    assert program.count(both) == 13 if apart else program.count(both) < 6


@pytest.mark.compiler
@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_measurement(name):
    cell_name, measure = MEASUREMENTS[name]
    problem = random_problem(cell_name, 5, 2)

    def measured(params, state0, xs):
        return jax.tree.leaves(measure(problem.cell, params, state0, xs))

    program = deviceless.compiled(measured, problem.params, problem.state0, problem.xs)
    assert "ENTRY" in program.as_text()
