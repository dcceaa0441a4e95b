r"""The LSTM as a student writes it from scratch: weights for each gate, a `lax.scan`, autodiff.

    I, F, O = σ(X W_x· + H W_h· + b_·),   C̃ = tanh(X W_xc + H W_hc + b_c)
    C = F ⊙ C + I ⊙ C̃,   H = O ⊙ tanh C,   logits = H W_hq + b_q

Weights from N(0, 0.01²), biases zero: the setting of Dive into Deep Learning, "Long Short-Term Memory".
`to_library` lays the same weights out for `lstm_jax`.

Axes: X[B, V] one-hot; H, C[B, H]; W_x·[V, H], W_h·[H, H], W_hq[H, V].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lstm_jax import LSTMParams, StackParams
from lstm_jax.language import Batch, LanguageParams
from lstm_jax.training import Problem

Array = jax.Array


class Gate(NamedTuple):
    """One gate's weights."""

    w_x: Array
    w_h: Array
    b: Array


class Scratch(NamedTuple):
    """All parameters."""

    i: Gate
    f: Gate
    g: Gate
    o: Gate
    w_hq: Array
    b_q: Array


def init(vocabulary_size: int, hidden_size: int, key: Array, *, uniform: bool = False) -> Scratch:
    """Weights from N(0, 0.01²), or from U(−1/√H, 1/√H) as the library's; biases zero."""
    keys = iter(jax.random.split(key, 9))
    scale = hidden_size**-0.5

    def drawn(*shape: int) -> Array:
        if uniform:
            return jax.random.uniform(next(keys), shape, minval=-scale, maxval=scale)
        return 0.01 * jax.random.normal(next(keys), shape)

    def gate() -> Gate:
        x, h = drawn(vocabulary_size, hidden_size), drawn(hidden_size, hidden_size)
        return Gate(x, h, jnp.zeros(hidden_size))

    gates = (gate(), gate(), gate(), gate())
    return Scratch(*gates, drawn(hidden_size, vocabulary_size), jnp.zeros(vocabulary_size))


def step(
    params: Scratch, state: tuple[Array, Array], x: Array
) -> tuple[tuple[Array, Array], Array]:
    """One step of the cell."""
    h, c = state
    i, f, g, o = (x @ gate.w_x + h @ gate.w_h + gate.b for gate in params[:4])
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def problem(
    vocabulary_size: int,
    hidden_size: int,
    batch_size: int,
    batch: object,
    *,
    uniform: bool = False,
) -> Problem:
    """Next-character prediction, the state carried from batch to batch."""

    def loss(
        params: Scratch, state: tuple[Array, Array], batch: Batch, key: Array
    ) -> tuple[Array, tuple[tuple[Array, Array], dict[str, Array]]]:
        del key
        state = jax.tree.map(lambda s: jnp.where(batch.first, 0.0, s), state)
        xs = jax.nn.one_hot(batch.inputs, vocabulary_size)
        state, hs = jax.lax.scan(lambda s, x: step(params, s, x), state, xs)
        logits = hs @ params.w_hq + params.b_q
        value = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets).mean()
        return value, (state, {"nats": value})

    zeros = (batch_size, hidden_size)
    return Problem(
        init=lambda key: init(vocabulary_size, hidden_size, key, uniform=uniform),
        loss=loss,
        batch=batch,  # type: ignore[arg-type]
        carry=lambda: (jnp.zeros(zeros), jnp.zeros(zeros)),
        batch_axes=Batch._make((1, 1, None)),
    )


def to_library(params: Scratch) -> LanguageParams:
    """The same network as `lstm_jax` lays it out: gates i, f, g, o side by side."""
    w_x, w_h, b = (jnp.concatenate(parts, axis=-1) for parts in zip(*params[:4], strict=True))
    return LanguageParams(None, StackParams((LSTMParams(w_x, w_h, b),)), params.w_hq, params.b_q)
