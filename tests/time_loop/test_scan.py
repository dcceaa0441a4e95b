"""The settings of a loop: chosen by the platform, and never seen in its numbers."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close, grouped, loss, other_modes, random_problem, slow
from hypothesis import given
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params

import lstm_jax
from lstm_jax.time_loop import scan
from lstm_jax.time_loop.scan import (
    CPU,
    GPU,
    Platform,
    ScanSettings,
    device_here,
    divisor_near,
    scan_settings,
)

LIKE_A_GPU = Platform(steps=3, rows=8, apart=True)


@pytest.fixture
def like_a_gpu(monkeypatch):
    """Three steps an iteration, held apart, and chunks of four steps of a batch of two."""
    monkeypatch.setitem(scan.PLATFORMS, "cpu", LIKE_A_GPU)


@given(length=st.integers(1, 5000), aim=st.integers(1, 3000))
def test_a_divisor_near(length, aim):
    steps = divisor_near(length, aim)
    assert 1 <= steps <= length
    assert steps <= max(1, 1.5 * aim)
    assert steps > aim / 2 - 1 or steps == length
    near = [n for n in range(aim // 2 + 1, min(length, aim * 3 // 2) + 1) if length % n == 0]
    assert (length % steps == 0) or not near


@pytest.mark.parametrize(
    "name, expected",
    [("cpu", CPU), ("gpu", GPU), ("cuda", GPU), ("rocm", GPU), ("tpu", CPU), ("metal", CPU)],
)
def test_the_platform_chooses(monkeypatch, name, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: name)
    assert scan_settings(True, "auto") == ScanSettings(True, None, expected)
    assert scan_settings(False, 5) == ScanSettings(False, 5, expected)


def test_the_default_device_comes_first(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert scan_settings(False, "auto").platform is GPU
    with jax.default_device(jax.devices()[0]):
        assert scan_settings(False, "auto").platform is CPU
        assert device_here() is jax.devices()[0]
    config = SimpleNamespace(jax_default_device="cpu", jax_default_matmul_precision=None)
    monkeypatch.setattr(jax, "config", config)
    assert scan_settings(False, "auto").platform is CPU
    assert device_here().platform == "cpu"


def iterations(time, **options):
    """Steps per iteration of each loop in the gradient's program, in its order."""
    cell = lstm_jax.lstm(2, 3)
    xs = jnp.ones((time, 2))

    def total(params):
        return jnp.sum(lstm_jax.unroll(cell, params, xs, **grouped(**options))[1])

    program = jax.make_jaxpr(jax.grad(total))(cell.init(jax.random.key(0)))
    return [eqn.params["unroll"] for eqn in loops(program.jaxpr)]


def loops(jaxpr):
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "scan":
            yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from loops(inner)


@pytest.mark.parametrize("gradient", ["bptt", "autodiff"])
@pytest.mark.parametrize("time, steps", [slow(7, 7), (24, 12), slow(35, 7), (37, 8), slow(300, 12)])
def test_steps_of_an_iteration(monkeypatch, gradient, time, steps):
    assert set(iterations(time, gradient=gradient)) == {1}
    monkeypatch.setitem(scan.PLATFORMS, "cpu", GPU)
    assert set(iterations(time, gradient=gradient)) == {steps}
    assert set(iterations(time, gradient=gradient, unroll=2)) == {2}


@pytest.mark.parametrize(
    ("name", "reverse", "batch", "time"),
    [
        ("lstm", False, 2, 7),
        slow("lstm", True, None, 12),
        slow("lstm", False, 2, 1),
        slow("gru", True, 2, 7),
        slow("gru", False, None, 12),
        slow("rnn_tanh", True, 2, 7),
    ],
)
def test_no_number_depends_on_the_platform(x64, monkeypatch, name, reverse, batch, time):
    problem = random_problem(name, time, batch)
    lengths = None if batch is None else jnp.array([time, time // 2])
    options = {"reverse": reverse, "lengths": lengths}

    def value(gradient):
        of = partial(loss, problem, gradient=gradient, **options)
        return jax.jit(jax.value_and_grad(of))(problem.inputs)

    expected = value("autodiff")
    monkeypatch.setitem(scan.PLATFORMS, "cpu", LIKE_A_GPU)
    for gradient in ("bptt", "autodiff"):
        assert_close(value(gradient), expected, 1e-12)


@pytest.mark.slow
def test_other_modes_and_segments_neither(x64, like_a_gpu):
    problem = random_problem("lstm", 7, 2, input_size=2, hidden_size=2)

    expected = other_modes(problem, "autodiff")
    for segments in (None, 3):
        assert_close(other_modes(problem, "bptt", segments=segments), expected, 1e-11)


def test_steps_are_held_apart_where_the_platform_asks_for_it():
    def step(carry, x):
        return carry + x, carry

    def barriers(platform, **options):
        program = jax.make_jaxpr(
            lambda xs: scan.scan(
                ScanSettings(platform=platform), step, jnp.zeros(()), xs, **options
            )
        )(jnp.ones(6))
        return str(program).count("optimization_barrier")

    assert barriers(LIKE_A_GPU, apart=True) == 1
    assert barriers(LIKE_A_GPU) == 0
    assert barriers(CPU, apart=True) == 0
    total, before = scan.scan(
        ScanSettings(platform=GPU), step, jnp.zeros(()), jnp.arange(20.0), apart=True
    )
    assert float(total) == 190
    np.testing.assert_array_equal(before, np.cumsum(np.arange(20.0)) - np.arange(20.0))
