"""The door against the frameworks themselves: their files and models, loaded, compute what theirs compute."""

import os
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax
from lstm_jax import weights

pytestmark = pytest.mark.peer
D, H, T, B = 4, 3, 6, 2
XS = np.random.default_rng(0).standard_normal((T, B, D)).astype("f")


def outputs(net, params, xs=XS):
    return np.asarray(lstm_jax.unroll_stack(net, params, jnp.asarray(xs))[1])


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def test_pytorch_models_and_their_files(torch, tmp_path):
    torch.manual_seed(0)
    nn = torch.nn
    parts = {
        "encoder": nn.LSTM(D, H, 2, bidirectional=True),
        "gru": nn.GRU(D, H, bias=False),
        "vanilla": nn.RNN(D, H, nonlinearity="relu"),
        "projected": nn.LSTM(D, 5, proj_size=2),
        "normed": nn.utils.parametrizations.weight_norm(nn.LSTM(D, H), "weight_hh_l0"),
        "spectral": nn.utils.parametrizations.spectral_norm(nn.GRU(D, H), "weight_hh_l0").eval(),
        "batch_norm": nn.BatchNorm1d(H),
        "out": nn.Linear(D, 12),
    }
    model = nn.ModuleDict(parts)
    optimizer = torch.optim.Adam(model.parameters())
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()  # gives the optimizer moments
    model.eval()
    state = {"epoch": 3, "state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, tmp_path / "a.ckpt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    names = ["encoder", "gru", "vanilla", "projected", "normed", "spectral"]
    for source in (model, tmp_path / "a.ckpt", tmp_path / "old.pt"):
        found = weights.recurrent_layers(source)
        assert [layer.name for layer in found] == names
        for layer in found:
            put_together = layer.name in ("normed", "spectral")
            assert source is not model or len(layer.assumed) == put_together
            # A module says its activation, a file does not.
            told = source is model or layer.name != "vanilla"
            net, params = layer.load(**({} if told else {"activation": "relu"}))
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a projection without oneDNN
                expected = parts[layer.name](torch.tensor(XS))[0].numpy()
            np.testing.assert_allclose(outputs(net, params), expected, atol=1e-5)
    cell = nn.LSTMCell(D, H)
    assert weights.load(cell)[0].layers[0] == lstm_jax.lstm(D, H)


def test_pytorch_files_that_are_refused(torch, tmp_path):
    lstm = torch.nn.LSTM(D, H)
    torch.save(lstm, tmp_path / "whole.pt")
    torch.save(lstm, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("whole.pt", "old.pt"):
        with pytest.raises(ValueError, match="no pickle runs code here.*weights_only=False"):
            weights.load(tmp_path / name)
    # A pickle that is not PyTorch's, which torch.load would not open in any way.
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"rnn.weight_hh": np.ones((8, 2))}))
    with pytest.raises(
        ValueError, match=r"load it by pickle.load and pass the arrays\. PyTorch says"
    ):
        weights.load(tmp_path / "plain.pkl")
    (tmp_path / "code.pt").write_bytes(b"\x80\x04cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(ValueError, match="File mismatch"):
        weights.load(tmp_path / "code.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(lstm), tmp_path / "script.pt")
        with pytest.raises(ValueError, match="TorchScript"):
            weights.load(tmp_path / "script.pt")
        script = torch.jit.load(tmp_path / "script.pt")
    net, params = weights.load(script)
    np.testing.assert_array_equal(params.layers[0].w_x, lstm.weight_ih_l0.detach().numpy().T)
    whole = (tmp_path / "whole.pt").read_bytes()
    torch.save(lstm.state_dict(), tmp_path / "good.pt")
    whole = (tmp_path / "good.pt").read_bytes()
    for size in (10, 200, len(whole) - 40):
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        with pytest.raises(ValueError, match="File mismatch"):
            weights.load(tmp_path / "cut.pt")
    # A view of one number that claims to be many.
    huge = torch.zeros(1).expand(2**31, 2**11)
    torch.save({"weight_ih_l0": huge, "weight_hh_l0": huge}, tmp_path / "huge.pt")
    with pytest.raises(ValueError, match="at most 100 times its size"):
        weights.load(tmp_path / "huge.pt")


def test_a_quantised_module_is_refused_by_that_word(torch, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        model = torch.nn.Sequential(torch.nn.LSTM(D, H), torch.nn.Linear(H, 2))
        quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.LSTM})
        assert weights.recurrent_layers(quantised) == ()
        with pytest.raises(ValueError, match="got none. Nearest: 0: a quantised module"):
            weights.load(quantised)
        torch.save(quantised.state_dict(), tmp_path / "q.pt")
        with pytest.raises(ValueError, match="got a quantised model"):
            weights.load(tmp_path / "q.pt")


@pytest.fixture
def keras():
    os.environ["KERAS_BACKEND"] = "jax"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        keras = pytest.importorskip("keras")
        if keras.backend.backend() != "jax":
            pytest.skip("Keras was imported before, with another backend")
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            yield keras


def test_keras_models_and_their_files(keras, tmp_path):
    layers = keras.layers
    parts = {
        "both": layers.Bidirectional(layers.LSTM(H, return_sequences=True), name="both"),
        "before": layers.GRU(H, reset_after=False, return_sequences=True, name="before"),
        "unlike": layers.Bidirectional(
            layers.GRU(H, return_sequences=True),
            backward_layer=layers.GRU(2, return_sequences=True, go_backwards=True),
            name="unlike",
        ),
        "vanilla": layers.SimpleRNN(H, activation="relu", return_sequences=True, name="vanilla"),
        "back": layers.LSTM(H, go_backwards=True, return_sequences=True, name="back"),
    }
    inputs = keras.Input((None, D))
    inner_input = keras.Input((None, D))
    inner = keras.Model(inner_input, parts["before"](inner_input), name="inner")
    heads = [inner(inputs)] + [layer(inputs) for n, layer in parts.items() if n != "before"]
    hard = layers.LSTM(H, recurrent_activation="hard_sigmoid", name="hard")(inputs)
    model = keras.Model(inputs, [*heads, layers.Dense(2)(hard)])
    model.compile("adam", "mse")
    rng = np.random.default_rng(1)
    model.set_weights([0.4 * rng.standard_normal(w.shape) for w in model.get_weights()])
    model.save(tmp_path / "m.keras")
    model.save(tmp_path / "m.h5")
    model.save_weights(tmp_path / "m.weights.h5")
    files = [tmp_path / name for name in ("m.keras", "m.h5", "m.weights.h5")]
    for source in (model, *files, parts["both"]):
        found = {layer.name.rpartition(".")[2]: layer for layer in weights.recurrent_layers(source)}
        assert set(found) == ({"both"} if source is parts["both"] else {*parts, "hard"})
        configured = source is not files[2]
        for name in set(found) - {"hard"}:
            if not configured and name in ("vanilla", "back"):  # the configuration alone tells
                continue
            expected = np.asarray(parts[name](XS.swapaxes(0, 1))).swapaxes(0, 1)
            if name == "back":
                assert "go_backwards" in found[name].assumed[0]
                expected = expected[::-1]
            np.testing.assert_allclose(outputs(*found[name].load()), expected, atol=1e-5)
        if "hard" in found and configured:
            with pytest.raises(ValueError, match="recurrent_activation='hard_sigmoid'"):
                found["hard"].load()


@pytest.fixture
def equinox():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        return pytest.importorskip("equinox")


def test_modules_of_equinox(equinox):
    nn = equinox.nn

    class Model(equinox.Module):
        encoder: nn.LSTMCell
        layers: list
        out: nn.Linear

    keys = jax.random.split(jax.random.key(0), 4)
    cells = [nn.GRUCell(H, 2, key=keys[1]), nn.GRUCell(2, H, use_bias=False, key=keys[2])]
    model = Model(nn.LSTMCell(D, H, key=keys[0]), cells, nn.Linear(H, 2, key=keys[3]))
    found = weights.recurrent_layers(model)
    assert [(layer.name, layer.kind) for layer in found] == [
        ("encoder", "lstm"),
        ("layers.0", "gru"),
        ("layers.1", "gru"),
    ]
    ys = jnp.asarray(XS[:, 0])
    net = lstm_jax.stack(*(layer.load()[0].layers[0] for layer in found))
    params = lstm_jax.StackParams(tuple(layer.load()[1].layers[0] for layer in found))
    own = lstm_jax.unroll_stack(net, params, ys)[1]
    for cell in (model.encoder, *cells):
        state = jnp.zeros(cell.hidden_size)
        state = (state, state) if isinstance(cell, nn.LSTMCell) else state

        def step(state, y, cell=cell):
            state = cell(y, state)
            return state, state[0] if isinstance(state, tuple) else state

        _, ys = jax.lax.scan(step, state, ys)
    np.testing.assert_allclose(own, ys, atol=1e-6)
    assert weights.load(cells[0])[0] == lstm_jax.stack(lstm_jax.gru(H, 2))
    with pytest.raises(ValueError, match="expected no gate_order for 'encoder', whose module"):
        weights.load(model, "encoder", gate_order="ifgo")


def test_an_ensemble_of_equinox_is_refused_by_that_word(equinox):
    keys = jax.random.split(jax.random.key(0), 5)
    for kind in (equinox.nn.LSTMCell, equinox.nn.GRUCell):
        many = equinox.filter_vmap(lambda key, kind=kind: kind(D, H, key=key))(keys)
        message = r"stacked arrays of an ensemble, weight_hh \[5, .*Take one member"
        with pytest.raises(lstm_jax.ShapeError, match=message):
            weights.from_equinox(many)
        with pytest.raises(ValueError, match=message):
            weights.load(many)
        one = jax.tree.map(lambda a: a[2], many)
        cell, params = weights.from_equinox(one)
        np.testing.assert_array_equal(params.w_h, one.weight_hh.T)
        # All members at once, as the message says.
        like = jax.tree.map(lambda a: a[0], many)
        every = jax.vmap(lambda m: weights.from_equinox(m)[1])(many)
        assert every.w_h.shape == (5, *like.weight_hh.T.shape)


def test_parameters_of_haiku():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        haiku = pytest.importorskip("haiku")

    def run(xs):
        core = haiku.DeepRNN([haiku.LSTM(H), haiku.GRU(2), haiku.VanillaRNN(H)])
        return haiku.dynamic_unroll(core, xs, core.initial_state(B))[0]

    model = haiku.without_apply_rng(haiku.transform(run))
    params = model.init(jax.random.key(0), XS)
    found = {layer.name: layer.load() for layer in weights.recurrent_layers(params)}
    parts = [found[name] for name in ("lstm", "gru", "vanilla_rnn")]
    net = lstm_jax.stack(*(net.layers[0] for net, _ in parts))
    own = lstm_jax.StackParams(tuple(part.layers[0] for _, part in parts))
    np.testing.assert_allclose(outputs(net, own), model.apply(params, XS), atol=1e-6)
