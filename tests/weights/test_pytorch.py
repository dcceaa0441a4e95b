"""Live against PyTorch: outputs, final states and every gradient, through the converters."""

import warnings
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close, random_like

import lstm_jax
from lstm_jax import weights

D, H, P, T, B = 3, 5, 2, 6, 4
KINDS = {
    "rnn_tanh": ("RNN", {}),
    "rnn_relu": ("RNN", {"nonlinearity": "relu"}),
    "lstm": ("LSTM", {}),
    "lstm_projected": ("LSTM", {"proj_size": P}),
    "gru": ("GRU", {}),
}


def torch_peer():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("torch")
        return import_module("torch")


def activation_of(options):
    return options.get("nonlinearity", "tanh")


def module_of(torch, name, seed=0, dtype=None, **options):
    """A module in random numbers that are larger than its own, biases too."""
    kind, own = KINDS[name]
    module = getattr(torch.nn, kind)(D, H, dtype=dtype or torch.float64, **own, **options)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            numbers = 0.4 * rng.standard_normal(tuple(parameter.shape))
            parameter.copy_(torch.tensor(numbers, dtype=parameter.dtype))
    return module, activation_of(own)


def array(tensor):
    return jnp.asarray(tensor.detach().numpy())


def torch_states(torch, state0, count):
    """h_0 and c_0 [layers · directions, B, ...] of a stack's states."""
    cells = [
        cell
        for state in state0
        for cell in (state if isinstance(state, lstm_jax.Both) else [state])
    ]
    assert len(cells) == count
    fields = [
        torch.tensor(np.stack([np.asarray(c[n]) for c in cells])) for n in range(len(cells[0]))
    ]
    return [field.requires_grad_() for field in fields]


@pytest.mark.peer
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("layers", "both", "bias", "ragged"),
    [
        pytest.param(2, True, True, True, id="two layers, both ways, ragged"),
        pytest.param(1, True, False, True, id="both ways, no bias, ragged", marks=pytest.mark.slow),
        pytest.param(1, False, True, False, id="one layer", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", KINDS)
def test_module(name, layers, both, bias, ragged):
    torch = torch_peer()
    module, activation = module_of(torch, name, num_layers=layers, bidirectional=both, bias=bias)
    net, params = weights.from_pytorch(module.state_dict(), activation=activation)
    assert isinstance(net, lstm_jax.Stack) and len(net.layers) == layers
    rng = np.random.default_rng(1)
    xs = jnp.asarray(rng.standard_normal((T, B, D)))
    state0 = random_like(rng, net.initial_state(B))
    lengths = [4, 6, 1, 3] if ragged else [T] * B
    ys_weights = jnp.asarray(rng.standard_normal((T, B, net.output_size)))
    state_weights = random_like(rng, net.initial_state(B))

    def loss(params, xs, state0):
        states, ys = lstm_jax.unroll_stack(
            net, params, xs, state0, sequences=lstm_jax.Sequences(lengths=jnp.asarray(lengths))
        )
        held = jax.tree.map(lambda v, s: jnp.sum(v * s), state_weights, states)
        return jnp.sum(ys_weights * jnp.sin(ys)) + sum(jax.tree.leaves(held)), (states, ys)

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    (_, (states, ys)), (d_params, d_xs, d_state0) = gradient(params, xs, state0)

    count = layers * (2 if both else 1)
    x = torch.tensor(np.asarray(xs)).requires_grad_()
    start = torch_states(torch, state0, count)
    rnn = torch.nn.utils.rnn
    packed = rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    out, final = module(packed, tuple(start) if len(start) == 2 else start[0])
    out, _ = rnn.pad_packed_sequence(out, total_length=T)
    final = list(final) if len(start) == 2 else [final]
    total = (torch.tensor(np.asarray(ys_weights)) * torch.sin(out)).sum()
    for weight, leaf in zip(torch_states(torch, state_weights, count), final, strict=True):
        total = total + (weight.detach() * leaf).sum()
    total.backward()

    assert_close(ys, array(out), 1e-12)
    for own, theirs in zip(torch_states(torch, states, count), final, strict=True):
        assert_close(array(own), array(theirs), 1e-12)
    assert_close(d_xs, array(x.grad), 1e-12)
    for own, theirs in zip(torch_states(torch, d_state0, count), start, strict=True):
        assert_close(array(own), array(theirs.grad), 1e-12)
    # The gradient by a layer's weights is laid out as they are. A sum of biases hands its gradient to both.
    theirs = {name: array(p.grad) for name, p in module.named_parameters()}
    own = weights.to_pytorch(net, d_params)
    for part, value in theirs.items():
        reference = own[part]
        if part.startswith("bias_hh"):
            reference = np.array(own[part.replace("_hh", "_ih")])
            if name == "gru":
                reference[2 * H :] = own[part][2 * H :]
        assert_close(value, jnp.asarray(reference), 1e-12)
    # Back in PyTorch, the same function.
    state_dict = weights.to_pytorch(net, params, bias=bias)
    again, _ = module_of(torch, name, 1, num_layers=layers, bidirectional=both, bias=bias)
    again.load_state_dict({part: torch.from_numpy(value) for part, value in state_dict.items()})
    out, _ = rnn.pad_packed_sequence(
        again(packed, tuple(start) if len(start) == 2 else start[0])[0], total_length=T
    )
    assert_close(ys, array(out), 1e-12)


@pytest.mark.peer
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["rnn_tanh", "rnn_relu", "lstm", "gru"])
def test_cell(name, bias):
    torch = torch_peer()
    kind, options = KINDS[name]
    rng = np.random.default_rng(3)
    module = getattr(torch.nn, f"{kind}Cell")(D, H, bias=bias, dtype=torch.float64, **options)
    cell, params = weights.from_pytorch(module.state_dict(), activation=activation_of(options))
    x = rng.standard_normal((B, D))
    state = random_like(rng, cell.initial_state(B))
    after, _ = cell.step(params, state, jnp.asarray(x))
    start = [torch.tensor(np.asarray(leaf)) for leaf in state]
    theirs = module(torch.tensor(x), tuple(start) if name == "lstm" else start[0])
    theirs = theirs if name == "lstm" else [theirs]
    assert_close(list(after), [array(leaf) for leaf in theirs], 1e-12)
    written = weights.to_pytorch(cell, params, bias=bias)
    assert set(written) == set(module.state_dict())
    module.load_state_dict({part: torch.from_numpy(value) for part, value in written.items()})


@pytest.mark.peer
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtype_is_kept(dtype):
    torch = torch_peer()
    module, _ = module_of(torch, "gru", dtype=getattr(torch, dtype))
    _, params = weights.from_pytorch(module.state_dict())
    (own,) = params.layers
    assert {str(leaf.dtype) for leaf in own} == {dtype}
    w_x = module.weight_ih_l0.detach().float().numpy().T
    assert np.array_equal(np.asarray(own.w_x.astype(jnp.float32)), w_x)


@pytest.mark.peer
def test_parameters_do_not_share_memory():
    torch = torch_peer()
    module, _ = module_of(torch, "lstm", dtype=torch.float32)
    _, params = weights.from_pytorch(module.state_dict())
    before = np.array(params.layers[0].w_x)
    with torch.no_grad():
        module.weight_ih_l0.zero_()
    assert np.array_equal(before, params.layers[0].w_x)


def state_dict_of(net, prefix=""):
    return weights.to_pytorch(net, net.init(jax.random.key(0)), prefix=prefix)


def stack_of(*layers, **options):
    return lstm_jax.stack(*(layers or (lstm_jax.lstm(D, H), lstm_jax.lstm(H, H))), **options)


def test_round_trip_under_a_prefix():
    net = stack_of(
        lstm_jax.bidirectional(lstm_jax.gru(D, H)), lstm_jax.bidirectional(lstm_jax.gru(2 * H, H))
    )
    params = random_like(np.random.default_rng(0), net.init(jax.random.key(0)))
    written = weights.to_pytorch(net, params, prefix="encoder.rnn")
    assert "encoder.rnn.weight_hh_l1_reverse" in written
    again, read = weights.from_pytorch({"head.weight": np.ones(3)} | written, prefix="encoder.rnn")
    assert again == net
    assert_close(read, params, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_hh_l0": None}, "expected 'weight_hh_l0', got a state dict without it"),
        ({"bias_hh_l1": None}, "expected 'bias_hh_l1', got a state dict without it"),
        ({"head.weight": np.ones((2, 2), "f")}, "got 'head.weight' beside them"),
        ({"weight_ih_l01": np.ones((2, 2), "f")}, "got 'weight_ih_l01' beside them"),
        ({"weight_ih": np.ones((2, 2), "f")}, "beside them"),
        (
            {"weight_ih_l1": np.ones((20, 6), "f")},
            r"expected weight_ih_l1 \[20, 5\] .* got \[20, 6\]",
        ),
        ({"weight_hh_l0": np.ones((10, 5), "f")}, r"1, 3 or 4 gates of 5 units .* got \[10, 5\]"),
        ({"weight_hh_l0": np.ones(5, "f")}, r"weight_hh_l0 as a matrix, got \[5\]"),
        ({"bias_ih_l0": np.ones(15, "f")}, r"expected bias_ih_l0 \[20\] .* got \[15\]"),
        ({"bias_ih_l0": np.ones(20, "d")}, "expected bias_ih_l0 float32 .* got float64"),
        ({"bias_ih_l0": np.ones(20, int)}, "expected bias_ih_l0 in floating point, got int64"),
    ],
)
def test_state_dicts_refused(change, message):
    state_dict = state_dict_of(stack_of()) | change
    state_dict = {name: value for name, value in state_dict.items() if value is not None}
    with pytest.raises((ValueError, TypeError), match=message):
        weights.from_pytorch(state_dict)


def test_names_and_options_refused():
    state_dict = state_dict_of(stack_of())
    with pytest.raises(ValueError, match="under the prefix 'encoder', got none"):
        weights.from_pytorch(state_dict, prefix="encoder")
    with pytest.raises(ValueError, match="Unknown activation: .* got 'identity'"):
        weights.from_pytorch(state_dict, activation="identity")
    with pytest.raises(ValueError, match="activation='tanh' with 4 gates, got 'relu'"):
        weights.from_pytorch(state_dict, activation="relu")
    with pytest.raises(lstm_jax.DtypeError, match="got float64 while jax_enable_x64 is off"):
        weights.from_pytorch({name: value.astype(float) for name, value in state_dict.items()})


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lstm_jax.lstm(D, H, peepholes=True), "with peepholes"),
        (lstm_jax.lstm(D, H, coupled_gates=True), "with coupled gates"),
        (lstm_jax.lstm(D, H, layer_norm=True), "with layer normalisation"),
        (lstm_jax.lstm(D, H, projection_size=P), "Put it into lstm_jax.stack"),
        (lstm_jax.gru(D, H, reset_after=False), "reset_after=False"),
        (lstm_jax.rnn(D, H, activation="identity"), "with the activation identity"),
        (stack_of(lstm_jax.lstm(D, H), lstm_jax.gru(H, H)), "layers that are alike"),
        (stack_of(lstm_jax.lstm(D, H), lstm_jax.lstm(H, 4)), "layers that are alike"),
        (
            stack_of(lstm_jax.rnn(D, H), lstm_jax.rnn(H, H, activation="relu")),
            "layers that are alike",
        ),
        (
            stack_of(lstm_jax.bidirectional(lstm_jax.gru(D, H)), lstm_jax.gru(2 * H, H)),
            "layers that are alike",
        ),
        (stack_of(lstm_jax.backward(lstm_jax.gru(D, H))), "a layer that runs backward alone"),
        (stack_of(residual=True), "residual connections"),
        (stack_of(output_size=2), "an output projection"),
        (stack_of(zoneout=0.1), "zoneout"),
        (stack_of(learned_state=True), "h_0 and c_0 with each call"),
    ],
)
def test_nets_refused(net, message):
    with pytest.raises(ValueError, match=message):
        weights.to_pytorch(net, net.init(jax.random.key(0)))


def test_params_refused():
    net = stack_of()
    params = net.init(jax.random.key(0))
    with pytest.raises(ValueError, match="biases of zero for bias=False"):
        weights.to_pytorch(net, params, bias=False)
    with pytest.raises(TypeError, match="Structure mismatch: expected params"):
        weights.to_pytorch(net.layers[0], params)
    wrong = params._replace(layers=(params.layers[1], params.layers[1]))
    with pytest.raises(lstm_jax.ShapeError, match=r"layers.0.w_x \[3, 20\], got \[5, 20\]"):
        weights.to_pytorch(net, wrong)


@pytest.mark.usefixtures("without_type_checker")
def test_a_module_in_place_of_its_state_dict_is_refused():
    with pytest.raises(TypeError, match="expected a state dict, got a object. .* state_dict"):
        weights.from_pytorch(object())


@pytest.mark.usefixtures("without_type_checker")
def test_other_objects_refused():
    layer = lstm_jax.bidirectional(lstm_jax.lstm(D, H))
    with pytest.raises(TypeError, match="got Bidirectional. Put it into lstm_jax.stack"):
        weights.to_pytorch(layer, layer.init(jax.random.key(0)))
    with pytest.raises(TypeError, match="expected a cell, a layer or a stack, got str"):
        weights.to_pytorch("lstm", None)


@pytest.mark.parametrize("number", ["1", "10000000", "9" * 8, "9" * 5000])
def test_a_name_does_not_say_how_many_layers_there_are(number, bounded_work):
    state_dict = {f"weight_{part}_l{number}": np.ones((20, 5), np.float32) for part in ("ih", "hh")}
    with pytest.raises(ValueError, match="weight_ih_l0|beside them"):
        weights.from_pytorch(state_dict)
