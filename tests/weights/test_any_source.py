"""The door: layers are found in what users have, and compute what their arrays mean."""

import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_loops import (
    cudnn_gru,
    cudnn_lstm,
    gru_loop,
    keras_lstm,
    lstm_loop,
    pytorch_gru,
    pytorch_lstm,
)

import lstm_jax
from lstm_jax import weights
from lstm_jax.validation import DtypeError

D, H, T = 3, 2, 5
RNG = np.random.default_rng(0)
XS = RNG.standard_normal((T, D)).astype("f")


def normal(*shape):
    return RNG.standard_normal(shape).astype("f")


def lstm_arrays(prefix="", size=D, ending="_l0"):
    shapes = {"weight_ih": (4 * H, size), "weight_hh": (4 * H, H)}
    shapes |= {"bias_ih": (4 * H,), "bias_hh": (4 * H,)}
    return {f"{prefix}{part}{ending}": normal(*shape) for part, shape in shapes.items()}


def outputs(net, params, xs=XS):
    return np.asarray(lstm_jax.unroll_stack(net, params, jnp.asarray(xs))[1])


def assert_outputs(loaded, expected, xs=XS):
    np.testing.assert_allclose(outputs(*loaded, xs), expected, atol=1e-6, rtol=1e-5)


def assert_same(params, expected):
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def described(layers):
    return [(x.name, x.kind, x.input_size, x.hidden_size, x.directions, x.layers) for x in layers]


def test_a_checkpoint_with_counters_and_optimizer_states():
    lstm = lstm_arrays("encoder.rnn.") | lstm_arrays("encoder.rnn.", ending="_l0_reverse")
    top = {"decoder.cell.weight_ih": normal(3 * H, 4), "decoder.cell.weight_hh": normal(3 * H, H)}
    model = {"norm.num_batches_tracked": np.int64(3) * np.ones((), np.int64)} | lstm | top
    model |= {"out.weight": normal(7, H), "out.bias": normal(7)}
    source = {
        "step": 7,
        "model_state": model,
        "optimizer_state": {"state": lstm_arrays("rnn."), "param_groups": [{"lr": 0.1}]},
    }
    layers = weights.recurrent_layers(source)
    assert described(layers) == [
        ("encoder.rnn", "lstm", D, H, 2, 1),
        ("decoder.cell", "gru", 4, H, 1, 1),
    ]
    assert any("i, f, g, o" in words for words in layers[0].assumed)
    net, params = weights.load(source, "encoder.rnn")
    expected = weights.from_pytorch(lstm, prefix="encoder.rnn")
    assert net == expected[0]
    assert_same(params, expected[1])
    net, params = weights.load(source, "cell")  # the end of a name, where it tells
    assert net.layers[0].kind == "gru"
    assert_same(params.layers[0], weights.from_pytorch(top, prefix="decoder.cell")[1])


def test_names_in_front_stay_where_the_rest_is_the_same():
    source = {"model": lstm_arrays("rnn."), "weights": lstm_arrays("rnn.")}
    assert [x.name for x in weights.recurrent_layers(source)] == ["model.rnn", "weights.rnn"]
    with pytest.raises(ValueError, match="Name needed: .*'model.rnn', 'weights.rnn'"):
        weights.load(source)
    with pytest.raises(ValueError, match="named 'rnn', got several. They are 'model.rnn'"):
        weights.load(source, "rnn")
    with pytest.raises(ValueError, match="named 'x', got none. They are 'model.rnn'"):
        weights.load(source, "x")


def test_nothing_found_says_what_nearly_was_a_layer():
    assert weights.recurrent_layers({}) == ()
    found = weights.recurrent_layers(
        {
            "a.weight_ih": normal(8, D),
            "a.weight_hh": normal(10, H),
            "b": {"kernel": normal(D, 8), "recurrent_kernel": normal(3, 8)},
            "c.weight": normal(2, 2),
            "d.weight_ih_l0": normal(8, D),
        }
    )
    assert found == () and len(found.misses) == 3
    assert found.misses[1] == "d: d.weight_ih_l0 without its other matrix beside it"
    assert "a.weight_hh [10, 2]" in repr(found)
    with pytest.raises(ValueError, match=r"got none\. Nearest: a: a\.weight_ih \[8, 3\] and"):
        weights.load(found)


def test_npz_with_names_of_its_own(tmp_path):
    arrays = {}
    for name in ("enc", "dec"):
        for part, shape in {"w_ih": (6, D), "w_hh": (6, H), "b_ih": (6,), "b_hh": (6,)}.items():
            arrays[f"{name}_{part}"] = normal(*shape)
    np.savez(tmp_path / "weights", fc_w=normal(9, H), enc_emb=normal(9, D), **arrays)
    layers = weights.recurrent_layers(tmp_path / "weights.npz")
    assert described(layers) == [("enc", "gru", D, H, 1, 1), ("dec", "gru", D, H, 1, 1)]
    assert any("enc_emb" in words for words in layers[0].assumed)
    assert not any("emb" in words for words in layers[1].assumed)
    expected = pytorch_gru(
        XS, *(arrays[f"dec_{part}"] for part in ("w_ih", "w_hh", "b_ih", "b_hh"))
    )
    assert_outputs(weights.load(tmp_path / "weights.npz", "dec"), expected)


@pytest.mark.parametrize("order", ["ifgo", "iofg", "gofi"])
def test_the_order_of_the_gates_is_the_callers_where_no_name_tells(order):
    gates = {gate: (normal(D, H), normal(H, H), normal(H)) for gate in "ifgo"}
    w_x, w_h, b = (np.concatenate([gates[g][n] for g in order], -1) for n in range(3))
    source = {"cell": {"W_x": w_x, "W_h": w_h, "b": b}}
    assert described(weights.recurrent_layers(source)) == [("cell", "lstm", D, H, 1, 1)]
    with pytest.raises(
        ValueError, match="Gate order needed: .*'ifgo' as in PyTorch.*'igfo'.*'iofg'"
    ):
        weights.load(source)
    with pytest.raises(ValueError, match="Gate mismatch"):
        weights.load(source, gate_order="ifg")
    expected = lstm_loop(XS, *gates["i"], *gates["f"], *gates["g"], *gates["o"])
    assert_outputs(weights.load(source, gate_order=order), expected)
    # PyTorch's names tell one, and the caller may know better; in either layout.
    for flipped in (False, True):
        parts = {"weight_ih_l0": w_x.T, "weight_hh_l0": w_h.T, "bias_ih_l0": b, "bias_hh_l0": 0 * b}
        if flipped:
            parts |= {"weight_ih_l0": w_x, "weight_hh_l0": w_h}
        assert_same(
            weights.load(parts, gate_order=order)[1],
            weights.load(source, gate_order=order)[1],
        )


def test_both_forms_of_a_gru_fit_one_bias():
    reset, update, new = ((normal(D, H), normal(H, H), normal(H), 0 * normal(H)) for _ in range(3))
    w_x, w_h, b = (np.concatenate([g[n] for g in (update, reset, new)], -1) for n in range(3))
    source = {"W": w_x, "U": w_h, "b": b}
    with pytest.raises(ValueError, match="Form needed: expected reset_after="):
        weights.load(source, gate_order="urn")
    for after in (True, False):
        loaded = weights.load(source, gate_order="urn", reset_after=after)
        assert_outputs(loaded, gru_loop(XS, reset, update, new, after))
    # PyTorch's two biases tell the form, which the caller may still deny.
    two = {"weight_ih": w_x.T, "weight_hh": w_h.T, "bias_ih": b, "bias_hh": 0 * b}
    loaded = weights.load(two, gate_order="urn", reset_after=False)
    assert_outputs(loaded, gru_loop(XS, reset, update, new, False))


def test_two_layouts_that_both_fit():
    square = {"W": normal(H, H), "U": normal(H, H), "b": normal(H)}
    (layer,) = weights.recurrent_layers(square)
    assert layer.kind == "rnn" and r"[in, out] and as [out, in]" in layer.refused
    with pytest.raises(ValueError, match="both"):
        layer.load()
    # A matrix that is not square tells the layout of the other.
    w, u, b = normal(D, H), normal(H, H), normal(H)
    h, expected = np.zeros(H, "f"), []
    for x in XS:
        h = np.maximum(x @ w + h @ u + b, 0)
        expected.append(h)
    assert_outputs(weights.load({"W": w, "U": u, "b": b}, activation="relu"), expected)
    assert_outputs(weights.load({"W": w.T, "U": u.T, "b": b}, activation="relu"), expected)


def test_choices_that_do_not_apply():
    source = {"rnn": lstm_arrays()}
    with pytest.raises(ValueError, match="Kind mismatch: expected kind='gru', got .* 'lstm'"):
        weights.load(source, kind="gru")
    with pytest.raises(ValueError, match="Unknown kind"):
        weights.load(source, kind="LSTM")
    with pytest.raises(ValueError, match="expected no reset_after for the lstm 'rnn'"):
        weights.load(source, reset_after=True)
    with pytest.raises(ValueError, match="expected no activation for the lstm"):
        weights.load(source, activation="relu")
    with pytest.raises(TypeError, match="Give a list of arrays to from_keras"):
        weights.load([normal(2, 2)])
    with pytest.raises(DtypeError, match="jax_enable_x64"):
        weights.load({name: array.astype(float) for name, array in lstm_arrays().items()})
    loop: dict = {}
    loop["again"] = loop
    with pytest.raises(ValueError, match="Structure mismatch"):
        weights.recurrent_layers(loop)


def test_weights_in_parts():
    plain = lstm_arrays("rnn.")
    plain["rnn.weight_hh_l0"][0, 0] = 0
    expected = weights.load(plain)[1]
    w_hh = plain.pop("rnn.weight_hh_l0")
    mask = (w_hh != 0).astype("f")
    norm = np.sqrt((w_hh**2).sum(1, keepdims=True))
    u, v = normal(4 * H), normal(H)
    sigma = u @ w_hh @ v
    parametrized = "rnn.parametrizations.weight_hh_l0."
    forms = {
        "weight norm": {"rnn.weight_hh_l0_g": norm, "rnn.weight_hh_l0_v": 3 * w_hh},
        "weight norm, new": {
            f"{parametrized}original0": norm,
            f"{parametrized}original1": 3 * w_hh,
        },
        "spectral norm": {
            "rnn.weight_hh_l0_orig": sigma * w_hh,
            "rnn.weight_hh_l0_u": u,
            "rnn.weight_hh_l0_v": v / sigma,
        },
        "spectral norm, new": {
            f"{parametrized}original": sigma * w_hh,
            f"{parametrized}0._u": u,
            f"{parametrized}0._v": v / sigma,
        },
        "pruning": {
            "rnn.weight_hh_l0_orig": w_hh + 5 * (1 - mask),
            "rnn.weight_hh_l0_mask": mask,
        },
        "weight drop": {"rnn.weight_hh_l0_raw": w_hh},
        "weight drop beside": {"rnn.weight_hh_l0_raw": w_hh, "rnn.weight_hh_l0": 0 * w_hh},
    }
    for words, parts in forms.items():
        (layer,) = weights.recurrent_layers(plain | parts)
        assert any(words.split(",")[0].removesuffix(" beside") in more for more in layer.assumed)
        params = layer.load()[1]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), params, expected)
    # As fastai names it: the raw weight outside of the module that is wrapped.
    inner = {name.replace("rnn.", "rnn.module."): array for name, array in plain.items()}
    (layer,) = weights.recurrent_layers({"rnn.weight_hh_l0_raw": w_hh} | inner)
    assert layer.name == "rnn.module"
    assert_same(layer.load()[1], expected)


def test_flax_and_own_files(tmp_path):
    cell = lstm_jax.gru(D, H)
    params = cell.init(jax.random.key(0))
    for api in ("linen", "nnx"):
        nested = {
            "params": {
                "RNN_0": {
                    "cell": weights.to_flax(
                        cell, params._replace(b_hn=0 * params.b_hn), "GRUCell", api=api
                    )
                }
            }
        }
        (layer,) = weights.recurrent_layers(nested)
        assert described([layer]) == [("RNN_0.cell", "gru", D, H, 1, 1)]
        assert_same(layer.load()[1].layers[0], params._replace(b_hn=0 * params.b_hn))
    weights.save_safetensors(tmp_path / "own.safetensors", cell, params)
    net, loaded = weights.load(tmp_path / "own.safetensors")
    assert net == lstm_jax.stack(cell)
    assert_same(loaded.layers[0], params)


def test_safetensors_of_others(tmp_path):
    from safetensors.numpy import save_file

    arrays = lstm_arrays("model.rnn.") | {"count": np.ones(2, np.int32)}
    save_file(arrays, tmp_path / "model.bin")  # read by content, whatever the ending
    (layer,) = weights.recurrent_layers(str(tmp_path / "model.bin"))
    assert layer.name == "model.rnn"
    assert_same(layer.load()[1], weights.load(arrays)[1])


def test_every_node_of_an_onnx_model(tmp_path):
    onnx = pytest.importorskip("onnx")
    below, above = lstm_jax.bidirectional(lstm_jax.lstm(D, H)), lstm_jax.gru(2 * H, 3)
    net = lstm_jax.stack(below, above, output_size=4)
    params = net.init(jax.random.key(0))
    model = weights.to_onnx(net, params, tmp_path / "net.onnx")
    for source in (tmp_path / "net.onnx", onnx.load(tmp_path / "net.onnx"), model):
        found = weights.recurrent_layers(source)
        assert [layer[1:6] for layer in found] == [("lstm", D, H, 2, 1), ("gru", 2 * H, 3, 1, 1)]
        for layer, expected, own in zip(found, params.layers, (below, above), strict=True):
            again, loaded = weights.load(source, layer.name)
            assert again == lstm_jax.stack(own)
            assert_same(loaded.layers[0], expected)
    with pytest.raises(ValueError, match="expected no gate_order"):
        found[0].load(gate_order="iofg")
    model.graph.node[[n.op_type for n in model.graph.node].index("GRU")].name = "/enc/GRU"
    for name in ("/enc/GRU", "enc/GRU", "GRU"):
        assert_same(weights.load(model, name)[1].layers[0], params.layers[1])


def write_keras_2(path, layers, **attributes):
    """A file as Keras 2 writes it: ``layer/layer/kernel:0``."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if "model_config" in attributes else file
        file.attrs.update({k: v for k, v in attributes.items() if k == "model_config"})
        root.attrs.update({k: v for k, v in attributes.items() if k != "model_config"})
        root.attrs["layer_names"] = [name.encode() for name in layers]
        for name, arrays in layers.items():
            for inner, array in arrays.items():
                root[f"{name}/{name}/{inner}:0"] = array
        file["optimizer_weights/adam/lstm/kernel:0"] = normal(D, 8)
        file["optimizer_weights/adam/lstm/recurrent_kernel:0"] = normal(H, 8)


def keras_arrays(gates, size=D, bias=None, prefix=""):
    shapes = {"kernel": (size, gates * H), "recurrent_kernel": (H, gates * H)}
    shapes["bias"] = bias or (gates * H,)
    return {prefix + part: normal(*shape) for part, shape in shapes.items()}


def test_keras_2_with_biases_of_cudnn(tmp_path):
    lstm, gru = keras_arrays(4, bias=(8 * H,)), keras_arrays(3, bias=(6 * H,))
    plain = keras_arrays(4)
    layers = {"rnn_2": lstm, "rnn_1": gru, "last": plain, "dense": {"kernel": normal(H, 9)}}
    write_keras_2(tmp_path / "w.hdf5", layers, keras_version="2.1.5")
    found = weights.recurrent_layers(tmp_path / "w.hdf5")
    assert described(found) == [  # in the order of the model
        ("rnn_2", "lstm", D, H, 1, 1),
        ("rnn_1", "gru", D, H, 1, 1),
        ("last", "lstm", D, H, 1, 1),
    ]
    assert "cuDNN" in found[0].assumed[0] and "hard_sigmoid" in found[2].assumed[0]
    assert_outputs(found[0].load(), cudnn_lstm(XS, *lstm.values()))
    assert_outputs(found[1].load(), cudnn_gru(XS, *gru.values()))
    assert_outputs(found[2].load(), keras_lstm(XS, *plain.values()))
    # The typed way in takes the same arrays, and D = H as well.
    square = keras_arrays(4, size=H, bias=(8 * H,))
    cell, params = weights.from_keras(list(square.values()))
    ys = lstm_jax.unroll(cell, params, jnp.asarray(XS[:, :H]))[1]
    np.testing.assert_allclose(ys, cudnn_lstm(XS[:, :H], *square.values()), atol=1e-6)
    with pytest.raises(ValueError, match="of reset_after=True"):
        weights.from_keras(list(gru.values()), reset_after=False)


def configured(name, class_name="LSTM", **options):
    return {"class_name": class_name, "config": {"name": name, "units": H} | options}


def test_keras_configuration_is_honoured_or_refused(tmp_path):
    both = keras_arrays(4, prefix="forward_b/") | keras_arrays(4, prefix="backward_b/")
    summed = keras_arrays(4, prefix="forward_s/") | keras_arrays(4, prefix="backward_s/")
    layers = {
        "hard": keras_arrays(4),
        "back": keras_arrays(4),
        "vanilla": keras_arrays(1),
        "both": both,
        "summed": summed,
        "free": {k: v for k, v in keras_arrays(3).items() if k != "bias"},
    }
    back, vanilla = layers["back"], layers["vanilla"]
    config = [
        configured("hard", recurrent_activation="hard_sigmoid"),
        configured("back", "ReversedLSTM", go_backwards=True),
        configured("vanilla", "SimpleRNN", activation="relu"),
        configured("both", "Bidirectional", layer=configured("b"), merge_mode="concat"),
        configured("summed", "Bidirectional", layer=configured("s"), merge_mode="sum"),
        configured("free", "GRU", reset_after=False, use_bias=False),
    ]
    model = json.dumps({"class_name": "Model", "config": {"layers": config}})
    write_keras_2(tmp_path / "m.h5", layers, model_config=model, keras_version="2.2.4")
    found = {layer.name: layer for layer in weights.recurrent_layers(tmp_path / "m.h5")}
    assert list(found) == list(layers)
    with pytest.raises(ValueError, match="recurrent_activation='hard_sigmoid' in an lstm"):
        found["hard"].load()
    with pytest.raises(ValueError, match="merge_mode='sum'"):
        found["summed"].load()
    assert found["both"].directions == 2
    assert not found["both"].assumed and not found["vanilla"].assumed
    assert "class ReversedLSTM is the source's own" in found["back"].assumed[0]
    net, params = found["back"].load()
    assert isinstance(net.layers[0], type(lstm_jax.backward(lstm_jax.lstm(D, H))))
    assert_outputs((net, params), keras_lstm(XS[::-1], *back.values())[::-1])
    assert found["vanilla"].load()[0].layers[0].activation == "relu"
    assert_same(
        found["vanilla"].load()[1].layers[0],
        weights.from_keras(list(vanilla.values()), activation="relu")[1],
    )
    assert found["free"].load()[0].layers[0] == lstm_jax.gru(D, H, reset_after=False)
    assert_same(found["both"].load()[1].layers[0], weights.from_keras(list(both.values()))[1])
    # The same where the weights are in a file of their own, with the model's JSON beside it.
    write_keras_2(tmp_path / "w.h5", layers, keras_version="2.2.4")
    (tmp_path / "m.json").write_text(model)
    assert weights.recurrent_layers(tmp_path / "w.h5")[0].refused is None
    for config in (tmp_path / "m.json", model, json.loads(model)):
        beside = weights.recurrent_layers(tmp_path / "w.h5", config=config)
        assert [repr(layer) for layer in beside] == [repr(layer) for layer in found.values()]
    with pytest.raises(ValueError, match="recurrent_activation='hard_sigmoid'"):
        weights.load(tmp_path / "w.h5", "hard", config=model)
    with pytest.raises(ValueError, match="as JSON of a Keras model"):
        weights.load(tmp_path / "w.h5", config=tmp_path / "w.h5")
    # Without a configuration, the form of a GRU without a bias is the caller's to say.
    with pytest.raises(ValueError, match="Form needed"):
        weights.load({"free": layers["free"]})
    assert weights.load({"free": layers["free"]}, reset_after=True)[0].layers[0].kind == "gru"


def test_a_list_of_arrays_with_its_configuration(without_type_checker):
    arrays = list(keras_arrays(4).values())
    plain = {"units": H, "activation": "tanh", "recurrent_activation": "sigmoid"}
    layer, params = weights.from_keras(arrays, config=plain | {"go_backwards": True})
    assert layer == lstm_jax.backward(lstm_jax.lstm(D, H))
    assert_same(params, weights.from_keras(arrays)[1])
    with pytest.raises(ValueError, match="recurrent_activation='hard_sigmoid' in an lstm"):
        weights.from_keras(arrays, config=plain | {"recurrent_activation": "hard_sigmoid"})
    free = list(keras_arrays(3).values())[:2]
    for after in (True, False):
        cell, _ = weights.from_keras(free, config=plain | {"reset_after": after})
        assert cell == lstm_jax.gru(D, H, reset_after=after)
    both = {"layer": {"class_name": "LSTM", "config": plain}, "merge_mode": "sum"}
    with pytest.raises(ValueError, match="expected merge_mode='concat'.* got 'sum'"):
        weights.from_keras([*arrays, *arrays], config=both)
    layer, _ = weights.from_keras([*arrays, *arrays], config=both | {"merge_mode": "concat"})
    assert layer == lstm_jax.bidirectional(lstm_jax.lstm(D, H))
    for wrong in (both, {}):
        with pytest.raises(ValueError, match="get_config.. of one lstm"):
            weights.from_keras(arrays, config=wrong)
    for wrong in ("abc", {"kernel": arrays[0]}):
        with pytest.raises(TypeError, match="expected the list of get_weights"):
            weights.from_keras(wrong)


def test_keras_1(tmp_path):
    h5py = pytest.importorskip("h5py")
    gates = {gate: (normal(D, H), normal(H, H), normal(H)) for gate in "ifco"}
    zrh = {gate: (normal(D, H), normal(H, H), normal(H)) for gate in "zrh"}
    with h5py.File(tmp_path / "k1.h5", "w") as file:
        file.attrs["keras_version"] = b"1.2.2"
        for layer, all_gates in (("lstm_1", gates), ("gru_1", zrh)):
            for gate, arrays in all_gates.items():
                for part, array in zip("WUb", arrays, strict=True):
                    file[f"{layer}/{layer}_{part}_{gate}:0"] = array
    found = {layer.name: layer for layer in weights.recurrent_layers(tmp_path / "k1.h5")}
    assert set(found) == {"lstm_1", "gru_1"} and "1.2.2" in found["gru_1"].assumed[0]
    expected = lstm_loop(XS, *gates["i"], *gates["f"], *gates["c"], *gates["o"])
    assert_outputs(found["lstm_1"].load(), expected)
    update, reset, new = ((*zrh[gate], 0 * zrh[gate][2]) for gate in "zrh")
    assert_outputs(found["gru_1"].load(), gru_loop(XS, reset, update, new, after=False))


def test_two_directions_of_other_sizes():
    forward, backward = (
        [normal(D, 8), normal(H, 8), normal(8)],
        [normal(D, 12), normal(3, 12), normal(12)],
    )
    layer, params = weights.from_keras([*forward, *backward])
    assert [cell.hidden_size for cell in layer] == [2, 3]
    expected = np.concatenate(
        [keras_lstm(XS, *forward), keras_lstm(XS[::-1], *backward)[::-1]], axis=-1
    )
    stack = lstm_jax.stack(layer), lstm_jax.StackParams((params,))
    assert_outputs(stack, expected)
    with pytest.raises(ValueError, match=r"backward kernel \[3, 12\]"):
        weights.from_keras([*forward, normal(4, 12), normal(3, 12), normal(12)])


def test_files_that_are_none(tmp_path, bounded_work):
    np.savez(tmp_path / "good.npz", **lstm_arrays())
    whole = (tmp_path / "good.npz").read_bytes()
    files = {
        "empty": b"",
        "text": b"weights",
        "cut": whole[: len(whole) // 2],
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "safetensors": (2**40).to_bytes(8, "little") + b"{}",
        "broken.safetensors": (20).to_bytes(8, "little") + b"{" * 20,
        "msgpack": b"\x81\xa1x\xc1",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises((ValueError, ImportError), match="File mismatch|Package missing"):
            weights.recurrent_layers(tmp_path / name)
    with pytest.raises(ValueError, match="Folder mismatch: .*got neither"):
        weights.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        weights.load(tmp_path / "nothing.pt")


def test_a_small_file_unpacks_to_little(tmp_path, bounded_work):
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("weight_ih_l0.npy", "w") as file:
            header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**25}, 1)}}"
            file.write(b"\x93NUMPY\x01\x00v\x00" + header.ljust(117).encode() + b"\n")
            for _ in range(2**7):
                file.write(bytes(2**20))
    with pytest.raises(ValueError, match="to unpack to at most 100 times its size"):
        weights.load(tmp_path / "bomb.npz")
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as archive:
        archive.writestr("weight_ih_l0.npy", b"\x93NUMPY\x01\x00v\x00" + header.ljust(118).encode())
    with pytest.raises(ValueError, match=r"got: an array \[33554432, 1\] of float32 in 128 bytes"):
        weights.load(tmp_path / "claims.npz")


def test_a_small_hdf5_file_unpacks_to_little(tmp_path, bounded_work):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        file.create_dataset("a/kernel", (2**16, 2**14), "f", chunks=(64, 64), compression="gzip")
    with pytest.raises(ValueError, match="bytes of arrays"):
        weights.load(tmp_path / "bomb.h5")


def test_objects_in_an_npz_are_not_read(tmp_path):
    np.savez(tmp_path / "o.npz", params=np.array({"w": 1}, object))
    with pytest.raises(ValueError, match="got Python objects, which are not read"):
        weights.load(tmp_path / "o.npz")


def test_pytorch_loop_of_several_layers():
    first, second = lstm_arrays(), lstm_arrays(size=H, ending="_l1")
    (layer,) = weights.recurrent_layers({"rnn": first | second})
    assert layer.layers == 2
    hs = pytorch_lstm(XS, *first.values())
    assert_outputs(layer.load(), pytorch_lstm(hs, *second.values()))


def test_a_run_and_a_checkpoint_of_orbax(tmp_path):
    from lstm_jax.training.checkpoints import Checkpoints

    net = lstm_jax.stack(lstm_jax.lstm(D, H), lstm_jax.gru(H, H))
    params = net.init(jax.random.key(0))
    run = Checkpoints(tmp_path / "run" / "checkpoints", settings={})
    for step in (9, 10):
        state = {"params": params, "opt_state": (params,), "step": jnp.ones((), int)}
        run.save(step, jax.tree.map(lambda leaf, step=step: leaf * step, state))
    run.close()
    found = weights.recurrent_layers(tmp_path / "run")
    assert described(found) == [("layers.0", "lstm", D, H, 1, 1), ("layers.1", "gru", H, H, 1, 1)]
    for number, layer in enumerate(found):  # of the last step
        tenfold = jax.tree.map(lambda leaf: 10 * leaf, params.layers[number])
        assert_same(layer.load()[1].layers[0], tenfold)
    # Without what a run says beside it, the names tell no order.
    plain = tmp_path / "run" / "checkpoints" / "9" / "state"
    (plain.parent / "about" / "metadata").unlink()
    with pytest.raises(ValueError, match="Gate order needed"):
        weights.load(plain, "layers.0")
    assert_same(
        weights.load(plain, "layers.0", gate_order="ifgo")[1].layers[0],
        jax.tree.map(lambda leaf: 9 * leaf, params.layers[0]),
    )
    (plain / "_METADATA").write_text("{")
    with pytest.raises(ValueError, match="expected a whole checkpoint"):
        weights.load(plain)


def test_a_variant_is_not_taken_for_the_plain_cell():
    cell = lstm_jax.lstm(D, H, peepholes=True)
    named = cell.init(jax.random.key(0))._asdict()
    with pytest.raises(
        ValueError, match="expected 'cell' as a cell here, got p beside its matrices"
    ):
        weights.load({"cell": named}, gate_order="ifgo")
