"""Wrong values at the border of the room of weights: nets, parameters, foreign objects, names, options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from wrong_values import KEY, Tensor, cases, require_refused

import lstm_jax
from lstm_jax import weights
from lstm_jax.weights.gate_order import gates_of, reorder

pytestmark = pytest.mark.usefixtures("without_type_checker")

LSTM, GRU, RNN = lstm_jax.lstm(3, 4), lstm_jax.gru(3, 4), lstm_jax.rnn(3, 4)
PARAMS = LSTM.init(KEY)
STACK, BACK, BOTH = lstm_jax.stack(LSTM), lstm_jax.backward(LSTM), lstm_jax.bidirectional(LSTM)


def zeros(*shape):
    return np.zeros(shape, np.float32)


class LSTMCell:
    """Looks like Equinox's."""

    __module__ = "equinox.nn._rnn"
    input_size, hidden_size, use_bias = 3, 4, True

    def __init__(self, **changed):
        given = {"weight_ih": zeros(16, 3), "weight_hh": zeros(16, 4), "bias": zeros(16)} | changed
        for name, value in given.items():
            setattr(self, name, value)


class Sparse:
    """A tensor that NumPy cannot take."""

    dtype = "torch.float32"

    def detach(self):
        return self

    cpu = detach

    def __array__(self, *given, **more):
        raise TypeError("can't convert Sparse layout tensor to numpy. Use Tensor.to_dense() first.")


LINEN = {name: {"kernel": zeros(3, 4)} for name in ("ii", "if", "ig", "io")}
LINEN |= {name: {"kernel": zeros(4, 4), "bias": zeros(4)} for name in ("hi", "hf", "hg", "ho")}
LINEAR = {"w": zeros(7, 16), "b": zeros(16)}
KERAS = [zeros(3, 16), zeros(4, 16), zeros(16)]
TORCH = {"weight_ih_l0": zeros(16, 3), "weight_hh_l0": zeros(16, 4)}

FOREIGN = [
    None,
    3,
    "x",
    [],
    {},
    [1, 2, 3],
    object(),
    PARAMS,
    LSTM,
    {"a": 1},
    {1: 2},
    np.ones(3),
    [None, None],
    b"x",
    Tensor(),
]
WRONG = {
    "cell": [None, "lstm", lstm_jax.lstm, PARAMS, 3, [LSTM], {}, LSTMCell()],
    "params": [
        None,
        {},
        [],
        "w",
        tuple(PARAMS),
        GRU.init(KEY),
        lstm_jax.lstm(3, 5).init(KEY),
        PARAMS._replace(b=None),
        PARAMS._replace(b=3.0),
        PARAMS._replace(b="abc"),
        PARAMS._replace(b=[1.0] * 16),
        PARAMS._replace(w_x=Tensor()),
        PARAMS._replace(w_x=zeros(16, 3)),
        PARAMS._replace(b=PARAMS.b.astype(jnp.bfloat16)),
        jax.tree.map(lambda leaf: leaf.astype(int), PARAMS),
        jax.tree.map(lambda leaf: np.array(leaf, object), PARAMS),
    ],
    "name": [3, True, ["x"], b"x", object()],
    "foreign": FOREIGN,
    "number": ["x", np.nan, np.inf, True, None, [0.1], jnp.ones(2), 1j],
    "other net": [
        STACK,
        BOTH,
        BACK,
        *[
            lstm_jax.lstm(3, 4, **{option: True})
            for option in ("peepholes", "coupled_gates", "layer_norm")
        ],
        lstm_jax.lstm(3, 4, projection_size=2),
    ],
}


def of_net(write, **given):
    """Write a net with parameters of its own."""

    def written(net):
        return write(net, net.init(KEY), **given)

    return written


def changed(layer, field, value):
    return LINEN | {layer: LINEN[layer] | {field: value}}


def to_flax(net, params, **given):
    return weights.to_flax(net, params, **{"form": "LSTMCell"} | given)


CELL = {"cell": LSTM, "params": PARAMS}
ENTRIES = [
    (weights.to_equinox, CELL, {"cell": "cell", "params": "params"}),
    (of_net(weights.to_equinox), {"net": GRU}, {"net": ["other net", RNN]}),
    (
        to_flax,
        {"net": LSTM, "params": PARAMS},
        {
            "net": "cell",
            "params": "params",
            "form": ["x", 3, ["LSTMCell"], "GRUCell"],
            "api": "option",
            "like": [3, {}, {"cell": LINEN}, LINEN],
            "layers": [["lstm"]],
        },
    ),
    (of_net(to_flax), {"net": LSTM}, {"net": [GRU, *WRONG["other net"][3:]]}),
    (weights.to_haiku, CELL, {"cell": "cell", "params": "params", "name": ["name", ""]}),
    (of_net(weights.to_haiku), {"net": LSTM}, {"net": ["other net", GRU, RNN]}),
    (weights.to_keras, CELL, {"cell": "cell", "params": "params", "use_bias": "bool"}),
    (
        of_net(weights.to_keras),
        {"net": BACK},
        {"net": [STACK, lstm_jax.bidirectional(LSTM, lstm_jax.lstm(3, 4, peepholes=True))]},
    ),
    (
        weights.to_tensorflow_cell,
        CELL,
        {"cell": "cell", "params": "params", "forget_bias": "number"},
    ),
    (of_net(weights.to_tensorflow_cell), {"net": LSTM}, {"net": ["other net", GRU, RNN]}),
    (
        weights.to_pytorch,
        {"net": LSTM, "params": PARAMS},
        {"net": "cell", "params": "params", "prefix": ["name", None], "bias": "bool"},
    ),
    (
        weights.from_equinox,
        {"module": LSTMCell()},
        {
            "module": [
                "foreign",
                LSTMCell,
                LSTMCell(weight_ih=3.0),
                LSTMCell(weight_ih=Tensor()),
                LSTMCell(weight_hh=zeros(16, 3)),
                LSTMCell(bias=zeros(3)),
                LSTMCell(bias=np.zeros(16, np.float64)),
                LSTMCell(bias=np.zeros(16, np.int32)),
                LSTMCell(bias="x"),
            ]
        },
    ),
    (
        weights.from_flax,
        {"params": LINEN},
        {
            "params": [
                "foreign",
                {"params": 3},
                {"other": {"cell": {"ii": 3}}},
                changed("ii", "kernel", 3.0),
                changed("ii", "kernel", "x"),
                changed("ii", "kernel", None),
                changed("ii", "kernel", Sparse()),
                changed("ii", "kernel", zeros(5, 4)),
                changed("hi", "bias", np.zeros(4, int)),
                changed("ii", "more", 1),
                LINEN | {3: {}},
            ],
            "activation": "option",
        },
    ),
    (
        weights.from_flax,
        {"params": {"encoder": {"cell": LINEN}}, "layers": ["encoder"]},
        {"layers": ["encoder", [], [3], ["lstm"], [("encoder", "encoder", "encoder")]]},
    ),
    (
        weights.from_haiku,
        {"params": {"lstm/linear": LINEAR}, "name": "lstm"},
        {
            "params": [
                "foreign",
                {"lstm/linear": 3},
                {"lstm/linear": {"w": 3, "b": 4}},
                {"lstm/linear": {"w": "x", "b": "y"}},
                {"lstm/linear": {"w": Sparse(), "b": zeros(16)}},
                {3: LINEAR},
                {"lstm/linear": {3: 1}},
            ],
            "name": ["name", None, "", "gru"],
        },
    ),
    (
        weights.from_keras,
        {"weights": KERAS},
        {
            "weights": [
                "foreign",
                KERAS[:1],
                KERAS * 3,
                [*KERAS[:2], "x"],
                [*KERAS[:2], None],
                [*KERAS[:2], Sparse()],
                dict(enumerate(KERAS)),
                iter(KERAS),
            ],
            "kind": ["no", "", 3, True, ["auto"]],
            "reset_after": "bool",
            "activation": "option",
        },
    ),
    (
        weights.from_tensorflow_cell,
        {"kernel": zeros(7, 16), "bias": zeros(16)},
        {
            "kernel": ["foreign", zeros(7, 15), [[1.0], [2.0, 3.0]], Sparse()],
            "bias": ["foreign", zeros(15), zeros(1, 16)],
            "forget_bias": "number",
        },
    ),
    (
        weights.from_pytorch,
        {"state_dict": TORCH},
        {
            "state_dict": [
                "foreign",
                TORCH | {"x": 1},
                TORCH | {"weight_ih_l0": 3},
                TORCH | {"weight_ih_l0": "x"},
                TORCH | {"weight_ih_l0": [[1.0], [2.0, 3.0]]},
                TORCH | {"weight_ih_l0": Sparse()},
                TORCH | {3: zeros(3)},
            ],
            "prefix": ["name", None, "encoder"],
            "activation": "option",
        },
    ),
    (
        reorder,
        {"array": np.arange(6), "source": "urn", "target": "run"},
        {
            "array": [None, 3, "x", [[1], [2, 3]], np.ones(4), object()],
            "source": [3, None, "ab", "", ["u"], "uur"],
            "target": [3, None, "ab", ""],
            "axis": [1, -2, "x", None, 1.5],
        },
    ),
    (
        gates_of,
        {"kind": "lstm", "framework": "onnx"},
        {"kind": ["x", 3, None, ["lstm"]], "framework": ["x", 3, None, ["onnx"]]},
    ),
]


@pytest.mark.parametrize(("call", "given"), [entry[:2] for entry in ENTRIES])
def test_the_right_values_pass(call, given):
    call(**given)


@pytest.mark.parametrize(("call", "given", "name", "value"), cases(ENTRIES, WRONG))
def test_a_wrong_value_is_refused(call, given, name, value):
    require_refused(call, given, name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("net", net) for net in WRONG["cell"]],
        *[("params", params) for params in WRONG["params"]],
        *[("path", path) for path in (3, None, b"x", "", object())],
    ],
)
def test_a_file_of_wrong_values_is_not_written(tmp_path, monkeypatch, name, value):
    monkeypatch.chdir(tmp_path)
    given = {"path": "a.safetensors", "net": LSTM, "params": PARAMS}
    require_refused(weights.save_safetensors, given, name, value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", [3, None, b"x", "", object()])
def test_a_path_that_is_none_is_not_read(path):
    require_refused(weights.load_safetensors, {"path": "a"}, "path", path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "none" / "a.safetensors"
    with pytest.raises(FileNotFoundError) as caught:
        weights.save_safetensors(path, LSTM, PARAMS)
    assert caught.value.filename == str(path)
