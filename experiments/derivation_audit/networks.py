r"""The networks on which the claims are measured: at initialisation, and after a short training.

    text      the next letter of real prose: logits_t = h_t W_y + b_y, cross-entropy at every step
    adding    two marked numbers of a long sequence are to be added: ŷ = h_T W_y + b_y, squared error at T

Measured on one stretch of the task, longer than the training sequences. The adding problem has as many inputs
as there are letters, of which two are used, so that both tasks have the same cell.

Axes: xs[T, B, D], hs[T, B, H]; curves [lags], in decades.
"""

from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import gradient_flow
from gradient_flow.measurements.curve_summary import lag_grid
from lstm_jax import Cell, chrono, lstm, orthogonal, rnn, scaled_identity, unroll
from lstm_jax.array_types import Array
from lstm_jax.initializers import uniform
from lstm_jax.language import Corpus, embedded_text, encode, one_hot, windows
from lstm_jax.language.corpora import letters
from lstm_jax.tasks import adding

LN10 = float(np.log(10))
T_MAX = 300


class Sizes(NamedTuple):
    """The sizes of the full or the quick run; ``clipped`` of two networks are trained with clipping."""

    hidden: int = 32
    batch: int = 32
    length: int = 64
    text_steps: int = 800
    adding_length: int = 100
    adding_steps: int = 2_000
    looked_at: int = 400
    samples: int = 2
    clipped: int = 2


QUICK = Sizes(8, 8, 16, 20, 20, 20, 310, 1, 1)


class Model(NamedTuple):
    """Parameters of the recurrent layer and of the readout."""

    cell: Any
    w_y: Any
    b_y: Any


class Look(NamedTuple):
    """The measurements of one network.

    Attributes:
        model: its parameters.
        lags: [lags].
        curves: log10 of the spectral norm of each block, the median of the samples, [lags].
        gates: activations over the stretch, [T, B, H] each.
    """

    model: Model
    lags: np.ndarray
    curves: dict[str, np.ndarray]
    gates: dict[str, np.ndarray]

    def at(self, block: str, lag: int) -> float:
        """Decades at a lag, interpolated."""
        return float(np.interp(lag, self.lags, self.curves[block]))


@lru_cache
def corpus() -> Corpus:
    """Letters and spaces of the prose that Python carries."""
    return encode(letters(embedded_text()[:300_000]), "embedded")


def cells(inputs: int, size: int) -> dict[str, Cell]:
    """The cells by name, each with its initialisation."""
    return {
        "lstm_0": lstm(inputs, size, forget_bias=0.0),
        "lstm_1": lstm(inputs, size),
        "lstm_chrono": lstm(inputs, size, forget_bias=chrono(T_MAX)),
        "rnn": rnn(inputs, size),
        "relu_small": rnn(inputs, size, activation="relu"),
        "relu": rnn(inputs, size, activation="relu", w_h_init=orthogonal()),
        "relu_identity": rnn(inputs, size, activation="relu", w_h_init=scaled_identity()),
        "relu_large": rnn(inputs, size, activation="relu", w_h_init=orthogonal(2.0)),
        "rnn_large": rnn(inputs, size, w_h_init=orthogonal(2.0)),
    }


def plain(name: str, inputs: int, size: int) -> Cell:
    """An equal cell common to its kind, so that each kind compiles once."""
    if name.startswith("lstm"):
        return lstm(inputs, size)
    return rnn(inputs, size, activation="relu" if name.startswith("relu") else "tanh")


def begin(cell: Cell, outputs: int, key: Array) -> Model:
    """A model before training."""
    key_cell, key_y = jax.random.split(key)
    size = cell.output_size
    return Model(
        cell.init(key_cell), uniform(size**-0.5)(key_y, (size, outputs)), jnp.zeros(outputs)
    )


def text_loss(cell: Cell, model: Model, codes: Array) -> Array:
    """Mean cross-entropy of the next letter, in nats; codes[T + 1, B]."""
    xs = one_hot(codes[:-1], corpus().vocabulary.size, model.w_y.dtype)
    _, hs = unroll(cell, model.cell, xs)
    logits = hs @ model.w_y + model.b_y[None, None]
    return optax.softmax_cross_entropy_with_integer_labels(logits, codes[1:]).mean()


def adding_loss(cell: Cell, model: Model, examples: tuple[Array, Array]) -> Array:
    """Mean squared error of the sum; 1/6 without a memory."""
    xs, targets = examples
    state, _ = unroll(cell, model.cell, xs)
    return jnp.mean(((state.h @ model.w_y + model.b_y[None])[:, 0] - targets) ** 2)


def text_batch(sizes: Sizes, key: Array) -> Array:
    """Windows of the text, [T + 1, B]."""
    codes = jnp.asarray(corpus().codes, jnp.int32)
    return windows(key, codes, sizes.length + 1, sizes.batch)


def adding_batch(sizes: Sizes, key: Array) -> tuple[Array, Array]:
    """Sequences of the adding problem and their sums."""
    found = adding(key, sizes.batch, sizes.adding_length, form="uniform")
    return _widened(found.xs), found.targets


def _widened(xs: Array) -> Array:
    return jnp.pad(xs, ((0, 0), (0, 0), (0, corpus().vocabulary.size - xs.shape[-1])))


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def train(
    task: str, cell: Cell, optimizer: Any, sizes: Sizes, steps: int, model: Model, key: Array
) -> tuple[Model, Array]:
    """Train for a number of steps; the model and the loss of each step."""
    loss, batch = (text_loss, text_batch) if task == "text" else (adding_loss, adding_batch)

    def step(carry: Any, key: Array) -> Any:
        model, state = carry
        value, gradient = jax.value_and_grad(partial(loss, cell))(model, batch(sizes, key))
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(model, updates), state), value

    (model, _), losses = lax.scan(
        step, (model, optimizer.init(model)), jax.random.split(key, steps)
    )
    return model, losses


@lru_cache
def adam(rate: float) -> Any:
    """Adam behind a clip of the global norm at 1."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def stretch(sizes: Sizes, task: str) -> Array:
    """What is looked at, [T, B, D]."""
    key = jax.random.key(7)
    if task == "adding":
        return _widened(adding(key, sizes.samples, sizes.looked_at, form="uniform").xs)
    codes = jnp.asarray(corpus().codes, jnp.int32)
    found = windows(key, codes, sizes.looked_at, sizes.samples)
    return one_hot(found, corpus().vocabulary.size, jnp.float32)


def look(cell: Cell, model: Model, xs: Array) -> Look:
    """Norms against the lag back from the end of the stretch, and the gates along it."""
    blocks = ("hh", "total_c", "carousel", "chain_c") if cell.name == "lstm" else ("hh",)
    lags = sorted({*lag_grid((len(xs) - 1,)), *({100, 300} & set(range(len(xs))))})
    flow = gradient_flow.jacobian_norms(
        cell, model.cell, None, xs, lags=lags, blocks=blocks, norms=("spectral",)
    )
    curves = {
        block: np.median(np.asarray(flow.spectral[block], np.float64), axis=0) / LN10
        for block in blocks
    }
    gates = gradient_flow.gate_activations(cell, model.cell, None, xs)
    return Look(model, flow.lags, curves, {name: np.asarray(gate) for name, gate in gates.items()})


TEXT = ("lstm_0", "lstm_1", "lstm_chrono")
ADDING = ("lstm_1", "lstm_chrono")


class Looks(NamedTuple):
    """All networks before and after training.

    Attributes:
        untrained, text, adding: LSTMs by name, looked at; ``untrained`` has the vanilla network too.
        relu: a ReLU network trained on text.
        losses: means of the first and of the last tenth of each training.
    """

    untrained: dict[str, Look]
    text: dict[str, Look]
    adding: dict[str, Look]
    relu: Model
    losses: dict[str, tuple[float, float]]


def look_at_all(sizes: Sizes, seed: int, progress: Any = lambda text: None) -> Looks:
    """Begin, look, train, look again.

    Args:
        sizes: how large everything is.
        seed: of weights and batches.
        progress: is told what comes next.
    """
    begin_key, train_key = jax.random.split(jax.random.key(seed))
    inputs = corpus().vocabulary.size
    made = cells(inputs, sizes.hidden)
    losses = {}

    def trained(task: str, name: str, model: Model) -> Model:
        progress(f"training {name} on {task}")
        steps = sizes.text_steps if task == "text" else sizes.adding_steps
        # A vanilla network does not bear the rate that is best for an LSTM.
        pace = adam(1e-2 if name.startswith("lstm") else 3e-3)
        model, curve = train(
            task, plain(name, inputs, sizes.hidden), pace, sizes, steps, model, train_key
        )
        tenth = max(steps // 10, 1)
        losses[f"{name} on {task}"] = (float(curve[:tenth].mean()), float(curve[-tenth:].mean()))
        return model

    found: dict[str, dict[str, Look]] = {"untrained": {}, "text": {}, "adding": {}}
    for task, names, outputs in (("text", (*TEXT, "rnn"), inputs), ("adding", ADDING, 1)):
        xs = stretch(sizes, task)
        for name in names:
            cell = plain(name, inputs, sizes.hidden)
            model = begin(made[name], outputs, begin_key)
            if task == "text":
                found["untrained"][name] = look(cell, model, xs)
            if name in (TEXT if task == "text" else ADDING):
                found[task][name] = look(cell, trained(task, name, model), xs)
    relu = trained("text", "relu", begin(made["relu"], inputs, begin_key))
    return Looks(**found, relu=relu, losses=losses)
