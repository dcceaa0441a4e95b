"""Files that other libraries wrote, and files that would do harm."""

import os
import pickle
import struct
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import gradient_flow
import lstm_jax
from gradient_flow.command_line.cli import main

T, B, D, H = 12, 2, 3, 4


def of_pytorch(path):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Embedding(9, D), torch.nn.LSTM(D, H, batch_first=True))
    torch.save({"epoch": 3, "model_state": model.state_dict()}, path)


def of_keras(path):
    os.environ["KERAS_BACKEND"] = "jax"
    keras = pytest.importorskip("keras")

    layers = [keras.Input((None, D)), keras.layers.GRU(H), keras.layers.Dense(2)]
    keras.Sequential(layers).save(path)


def of_onnx(path):
    onnx = pytest.importorskip("onnx")
    cell = lstm_jax.lstm(D, H)
    net = lstm_jax.stack(cell)
    params = lstm_jax.StackParams((cell.init(jax.random.key(0)),))
    onnx.save(lstm_jax.weights.to_onnx(net, params), path)


@pytest.mark.peer
@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "write"), [("m.pt", of_pytorch), ("m.keras", of_keras), ("m.onnx", of_onnx)]
)
def test_the_numbers_are_those_of_the_converted_network(name, write, tmp_path):
    write(tmp_path / name)
    xs = np.random.default_rng(0).standard_normal((T, B, D)).astype("f")
    found = gradient_flow.inspect(tmp_path / name, xs, quick=True)
    net, params = lstm_jax.weights.load(tmp_path / name)
    (cell,), (own,) = net.layers, params.layers
    blocks = ("hh", "hc", "cc") if cell.kind == "lstm" else ("hh",)
    flow = gradient_flow.jacobian_norms(
        cell,
        own,
        None,
        jnp.asarray(xs),
        lags=found.results["lags"],
        blocks=blocks,
        norms=["spectral"],
    )
    for block in blocks:
        assert_array_equal(found.arrays[f"loaded/layer_0/curve.{block}"], flow.spectral[block])


class Harmful:
    """What leaves a trace when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("harmed",)


def a_pickle(path):
    path.write_bytes(pickle.dumps({"weight_ih_l0": Harmful()}))


def a_pickle_in_a_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Harmful()))
        archive.writestr("archive/version", "3\n")


def huge_sizes(path):
    header = b'{"weight_hh_l0": {"dtype": "F32", "shape": [4000000000, 1000000000], "data_offsets": [0, 4]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)


def a_path_outside(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../harmed.npy", b"")
        archive.writestr("config.json", "{}")


@pytest.mark.parametrize(
    "write", [a_pickle, a_pickle_in_a_zip, huge_sizes, a_path_outside], ids=lambda w: w.__name__
)
def test_a_harmful_file_is_refused_in_a_sentence(write, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "inside"
    folder.mkdir()
    monkeypatch.chdir(folder)
    write(folder / "model.bin")
    assert main(["inspect", "model.bin"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    left = {path.name for path in tmp_path.rglob("*")}
    assert left <= {"inside", "model.bin", "runs"}


@pytest.mark.peer
def test_external_data_elsewhere_is_refused(tmp_path, monkeypatch, capsys):
    onnx = pytest.importorskip("onnx")
    of_onnx(tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    (tmp_path / "secret").write_bytes(b"\1" * 4096)
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.ClearField("float_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", "../secret"
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    monkeypatch.chdir(folder)
    assert main(["inspect", "model.onnx"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
