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
from comparison import assert_close, random_like
from jax import export
from jax.experimental import rnn
from jax.interpreters import mlir

import lstm_jax
from lstm_jax import cudnn

T, B = 6, 3
LENGTHS = jnp.array([4, 0, 6], jnp.int32)
TOLERANCE = 1e-5


@pytest.fixture
def calls(monkeypatch):
    """The emulation in the kernel's place; the calls of it, one entry each: ``forward`` or ``backward``."""
    made = []

    def outputs(layers, lengths, x, h0, c0, w):
        first, both = layers[0][0], len(layers[0]) == 2
        sizes = (first.input_size, first.hidden_size, len(layers))
        weights = rnn.unpack_lstm_weights(w, *sizes, both)
        return rnn.lstm_ref(x, h0, c0, *weights, lengths, *sizes, 0.0, both)

    def forward(layers, x, h0, c0, w, lengths):
        made.append("forward")
        return *outputs(layers, lengths, x, h0, c0, w), jnp.full(2, 7.0)

    def backward(layers, x, h0, c0, w, lengths, y, reserve, d_y, d_h, d_c):
        made.append("backward")
        again, pull = jax.vjp(partial(outputs, layers, lengths), x, h0, c0, w)
        # As for the kernel, the gradient is that at the outputs that it is given; and its notes are its own.
        fits = jnp.allclose(again[0], y, atol=1e-5) & (reserve == 7).all()
        return jax.tree.map(lambda d: jnp.where(fits, d, jnp.nan), pull((d_y, d_h, d_c)))

    monkeypatch.setattr(cudnn, "kernel_forward", forward)
    monkeypatch.setattr(cudnn, "kernel_backward", backward)
    monkeypatch.setattr(cudnn, "device_refusal", lambda: None)
    return made


@pytest.fixture(
    params=["emulated", pytest.param("device", marks=pytest.mark.gpu)],
)
def kernel(request):
    """A kernel to run, however it comes."""
    if request.param == "emulated":
        request.getfixturevalue("calls")
    elif (reason := cudnn.device_refusal()) is not None:
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
    return lstm_jax.unroll_stack(net, params, xs, state0, lengths=lengths, gradient=gradient)


def weighed(net, gradient, lengths, *inputs):
    """A loss that treats no number of the result like another."""
    out = run(net, gradient, lengths, *inputs)
    rng = np.random.default_rng(1)
    return sum(jnp.vdot(w, jnp.sin(a)) for w, a in zip(
        jax.tree.leaves(random_like(rng, out)), jax.tree.leaves(out), strict=True
    ))  # fmt: skip


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["all steps", "lengths"])
@pytest.mark.parametrize("name", NETS)
def test_outputs_and_gradients_are_those_of_the_loop(kernel, name, lengths):
    net, inputs = NETS[name], problem(NETS[name])

    @partial(jax.jit, static_argnums=0)
    def everything(gradient, inputs):
        of = partial(weighed, net, gradient, lengths)
        return run(net, gradient, lengths, *inputs), jax.grad(of, (0, 1, 2))(*inputs)

    assert_close(everything("cudnn", inputs), everything("bptt", inputs), TOLERANCE)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("batch", "lengths"), [(B, None), (B, LENGTHS), (None, None), (None, jnp.int32(2))],
    ids=["batch", "batch and lengths", "no batch", "no batch, a length"],
)  # fmt: skip
def test_a_cell_alone_in_either_direction(kernel, batch, lengths, reverse):
    cell = lstm()
    whole, xs, (state0,) = problem(lstm_jax.stack(cell), batch)
    params = whole.layers[0]

    @partial(jax.jit, static_argnums=0)
    def everything(gradient, *inputs):
        def of(*inputs):
            state, hs = lstm_jax.unroll(
                cell, *inputs, gradient=gradient, lengths=lengths, reverse=reverse
            )
            weights = jnp.arange(hs.size, dtype=hs.dtype).reshape(hs.shape)
            return jnp.vdot(weights, jnp.sin(hs)) + jnp.sum(state.c), (state, hs)

        return jax.grad(of, (0, 1, 2), has_aux=True)(*inputs)

    expected = everything("bptt", params, xs, state0)
    assert_close(everything("cudnn", params, xs, state0), expected, TOLERANCE)


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


def test_many_networks_at_once(kernel):
    net = NETS["two layers"]
    many = jax.tree.map(lambda *a: jnp.stack(a), *(problem(net, seed=n) for n in range(3)))

    @partial(jax.jit, static_argnums=0)
    def gradients(gradient, many):
        of = partial(weighed, net, gradient, LENGTHS)
        return jax.vmap(jax.value_and_grad(of, (0, 1, 2)))(*many)

    assert_close(gradients("cudnn", many), gradients("bptt", many), TOLERANCE)


@pytest.mark.parametrize("name", NETS)
def test_layers_that_are_alike_take_one_call(calls, name):
    net = NETS[name]
    jax.make_jaxpr(partial(run, net, "cudnn", None))(*problem(net))
    cells = sum(2 if isinstance(layer, lstm_jax.Bidirectional) else 1 for layer in net.layers)
    assert calls == ["forward"] * (1 if name in ONE_CALL else cells)


def test_dropout_between_layers_takes_them_one_by_one(calls):
    net = lstm_jax.stack(lstm(), lstm(4), dropout=0.5)
    params, xs, state0 = problem(net)
    key = jax.random.key(3)

    def of(gradient, params):
        return lstm_jax.unroll_stack(net, params, xs, state0, key=key, gradient=gradient)

    assert_close(of("cudnn", params), of("bptt", params), TOLERANCE)
    assert calls == ["forward"] * 2
    of("cudnn", params) and lstm_jax.unroll_stack(net, params, xs, state0, gradient="cudnn")
    assert calls == ["forward"] * 5  # without a key nothing is dropped


def test_padding_does_not_matter(calls):
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
    vector = cudnn.packed(params)
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
    (expected,) = jax.linear_transpose(cudnn.packed, params)(d)
    assert_close(cudnn.unpacked(layers, d), expected, 0)


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
    found = cudnn.refusal(layers, jnp.dtype(dtype))
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
        ({"segments": 2}, "Segments need the hand-derived rule"),
    ],
)
def test_what_is_refused(calls, options, message):
    params, xs, state0 = problem(NETS["one layer"])
    with pytest.raises(ValueError, match=message):
        lstm_jax.unroll(lstm(), params.layers[0], xs, state0[0], gradient="cudnn", **options)
    assert not calls


def test_refused_without_a_device_and_for_a_plain_step():
    params, xs, _ = problem(NETS["one layer"])
    if cudnn.device_refusal() is not None:
        with pytest.raises(ValueError, match='gradient="cudnn" does not fit: expected'):
            lstm_jax.unroll(lstm(), params.layers[0], xs, gradient="cudnn")
        with pytest.raises(ValueError, match='gradient="cudnn" does not fit: expected'):
            lstm_jax.unroll_stack(
                NETS["two layers"], problem(NETS["two layers"])[0], xs, gradient="cudnn"
            )
    with pytest.raises(ValueError, match="neither a hand-derived rule nor a kernel"):
        lstm_jax.unroll(lambda p, s, x: (s, x), None, xs, jnp.zeros(4), gradient="cudnn")


@pytest.fixture
def cuda_lowering(monkeypatch):
    """The lowering of JAX's CUDA plugin, with a stand-in for the part of it that asks cuDNN for sizes."""
    plugin = SimpleNamespace(build_rnn_descriptor=lambda *settings: "")
    sizes = lambda *settings: (8, 16)  # noqa: E731
    monkeypatch.setattr(
        rnn.gpu_rnn, "compute_rnn_workspace_reserve_space_sizes", sizes, raising=False
    )
    forward = partial(rnn.gpu_rnn._rnn_fwd_lowering, plugin, "cu")
    backward = partial(rnn.gpu_rnn._rnn_bwd_lowering, plugin, "cu")
    monkeypatch.setattr(cudnn, "device_refusal", lambda: None)
    mlir.register_lowering(rnn.rnn_fwd_p, forward, platform="cuda")
    mlir.register_lowering(rnn.rnn_bwd_p, backward, platform="cuda")
    yield
    mlir.register_lowering(rnn.rnn_fwd_p, rnn.gpu_rnn.cudnn_rnn_lowering, platform="cuda")
    mlir.register_lowering(rnn.rnn_bwd_p, rnn.gpu_rnn.cudnn_rnn_bwd_lowering, platform="cuda")


def lowered(net, inputs):
    of = jax.jit(jax.value_and_grad(partial(weighed, net, "cudnn", LENGTHS), (0, 1, 2)))
    known = [
        export.DisabledSafetyCheck.custom_call(f"cudnn_rnn{part}_ffi") for part in ("", "_bwd")
    ]
    return export.export(of, platforms=["cuda"], disabled_checks=known)(*inputs).mlir_module()


def test_a_training_step_lowers_to_one_kernel_each_way_and_no_loop(cuda_lowering):
    net = NETS["two layers, both directions"]
    text = lowered(net, problem(net))
    assert text.count("cudnn_rnn_ffi") == text.count("cudnn_rnn_bwd_ffi") == 1
    assert "stablehlo.while" not in text


def test_a_precision_that_cudnn_has_not(cuda_lowering):
    net = NETS["one layer"]
    with jax.default_matmul_precision("bfloat16"):
        with pytest.raises(ValueError, match="default matmul precision"):
            lowered(net, problem(net))
    for precision in ("float32", "tensorfloat32"):
        with jax.default_matmul_precision(precision):
            assert "cudnn_rnn_ffi" in lowered(net, problem(net))
