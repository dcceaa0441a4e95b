"""Cells, stacks and measurements compile for a GPU and a TPU, where their compilers are."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from benchmarks import compile_without_device
from comparison import CELLS, grouped
from jax.experimental import rnn
from test_lowering import MEASUREMENTS, measurement

import lstm_jax
from lstm_jax.backends.cudnn import conditions
from lstm_jax.time_loop import scan

T, B, D, H = 24, 3, 8, 16


@pytest.fixture
def gpu(monkeypatch, require_compiler):
    """As on a GPU, with the compiler for one."""
    monkeypatch.setitem(scan.PLATFORMS, "cpu", scan.GPU)
    require_compiler("h100")


@pytest.fixture(params=compile_without_device.TARGETS)
def target(request, require_compiler):
    """Each device in turn, what is compiled for the GPU being as on one."""
    if request.param == "h100":
        request.getfixturevalue("gpu")
    require_compiler(request.param)
    return request.param


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
def test_a_gradient(target, name, dtype):
    make, options = VARIANTS[name]
    cell = make(D, H)
    params = cell.init(jax.random.key(0), dtype)
    xs = jnp.ones((T, B, D), dtype)

    def gradient(params, xs):
        def total(params, xs):
            return jnp.sum(lstm_jax.unroll(cell, params, xs, **grouped(**options))[1])

        return jax.grad(total, argnums=(0, 1))(params, xs)

    program = compile_without_device.compiled(gradient, params, xs, target=target)
    if target != "h100":
        return
    # Layer norm has its means and variances, and the projection another product.
    most = 35 if name == "layer norm" else 20
    assert 2 * T < compile_without_device.launches(program.as_text()) < most * T


@pytest.mark.compiler
def test_a_stack_in_both_directions(target):
    net = lstm_jax.stack(
        lstm_jax.bidirectional(lstm_jax.lstm(D, H)), lstm_jax.gru(2 * H, H), dropout=0.5
    )
    params = net.init(jax.random.key(0))
    xs = jnp.ones((T, B, D))

    def gradient(params, xs, key):
        return jax.grad(lambda p: jnp.sum(lstm_jax.unroll_stack(net, p, xs, key=key)[1]))(params)

    program = compile_without_device.compiled(
        gradient, params, xs, jax.random.key(1), target=target
    )
    # Three unrolls, and what draws the dropout.
    assert target != "h100" or compile_without_device.launches(program.as_text()) < 3 * 10 * T


@pytest.mark.compiler
@pytest.mark.parametrize("apart", [True, False])
def test_steps_are_kept_apart(gpu, monkeypatch, apart):
    """h_t and C_t of a step come out of one kernel; otherwise C_t is computed again in every later step."""
    monkeypatch.setitem(scan.PLATFORMS, "cpu", scan.GPU._replace(apart=apart))
    cell = lstm_jax.lstm(D, H)
    params, xs = cell.init(jax.random.key(0)), jnp.ones((T, B, D))
    program = compile_without_device.compiled(
        lambda p, xs: lstm_jax.unroll(cell, p, xs), params, xs
    ).as_text()
    both = f"(f32[{B},{H}]{{1,0}}, f32[{B},{H}]{{1,0}}) fusion("
    # Twelve steps an iteration, and the zeros of the start.
    assert program.count(both) == 13 if apart else program.count(both) < 6


@pytest.mark.compiler
@pytest.mark.parametrize("make", [lstm_jax.lstm, lstm_jax.gru, lstm_jax.rnn])
def test_a_step_forward_is_a_product_and_what_follows_it(gpu, make):
    """Nothing is copied at a step for the product to write over."""
    cell = make(64, 64)
    params, xs = cell.init(jax.random.key(0)), jnp.ones((96, 32, 64))
    program = compile_without_device.compiled(
        lambda p, xs: lstm_jax.unroll(cell, p, xs)[1], params, xs
    )
    assert 2 * 96 < compile_without_device.launches(program.as_text()) < 2.6 * 96


RESERVE = 12_345


@pytest.fixture
def kernel(gpu, monkeypatch):
    """JAX's own way to NVIDIA's kernel, with a stand-in for the sizes that cuDNN would tell."""
    monkeypatch.setattr(conditions, "device_refusal", lambda: None)
    monkeypatch.setattr(
        rnn.gpu_rnn, "compute_rnn_workspace_reserve_space_sizes", lambda *settings: (64, RESERVE)
    )


def by_kernel(gradient, lengths, params, xs):
    return lstm_jax.unroll(
        lstm_jax.lstm(D, H),
        params,
        xs,
        **grouped(lengths=lengths, gradient=gradient),
    )


KERNELS = ("cudnn_rnn_ffi", "cudnn_rnn_bwd_ffi")


def notes_read(text):
    """What each call of the kernel backwards reads as its notes, and how many copies are made of notes."""
    calls = [line for line in text.splitlines() if "cudnn_rnn_bwd_ffi" in line and "= (" in line]
    operands = [line.split("custom-call(")[1].split(")")[0].split(",") for line in calls]
    copies = [line for line in text.splitlines() if f" = f32[{RESERVE}]{{0}} copy(" in line]
    return [re.sub(r"/\*.*?\*/", "", call[9]).strip() for call in operands], len(copies)


def full(value):
    return jnp.full((B, H), value)


def one(place):
    return jnp.zeros(T * B * H).at[place].set(1.0).reshape(T, B, H)


NOTHING = jnp.zeros((T, B, H))
WAYS_BACK = {
    # Of hs, h_T and C_T: two cotangents of each, made of the arguments a [B, H] and b [T, B, H].
    "arguments": lambda a, b: [(b, a, a), (2 * b, a, a)],
    "the final state": lambda a, b: [
        (NOTHING, full(1.0), full(1.0)),
        (NOTHING, full(2.0), full(2.0)),
    ],
    "h or C": lambda a, b: [(NOTHING, a, full(0.0)), (NOTHING, full(0.0), a)],
    "h or C, known": lambda a, b: [
        (NOTHING, full(1.0), full(0.0)),
        (NOTHING, full(0.0), full(1.0)),
    ],
    "two places": lambda a, b: [(one(0), full(0.0), full(0.0)), (one(256), full(0.0), full(0.0))],
}


@pytest.mark.compiler
@pytest.mark.parametrize("lengths", [None, [24, 7, 3]], ids=["whole", "lengths"])
@pytest.mark.parametrize("name", WAYS_BACK)
def test_each_way_back_has_the_notes_for_itself(kernel, name, lengths):
    """The kernel writes over them, which XLA does not know; constants are what it could simplify most."""
    lengths = None if lengths is None else jnp.array(lengths)
    params, xs = lstm_jax.lstm(D, H).init(jax.random.key(0)), jnp.ones((T, B, D))

    def ways(count, params, xs, a, b):
        _, pull = jax.vjp(partial(by_kernel, "cudnn", lengths), params, xs)
        return [pull((lstm_jax.LSTMState(h, c), hs)) for hs, h, c in WAYS_BACK[name](a, b)[:count]]

    for count in (1, 2):
        text = compile_without_device.compiled(
            partial(ways, count), params, xs, full(0.0), NOTHING
        ).as_text()
        read, copies = notes_read(text)
        assert len(read) == count and len(set(read)) == count
        assert copies == count - 1  # a single way back writes where the notes are


@pytest.mark.compiler
@pytest.mark.parametrize("lengths", [None, [24, 7, 3]], ids=["whole", "lengths"])
def test_the_kernel_is_given_rows(kernel, lengths):
    """XLA would hand over a transposed array as it lies in memory, where the kernel reads other numbers."""
    lengths = None if lengths is None else jnp.array(lengths)
    params, xs = lstm_jax.lstm(D, H).init(jax.random.key(0)), jnp.ones((T, B, D))

    def gradient(params, xs):
        hs = by_kernel("cudnn", lengths, params, xs)[1]
        return hs, jax.grad(
            lambda *a: jnp.sum(jnp.sin(by_kernel("cudnn", lengths, *a)[1])), (0, 1)
        )(params, xs)

    text = compile_without_device.compiled(gradient, params, xs).as_text()
    calls = [line for line in text.splitlines() if 'custom_call_target="cudnn_rnn' in line]
    assert len(calls) == 2
    for call in calls:
        told, results = call.split("operand_layout_constraints=")[1], call.split("custom-call(")[0]
        layouts = re.findall(r"\[[\d,]*\]\{([\d,]*)\}", results + told)
        assert len(layouts) == (10 if "cudnn_rnn_ffi" in call else 16)
        assert all(axes == ",".join(sorted(axes.split(","))[::-1]) for axes in layouts)


@pytest.mark.compiler
def test_a_loop_of_ways_back_keeps_the_notes(kernel):
    params, xs = lstm_jax.lstm(D, H).init(jax.random.key(0)), jnp.ones((T, B, D))
    jacobian = jax.jacrev(lambda xs: by_kernel("cudnn", None, params, xs)[1][-1, 0])
    read, copies = notes_read(compile_without_device.compiled(jacobian, xs).as_text())
    assert len(read) == 1 and copies >= 1


@pytest.mark.compiler
def test_a_stack_is_one_call_each_way(kernel):
    """All layers and directions; by default it is the loop, which is the faster one."""
    net = lstm_jax.stack(*(lstm_jax.bidirectional(lstm_jax.lstm(size, H)) for size in (D, 2 * H)))
    params = net.init(jax.random.key(0))
    xs, lengths = jnp.ones((T, B, D)), jnp.array([24, 7, 0])

    def loss(backend, params, xs):
        states, ys = lstm_jax.unroll_stack(
            net, params, xs, sequences=lstm_jax.Sequences(lengths=lengths), backend=backend
        )
        return jnp.sum(ys**2) + sum(jnp.sum(s**2) for s in jax.tree.leaves(states))

    def calls(function, *inputs):
        text = compile_without_device.compiled(function, *inputs).as_text()
        return [text.count(f'custom_call_target="{name}"') for name in KERNELS]

    assert calls(partial(loss, "cudnn"), params, xs) == [1, 0]
    assert calls(jax.grad(partial(loss, "cudnn"), (0, 1)), params, xs) == [1, 1]
    assert calls(jax.grad(partial(loss, "auto"), (0, 1)), params, xs) == [0, 0]


@pytest.mark.compiler
@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_measurement(target, name):
    measured, arguments = measurement(name)
    assert "ENTRY" in compile_without_device.compiled(measured, *arguments, target=target).as_text()
