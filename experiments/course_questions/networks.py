r"""The networks: the LSTM, the vanilla network, and each with one part changed.

    LSTM                C_t = f ⊙ C_{t−1} + i ⊙ g;      h_t = o ⊙ tanh C_t
        linear output                                   h_t = o ⊙ C_t
        memory as output                                h_t = C_t
        gates blind to h                                i, f, o from x_t alone; g from x_t and h_{t−1}
        peepholes, i = 1 − f                            `lstm_jax.lstm`
    vanilla             h_t = tanh(x_t W_x + h_{t−1} W_h + b)
        sigmoid                                         h_t = σ(…)
        residual                                        h_t = h_{t−1} + tanh(…)
        skip                                            h_t = tanh(… + h_{t−10} W_s)
    low rank            W_h = U V with U[H, r], V[r, …], the standard deviation of its entries as without

Weights uniform ±1/√H, forget bias 1. Axes: xs[T, B, D], hs[T, B, H].
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax import Cell, LSTMParams, LSTMState, lstm, rnn, unroll
from lstm_jax.array_types import Array, PyTree
from lstm_jax.initializers import uniform

FAR = 10
"""Steps over which the skip connection reaches."""
RANK = 4


class Network(NamedTuple):
    """A network over time.

    Attributes:
        name: for tables.
        init: ``init(key) -> params``.
        run: ``run(params, xs) -> hs``.
    """

    name: str
    init: Callable[[Array], PyTree]
    run: Callable[[PyTree, Array], Array]


def of_cell(name: str, cell: Cell) -> Network:
    """A network of the library."""
    return Network(name, cell.init, lambda params, xs: unroll(cell, params, xs)[1])


def of_step(name: str, step: Any, init: Any, state0: Callable[[int, Any], PyTree]) -> Network:
    """A network of a step of one's own; ``state0(batch_size, dtype)`` is where it begins."""

    def run(params: PyTree, xs: Array) -> Array:
        return unroll(step, params, xs, state0(xs.shape[1], xs.dtype))[1]

    return Network(name, init, run)


def lstm_step(
    params: LSTMParams, state: LSTMState, x: Array, *, output: str = "o tanh C", blind: bool = False
) -> tuple[LSTMState, Array]:
    """One step of an LSTM.

    Args:
        params: as of `lstm_jax.lstm`.
        state: h and C, [B, H].
        x: [B, D].
        output: what h_t is, ``"o tanh C"``, ``"o C"`` or ``"C"``.
        blind: whether h_{t−1} is hidden from i, f and o.
    """
    from_h = state.h @ params.w_h
    if blind:
        size = state.h.shape[-1]
        seen = jnp.arange(4 * size) // size == 2
        from_h = jnp.where(seen[None], from_h, 0)
    z_i, z_f, z_g, z_o = jnp.split(x @ params.w_x + from_h + params.b[None], 4, axis=-1)
    i, f, o = jax.nn.sigmoid(z_i), jax.nn.sigmoid(z_f), jax.nn.sigmoid(z_o)
    c = f * state.c + i * jnp.tanh(z_g)
    h = {"o tanh C": o * jnp.tanh(c), "o C": o * c, "C": c}[output]
    return LSTMState(h, c), h


def vanilla_step(params: Any, state: Array, x: Array, *, kind: str) -> tuple[Array, Array]:
    """One step of a vanilla network whose kind is ``"sigmoid"`` or ``"residual"``."""
    z = x @ params.w_x + state @ params.w_h + params.b[None]
    h = jax.nn.sigmoid(z) if kind == "sigmoid" else state + jnp.tanh(z)
    return h, h


def skip_step(params: Any, past: Array, x: Array) -> tuple[Array, Array]:
    """One step of a vanilla network that also sees its state of `FAR` steps back; past[FAR, B, H]."""
    plain, w_s = params
    z = x @ plain.w_x + past[-1] @ plain.w_h + past[0] @ w_s + plain.b[None]
    h = jnp.tanh(z)
    return jnp.concatenate([past[1:], h[None]]), h


def low_rank(network: Network, size: int) -> Network:
    """The network with W_h = U V of rank `RANK`; params are ``(params without w_h, (u, v))``."""

    def init(key: Array) -> PyTree:
        key_plain, key_u, key_v = jax.random.split(key, 3)
        plain = network.init(key_plain)
        # A sum of r products of numbers with the deviation s each has the deviation s²√r.
        deviation = (size**-0.5 / 3**0.5 / RANK**0.5) ** 0.5
        bound = deviation * 3**0.5
        u = uniform(bound)(key_u, (size, RANK))
        v = uniform(bound)(key_v, (RANK, plain.w_h.shape[1]))
        return plain._replace(w_h=None), (u, v)

    def run(params: PyTree, xs: Array) -> Array:
        plain, (u, v) = params
        return network.run(plain._replace(w_h=u @ v), xs)

    return Network(f"{network.name}, rank {RANK}", init, run)


def networks(inputs: int, size: int) -> dict[str, Network]:
    """Every network by its name."""
    gated, plain = lstm(inputs, size), rnn(inputs, size)

    def pair(batch: int, dtype: Any) -> LSTMState:
        return LSTMState(jnp.zeros((batch, size), dtype), jnp.zeros((batch, size), dtype))

    def one(batch: int, dtype: Any) -> Array:
        return jnp.zeros((batch, size), dtype)

    def past(batch: int, dtype: Any) -> Array:
        return jnp.zeros((FAR, batch, size), dtype)

    def skip_init(key: Array) -> PyTree:
        key_plain, key_s = jax.random.split(key)
        return plain.init(key_plain), uniform(size**-0.5)(key_s, (size, size))

    def changed(name: str, **options: Any) -> Network:
        return of_step(name, partial(lstm_step, **options), gated.init, pair)

    def other(name: str, kind: str) -> Network:
        return of_step(name, partial(vanilla_step, kind=kind), plain.init, one)

    standard, vanilla = of_cell("LSTM", gated), of_cell("vanilla", plain)
    every = (
        standard,
        changed("LSTM, h = o C", output="o C"),
        changed("LSTM, h = C", output="C"),
        changed("LSTM, gates blind to h", blind=True),
        of_cell("LSTM, gates that see C", lstm(inputs, size, peepholes=True)),
        of_cell("LSTM, i = 1 - f", lstm(inputs, size, coupled_gates=True)),
        low_rank(standard, size),
        vanilla,
        other("vanilla, sigmoid", "sigmoid"),
        other("vanilla, residual", "residual"),
        of_step(f"vanilla, skip over {FAR}", skip_step, skip_init, past),
        low_rank(vanilla, size),
    )
    return {network.name: network for network in every}
