"""Files of one's own: what comes back is what was saved, and nothing else comes back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from comparison import assert_close, random_like

import lstm_jax
from lstm_jax import weights

D, H = 3, 5
both_ways = lstm_jax.bidirectional
NETS = {
    "rnn": lambda: lstm_jax.rnn(D, H, activation="relu"),
    "gru": lambda: lstm_jax.gru(D, H),
    "gru_reset_before": lambda: lstm_jax.gru(D, H, reset_after=False),
    "lstm": lambda: lstm_jax.lstm(D, H),
    "lstm_with_all": lambda: lstm_jax.lstm(
        D, H, peepholes=True, coupled_gates=True, layer_norm=True, projection_size=2
    ),
    "both ways": lambda: both_ways(lstm_jax.gru(D, H), lstm_jax.lstm(D, 4)),
    "backward": lambda: lstm_jax.stack(lstm_jax.backward(lstm_jax.gru(D, H))),
    "stack": lambda: lstm_jax.stack(lstm_jax.lstm(D, H)),
    "stack with all": lambda: lstm_jax.stack(
        both_ways(lstm_jax.lstm(D, 4)),
        lstm_jax.lstm(8, 8, peepholes=True),
        dropout=0.1,
        variational=True,
        zoneout=lstm_jax.LSTMState(h=0.05, c=0.2),
        recurrent_dropout=0.3,
        residual=True,
        learned_state=True,
        output_size=2,
    ),
}


def params_of(net, dtype=np.float32):
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    return random_like(np.random.default_rng(0), shapes, dtype)


@pytest.mark.parametrize("name", NETS)
def test_round_trip(name, tmp_path):
    net, path = NETS[name](), tmp_path / "net.safetensors"
    params = params_of(net)
    weights.save_safetensors(path, net, params)
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]
    again, read = weights.load_safetensors(path)
    assert again == net and repr(again) == repr(net)
    assert_close(read, params, 0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dtypes(dtype, tmp_path, x64):
    cell, path = lstm_jax.lstm(D, H), tmp_path / "cell.safetensors"
    params = params_of(cell, jnp.dtype(dtype))
    weights.save_safetensors(path, cell, params)
    _, read = weights.load_safetensors(path)
    assert read.w_x.dtype == dtype
    assert_close(read, params, 0)
    if dtype == "float64":
        with jax.enable_x64(False), pytest.raises(lstm_jax.DtypeError, match="x64 is off"):
            weights.load_safetensors(path)


def test_initialisers_are_not_kept(tmp_path):
    cell = lstm_jax.lstm(D, H, forget_bias=3.0, w_h_init=lstm_jax.orthogonal())
    weights.save_safetensors(tmp_path / "cell", cell, params_of(cell))
    again, _ = weights.load_safetensors(tmp_path / "cell")
    assert again == lstm_jax.lstm(D, H)


def test_names_are_the_params(tmp_path):
    net = NETS["stack with all"]()
    weights.save_safetensors(tmp_path / "net", net, params_of(net))
    names = {name for name, _ in safetensors.deserialize((tmp_path / "net").read_bytes())}
    assert {"layers.0.forward.w_x", "layers.1.p", "state0.0.backward.c", "b_y"} <= names


NET = lstm_jax.stack(lstm_jax.lstm(D, H), lstm_jax.gru(H, 4))


def rewritten(path, tensors=None, metadata=None):
    """The file with some tensors or metadata changed, or left out where None is given."""
    weights.save_safetensors(path, NET, params_of(NET))
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    said = json.loads(content[8 : 8 + size])["__metadata__"] | (metadata or {})
    whole = safetensors.numpy.load(content) | (tensors or {})
    kept = {name: array for name, array in whole.items() if array is not None}
    said = {name: value for name, value in said.items() if value is not None}
    path.write_bytes(safetensors.numpy.save(kept, said))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"layers.1.b_hn": None}, "expected layers.1.b_hn in .*, got a file without it"),
        ({"layers.2.b": np.ones(3, "f")}, "got layers.2.b"),
        ({"layers.0.w_x": np.ones((4, 20), "f")}, r"layers.0.w_x \[3, 20\] .* got \[4, 20\]"),
        ({"layers.1.b": np.ones(12)}, "layers.1.b float32 as layers.0.w_x is, got float64"),
        ({"layers.1.b": np.ones(12, "i")}, "expected layers.1.b in .* F64, got I32"),
    ],
)
def test_tensors_refused(tensors, message, tmp_path):
    rewritten(tmp_path / "net", tensors)
    with pytest.raises((ValueError, TypeError), match=message):
        weights.load_safetensors(tmp_path / "net")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": None}, "with format lstm_jax, got None"),
        ({"format": "pt"}, "with format lstm_jax, got pt"),
        ({"version": "2"}, "with version 1, got 2"),
        ({"gate_order": '{"lstm": "iofg"}'}, "with gate_order .*ifgo.*, got .*iofg"),
        ({"net": None}, "a cell, a layer or a stack, got None"),
        ({"net": "lstm"}, "a cell, a layer or a stack, got lstm"),
        ({"net": '{"kind": "lstm"}'}, "a cell, a layer or a stack, got .*kind"),
        ({"net": '{"kind": "sru", "input_size": 3, "hidden_size": 5}'}, "sru"),
        (
            {"net": '{"kind": "lstm", "input_size": 3, "hidden_size": 5}'},
            "expected b in .*without it",
        ),
    ],
)
def test_metadata_refused(metadata, message, tmp_path):
    rewritten(tmp_path / "net", metadata=metadata)
    with pytest.raises(ValueError, match=message):
        weights.load_safetensors(tmp_path / "net")


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_half_files_refused(kept, tmp_path):
    path = tmp_path / "net"
    weights.save_safetensors(path, NET, params_of(NET))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="expected .*net to be a whole safetensors file, got"):
        weights.load_safetensors(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        weights.load_safetensors(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        weights.save_safetensors(tmp_path / "none" / "net", NET, params_of(NET))


def test_a_write_that_fails_leaves_the_file(tmp_path, monkeypatch):
    path = tmp_path / "net"
    weights.save_safetensors(path, NET, params_of(NET))
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr("lstm_jax.atomic_write.os.fsync", fail)
    other = lstm_jax.gru(D, H)
    with pytest.raises(OSError, match="no space"):
        weights.save_safetensors(path, other, params_of(other))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["net"]


def test_wrong_params_refused(tmp_path):
    with pytest.raises(TypeError, match="Structure mismatch: expected params"):
        weights.save_safetensors(tmp_path / "net", NET, params_of(NET.layers[0]))
    assert not list(tmp_path.iterdir())


def test_described_layers_are_no_more_than_the_tensors(tmp_path, bounded_work):
    net = lstm_jax.stack(lstm_jax.lstm(3, 4))
    path = tmp_path / "net"
    weights.save_safetensors(path, net, params_of(net))
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    said = json.loads(content[8 : 8 + size])["__metadata__"]
    described = json.loads(said["net"])
    described["layers"] = described["layers"] * 100_000
    said["net"] = json.dumps(described)
    path.write_bytes(safetensors.numpy.save(safetensors.numpy.load(content), said))
    with pytest.raises(ValueError, match="100000 layers, in a file of 3 tensors") as refused:
        weights.load_safetensors(path)
    assert len(str(refused.value)) < 1500
