"""The CPU kernel beside the loop and the plain scan: values, every derivative, what it leaves to the loop."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close

import lstm_jax
from lstm_jax import Sequences, unroll
from lstm_jax.backends.cpu_kernel import conditions, library
from lstm_jax.time_loop.step_masks import ALL_STEPS, NO_NOISE, prepare

pytestmark = pytest.mark.skipif(
    not library.status().available, reason=f"no kernel: {library.status().reason}"
)
# Multiples of the vectors' sizes and others, one step, one row, one unit, few rows of many units.
SIZES = [
    (5, 3, 4, 6),
    (1, 1, 1, 1),
    (7, 1, 3, 17),
    (20, 9, 5, 33),
    (33, 16, 40, 48),
    (3, 1, 300, 900),
]


def problem(sizes, dtype=np.float64, scale=1.0):
    """A cell, and params, xs, state0 and a weight for each output."""
    steps, rows, inputs, units = sizes
    cell = lstm_jax.lstm(inputs, units)
    random = np.random.default_rng(sum(sizes))

    def draw(*shape):
        return jnp.asarray(random.normal(size=shape) * scale, dtype)

    params = jax.tree.map(lambda p: p + draw(*p.shape) / 10, cell.init(jax.random.key(0), dtype))
    state0 = jax.tree.map(lambda s: draw(*s.shape), cell.initial_state(rows, dtype))
    return cell, (params, draw(steps, rows, inputs), state0), draw(steps, rows, units)


def loss_of(cell, weight, backend, gradient="auto", **options):
    def loss(params, xs, state0):
        state, hs = unroll(cell, params, xs, state0, backend=backend, gradient=gradient, **options)
        return jnp.vdot(hs, weight) + jnp.vdot(state.h, state.c)

    return loss


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "sizes", [SIZES[2], *(pytest.param(s, marks=pytest.mark.slow) for s in SIZES if s != SIZES[2])]
)
def test_values_and_gradients_are_those_of_the_plain_scan(sizes, reverse, x64):
    cell, arguments, weight = problem(sizes)
    options = {"sequences": Sequences(reverse=reverse)}
    scan, kernel = (
        jax.value_and_grad(loss_of(cell, weight, backend, gradient, **options), (0, 1, 2))
        for backend, gradient in (("loop", "autodiff"), ("cpu_kernel", "auto"))
    )
    assert_close(jax.jit(kernel)(*arguments), scan(*arguments), 1e-12)


@pytest.mark.parametrize("sizes", [SIZES[3], pytest.param(SIZES[4], marks=pytest.mark.slow)])
def test_single_precision(sizes, x64):
    cell, arguments, weight = problem(sizes)
    exact = jax.grad(loss_of(cell, weight, "loop"), (0, 1, 2))(*arguments)
    single = jax.tree.map(lambda a: a.astype(np.float32), (arguments, weight))
    found = jax.grad(loss_of(cell, single[1], "cpu_kernel"), (0, 1, 2))(*single[0])
    loop = jax.grad(loss_of(cell, single[1], "loop"), (0, 1, 2))(*single[0])
    for leaves in zip(*map(jax.tree.leaves, (found, loop, exact)), strict=True):
        assert leaves[0].dtype == np.float32
        a, b, c = (np.asarray(leaf, np.float64) for leaf in leaves)
        size = abs(c).max()
        assert abs(a - c).max() < 4 * abs(b - c).max() + 1e-6 * size


@pytest.mark.slow
def test_every_derivative(x64):
    cell, arguments, weight = problem((6, 2, 3, 5))
    loop, kernel = (loss_of(cell, weight, backend) for backend in ("loop", "cpu_kernel"))
    tangents = jax.tree.map(jnp.sin, arguments)
    for mode in (
        lambda f: jax.jvp(f, arguments, tangents),
        lambda f: jax.grad(lambda xs: jax.grad(f, 1)(arguments[0], xs, arguments[2]).sum())(
            arguments[1]
        ),
        lambda f: jax.hessian(lambda b: f(arguments[0]._replace(b=b), *arguments[1:]))(
            arguments[0].b
        ),
        lambda f: jax.jacfwd(f, 1)(*arguments),
        lambda f: jax.grad(jax.checkpoint(f))(*arguments),
        lambda f: jax.jvp(
            lambda xs: jax.grad(f)(arguments[0], xs, arguments[2]), (arguments[1],), (tangents[1],)
        ),
    ):  # fmt: skip
        assert_close(mode(kernel), mode(loop), 1e-11)


@pytest.mark.parametrize(
    "mapped",
    [
        (None, 0, None),
        *(
            pytest.param(axes, marks=pytest.mark.slow)
            for axes in ((None, 0, 0), (0, None, 0), (0, 0, 0), (None, None, 0))
        ),
    ],
)
def test_mapped(mapped, x64):
    cell, arguments, weight = problem((5, 2, 3, 4))
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf * 2, -leaf]), arguments)
    given = tuple(arguments[n] if axis is None else several[n] for n, axis in enumerate(mapped))
    for make in (lambda f: f, lambda f: jax.grad(f, (0, 1, 2))):
        kernel, loop = (
            jax.vmap(make(loss_of(cell, weight, backend)), mapped)(*given)
            for backend in ("cpu_kernel", "loop")
        )
        assert_close(kernel, loop, 1e-12)


def test_one_call_for_a_mapped_batch_with_one_set_of_parameters():
    cell, (params, xs, state0), _ = problem((5, 2, 3, 4), np.float32)
    several = jnp.stack([xs] * 3)
    run = jax.vmap(lambda xs: unroll(cell, params, xs, state0, backend="cpu_kernel")[1])
    text = jax.jit(run).lower(several).as_text()
    assert text.count("custom_call @lstm_jax_lstm_forward") == 1 and "while" not in text


def test_without_a_batch_axis(x64):
    cell, (params, xs, state0), _ = problem((9, 1, 3, 5))
    one = (params, xs[:, 0], jax.tree.map(lambda s: s[0], state0))
    found, expected = (unroll(cell, *one, backend=b) for b in ("cpu_kernel", "loop"))
    assert_close(found, expected, 1e-13)


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e100])
def test_saturated_gates(scale, x64):
    cell, arguments, weight = problem((4, 3, 2, 7), scale=scale)
    found, expected = (
        jax.value_and_grad(loss_of(cell, weight, b), (0, 1, 2))(*arguments)
        for b in ("cpu_kernel", "loop")
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-200 * scale)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_where_it_is(wrong, x64):
    cell, (params, xs, state0), _ = problem((4, 3, 2, 5))
    xs = xs.at[2, 1, 0].set(wrong)
    found, expected = (
        unroll(cell, params, xs, state0, backend=b)[1] for b in ("cpu_kernel", "loop")
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert jnp.isfinite(found[:, [0, 2]]).all() and jnp.isfinite(found[:2]).all()


THREADS = """
import sys
import jax, jax.numpy as jnp, numpy as np, lstm_jax
digest = 0
for rows, units in ((32, 40), (7, 33), (1, 800)):
    cell = lstm_jax.lstm(20, units)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (30, rows, 20))
    grad = jax.jit(jax.value_and_grad(
        lambda p, xs: (lstm_jax.unroll(cell, p, xs, backend="cpu_kernel")[1] ** 2).sum(), (0, 1)))
    for leaf in jax.tree.leaves(grad(params, xs)):
        digest = hash((digest, np.asarray(leaf).tobytes()))
print(digest)
"""


def run(program, **environment):
    import os

    found = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "0", **environment},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.slow
def test_the_bits_do_not_depend_on_the_number_of_threads():
    alone = run(THREADS, LSTM_JAX_THREADS="1")
    assert run(THREADS) == run(THREADS) == alone


EACH = """
import jax, jax.numpy as jnp, numpy as np, lstm_jax
from lstm_jax.backends.cpu_kernel.library import status
jax.config.update("jax_enable_x64", True)
for steps, rows, inputs, units in ((7, 5, 3, 17), (4, 1, 2, 9), (9, 13, 6, 32)):
    cell = lstm_jax.lstm(inputs, units)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (steps, rows, inputs))
    def loss(p, xs, b):
        return (lstm_jax.unroll(cell, p, xs, backend=b)[1] ** 2).sum()
    grads = [jax.grad(loss, (0, 1))(params, xs, b) for b in ("cpu_kernel", "loop")]
    for a, b in zip(*map(jax.tree.leaves, grads)):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)
print(status().instruction_set)
"""


@pytest.mark.slow
@pytest.mark.parametrize("instructions", ["avx512", "avx2", "neon", "plain"])
def test_each_instruction_set_of_this_machine(instructions):
    found = run(EACH, LSTM_JAX_INSTRUCTIONS=instructions).strip()
    if found != instructions:
        pytest.skip(f"this machine has no {instructions}")


def test_the_rest_is_run_by_the_loop(x64):
    """As the table in `conditions` says; the numbers are the loop's."""
    cell, (params, xs, state0), _ = problem((6, 3, 4, 5))
    key = jax.random.key(1)
    others = {
        "masks": (cell, params, xs, state0, {"sequences": Sequences(lengths=jnp.array([6, 2, 4]))}),
        "noise": (cell, params, xs, state0, {"noise": lstm_jax.Noise(zoneout=0.3, key=key)}),
    }
    for make in (lstm_jax.gru, lstm_jax.rnn, lambda d, h: lstm_jax.lstm(d, h, peepholes=True)):
        other = make(4, 5)
        others[other.name] = (other, other.init(key), xs, other.initial_state(3), {})
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, xs, state0))
    others["bfloat16"] = (cell, *half, {})
    for name, (net, p, x, s, options) in others.items():
        prepared = prepare(
            net, x, s, options.get("sequences", ALL_STEPS), options.get("noise", NO_NOISE)
        )
        assert conditions.refusal(net, p, prepared).startswith("expected"), name
        found, loop = (unroll(net, p, x, s, backend=b, **options) for b in ("cpu_kernel", "loop"))
        assert_close(found, loop, 0)
    prepared = prepare(cell, xs, state0, ALL_STEPS, NO_NOISE)
    assert conditions.refusal(cell, params, prepared) is None
    with jax.set_mesh(jax.make_mesh((1,), ("data",))):
        assert "a mesh" in conditions.refusal(cell, params, prepared)


def test_without_the_library_the_loop_runs(monkeypatch, tmp_path, x64):
    cell, (params, xs, state0), _ = problem((6, 3, 4, 5))
    library.status.cache_clear()
    try:
        monkeypatch.setattr(library, "LIBRARY", tmp_path / "none.so")
        monkeypatch.setattr(library, "REASON", tmp_path / "why")
        assert "expected one in" in library.status().reason
        found = unroll(cell, params, xs, state0, backend="cpu_kernel")
        assert_close(found, unroll(cell, params, xs, state0, backend="loop"), 0)
        library.status.cache_clear()
        (tmp_path / "none.so").write_bytes(b"no library")
        assert library.status().reason.startswith("Unusable library: expected")
    finally:
        library.status.cache_clear()


def test_autodiff_is_the_loops():
    cell, (params, xs, state0), _ = problem((2, 1, 2, 2), np.float32)
    with pytest.raises(ValueError, match='with backend="cpu_kernel", got "autodiff"'):
        unroll(cell, params, xs, state0, backend="cpu_kernel", gradient="autodiff")
