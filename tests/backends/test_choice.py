"""When ``gradient="auto"`` takes NVIDIA's kernel, and that it then computes what the loop does."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close, grouped, grouped_for_stack, random_like, slow
from jax import export
from jax.experimental import rnn
from kernel_emulation import backward, emulate, forward

import lstm_jax
from lstm_jax.backends import choice
from lstm_jax.backends.cudnn import agreement, conditions, kernel_call

T, B = 13, 3
LENGTHS = jnp.array([7, 0, 13], jnp.int32)
LSTM = lstm_jax.lstm(3, 4)


@pytest.fixture(autouse=True)
def untried():
    """No verdict of another test."""
    for cached in (agreement.objection, choice._warn_once):
        cached.cache_clear()
    yield
    agreement.objection.cache_clear()


@pytest.fixture
def emulated(monkeypatch):
    """A device whose kernel "auto" trusts, with an emulation in the place of the kernel."""
    emulate(monkeypatch)
    monkeypatch.setattr(kernel_call, "PLATFORM", "cpu")
    monkeypatch.setattr(agreement, "objection", lambda device: None)


@pytest.fixture
def as_on_cuda(emulated, monkeypatch):
    """As on a machine with a GPU: the kernel is for CUDA alone, and the CPU has the loop."""
    monkeypatch.setattr(kernel_call, "PLATFORM", "cuda")
    jax.clear_caches()  # no program with a kernel for the CPU, now or later
    yield
    jax.clear_caches()


@pytest.fixture(
    params=["emulated", pytest.param("device", marks=pytest.mark.gpu)],
)
def kernel(request):
    """A kernel to run, however it comes."""
    if request.param == "emulated":
        request.getfixturevalue("emulated")
        yield
    elif (reason := conditions.device_refusal()) is not None:
        pytest.skip(reason)
    else:
        with jax.default_matmul_precision("float32"):
            yield


def problem(net, batch=B, seed=0, dtype=float):
    rng = np.random.default_rng(seed)
    params = random_like(rng, jax.eval_shape(net.init, jax.random.key(0)), dtype, scale=0.5)
    shape = (T, 3) if batch is None else (T, batch, 3)
    return params, random_like(rng, jax.ShapeDtypeStruct(shape, float), dtype)


def calls(function, *inputs):
    """How many calls a function makes for which the kernel is there."""

    def within(value):
        if isinstance(value, list | tuple):
            return sum(map(within, value))
        if hasattr(value, "eqns"):
            return sum(
                within(list(eqn.params.values())) + (eqn.primitive.name == "platform_switch")
                for eqn in value.eqns
            )
        return within(value.jaxpr) if hasattr(value, "jaxpr") else 0

    return within(jax.make_jaxpr(function)(*inputs))


def calls_of(cell, inputs, **options):
    return calls(lambda *inputs: lstm_jax.unroll(cell, *inputs, **grouped(**options)), *inputs)


OPTIONS = {
    "nothing": ({}, True),
    "lengths": ({"lengths": LENGTHS}, True),
    "reverse": ({"reverse": True}, True),
    "both": ({"lengths": LENGTHS, "reverse": True}, True),
    "a key for nothing": ({"key": jax.random.key(0)}, True),
    "resets": ({"resets": jnp.zeros((T, B), bool)}, False),
    "truncate": ({"truncate": 2}, False),
    "zoneout": ({"zoneout": 0.1}, False),
    "recurrent dropout": ({"recurrent_dropout": 0.1, "key": jax.random.key(0)}, False),
    "segments": ({"segments": 2}, False),
    "no segments": ({"segments": None}, False),
    "steps of an iteration": ({"unroll": 2}, False),
    "by hand": ({"gradient": "bptt"}, False),
    "by autodiff": ({"gradient": "autodiff"}, False),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_by_what_is_asked(emulated, name):
    options, taken = OPTIONS[name]
    assert calls_of(LSTM, problem(LSTM), **options) == taken


CELLS = {
    "standard": (LSTM, True),
    "forget bias": (lstm_jax.lstm(3, 4, forget_bias=5.0), True),
    "peepholes": (lstm_jax.lstm(3, 4, peepholes=True), False),
    "layer norm": (lstm_jax.lstm(3, 4, layer_norm=True), False),
    "changed": (LSTM._replace(step=lambda *given: LSTM.step(*given)), False),
    "gru": (lstm_jax.gru(3, 4), False),
    "rnn": (lstm_jax.rnn(3, 4), False),
}


@pytest.mark.parametrize("name", CELLS)
def test_by_the_cell(emulated, name):
    cell, taken = CELLS[name]
    assert calls_of(cell, problem(cell)) == taken


def test_a_plain_step_is_a_loop(emulated):
    params, xs = problem(LSTM)
    assert calls_of(LSTM.step, (params, xs, LSTM.initial_state(B))) == 0


@pytest.mark.parametrize(
    ("dtype", "taken"), [("float32", True), ("float64", False), ("bfloat16", False), ("float16", False)]
)  # fmt: skip
def test_by_the_dtype(emulated, dtype, taken):
    with jax.enable_x64(dtype == "float64"):
        assert calls_of(LSTM, problem(LSTM, dtype=jnp.dtype(dtype))) == taken


def both(size):
    return lstm_jax.bidirectional(lstm_jax.lstm(size, 4))


STACKS = {
    "two layers": (lstm_jax.stack(LSTM, lstm_jax.lstm(4, 4)), {}, 1),
    "both directions": (lstm_jax.stack(both(3), both(8), output_size=2), {}, 1),
    "lengths": (lstm_jax.stack(both(3), both(8)), {"lengths": LENGTHS}, 1),
    "two sizes": (lstm_jax.stack(LSTM, lstm_jax.lstm(4, 5)), {}, 2),
    "residual": (lstm_jax.stack(lstm_jax.lstm(3, 3), lstm_jax.lstm(3, 3), residual=True), {}, 2),
    "dropout": (
        lstm_jax.stack(LSTM, lstm_jax.lstm(4, 4), dropout=0.5), {"key": jax.random.key(0)}, 2,
    ),
    "one of two": (lstm_jax.stack(LSTM, lstm_jax.gru(4, 4)), {}, 1),
    "truncate": (lstm_jax.stack(LSTM, lstm_jax.lstm(4, 4)), {"truncate": 2}, 0),
    "segments": (lstm_jax.stack(LSTM, lstm_jax.lstm(4, 4)), {"segments": 2}, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", STACKS)
def test_by_the_stack(emulated, name):
    net, options, number = STACKS[name]
    params, xs = problem(net)
    assert (
        calls(
            lambda p, xs: lstm_jax.unroll_stack(net, p, xs, **grouped_for_stack(**options)),
            params,
            xs,
        )
        == number
    )


@pytest.mark.parametrize(("time", "taken"), [(8, False), (12, False), (13, True)])
def test_by_the_number_of_steps(emulated, time, taken):
    """Up to twelve the loop is none."""
    params, xs = problem(LSTM)
    assert calls_of(LSTM, (params, xs[:time])) == taken


def test_not_in_one_of_several_processes(emulated, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert calls_of(LSTM, problem(LSTM)) == 0


def test_without_a_batch(emulated):
    assert calls_of(LSTM, problem(LSTM, batch=None)) == 1


@pytest.mark.parametrize(("time", "batch"), [(0, B), (T, 0)])
def test_nothing_to_run_is_refused_as_ever(emulated, time, batch):
    net = NETS["one layer"]
    start = (lstm_jax.LSTMState(*[jnp.zeros((batch, 4))] * 2),)
    with pytest.raises(ValueError, match="at least one|positive"):
        lstm_jax.unroll_stack(net, problem(net)[0], jnp.ones((time, batch, 3)), start)


@pytest.mark.parametrize("precision", ["float32", "tensorfloat32", "bfloat16", "BF16_BF16_F32"])
def test_by_the_precision(emulated, precision):
    with jax.default_matmul_precision(precision):
        assert calls_of(LSTM, problem(LSTM)) == (precision in ("float32", "tensorfloat32"))


@pytest.mark.parametrize("setting", [jax.debug_nans, jax.debug_infs])
def test_not_where_jax_looks_for_nans(emulated, setting):
    """What cuDNN notes are no numbers."""
    with setting(True):
        assert calls_of(LSTM, problem(LSTM)) == 0


def test_not_without_a_device():
    if conditions.device_refusal() is None:
        pytest.skip("there is one")
    assert calls_of(LSTM, problem(LSTM)) == 0


def test_the_device_is_that_on_which_jax_computes(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert conditions.device_refusal() == "expected a CUDA device, got tpu"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with jax.default_device(jax.devices("cpu")[0]):
        assert conditions.device_refusal() == "expected a CUDA device, got cpu"


def test_of_several_devices_only_inside_of_shard_map(emulated, monkeypatch):
    params, xs = problem(LSTM)
    mesh = jax.make_mesh((1, 1), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert calls_of(LSTM, (params, xs)) == 0

    def mapped(axes):
        run = lambda params, xs: lstm_jax.unroll(LSTM, params, xs)[1]  # noqa: E731
        specs = (jax.P(), jax.P(None, "b"))
        return jax.shard_map(
            run, mesh=mesh, in_specs=specs, out_specs=specs[1], axis_names=set(axes)
        )

    assert calls(jax.jit(mapped("ab")), params, xs) == 1
    assert calls(jax.jit(mapped("b")), params, xs) == 0
    with jax.set_mesh(jax.make_mesh((1,), ("c",))):
        assert calls_of(LSTM, (params, xs)) == 0


@pytest.mark.parametrize(("notes", "taken"), [(250, True), (251, False)])
def test_by_the_memory(emulated, monkeypatch, notes, taken):
    monkeypatch.setattr(choice, "_memory", lambda device: 16_000.0)
    monkeypatch.setattr(choice, "workspace_size", lambda kernel, time, batch: notes)
    assert calls_of(LSTM, problem(LSTM)) == taken


def test_the_size_of_the_notes_is_what_cudnn_says(emulated, monkeypatch):
    asked = []

    def sizes(*settings):
        asked.append(settings)
        return 8, 1234

    monkeypatch.setattr(rnn.gpu_rnn, "compute_rnn_workspace_reserve_space_sizes", sizes)
    layers = ((LSTM, LSTM), (lstm_jax.lstm(8, 4),) * 2)
    kernel = kernel_call.Kernel(layers, "float32", whole=True, or_loop=True)
    assert kernel_call.workspace_size(kernel, 17, 2) == 1234
    # Input and hidden size, layers, batch, time, dropout, both directions, TF32.
    assert asked == [(3, 4, 2, 2, 17, 0.0, True, False)]


NETS = {
    "one layer": lstm_jax.stack(LSTM),
    "two layers, both directions": lstm_jax.stack(both(3), both(8)),
}


def weighed(net, gradient, lengths, params, xs):
    """A loss that treats no number of the result like another."""
    out = lstm_jax.unroll_stack(net, params, xs, **grouped(lengths=lengths, gradient=gradient))
    rng = np.random.default_rng(1)
    return sum(jnp.vdot(w, jnp.sin(a)) for w, a in zip(
        jax.tree.leaves(random_like(rng, out)), jax.tree.leaves(out), strict=True
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("name", "lengths"),
    [("one layer", LENGTHS), slow("one layer", None), slow("two layers, both directions", LENGTHS)],
    ids=["lengths", "all steps", "two layers, both directions"],
)
def test_every_derivative_is_that_of_the_loop(kernel, name, lengths):
    net = NETS[name]
    inputs, dots = problem(net), problem(net, seed=1)

    @partial(jax.jit, static_argnums=0)
    def everything(gradient, inputs, dots):
        of = partial(weighed, net, gradient, lengths)
        value = jax.value_and_grad(of, (0, 1))
        return value(*inputs), jax.jvp(value, inputs, dots)[1]

    assert calls(partial(weighed, net, "auto", lengths), *inputs) == 1
    assert_close(everything("auto", inputs, dots), everything("bptt", inputs, dots), 1e-5)


@pytest.mark.parametrize(
    ("order", "name", "lengths"),
    [
        ("grad of vmap", "one layer", LENGTHS),
        slow("vmap of grad", "two layers, both directions", None),
        slow("vmap of vmap", "one layer", LENGTHS),
    ],
    ids=["grad of vmap", "vmap of grad", "vmap of vmap"],
)
def test_under_vmap_it_is_the_loop(kernel, order, name, lengths):
    net = NETS[name]
    many = jax.tree.map(lambda *a: jnp.stack(a), *(problem(net, seed=n) for n in range(4)))

    def gradients(gradient, many):
        of = partial(weighed, net, gradient, lengths)
        if order == "grad of vmap":
            return jax.grad(lambda many: jnp.sum(jax.vmap(of)(*many)))(many)
        if order == "vmap of grad":
            return jax.vmap(jax.grad(of, (0, 1)))(*many)
        shared, xs = many[0], many[1].reshape(2, 2, *many[1].shape[1:])
        one = jax.tree.map(lambda p: p[0], shared)
        inner = jax.vmap(jax.grad(of, 1), in_axes=(None, 0))
        return jax.vmap(inner, in_axes=(None, 0))(one, xs)

    assert calls(partial(gradients, "auto"), many) == 0
    found = jax.jit(partial(gradients, "auto"))(many)
    assert_close(found, jax.jit(partial(gradients, "bptt"))(many), 1e-5)


def test_many_ways_back_from_one_way_through_the_kernel(kernel):
    """`jacrev` maps the way back alone: the notes of the kernel stay unread."""
    params, xs = problem(LSTM)

    def jacobian(gradient, xs):
        return jax.jacrev(
            lambda xs: lstm_jax.unroll(LSTM, params, xs, **grouped(gradient=gradient))[1][-1]
        )(xs)

    assert calls(partial(jacobian, "auto"), xs) == 1
    found = jax.jit(partial(jacobian, "auto"))(xs)
    assert_close(found, jax.jit(partial(jacobian, "bptt"))(xs), 1e-5)


def test_without_jit_and_without_a_batch(kernel):
    params, xs = problem(LSTM, batch=None)
    of = lambda gradient: jax.value_and_grad(  # noqa: E731
        lambda params: jnp.sum(
            jnp.sin(lstm_jax.unroll(LSTM, params, xs, **grouped(gradient=gradient))[1])
        )
    )(params)
    assert calls_of(LSTM, (params, xs)) == 1
    assert_close(of("auto"), of("bptt"), 1e-5)


@pytest.mark.parametrize(
    ("name", "lengths"),
    [("one layer", LENGTHS), slow("two layers, both directions", None)],
    ids=["lengths", "all steps"],
)
def test_a_stack_mapped_over_devices(emulated, name, lengths):
    net = NETS[name]
    params, xs = problem(net)
    mesh = jax.make_mesh((1,), ("b",), axis_types=(jax.sharding.AxisType.Auto,))
    part = None if lengths is None else jax.P("b")

    def gradients(gradient, params, xs):
        def total(params, xs, lengths):
            return jax.lax.psum(weighed(net, gradient, lengths, params, xs), "b")

        specs = (jax.P(), jax.P(None, "b"), part)
        mapped = jax.shard_map(total, mesh=mesh, in_specs=specs, out_specs=jax.P())
        return jax.value_and_grad(mapped, (0, 1))(params, xs, lengths)

    assert calls(partial(gradients, "auto"), params, xs) == 1
    found = jax.jit(partial(gradients, "auto"))(params, xs)
    assert_close(found, jax.jit(partial(gradients, "bptt"))(params, xs), 1e-5)


def test_a_program_for_export_has_no_kernel(as_on_cuda):
    net = NETS["one layer"]
    inputs = problem(net)
    gradient = jax.jit(jax.grad(partial(weighed, net, "auto", LENGTHS), (0, 1)))
    assert calls(gradient, *inputs) > 0  # there is one to leave out
    for platforms in (["cuda"], ["cpu", "cuda"]):
        module = export.export(gradient, platforms=platforms)(*inputs).mlir_module()
        assert "stablehlo.while" in module and "cudnn_rnn" not in module


def test_compiled_for_another_platform_it_is_the_loop(emulated, monkeypatch):
    """As on a machine with a GPU, with arrays that lie on its CPU."""

    def wrong(*arrays, **settings):
        return [jnp.nan * array for array in forward(*arrays, **settings)]

    emulate(monkeypatch, forward=wrong)
    net = NETS["one layer"]
    params, xs = problem(net)

    def of(gradient):
        return jax.jit(jax.grad(partial(weighed, net, gradient, LENGTHS), (0, 1)))(params, xs)

    assert all(jnp.isnan(leaf).any() for leaf in jax.tree.leaves(of("auto")))
    monkeypatch.setattr(kernel_call, "PLATFORM", "cuda")
    jax.clear_caches()
    assert_close(of("auto"), of("bptt"), 1e-5)
    jax.clear_caches()


@pytest.mark.parametrize("gradient", ["bptt", "auto"])
@pytest.mark.parametrize(
    "way", ["mapped", "its gradient mapped", "mapped, the gradient", "gradient"]
)
def test_the_precision_is_that_where_it_was_called(as_on_cuda, gradient, way):
    """Whatever JAX is set to when the function is mapped, transposed or compiled for another platform."""
    params, xs = problem(LSTM)

    @jax.jit
    def total(params, xs):
        with jax.default_matmul_precision("float32"):
            return jnp.sum(
                jnp.sin(lstm_jax.unroll(LSTM, params, xs, **grouped(gradient=gradient))[1])
            )

    ways = {
        "mapped": jax.vmap(total, (None, 0)),
        "its gradient mapped": jax.vmap(jax.grad(total, (0, 1)), (None, 0)),
        "mapped, the gradient": jax.grad(
            lambda params, xs: jnp.sum(jax.vmap(total, (None, 0))(params, xs)), (0, 1)
        ),
        "gradient": jax.grad(total, (0, 1)),
    }
    given = xs if way == "gradient" else jnp.stack([xs, xs])
    text = jax.jit(ways[way]).lower(params, given).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert products and all("HIGHEST" in line for line in products)


def swapped(x, h0, c0, w, lengths, **settings):
    """Weights in another order."""
    return forward(x, h0, c0, w[::-1], lengths, **settings)


def swapped_back(d_y, d_h, d_c, x, h0, c0, w, *rest, **settings):
    *d, d_w = backward(d_y, d_h, d_c, x, h0, c0, w[::-1], *rest, **settings)
    return [*d, d_w[::-1]]


def whole(x, h0, c0, w, lengths, **settings):
    """Every sequence as if it had all its steps."""
    return forward(x, h0, c0, w, jnp.full_like(lengths, x.shape[1]), **settings)


def imprecise(*arrays, **settings):
    """A product of ten bits where all were asked for."""
    d_x, *rest = backward(*arrays, **settings)
    return [d_x * (1 + 2.0**-10), *rest]


def without_h(d_y, d_h, d_c, *rest, **settings):
    """A way back that forgets the final state."""
    return backward(d_y, jnp.zeros_like(d_h), d_c, *rest, **settings)


def not_finite(*arrays, **settings):
    d_x, *rest = backward(*arrays, **settings)
    return [d_x * jnp.nan, *rest]


def failing(*arrays, **settings):
    raise RuntimeError("CUDNN_STATUS_EXECUTION_FAILED\nin a kernel")


WRONG = {
    "weights": (
        {"forward": swapped, "backward": swapped_back},
        r"differs from the hand-derived rule by [\d.]+e[+-]\d+",
    ),
    "lengths": ({"forward": whole}, "differs from the hand-derived rule by"),
    "precision": ({"backward": imprecise}, r"by 9.[78]e-04, expected at most 1e-04"),
    "way back": ({"backward": without_h}, "differs from the hand-derived rule by"),
    "nan": ({"backward": not_finite}, "differs from the hand-derived rule by nan"),
    "error": ({"forward": failing}, "RuntimeError: CUDNN_STATUS_EXECUTION_FAILED in a kernel"),
}


@pytest.mark.parametrize(
    "name", ["error", *map(slow, ("way back", "weights", "lengths", "precision", "nan"))]
)
def test_a_kernel_that_is_wrong_is_left_alone(monkeypatch, name):
    functions, message = WRONG[name]
    emulate(monkeypatch, **functions)
    inputs = problem(LSTM)
    with pytest.warns(RuntimeWarning, match=f'NVIDIA.s kernel .*{message}.*"auto" takes the loop'):
        assert calls_of(LSTM, inputs) == 0
    assert calls_of(LSTM, inputs) == 0  # and not said again
    assert agreement.objection.cache_info().misses == 1


@pytest.mark.parametrize(
    ("off", "trusted"), [(0.0, True), (1e-4, True), (1.1e-4, False), (float("nan"), False)]
)
def test_how_far_off_a_kernel_may_be(monkeypatch, off, trusted):
    emulate(monkeypatch)
    monkeypatch.setattr(agreement, "disagreement", lambda: off)
    found = agreement.objection(jax.devices()[0])
    assert found is None if trusted else f"differs from the hand-derived rule by {off:.1e}" in found


def test_a_machine_without_cudnn_has_the_loop(monkeypatch):
    """JAX's plugin is there, and asks for the library at the first call."""
    emulate(monkeypatch)

    def sizes(*settings):
        raise RuntimeError("cuDNN could not be found or could not be loaded.")

    monkeypatch.setattr(rnn.gpu_rnn, "compute_rnn_workspace_reserve_space_sizes", sizes)
    with pytest.warns(RuntimeWarning, match="failed with RuntimeError: cuDNN could not be found"):
        assert calls_of(LSTM, problem(LSTM)) == 0


def test_a_kernel_that_agrees_is_trusted_also_where_it_is_first_asked_for_inside_of_jit(
    monkeypatch,
):
    emulate(monkeypatch)
    params, xs = problem(LSTM)
    jax.jit(lambda xs: lstm_jax.unroll(LSTM, params, xs)[1])(xs)
    assert agreement.objection.cache_info().misses == 1
    assert agreement.objection(jax.devices()[0]) is None


@pytest.mark.slow
def test_how_close_a_kernel_comes(monkeypatch):
    emulate(monkeypatch)
    assert agreement.disagreement() < 1e-5


@pytest.mark.slow
def test_it_is_looked_at_inside_of_any_trace(monkeypatch):
    emulate(monkeypatch)
    params, xs = problem(LSTM)
    mesh = jax.make_mesh((1,), ("b",), axis_types=(jax.sharding.AxisType.Auto,))
    found = []

    def run(xs):
        ys = lstm_jax.unroll(LSTM, params, xs)[1]
        found.append(agreement.objection.cache_info().misses)
        return ys

    def mapped(xs):
        return jax.vmap(jax.checkpoint(run))(xs[None])[0]

    def scanned(xs):
        return jax.lax.scan(lambda s, x: (s, jnp.sum(mapped(x))), None, xs[None])[1]

    split = jax.shard_map(scanned, mesh=mesh, in_specs=jax.P(), out_specs=jax.P())
    jax.grad(lambda xs: jnp.sum(split(xs)))(xs)
    assert set(found) == {1}
    assert agreement.objection(jax.devices()[0]) is None


@pytest.mark.slow
def test_it_is_looked_at_whatever_jax_is_set_to(monkeypatch):
    emulate(monkeypatch)
    settings = {
        "jax_transfer_guard": ("disallow", "allow"),
        "jax_check_tracer_leaks": (True, False),
        "jax_enable_x64": (True, False),
        "jax_debug_nans": (True, False),
    }
    try:
        for name, (value, _) in settings.items():
            jax.config.update(name, value)
        assert agreement.objection(jax.devices()[0]) is None
    finally:
        for name, (_, before) in settings.items():
            jax.config.update(name, before)


@pytest.mark.gpu
def test_the_devices_own_kernel_is_trusted():
    if (reason := conditions.device_refusal()) is not None:
        pytest.skip(reason)
    assert agreement.disagreement() <= agreement.AGREEMENT
    assert agreement.objection(jax.devices()[0]) is None
    assert calls_of(LSTM, problem(LSTM)) == 1
