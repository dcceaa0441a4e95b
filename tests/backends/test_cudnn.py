"""NVIDIA's kernel behind `unroll`: against the loop, by JAX's own emulation of it, or on a device with it.

The emulation, `jax.experimental.rnn.lstm_ref`, reads the kernel's vector of weights and stands in its place:
what is tested here is everything around the kernel. With ``-m gpu`` on a CUDA device it is the kernel itself.
"""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close, grouped, random_like, slow
from jax import export
from jax.experimental import rnn
from kernel_emulation import emulate

import lstm_jax
from lstm_jax.backends.cudnn import conditions, kernel_call
from lstm_jax.jax_extensions.row_major import require_row_major

T, B = 6, 3
LENGTHS = jnp.array([4, 0, 6], jnp.int32)
TOLERANCE = 1e-5


@pytest.fixture
def emulated(monkeypatch):
    """JAX's own primitives, with an emulation for their lowering on a CPU."""
    emulate(monkeypatch)


@pytest.fixture
def cuda_lowering(emulated):
    """The lowering of JAX's CUDA plugin, with a stand-in for what it asks of cuDNN."""
    plugin = SimpleNamespace(build_rnn_descriptor=lambda *settings: repr(settings))
    forward = partial(rnn.gpu_rnn._rnn_fwd_lowering, plugin, "cu")
    backward = partial(rnn.gpu_rnn._rnn_bwd_lowering, plugin, "cu")
    kernel_call.kernel_primitives()
    require_row_major(rnn.rnn_fwd_p, forward, platform="cuda")
    require_row_major(rnn.rnn_bwd_p, backward, platform="cuda")
    yield
    kernel_call.kernel_primitives.cache_clear()


def lowered(function, *inputs):
    known = [
        export.DisabledSafetyCheck.custom_call(f"cudnn_rnn{part}_ffi") for part in ("", "_bwd")
    ]
    exported = export.export(jax.jit(function), platforms=["cuda"], disabled_checks=known)(*inputs)
    return exported.mlir_module()


def kernels(function, *arguments):
    """How often a program calls the kernel each way, loops counted once."""
    text = lowered(function, *arguments)
    return text.count("@cudnn_rnn_ffi"), text.count("@cudnn_rnn_bwd_ffi")


@pytest.fixture(
    params=["emulated", pytest.param("device", marks=pytest.mark.gpu)],
)
def kernel(request):
    """A kernel to run, however it comes."""
    if request.param == "emulated":
        request.getfixturevalue("emulated")
    elif (reason := conditions.device_refusal()) is not None:
        pytest.skip(reason)
    else:
        with jax.default_matmul_precision("float32"):
            yield
            return
    yield


def lstm(inputs=3, size=4):
    return lstm_jax.lstm(inputs, size)


NETS = {
    "one layer": lstm_jax.stack(lstm()),
    "two layers": lstm_jax.stack(lstm(), lstm(4)),
    "both directions": lstm_jax.stack(lstm_jax.bidirectional(lstm())),
    "two layers, both directions": lstm_jax.stack(
        lstm_jax.bidirectional(lstm()), lstm_jax.bidirectional(lstm(8)), output_size=2
    ),
    "residual": lstm_jax.stack(lstm(3, 4), lstm(4), residual=True),
    "backward": lstm_jax.stack(lstm_jax.backward(lstm())),
    "two sizes": lstm_jax.stack(lstm(3, 4), lstm(4, 5)),
}
ONE_CALL = ["one layer", "two layers", "both directions", "two layers, both directions"]


def problem(net, batch=B, seed=0):
    rng = np.random.default_rng(seed)
    params = random_like(rng, jax.eval_shape(net.init, jax.random.key(0)), scale=0.5)
    shape = (T, 3) if batch is None else (T, batch, 3)
    state0 = random_like(rng, jax.eval_shape(lambda: net.initial_state(batch)))
    return params, random_like(rng, jax.ShapeDtypeStruct(shape, float)), state0


def run(net, gradient, lengths, params, xs, state0):
    return lstm_jax.unroll_stack(
        net, params, xs, state0, **grouped(lengths=lengths, gradient=gradient)
    )


def weighed(net, gradient, lengths, *inputs):
    """A loss that treats no number of the result like another."""
    out = run(net, gradient, lengths, *inputs)
    rng = np.random.default_rng(1)
    return sum(jnp.vdot(w, jnp.sin(a)) for w, a in zip(
        jax.tree.leaves(random_like(rng, out)), jax.tree.leaves(out), strict=True
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        slow("both directions", LENGTHS),
        ("two sizes", LENGTHS),
        slow("one layer", None),
        slow("two layers", LENGTHS),
        slow("two layers, both directions", None),
        slow("two layers, both directions", LENGTHS),
        slow("residual", LENGTHS),
        slow("backward", None),
        slow("backward", LENGTHS),
    ],
    ids=lambda value: value if isinstance(value, str) else "all" if value is None else "lengths",
)
def test_outputs_and_gradients_are_those_of_the_loop(kernel, name, lengths):
    net, inputs = NETS[name], problem(NETS[name])

    @partial(jax.jit, static_argnums=0)
    def everything(gradient, inputs):
        of = partial(weighed, net, gradient, lengths)
        return run(net, gradient, lengths, *inputs), jax.grad(of, (0, 1, 2))(*inputs)

    assert_close(everything("cudnn", inputs), everything("bptt", inputs), TOLERANCE)


@pytest.mark.parametrize(
    ("batch", "lengths", "reverse"),
    [
        (B, LENGTHS, True),
        (None, None, False),
        slow(B, None, True),
        slow(B, LENGTHS, False),
        slow(None, None, True),
        slow(None, jnp.int32(2), True),
    ],
    ids=[
        "lengths, reverse",
        "no batch",
        "reverse",
        "lengths",
        "no batch, reverse",
        "a length, reverse",
    ],
)
def test_a_cell_alone_in_either_direction(kernel, batch, lengths, reverse):
    cell = lstm()
    whole, xs, (state0,) = problem(lstm_jax.stack(cell), batch)
    params = whole.layers[0]

    @partial(jax.jit, static_argnums=0)
    def everything(gradient, *inputs):
        def of(*inputs):
            state, hs = lstm_jax.unroll(
                cell,
                *inputs,
                **grouped(lengths=lengths, reverse=reverse, gradient=gradient),
            )
            weights = jnp.arange(hs.size, dtype=hs.dtype).reshape(hs.shape)
            return jnp.vdot(weights, jnp.sin(hs)) + jnp.sum(state.c), (state, hs)

        return jax.grad(of, (0, 1, 2), has_aux=True)(*inputs)

    expected = everything("bptt", params, xs, state0)
    assert_close(everything("cudnn", params, xs, state0), expected, TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one layer", "two layers, both directions"])
def test_other_derivatives_come_from_the_loop(kernel, name):
    net, inputs = NETS[name], problem(NETS[name])
    dots = problem(net, seed=1)

    @partial(jax.jit, static_argnums=0)
    def everything(gradient, inputs, dots):
        of = partial(weighed, net, gradient, LENGTHS)
        forward = jax.jvp(partial(run, net, gradient, LENGTHS), inputs, dots)[1]
        twice = jax.jvp(jax.grad(of, (0, 1, 2)), inputs, dots)[1]
        return forward, twice

    assert_close(everything("cudnn", inputs, dots), everything("bptt", inputs, dots), TOLERANCE)


def test_the_gradient_of_a_gradient(kernel):
    net = NETS["one layer"]
    params, xs, state0 = problem(net)

    @partial(jax.jit, static_argnums=0)
    def penalised(gradient, params):
        def size(params):
            d = jax.grad(lambda xs: weighed(net, gradient, None, params, xs, state0))(xs)
            return jnp.sum(d**2)

        return jax.grad(size)(params)

    assert_close(penalised("cudnn", params), penalised("bptt", params), TOLERANCE)


@pytest.mark.slow
def test_many_networks_at_once(kernel):
    net = NETS["two layers"]
    many = jax.tree.map(lambda *a: jnp.stack(a), *(problem(net, seed=n) for n in range(3)))

    @partial(jax.jit, static_argnums=0)
    def gradients(gradient, many):
        of = partial(weighed, net, gradient, LENGTHS)
        return jax.vmap(jax.value_and_grad(of, (0, 1, 2)))(*many)

    assert_close(gradients("cudnn", many), gradients("bptt", many), TOLERANCE)


@pytest.mark.parametrize("name", NETS)
def test_layers_that_are_alike_take_one_call(cuda_lowering, name):
    net, inputs = NETS[name], problem(NETS[name])
    number = 1 if name in ONE_CALL else len(net.layers)
    assert kernels(partial(run, net, "cudnn", None), *inputs) == (number, 0)
    gradient = jax.grad(partial(weighed, net, "cudnn", None), (0, 1, 2))
    assert kernels(gradient, *inputs) == (number, number)


def test_dropout_between_layers_takes_them_one_by_one(cuda_lowering):
    net = lstm_jax.stack(lstm(), lstm(4), dropout=0.5, zoneout=lstm_jax.LSTMState(0.0, 0.0))
    params, xs, state0 = problem(net)

    def of(gradient, key, params):
        return lstm_jax.unroll_stack(net, params, xs, state0, key=key, **grouped(gradient=gradient))

    key = jax.random.key(3)
    assert_close(of("cudnn", key, params), of("bptt", key, params), TOLERANCE)
    assert kernels(partial(of, "cudnn", key), params) == (2, 0)
    assert kernels(partial(of, "cudnn", None), params) == (1, 0)


def test_two_ways_back_from_one_way_there(kernel):
    net, inputs = NETS["one layer"], problem(NETS["one layer"])
    (_, expected), pull_loop = jax.vjp(partial(run, net, "bptt", None), *inputs)
    out, pull = jax.vjp(partial(run, net, "cudnn", None), *inputs)
    assert_close(pull(out), pull_loop(out), TOLERANCE)
    assert_close(pull(out), pull_loop(out), TOLERANCE)

    @partial(jax.jit, static_argnums=0)
    def jacobian(gradient, xs):
        return jax.jacrev(lambda xs: run(net, gradient, None, inputs[0], xs, inputs[2])[1][-1])(xs)

    assert_close(jacobian("cudnn", inputs[1]), jacobian("bptt", inputs[1]), TOLERANCE)


def test_the_kernel_writes_over_its_own_notes(cuda_lowering):
    """What a compiler makes of it is seen in `tests/benchmarks/test_compiled.py`."""
    net, inputs = NETS["one layer"], problem(NETS["one layer"])

    def twice(params, xs, state0):
        out, pull = jax.vjp(partial(run, net, "cudnn", None), params, xs, state0)
        return pull(out), pull(jax.tree.map(lambda a: 2 * a, out))

    # For each way back a number that is set.
    lines = lowered(twice, *inputs).splitlines()
    assert len([x for x in lines if "dynamic_update_slice" in x and "<16xf32>" in x]) == 2


def test_ways_back_that_differ_are_told_apart():
    a, zero = jnp.linspace(-1, 1, 600, dtype=jnp.float32), jnp.zeros(600, jnp.float32)
    one = [jnp.zeros(2**16, jnp.float32).at[place].set(1.0) for place in (0, 256, 2**15)]
    whole = [jnp.full(2**16, value, jnp.float32) for value in (0.0, 0.5, 1.0, 2.0, jnp.inf)]
    pairs = [(a, zero), (zero, a), (a, a), (a[::-1], zero), (-a, zero)]
    pairs += [(array, zero) for array in (*one, *whole)]
    numbers = [int(kernel_call._hash_of(pair)) for pair in pairs]
    assert len(set(numbers)) == len(pairs)


@pytest.mark.parametrize("value", [0.0, -1.5, jnp.inf, jnp.nan])
def test_the_notes_stay_as_they_are(value):
    notes = jnp.array([value, 2.0, 3.0], jnp.float32)
    back = [jnp.array([[1.0, jnp.nan]], jnp.float32), jnp.array(-3.0, jnp.float32)]
    same = jax.jit(kernel_call._fresh_workspace)(notes, back)
    bits = [jax.lax.bitcast_convert_type(array, jnp.int32).tolist() for array in (same, notes)]
    assert bits[0] == bits[1]


def test_checkpointed_and_with_one_device_of_a_mesh(kernel):
    net, inputs = NETS["one layer"], problem(NETS["one layer"])
    mesh = jax.make_mesh((1,), ("b",), axis_types=(jax.sharding.AxisType.Auto,))
    split = (jax.P(), jax.P(None, "b"), jax.P("b"))

    @partial(jax.jit, static_argnums=0)
    def gradients(gradient, inputs):
        of = partial(weighed, net, gradient, None)

        @partial(jax.shard_map, mesh=mesh, in_specs=split, out_specs=jax.P())
        def total(*inputs):
            return jax.lax.psum(jax.checkpoint(of)(*inputs), "b")

        return jax.grad(total, (0, 1, 2))(*inputs)

    assert_close(gradients("cudnn", inputs), gradients("bptt", inputs), TOLERANCE)


@pytest.mark.slow
def test_padding_does_not_matter(emulated):
    net = NETS["two layers, both directions"]
    params, xs, state0 = problem(net)
    padding = jnp.arange(T)[:, None] >= LENGTHS[None]
    spoilt = jnp.where(padding[..., None], jnp.nan, xs)
    of = jax.jit(jax.value_and_grad(partial(weighed, net, "cudnn", LENGTHS), (0, 1, 2)))
    assert_close(of(params, spoilt, state0), of(params, xs, state0), 0)


@pytest.mark.parametrize("name", ONE_CALL)
def test_the_vector_of_weights_is_jaxs_own(name):
    net = NETS[name]
    params = problem(net)[0].layers
    layers = tuple(
        (layer,) if isinstance(layer, lstm_jax.Cell) else tuple(layer) for layer in net.layers
    )
    both = len(layers[0]) == 2
    params = tuple(tuple(own) if both else (own,) for own in params)
    vector = kernel_call.packed(params)
    sizes = (3, 4, len(layers))
    assert vector.shape == (rnn.get_num_params_in_lstm(*sizes, both),)
    each = [own for layer in params for own in layer]
    for number, parts in enumerate(zip(*(
        part.values() for part in rnn.unpack_lstm_weights(vector, *sizes, both)
    ), strict=True)):  # fmt: skip
        w_x, w_h, b, other = parts
        np.testing.assert_array_equal(w_x.T, each[number].w_x)
        np.testing.assert_array_equal(w_h.T, each[number].w_h)
        np.testing.assert_array_equal(b, each[number].b)
        assert not other.any()
    d = random_like(np.random.default_rng(2), vector)
    (expected,) = jax.linear_transpose(kernel_call.packed, params)(d)
    assert_close(kernel_call.unpacked(layers, d), expected, 0)


PLAIN = ((lstm(),),)
BOTH = ((lstm(), lstm()),)


@pytest.mark.parametrize(
    ("layers", "dtype", "reason"),
    [
        (PLAIN, "float32", None),
        (BOTH, "float32", None),
        (PLAIN + ((lstm(4),),), "float32", None),
        (((lstm_jax.lstm(3, 4, forget_bias=lstm_jax.chrono(9)),),), "float32", None),
        (PLAIN, "float64", "expected float32, got float64"),
        (PLAIN, "bfloat16", "expected float32, got bfloat16"),
        (((lstm_jax.gru(3, 4),),), "float32", "expected the standard LSTM, got gru("),
        (((lstm_jax.rnn(3, 4),),), "float32", "expected the standard LSTM, got rnn"),
        (((lstm_jax.lstm(3, 4, peepholes=True),),), "float32", "got lstm_peephole("),
        (((lstm_jax.lstm(3, 4, projection_size=2),),), "float32", "got lstm_projected("),
        (PLAIN + ((lstm(4, 5),),), "float32", "expected layers of one hidden size, got 4, 5"),
        (BOTH + ((lstm(8),),), "float32", "expected every layer in one direction or every layer in"),
    ],
)  # fmt: skip
def test_what_the_kernel_knows(layers, dtype, reason):
    found = conditions.refusal(layers, jnp.dtype(dtype))
    assert (found is None) == (reason is None)
    assert reason is None or reason in found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resets": jnp.zeros((T, B), bool)}, "expected lengths alone, got resets"),
        ({"truncate": 2}, "expected lengths alone, got truncate"),
        ({"zoneout": 0.1}, "expected lengths alone, got zoneout"),
        (
            {"recurrent_dropout": 0.1, "key": jax.random.key(0)},
            "expected lengths alone, got recurrent_dropout",
        ),
    ],
)
def test_what_is_refused(emulated, options, message):
    params, xs, state0 = problem(NETS["one layer"])
    with pytest.raises(ValueError, match=message):
        given = grouped(**options) | {"backend": "cudnn"}
        lstm_jax.unroll(lstm(), params.layers[0], xs, state0[0], **given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"xs": jnp.ones((0, B, 3))}, "at least one step"),
        ({"resets": jnp.zeros((T, B), bool)}, "expected lengths alone, got resets"),
    ],
)
def test_what_is_refused_of_a_stack(emulated, options, message):
    params, xs, state0 = problem(NETS["two layers"])
    given = {"xs": xs, "state0": state0, "gradient": "cudnn"} | options
    with pytest.raises(ValueError, match=message):
        lstm_jax.unroll_stack(NETS["two layers"], params, **grouped(**given))


def test_the_device_is_that_on_which_jax_computes(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert conditions.device_refusal() == "expected a CUDA device, got tpu"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with jax.default_device(jax.devices("cpu")[0]):
        assert conditions.device_refusal() == "expected a CUDA device, got cpu"


def test_auto_is_the_loop_also_where_there_is_a_kernel(emulated):
    """Measured, the loop is the faster one."""
    inputs = problem(NETS["two layers"])
    for gradient, number in (("auto", 0), ("cudnn", 1)):
        text = str(jax.make_jaxpr(partial(run, NETS["two layers"], gradient, LENGTHS))(*inputs))
        assert text.count("rnn_fwd") == number


def test_a_cell_that_was_changed_is_no_standard_lstm():
    changed = lstm()._replace(step=lambda params, state, x: (state, state.h))
    assert "expected the standard LSTM" in conditions.refusal(((changed,),), jnp.float32)


def test_refused_without_a_device_and_for_a_plain_step():
    params, xs, _ = problem(NETS["one layer"])
    if conditions.device_refusal() is not None:
        with pytest.raises(ValueError, match='backend="cudnn" does not fit: expected'):
            lstm_jax.unroll(lstm(), params.layers[0], xs, backend="cudnn")
        with pytest.raises(ValueError, match='backend="cudnn" does not fit: expected'):
            lstm_jax.unroll_stack(
                NETS["two layers"], problem(NETS["two layers"])[0], xs, backend="cudnn"
            )
    with pytest.raises(ValueError, match="no hand-derived rule and no kernel"):
        lstm_jax.unroll(lambda p, s, x: (s, x), None, xs, jnp.zeros(4), backend="cudnn")


def test_a_training_step_lowers_to_one_kernel_each_way_and_no_loop(cuda_lowering):
    net = NETS["two layers, both directions"]
    of = jax.value_and_grad(partial(weighed, net, "cudnn", LENGTHS), (0, 1, 2))
    text = lowered(of, *problem(net))
    assert text.count("@cudnn_rnn_ffi") == text.count("@cudnn_rnn_bwd_ffi") == 1
    assert "stablehlo.while" not in text
    # Input and hidden size, layers, batch, time, dropout, both directions, TF32, and the two sizes.
    assert text.count(repr((3, 4, 2, B, T, 0.0, True, True, 8, 16))) == 2


@pytest.mark.parametrize(
    ("precision", "tf32"),
    [(None, True), ("tensorfloat32", True), ("float32", False), ("highest", False), ("F32_F32_F32", False)],
)  # fmt: skip
def test_both_ways_have_the_precision_that_was_set_where_it_ran(cuda_lowering, precision, tf32):
    net = NETS["one layer"]

    def of(*inputs):
        with jax.default_matmul_precision(precision):
            return weighed(net, "cudnn", None, *inputs)

    text = lowered(jax.grad(jax.jit(of)), *problem(net))
    assert text.count(repr((3, 4, 1, B, T, 0.0, False, tf32, 8, 16))) == 2


@pytest.mark.parametrize("precision", ["bfloat16", "BF16_BF16_F32"])
def test_a_precision_that_cudnn_has_not(emulated, precision):
    with jax.default_matmul_precision(precision):
        with pytest.raises(ValueError, match=f"default matmul precision .* got '{precision}'"):
            run(NETS["one layer"], "cudnn", None, *problem(NETS["one layer"]))
