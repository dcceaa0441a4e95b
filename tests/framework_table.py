"""Every framework's own layers beside those that `lstm_jax.weights` makes of them, as a table.

    KERAS_BACKEND=jax python -m tests.framework_table

It takes some minutes and prints the table of docs/layers_and_weights.md: the largest difference of outputs
in float32 that was seen, on the way in and, with other parameters, on the way out, beside the largest output
where that is above 1. Each row is run with several sizes, lengths and batches and with random weights. The
frameworks are imported where a row needs them; of TensorFlow 1 there is a NumPy loop.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lstm_jax
from lstm_jax import weights

SEEDS = 5


class Draw(NamedTuple):
    """Sizes, inputs [T, B, D] and a source of weights."""

    d: int
    h: int
    xs: np.ndarray
    rng: np.random.Generator

    def array(self, *shape: int) -> np.ndarray:
        """Weights of one of the framework's arrays."""
        return (0.5 * self.rng.standard_normal(shape)).astype(np.float32)

    def like(self, tree: Any) -> Any:
        """Other weights of the same shapes."""
        return jax.tree.map(lambda a: jnp.asarray(self.array(*jnp.shape(a))), tree)


class Row(NamedTuple):
    """A row of the table; `run` yields the differences on the way in and, if it is written, out."""

    framework: str
    package: str | None
    layer: str
    through: str
    run: Callable[[Draw], Iterator[float]]


def drawn(seed: int) -> Draw:
    """Sizes from 1 to 6, up to 12 steps and 3 sequences."""
    rng = np.random.default_rng(seed)
    d, h, batch = (int(rng.integers(1, most)) for most in (7, 7, 4))
    xs = rng.standard_normal((int(rng.integers(1, 13)), batch, d)).astype(np.float32)
    return Draw(d, h, xs, rng)


def difference(theirs: Any, net: Any, params: Any, xs: np.ndarray) -> float:
    """Of outputs [T, B, H], beside the largest where that is above 1: relu has no bound."""
    if not isinstance(net, lstm_jax.Stack):
        net, params = lstm_jax.stack(net), lstm_jax.StackParams((params,))
    _, ys = lstm_jax.unroll_stack(net, params, jnp.asarray(xs))
    theirs = np.asarray(theirs)
    assert theirs.shape == ys.shape, (theirs.shape, ys.shape)
    return float(np.abs(theirs - np.asarray(ys)).max() / max(1.0, np.abs(theirs).max()))


def pytorch(kind: str, draw: Draw, **options: Any) -> Iterator[float]:
    import torch

    h = draw.h + 1  # a projection is smaller
    layer = getattr(torch.nn, kind)(draw.d, h, **options)
    state = {n: torch.tensor(draw.array(*a.shape)) for n, a in layer.state_dict().items()}
    layer.load_state_dict(state)
    net, params = weights.load(layer)
    for _ in range(2):
        with torch.no_grad():
            yield difference(layer(torch.tensor(draw.xs))[0].numpy(), net, params, draw.xs)
        params = draw.like(params)
        arrays = weights.to_pytorch(net, params)
        layer.load_state_dict({n: torch.tensor(a) for n, a in arrays.items()})


def keras(make: Callable[[Any, int], Any], draw: Draw, *, turned: bool = False) -> Iterator[float]:
    import keras

    layer = make(keras.layers, draw.h)
    layer.build((None, None, draw.d))
    layer.set_weights([draw.array(*a.shape) for a in layer.get_weights()])
    cell, params = weights.from_keras(layer.get_weights(), config=layer.get_config())
    for _ in range(2):
        theirs = np.asarray(layer(draw.xs.swapaxes(0, 1))).swapaxes(0, 1)
        yield difference(theirs[::-1] if turned else theirs, cell, params, draw.xs)
        params = draw.like(params)
        layer.set_weights(weights.to_keras(cell, params))


def linen(make: Callable[[Any, int], Any], draw: Draw) -> Iterator[float]:
    from flax import linen

    model = make(linen, draw.h)
    xs = jnp.asarray(draw.xs.swapaxes(0, 1))
    variables = draw.like(model.init(jax.random.key(0), xs))
    net, params = weights.from_flax(variables)
    for _ in range(2):
        yield difference(model.apply(variables, xs).swapaxes(0, 1), net, params, draw.xs)
        params = draw.like(params)
        variables = weights.to_flax(net, params, like=variables)


def nnx(make: Callable[[Any, int, int, Any], Any], draw: Draw) -> Iterator[float]:
    from flax import nnx

    model = make(nnx, draw.d, draw.h, nnx.Rngs(0))
    nnx.update(model, draw.like(nnx.state(model, nnx.Param)))
    net, params = weights.from_flax(model)
    for _ in range(2):
        theirs = model(jnp.asarray(draw.xs.swapaxes(0, 1))).swapaxes(0, 1)
        yield difference(theirs, net, params, draw.xs)
        params = draw.like(params)
        # A GRUCell of nnx has no b_hn.
        params = jax.tree.map_with_path(
            lambda path, a: 0 * a if "b_hn" in jax.tree_util.keystr(path) else a, params
        )
        nnx.update(model, weights.to_flax(net, params, like=model))


def equinox(kind: str, draw: Draw) -> Iterator[float]:
    import equinox

    cell = getattr(equinox.nn, kind)(draw.d, draw.h, key=jax.random.key(0))
    own, params = weights.from_equinox(cell)
    for _ in range(2):

        def step(state: Any, x: Any, cell: Any = cell) -> Any:
            state = jax.vmap(cell)(x, state)
            return state, state[0] if isinstance(state, tuple) else state

        zeros = jnp.zeros((draw.xs.shape[1], draw.h))
        start = (zeros, zeros) if kind == "LSTMCell" else zeros
        yield difference(jax.lax.scan(step, start, draw.xs)[1], own, params, draw.xs)
        params = draw.like(params)
        for name, array in weights.to_equinox(own, params).items():
            cell = equinox.tree_at(lambda c, name=name: getattr(c, name), cell, array)


def haiku(kind: str, draw: Draw) -> Iterator[float]:
    import haiku

    def run(xs: Any) -> Any:
        core = getattr(haiku, kind)(draw.h, name="lstm" if kind == "LSTM" else "rnn")
        return haiku.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0]

    model = haiku.without_apply_rng(haiku.transform(run))
    theirs = draw.like(model.init(jax.random.key(0), draw.xs))
    net, params = weights.load(theirs)
    for _ in range(2):
        yield difference(model.apply(theirs, draw.xs), net, params, draw.xs)
        params = draw.like(params)
        name = "lstm" if kind == "LSTM" else "rnn"
        theirs = weights.to_haiku(net.layers[0], params.layers[0], name)


def onnx(draw: Draw) -> Iterator[float]:
    """Both ways at once: the file that is written is run by ONNX Runtime, and read again."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns that an input with a default is no constant
    layers = lstm_jax.bidirectional(lstm_jax.lstm(draw.d, draw.h)), lstm_jax.gru(2 * draw.h, 3)
    net = lstm_jax.stack(*layers)
    params = draw.like(net.init(jax.random.key(0)))
    model = weights.to_onnx(net, params)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    (theirs,) = session.run(["ys"], {"xs": draw.xs})
    yield difference(theirs, *weights.from_onnx(model), draw.xs)
    yield difference(theirs, net, params, draw.xs)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def tensorflow(kind: str, draw: Draw) -> Iterator[float]:
    """The equations of TensorFlow 1's cells, with its names."""
    rows, h = draw.d + draw.h, draw.h
    columns = {"basic_lstm_cell": {"": 4}, "basic_rnn_cell": {"": 1}}
    columns["gru_cell"] = {"gates/": 2, "candidate/": 1}
    source = {}
    for part, gates in columns[kind].items():
        source[f"rnn/{kind}/{part}kernel"] = draw.array(rows, gates * h)
        source[f"rnn/{kind}/{part}bias"] = draw.array(gates * h)
    net, params = weights.load(source)
    for _ in range(2 if kind == "basic_lstm_cell" else 1):
        state = c = np.zeros((draw.xs.shape[1], h))
        out = []
        for x in draw.xs:
            arrays = list(source.values())
            z = np.concatenate([x, state], 1) @ arrays[0] + arrays[1]
            if kind == "basic_lstm_cell":
                i, j, f, o = np.split(z, 4, 1)
                c = c * sigmoid(f + 1) + sigmoid(i) * np.tanh(j)
                state = np.tanh(c) * sigmoid(o)
            elif kind == "gru_cell":
                r, u = np.split(sigmoid(z), 2, 1)
                n = np.tanh(np.concatenate([x, r * state], 1) @ arrays[2] + arrays[3])
                state = u * state + (1 - u) * n
            else:
                state = np.tanh(z)
            out.append(state)
        yield difference(np.stack(out), net, params, draw.xs)
        if kind == "basic_lstm_cell":
            params = draw.like(params)
            written = weights.to_tensorflow_cell(net.layers[0], params.layers[0])
            source = dict(zip(source, written, strict=True))


SEQUENCES = {"return_sequences": True}
ROWS = (
    Row("PyTorch", "torch", "`nn.LSTM`, 2 layers, both directions", "module, state dict",
        partial(pytorch, "LSTM", num_layers=2, bidirectional=True)),
    Row("PyTorch", "torch", "`nn.LSTM(proj_size=1)`", "module, state dict",
        partial(pytorch, "LSTM", proj_size=1)),
    Row("PyTorch", "torch", "`nn.GRU`, 2 layers", "module, state dict",
        partial(pytorch, "GRU", num_layers=2)),
    Row("PyTorch", "torch", '`nn.RNN(nonlinearity="relu")`', "module, state dict",
        partial(pytorch, "RNN", nonlinearity="relu")),
    Row("Keras", "keras", "`LSTM`", "`get_weights`",
        partial(keras, lambda k, h: k.LSTM(h, **SEQUENCES))),
    Row("Keras", "keras", "`LSTM(go_backwards=True)`", "`get_weights`",
        partial(keras, lambda k, h: k.LSTM(h, go_backwards=True, **SEQUENCES), turned=True)),
    Row("Keras", "keras", "`GRU`", "`get_weights`",
        partial(keras, lambda k, h: k.GRU(h, **SEQUENCES))),
    Row("Keras", "keras", "`GRU(reset_after=False)`", "`get_weights`",
        partial(keras, lambda k, h: k.GRU(h, reset_after=False, **SEQUENCES))),
    Row("Keras", "keras", "`SimpleRNN`", "`get_weights`",
        partial(keras, lambda k, h: k.SimpleRNN(h, **SEQUENCES))),
    Row("Keras", "keras", "`Bidirectional(LSTM, backward_layer=GRU)`", "`get_weights`",
        partial(keras, lambda k, h: k.Bidirectional(
            k.LSTM(h, **SEQUENCES), backward_layer=k.GRU(2, go_backwards=True, **SEQUENCES)))),
    Row("Flax linen", "flax", "`Sequential` of `RNN` over each cell", "variables",
        partial(linen, lambda n, h: n.Sequential([
            n.RNN(n.OptimizedLSTMCell(h)), n.RNN(n.GRUCell(2)), n.RNN(n.LSTMCell(h)),
            n.RNN(n.SimpleCell(3))]))),
    Row("Flax linen", "flax", "`Bidirectional` of `RNN`", "variables",
        partial(linen, lambda n, h: n.Bidirectional(
            n.RNN(n.OptimizedLSTMCell(h)), n.RNN(n.GRUCell(2))))),
    Row("Flax nnx", "flax", "`Sequential` of `RNN` over each cell", "module, state",
        partial(nnx, lambda n, d, h, r: n.Sequential(
            n.RNN(n.OptimizedLSTMCell(d, h, rngs=r)), n.RNN(n.GRUCell(h, 2, rngs=r)),
            n.RNN(n.LSTMCell(2, h, rngs=r)), n.RNN(n.SimpleCell(h, 3, rngs=r))))),
    Row("Flax nnx", "flax", "`Bidirectional` of `RNN`", "module, state",
        partial(nnx, lambda n, d, h, r: n.Bidirectional(
            n.RNN(n.LSTMCell(d, h, rngs=r)), n.RNN(n.GRUCell(d, 2, rngs=r))))),
    Row("Equinox", "equinox", "`nn.LSTMCell`", "module", partial(equinox, "LSTMCell")),
    Row("Equinox", "equinox", "`nn.GRUCell`", "module", partial(equinox, "GRUCell")),
    Row("Haiku", "dm-haiku", "`hk.LSTM`", "parameters", partial(haiku, "LSTM")),
    Row("Haiku", "dm-haiku", "`hk.GRU`", "parameters", partial(haiku, "GRU")),
    Row("Haiku", "dm-haiku", "`hk.VanillaRNN`", "parameters", partial(haiku, "VanillaRNN")),
    Row("ONNX Runtime", "onnxruntime", "LSTM in both directions, then GRU", "model", onnx),
    Row("TensorFlow 1", None, "`BasicLSTMCell`", "variables", partial(tensorflow, "basic_lstm_cell")),
    Row("TensorFlow 1", None, "`GRUCell`", "variables", partial(tensorflow, "gru_cell")),
    Row("TensorFlow 1", None, "`BasicRNNCell`", "variables", partial(tensorflow, "basic_rnn_cell")),
)  # fmt: skip


@contextmanager
def as_frameworks_expect() -> Iterator[None]:
    """They know neither strict dtypes nor strict ranks, and warn of each other while they are imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            yield


def differences(row: Row, seed: int) -> list[float]:
    """In, and out if the layer is written, with sizes and weights of a seed."""
    with as_frameworks_expect():
        return list(row.run(drawn(seed)))


def lines(seeds: int = SEEDS) -> Iterator[str]:
    """The table in Markdown, row by row."""
    yield "| framework | layer | what is taken | in, out | largest difference |"
    yield "| --- | --- | --- | --- | --- |"
    for row in ROWS:
        found = [differences(row, seed) for seed in range(seeds)]
        version = (
            f" {metadata.version(row.package).split('+')[0]}" if row.package else ", a NumPy loop"
        )
        ways = "in, out" if len(found[0]) == 2 else "in"
        most = max(max(pair) for pair in found)
        yield f"| {row.framework}{version} | {row.layer} | {row.through} | {ways} | {most:.0e} |"


if __name__ == "__main__":
    for line in lines():
        print(line, flush=True)
