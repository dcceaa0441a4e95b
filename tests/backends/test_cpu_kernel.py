"""The CPU kernel beside the loop and the plain scan: values, every derivative, what it leaves to the loop."""

import itertools
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close

import lstm_jax
from lstm_jax import Noise, Sequences, unroll
from lstm_jax.backends.cpu_kernel import conditions, library
from lstm_jax.backends.cpu_kernel.arrays import Kernel, inputs_of
from lstm_jax.backends.cpu_kernel.kernel_call import backward, forward
from lstm_jax.gradients import checkpointing
from lstm_jax.time_loop.scan import scan_settings
from lstm_jax.time_loop.step_masks import ALL_STEPS, NO_NOISE, StepMasks, prepare

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


CELLS = {
    "lstm": lstm_jax.lstm,
    "gru": lstm_jax.gru,
    "gru_reset_before": partial(lstm_jax.gru, reset_after=False),
    **{f"rnn_{phi}": partial(lstm_jax.rnn, activation=phi) for phi in ("tanh", "relu", "identity")},
}


def problem(sizes, dtype=np.float64, scale=1.0, kind="lstm"):
    """A cell, and params, xs, state0 and a weight for each output."""
    steps, rows, inputs, units = sizes
    cell = CELLS[kind](inputs, units)
    random = np.random.default_rng(sum(sizes))

    def draw(*shape):
        return jnp.asarray(random.normal(size=shape) * scale, dtype)

    params = jax.tree.map(lambda p: p + draw(*p.shape) / 10, cell.init(jax.random.key(0), dtype))
    state0 = jax.tree.map(lambda s: draw(*s.shape), cell.initial_state(rows, dtype))
    return cell, (params, draw(steps, rows, inputs), state0), draw(steps, rows, units)


def loss_of(cell, weight, backend, gradient="auto", **options):
    def loss(params, xs, state0):
        state, hs = unroll(cell, params, xs, state0, backend=backend, gradient=gradient, **options)
        return jnp.vdot(hs, weight) + sum(jnp.vdot(leaf, jnp.cos(leaf)) for leaf in state)

    return loss


def slow(*values):
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.mark.parametrize("reverse", [False, *slow(True)])
@pytest.mark.parametrize("sizes", [SIZES[2], *slow(*(s for s in SIZES if s != SIZES[2]))])
@pytest.mark.parametrize(
    "kind", ["lstm", "gru", "rnn_tanh", *slow("gru_reset_before", "rnn_relu", "rnn_identity")]
)
def test_values_and_gradients_are_those_of_the_plain_scan(kind, sizes, reverse, x64):
    cell, arguments, weight = problem(sizes, kind=kind, scale=0.5)
    options = {"sequences": Sequences(reverse=reverse)}
    scan, kernel = (
        jax.value_and_grad(loss_of(cell, weight, backend, gradient, **options), (0, 1, 2))
        for backend, gradient in (("loop", "autodiff"), ("cpu_kernel", "auto"))
    )
    text = jax.jit(kernel).lower(*arguments).as_text()
    assert text.count("@lstm_jax_backward") == 1 and "while" not in text
    assert_close(jax.jit(kernel)(*arguments), scan(*arguments), 1e-12)


def between_the_steps(steps, rows, kind):
    """Everything that can lie between the steps of a loop, by name."""
    random = np.random.default_rng(1)
    lengths = jnp.array(random.integers(0, steps + 1, rows))
    mask, resets = (jnp.array(random.random((steps, rows)) < share) for share in (0.7, 0.3))
    key = jax.random.key(3)
    masked = Sequences(mask=mask, resets=resets)
    found = {
        "lengths": {"sequences": Sequences(lengths=lengths)},
        "lengths, resets, reversed": {
            "sequences": Sequences(lengths=lengths, resets=resets, reverse=True)
        },
        "gaps": {"sequences": Sequences(mask=mask, outside="last", truncate=2)},
        "gaps, resets, reversed": {"sequences": masked._replace(reverse=True)},
        "truncation": {"sequences": Sequences(truncate=3)},
        "resets, truncation": {"sequences": Sequences(resets=resets, truncate=3)},
        "zoneout": {"sequences": masked, "noise": Noise(zoneout=0.4, key=key)},
        "recurrent dropout": {"noise": Noise(recurrent_dropout=0.4, zoneout=0.3, key=key)},
    }
    if kind.startswith("gru"):  # In which h does not act through W_h alone.
        del found["recurrent dropout"]
    return found


@pytest.mark.parametrize(
    "name", ["zoneout", *slow(*(n for n in between_the_steps(1, 1, "lstm") if n != "zoneout"))]
)
@pytest.mark.parametrize("kind", ["lstm", *slow("gru", "gru_reset_before", "rnn_tanh", "rnn_relu")])
def test_what_lies_between_the_steps(kind, name, x64):
    for sizes in ((9, 5, 3, 17), (7, 1, 2, 6)):
        options = between_the_steps(*sizes[:2], kind).get(name)
        if options is None:
            pytest.skip("the cell has none")
        cell, arguments, weight = problem(sizes, kind=kind, scale=0.5)
        loop, kernel = (
            jax.jit(jax.value_and_grad(loss_of(cell, weight, backend, **options), (0, 1, 2)))
            for backend in ("loop", "cpu_kernel")
        )
        assert "@lstm_jax_backward" in kernel.lower(*arguments).as_text()
        assert_close(kernel(*arguments), loop(*arguments), 1e-12)


@pytest.mark.parametrize("reverse", [False, *slow(True)])
def test_a_long_sequence_runs_in_segments(reverse, x64, monkeypatch):
    cell, arguments, weight = problem((23, 2, 3, 5), kind="gru")
    options = {"sequences": Sequences(reverse=reverse)}
    expected = jax.grad(loss_of(cell, weight, "loop", **options), (0, 1, 2))(*arguments)
    monkeypatch.setattr(checkpointing, "LARGE", 100)
    kernel = jax.jit(jax.grad(loss_of(cell, weight, "cpu_kernel", **options), (0, 1, 2)))
    text = kernel.lower(*arguments).as_text()
    # Six steps each, and five: no array has the residuals of all 23.
    assert "@lstm_jax_backward" in text and "23x2x64" not in text and "6x2x64" in text
    assert_close(kernel(*arguments), expected, 1e-12)


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
@pytest.mark.parametrize("kind", ["lstm", "gru", "gru_reset_before", "rnn_tanh"])
def test_every_derivative(kind, x64):
    cell, arguments, weight = problem((6, 2, 3, 5), kind=kind)
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
        assert_close(*(jax.jit(partial(mode, f))() for f in (kernel, loop)), 1e-11)


@pytest.mark.slow
def test_derivatives_of_masked_sequences(x64):
    cell, arguments, weight = problem((6, 2, 3, 5))
    options = between_the_steps(6, 2, "lstm")["zoneout"]
    loop, kernel = (loss_of(cell, weight, backend, **options) for backend in ("loop", "cpu_kernel"))
    tangents = jax.tree.map(jnp.sin, arguments)
    for mode in (
        lambda f: jax.jvp(jax.grad(f), arguments, tangents),
        lambda f: jax.jacfwd(jax.grad(f, 1), 1)(*arguments),
    ):
        assert_close(*(jax.jit(partial(mode, f))() for f in (kernel, loop)), 1e-11)


def test_mapped_over_nothing():
    cell, (params, xs, state0), _ = problem((9, 2, 3, 4), np.float32)

    def loss(xs):
        return unroll(cell, params, xs, state0, backend="cpu_kernel")[1].sum()

    assert jax.vmap(loss)(jnp.zeros((0, *xs.shape), jnp.float32)).shape == (0,)
    assert jax.vmap(jax.grad(loss))(jnp.zeros((0, *xs.shape), jnp.float32)).shape == (0, *xs.shape)


AXES = [axes for axes in itertools.product((None, 0), repeat=3) if axes != (None,) * 3]


@pytest.mark.parametrize(
    "mapped", [(None, 0, None), *slow(*(a for a in AXES if a != (None, 0, None)))]
)
def test_mapped(mapped, x64):
    """`jax.vmap` of the loss, of its gradient and of both once more."""
    cell, arguments, weight = problem((5, 2, 3, 4))
    options = {"sequences": Sequences(lengths=jnp.array([3, 5]))}
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf * 2, -leaf]), arguments)
    given = tuple(arguments[n] if axis is None else several[n] for n, axis in enumerate(mapped))
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf * 0.7]), given[0])
    for make in (lambda f: f, lambda f: jax.grad(f, (0, 1, 2))):
        for backend in ("cpu_kernel", "loop"):
            run = jax.vmap(make(loss_of(cell, weight, backend, **options)), mapped)
            both = jax.jit(run)(*given), jax.jit(jax.vmap(run, (0, None, None)))(twice, *given[1:])
            if backend == "cpu_kernel":
                found = both
        assert_close(found, both, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("mapped", AXES)
def test_the_gradient_of_a_mapped_loss(mapped, x64):
    cell, arguments, weight = problem((5, 2, 3, 4), kind="gru")
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf * 2, -leaf]), arguments)
    given = tuple(arguments[n] if axis is None else several[n] for n, axis in enumerate(mapped))
    found, expected = (
        jax.jit(
            jax.grad(
                lambda *a, b=backend: jax.vmap(loss_of(cell, weight, b), mapped)(*a).sum(),
                (0, 1, 2),
            )
        )(*given)
        for backend in ("cpu_kernel", "loop")
    )
    assert_close(found, expected, 1e-12)


def test_mapped_cotangents_share_their_inputs(x64):
    """Rows of cotangents beside fewer rows of inputs; then with inputs that are mapped as well."""
    cell, (params, xs, state0), _ = problem((4, 2, 3, 5))
    several = jnp.stack([xs, 2 * xs, -xs])
    cotangents = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 4, 2, 5)))

    def pulled(backend, xs, d_hs):
        def run(params, xs):
            return unroll(cell, params, xs, state0, backend=backend)[1]

        return jax.vjp(run, params, xs)[1](d_hs)

    def mapped(backend, xs, d_hs):
        return jax.vmap(partial(pulled, backend, xs))(d_hs)

    found, expected = (
        jax.jit(
            lambda b=b: (
                mapped(b, xs, cotangents[0]),
                jax.vmap(partial(mapped, b))(several, cotangents),
            )
        )()
        for b in ("cpu_kernel", "loop")
    )
    assert_close(found, expected, 1e-12)


def test_no_tracer_leaks():
    cell, (params, xs, state0), _ = problem((9, 2, 3, 4), np.float32)
    with jax.checking_leaks():
        jax.jit(jax.grad(lambda p: unroll(cell, p, xs, state0)[1].sum()))(params)


@pytest.mark.parametrize("weights", [None, 0])
def test_one_call_where_arguments_are_mapped(weights):
    cell, (params, xs, state0), _ = problem((9, 2, 3, 4), np.float32)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), (params, xs))
    given = several[0] if weights == 0 else params

    def loss(params, xs):
        return unroll(cell, params, xs, state0)[1].sum()

    run = jax.jit(jax.vmap(jax.grad(loss), (weights, 0)))
    text = run.lower(given, several[1]).as_text()
    assert text.count("custom_call @lstm_jax_backward") == 1 and "while" not in text


@pytest.mark.parametrize("platforms", [["cpu"], ["cpu", "tpu"]])
def test_an_export_has_the_loop(platforms, x64):
    """A file that another program runs, which may not have the kernel."""
    cell, (params, xs, state0), _ = problem((9, 2, 3, 4))

    def loss(params, xs):
        return unroll(cell, params, xs, state0)[1].sum()

    gradient = jax.jit(jax.grad(loss))
    exported = jax.export.export(gradient, platforms=platforms)(params, xs)
    assert "@lstm_jax" not in str(exported.mlir_module())
    assert_close(exported.call(params, xs), gradient(params, xs), 1e-13)


def test_the_backward_pass_makes_residuals_that_are_missing(x64):
    """As after a forward pass that ran in the loop, in another program."""
    cell, (params, xs, state0), weight = problem((5, 2, 3, 4))
    kernel = Kernel(conditions.kind_of(cell), cell, scan_settings(True, "auto"), ())
    inputs = inputs_of(kernel, params, xs, state0, StepMasks())
    found = forward(kernel, inputs, True)
    without = found._replace(
        kept=jnp.full_like(found.kept, jnp.nan), made=jnp.zeros_like(found.made)
    )
    d_end = jnp.cos(state0.h)[None]
    whole, again = (
        backward(kernel, inputs, one, weight[None], d_end, 2 * d_end) for one in (found, without)
    )
    assert_close(again, whole, 0)


def test_without_jit(x64):
    cell, arguments, weight = problem((3, 2, 3, 4))
    expected = jax.grad(loss_of(cell, weight, "cpu_kernel"))(*arguments)
    with jax.disable_jit():
        assert_close(jax.grad(loss_of(cell, weight, "cpu_kernel"))(*arguments), expected, 1e-14)


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


@pytest.mark.parametrize("wrong", [np.inf, *slow(-np.inf, np.nan)])
@pytest.mark.parametrize("kind", ["lstm", *slow("gru", "gru_reset_before", "rnn_tanh")])
def test_gradients_of_what_is_not_finite(kind, wrong, x64):
    """No number is lost that the loop has: the units that fill up a vector are none of the network's."""
    cell, (params, xs, state0), weight = problem((4, 3, 2, 5), kind=kind, scale=0.5)
    arguments = (params, xs.at[2, 1, 0].set(wrong), state0)
    found, expected = (
        jax.grad(loss_of(cell, weight, backend), (0, 1, 2))(*arguments)
        for backend in ("cpu_kernel", "loop")
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        known = np.isfinite(b)
        np.testing.assert_allclose(
            np.asarray(a)[known], np.asarray(b)[known], rtol=1e-11, atol=1e-13
        )


NANS = """
import gc
import jax, jax.numpy as jnp, lstm_jax
jax.config.update("jax_enable_x64", True)
cell = lstm_jax.lstm(3, 5)
params, xs = cell.init(jax.random.key(0)), jnp.ones((16, 4, 3)).at[2, 1, 0].set(jnp.inf)
# Memory of the size of the residuals that has NaN in it, for the call to take.
for rows in range(64):
    jnp.full((1, 16, 4, 80), jnp.nan).block_until_ready()
gc.collect()
with jax.debug_nans(True):
    found = jax.vjp(lambda params: lstm_jax.unroll(cell, params, xs)[1], params)[0]
print(bool(jnp.isfinite(found).all()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("instructions", ["avx512", "avx2"])
def test_residuals_have_no_nan_that_the_network_has_not(instructions):
    assert run(NANS, LSTM_JAX_INSTRUCTIONS=instructions).strip() == "True"


STORED = """
import pickle, sys
import jax, jax.numpy as jnp
from jax.experimental import serialize_executable
import lstm_jax
if sys.argv[1] == "write":
    cell = lstm_jax.lstm(3, 5)
    params, xs = cell.init(jax.random.key(0)), jnp.ones((16, 4, 3))
    compiled = jax.jit(lambda p, xs: lstm_jax.unroll(cell, p, xs)[1]).lower(params, xs).compile()
    found = serialize_executable.serialize(compiled), params, xs, compiled(params, xs)
    pickle.dump(found, open(sys.argv[2], "wb"))
else:
    stored, params, xs, expected = pickle.load(open(sys.argv[2], "rb"))
    print(bool((serialize_executable.deserialize_and_load(*stored)(params, xs) == expected).all()))
"""


@pytest.mark.slow
def test_a_stored_executable_runs_in_another_process(tmp_path):
    file = str(tmp_path / "executable")
    run(STORED, "write", file)
    assert run(STORED, "read", file).strip() == "True"


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


def run(program, *words, **environment):
    import os

    found = subprocess.run(
        [sys.executable, "-c", program, *words],
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


def test_auto_takes_the_kernel_but_for_few_rows():
    cell, (params, _, _), _ = problem((5, 2, 3, 4), np.float32)
    for shape, kernels in (((16, 1, 3), 1), ((15, 3), 0), ((4, 4, 3), 1), ((1, 2, 3), 0)):
        run = jax.jit(partial(unroll, cell))
        text = run.lower(params, jnp.zeros(shape, jnp.float32)).as_text()
        assert text.count("custom_call @lstm_jax_forward") == kernels


def test_the_rest_is_run_by_the_loop(x64):
    """As the table in `conditions` says; the numbers are the loop's."""
    cell, (params, xs, state0), _ = problem((6, 3, 4, 5))
    key = jax.random.key(1)
    noise = Noise(zoneout=0.3)
    others = {
        "zoneout without a key": (cell, params, xs, state0, noise),
        "bfloat16": (
            cell,
            *jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, xs, state0)),
            NO_NOISE,
        ),
    }
    own = cell._replace(step=lambda params, state, x: cell.step(params, state, x))
    for other in (
        lstm_jax.lstm(4, 5, peepholes=True),
        lstm_jax.lstm(4, 5, layer_norm=True),
        own,
    ):
        start = other.initial_state(3, np.float64)
        others[f"{other} {len(others)}"] = (other, other.init(key), xs, start, NO_NOISE)
    for name, (net, p, x, s, noise) in others.items():
        refused = conditions.refusal(net, prepare(net, x, s, ALL_STEPS, noise))
        assert refused.startswith("expected"), name
        found, loop = (unroll(net, p, x, s, noise=noise, backend=b) for b in ("cpu_kernel", "loop"))
        assert_close(found, loop, 0)
    prepared = prepare(cell, xs, state0, ALL_STEPS, NO_NOISE)
    assert conditions.refusal(cell, prepared) is None
    with jax.set_mesh(jax.make_mesh((1,), ("data",))):
        assert "a mesh" in conditions.refusal(cell, prepared)


DEVICES = """
import jax, jax.numpy as jnp, numpy as np, lstm_jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
jax.config.update("jax_enable_x64", True)
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
def same(found, expected):
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)
def calls(f, *arguments):
    return jax.jit(f).lower(*arguments).as_text().count("@lstm_jax_backward")
for cell in (lstm_jax.lstm(3, 5), lstm_jax.gru(3, 5)):
    params = cell.init(jax.random.key(0), jnp.float64)
    xs = jax.random.normal(jax.random.key(1), (8, 8, 3))
    def loss(params, xs, backend="auto"):
        return jnp.sin(lstm_jax.unroll(cell, params, xs, backend=backend)[1]).sum()
    expected = jax.grad(loss, (0, 1))(params, xs, "loop")
    gradient = jax.grad(loss, (0, 1))
    # The compiler spreads the batch over the devices: the loop, and no gathering of it.
    places = NamedSharding(mesh, P()), NamedSharding(mesh, P(None, "data"))
    spread = jax.device_put((params, xs), places)
    assert calls(gradient, *spread) == 0
    same(jax.jit(gradient)(*spread), expected)
    # Step by step, the forward and the backward pass are programs of their own.
    same(gradient(*spread), expected)
    with jax.set_mesh(mesh):
        same(jax.jit(gradient)(*spread), expected)
    # By shard_map each device runs the kernel on its own rows.
    specs = dict(mesh=mesh, in_specs=(P(), P(None, "data")))
    inside = jax.shard_map(gradient, out_specs=(P(), P(None, "data")), **specs)
    whole = jax.shard_map(lambda *a: jax.lax.psum(loss(*a), "data"), out_specs=P(), **specs)
    for f in (inside, jax.grad(whole, (0, 1))):
        assert calls(f, params, xs) == 1
        same(jax.jit(f)(params, xs), expected)
    def squares(gradient):
        return jax.grad(lambda xs: (gradient(params, xs)[1] ** 2).sum())
    same(jax.jit(squares(jax.grad(whole, (0, 1))))(xs),
         squares(jax.grad(lambda p, xs: loss(p, xs, "loop"), (0, 1)))(xs))
print("done")
"""


@pytest.mark.slow
def test_many_devices():
    assert run(DEVICES, XLA_FLAGS="--xla_force_host_platform_device_count=4").strip() == "done"


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
        library.status.cache_clear()
        monkeypatch.undo()
        monkeypatch.setattr(library, "INTERFACE", 3)
        assert "expected interface 3 of" in library.status().reason
        assert "got 2. Do python -m lstm_jax" in library.status().reason
    finally:
        library.status.cache_clear()


def test_autodiff_is_the_loops():
    cell, (params, xs, state0), _ = problem((2, 1, 2, 2), np.float32)
    with pytest.raises(ValueError, match='with backend="cpu_kernel", got "autodiff"'):
        unroll(cell, params, xs, state0, backend="cpu_kernel", gradient="autodiff")
