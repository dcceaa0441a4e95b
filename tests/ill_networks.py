"""Networks with a known illness: how each is built, what has to be said of it, and what must not be.

Cells, lengths and batches are shared, so that the programs compile once.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lstm_jax

T, B, D, H = 40, 3, 2, 8
XS = jax.random.normal(jax.random.key(1), (T, B, D))

LSTM = lstm_jax.lstm(D, H)
GRU = lstm_jax.gru(D, H)
TANH = lstm_jax.rnn(D, H)
RELU = lstm_jax.rnn(D, H, activation="relu")
WIDE = lstm_jax.rnn(D, 32)
LINEAR = lstm_jax.rnn(D, H, activation="identity")
TWO = lstm_jax.stack(LSTM, lstm_jax.lstm(H, H))
BOTH = lstm_jax.stack(lstm_jax.bidirectional(LSTM))


class Ill(NamedTuple):
    """A network and the words for it.

    Attributes:
        network: a cell or a stack.
        params: of it.
        xs: the inputs.
        verdict: what the verdict has to be.
        says: phrases that the text has to have.
        never: phrases that it must not have.
        options: of `diagnose`.
    """

    network: Any
    params: Any
    xs: Any
    verdict: str
    says: tuple[str, ...]
    never: tuple[str, ...] = ()
    options: dict[str, Any] = {}


def lstm(**bias):
    """Weights of the LSTM with constant biases of some gates; ``w`` scales the weights."""
    params = LSTM.init(jax.random.key(0))
    scale = bias.pop("w", 1.0)
    blocks = [bias.get(gate, b) for gate, b in zip("ifgo", jnp.split(params.b, 4), strict=True)]
    blocks = [jnp.broadcast_to(jnp.asarray(b, jnp.float32), H) for b in blocks]
    return params._replace(
        w_x=scale * params.w_x, w_h=scale * params.w_h, b=jnp.concatenate(blocks)
    )


def gru(**bias):
    params = GRU.init(jax.random.key(0))
    blocks = [bias.get(gate, b) for gate, b in zip("run", jnp.split(params.b, 3), strict=True)]
    return params._replace(b=jnp.concatenate([jnp.broadcast_to(b, H) for b in blocks]))


def rnn(cell=TANH, *, w_x=1.0, b=0.0, w_h=None, gain=None):
    """Weights of a vanilla cell; ``gain`` g draws W_h as g / √H times a normal matrix."""
    params = cell.init(jax.random.key(0))
    if gain is not None:
        size = cell.hidden_size
        w_h = gain * jax.random.normal(jax.random.key(0), (size, size)) / size**0.5
    new = params.w_h if w_h is None else w_h
    return params._replace(w_x=w_x * params.w_x, w_h=new, b=params.b + b)


def two(first=None, second=None):
    params = TWO.init(jax.random.key(0))
    layers = [
        old if new is None else new for old, new in zip(params.layers, (first, second), strict=True)
    ]
    return params._replace(layers=tuple(layers))


def upper(**bias):
    """The second layer of the stack, with constant biases."""
    own = TWO.init(jax.random.key(0)).layers[1]
    return own._replace(b=lstm(**bias).b)


def both(backward):
    params = BOTH.init(jax.random.key(0))
    (layer,) = params.layers
    return params._replace(layers=(layer._replace(backward=backward),))


def exploding_lstm():
    params = lstm(f=0.0, o=1.0)
    return params._replace(w_x=0.3 * params.w_x, w_h=16 * params.w_h)


SIGNS = jnp.where(jnp.arange(H) % 2 == 0, 12.0, -12.0)
ROTATION = jnp.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(H, H)))[0], jnp.float32)

ILL = {
    "no forget bias": Ill(
        LSTM, lstm(f=-1.0), XS, "vanishing", ("falls to a thousandth", "forgets"), ("steady",)
    ),
    "a memory that counts up": Ill(
        LSTM,
        lstm(i=12.0, f=12.0, g=SIGNS, o=2.0, w=0.1),
        XS,
        "vanishing",
        (
            "memories are saturated",
            "|C| grows along the run",
            "Candidate g is at ±1 in 8 of 8",
            "In reserve",
        ),
        ("Verdict: steady",),
    ),
    "a closed output gate": Ill(
        LSTM,
        lstm(o=-12.0, f=6.0),
        XS,
        "vanishing",
        ("Gate o is saturated closed in 8 of 8", "biases of the saturated gates at 0"),
        ("A bias of 5",),
    ),
    "a closed input gate": Ill(
        LSTM,
        lstm(i=-30.0, f=0.0),
        XS,
        "vanishing",
        ("Gate i is saturated closed in 8 of 8", "8 of 8 units are dead", "inputs change nothing"),
        (),
    ),
    "a closed input gate, memory open": Ill(
        LSTM,
        lstm(i=-30.0, f=8.0),
        XS,
        "steady",
        ("Gate i is saturated closed", "dead", "inputs change nothing"),
        ("A bias of",),
    ),
    "gates that flip": Ill(
        LSTM, lstm(w=60.0), XS, "vanishing", ("flips between 0 and 1", "hardly ever in between"), ()
    ),
    "a GRU that never updates": Ill(
        GRU,
        gru(u=30.0),
        XS,
        "steady",
        ("Gate u is saturated open in 8 of 8", "dead"),
        ("It forgets",),
    ),
    "a GRU that keeps nothing": Ill(
        GRU, gru(u=-8.0), XS, "vanishing", ("Gate u is saturated closed in 8 of 8",), ()
    ),
    "tanh units at ±1": Ill(
        TANH,
        rnn(w_x=0.0, b=jnp.where(jnp.arange(H) % 2 == 0, 6.0, -6.0)),
        XS,
        "vanishing",
        ("Tanh h is at ±1 in 8 of 8", "inputs change nothing"),
        (),
    ),
    "a chaotic network": Ill(
        WIDE,
        rnn(WIDE, gain=4.0, w_x=0.1),
        XS,
        "exploding",
        (
            "It is chaotic: nearly equal states diverge",
            "clip the gradient",
            "the cause is the weights",
        ),
        ("forgets",),
    ),
    "linear growth": Ill(
        LINEAR,
        rnn(LINEAR, w_h=1.5 * ROTATION),
        XS,
        "exploding",
        (
            "amplifies its state without bound",
            "W_h orthogonal",
            "W_h over its spectral radius, 1.5",
        ),
        ("chaotic", "forgets"),
    ),
    "linear growth from nothing": Ill(
        LINEAR,
        rnn(LINEAR, w_h=1.5 * ROTATION),
        jnp.zeros_like(XS),
        "exploding",
        ("amplifies its state without bound", "Every input is 0"),
        ("chaotic", "forgets"),
    ),
    "a linear memory": Ill(
        LINEAR,
        rnn(LINEAR, w_h=ROTATION),
        XS,
        "steady",
        ("cannot be told",),
        ("forgets its starting state in", "chaotic"),
    ),
    "a state that overflows": Ill(
        RELU,
        rnn(RELU, w_h=20.0 * jnp.eye(H)),
        XS,
        "exploding",
        ("The state overflows float32 in samples 0, 1, 2 of 3, first at step",),
        ("chaotic", "forgets"),
    ),
    "dead rectifiers": Ill(
        RELU, rnn(RELU, b=-100.0), XS, "no recurrence", ("8 of 8 units are dead",), ()
    ),
    "no recurrence": Ill(
        TANH,
        rnn(w_h=jnp.zeros((H, H))),
        XS,
        "no recurrence",
        ("exactly 0 at every lag", "forgets its starting state entirely"),
        ("nan", "inf"),
    ),
    "units that do the same": Ill(
        TANH,
        jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.1), TANH.init(jax.random.key(0))),
        XS,
        "vanishing",
        ("7 of 8 units do the same as another one",),
        (),
    ),
    "inputs near 1000": Ill(
        LSTM,
        lstm(),
        1000 + XS,
        "steady",
        ("inputs are out of scale", "most of it is a constant", "Inputs of mean 0 and deviation 1"),
        ("nan", "-inf"),
    ),
    "inputs near 0": Ill(
        LSTM,
        lstm(),
        1e-6 * XS,
        "steady",
        ("inputs are out of scale", "inputs change nothing"),
        ("nan", "-inf"),
    ),
    "one step": Ill(LSTM, lstm(), XS[:1], "steady", ("over 1 step",), ("nan", "inf", "1 steps")),
    "one step of one sample": Ill(
        LSTM, lstm(), XS[:1, 0], "steady", ("too short",), ("nan", "inf")
    ),
    "one unit": Ill(
        lstm_jax.lstm(D, 1),
        lstm_jax.lstm(D, 1).init(jax.random.key(0)),
        XS,
        "vanishing",
        ("falls to a thousandth",),
        ("nan",),
    ),
    "a dead upper layer": Ill(
        TWO,
        two(second=upper(i=-30.0, o=-30.0)),
        XS,
        "vanishing",
        ("Layer 1: dead, so nothing passes", "Layer 0: "),
        ("Verdict: steady",),
    ),
    "a layer that alone carries": Ill(
        TWO,
        two(first=lstm(f=8.0, w=0.3), second=upper(f=-3.0)),
        XS,
        "steady",
        ("Layer 0 alone carries the gradient over 40 steps", "Layer 1: vanishing"),
        (),
    ),
    "a dead direction": Ill(
        BOTH,
        both(lstm(i=-30.0, o=-30.0)),
        XS,
        "vanishing",
        ("Layer 0, backward: dead", "forward direction alone carries everything"),
        (),
    ),
    "a direction that explodes": Ill(
        BOTH,
        both(exploding_lstm()),
        XS,
        "exploding",
        ("Layer 0, backward: exploding", "Layer 0, forward: vanishing"),
        (),
    ),
}
