"""The starts: five networks, each with many initialisations, some made so that the predictors disagree.

A family is a network with a kind of start. All starts of a network have one shape of parameters, so that one
program trains and measures them side by side.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax import Cell, chrono, gru, lstm, orthogonal, rnn, scaled_identity
from lstm_jax.initializers import uniform, zeros

Array = jax.Array

NETWORKS = ("lstm", "gru", "tanh", "relu", "identity")
SHUT = 8.0
"""Minus the bias of a gate that never opens, and the bias of the one unit that remembers."""
OPEN = 20.0
"""The bias of a gate that is 1 in float32."""


class Start(NamedTuple):
    """A network and how it begins.

    Attributes:
        network: of `NETWORKS`.
        kind: of start; with the network, its family.
        name: of the start, unlike any other of its network.
        options: of the cell's constructor.
        change: ``change(params, key) -> params`` of what the constructor has no option for; None without.
    """

    network: str
    kind: str
    name: str
    options: dict[str, Any]
    change: Callable[[Any, Array], Any] | None = None

    @property
    def family(self) -> str:
        """The network with the kind of start."""
        return f"{self.network}, {self.kind}"

    @property
    def full_name(self) -> str:
        """The network with the start."""
        return f"{self.network}, {self.name}"


def plain_cell(network: str, input_size: int, hidden_size: int) -> Cell:
    """The network's cell without a start: equal for all starts, so that programs are shared."""
    return _cell(network, input_size, hidden_size, {})


def parameters(start: Start, input_size: int, hidden_size: int, key: Array) -> Any:
    """The start's parameters."""
    key_cell, key_change = jax.random.split(key)
    cell = _cell(start.network, input_size, hidden_size, start.options)
    params = cell.init(key_cell)
    return params if start.change is None else start.change(params, key_change)


def _cell(network: str, input_size: int, hidden_size: int, options: dict[str, Any]) -> Cell:
    if network == "lstm":
        return lstm(input_size, hidden_size, **options)
    if network == "gru":
        return gru(input_size, hidden_size, **options)
    return rnn(input_size, hidden_size, activation=network, **options)


def shift(key: Array, shape: tuple[int, ...], dtype: Any = float) -> Array:
    """Each unit hands its state to the next one: after H steps nothing of it is left, exactly."""
    del key
    return jnp.eye(shape[0], shape[1], k=1, dtype=dtype)


def keeping_one(key: Array, shape: tuple[int, ...], dtype: Any = float) -> Array:
    """Half an orthogonal matrix among all units but the first, which keeps itself."""
    rest = orthogonal(0.5)(key, (shape[0] - 1, shape[1] - 1), dtype)
    return jnp.zeros(shape, dtype).at[1:, 1:].set(rest).at[0, 0].set(1.0)


def gate_bias(gate: int, value: float, unit: int | None = None) -> Callable[[Any, Array], Any]:
    """Set the bias of a gate, counted in the cell's order, of one unit or of all."""

    def change(params: Any, key: Array) -> Any:
        del key
        size = params.w_h.shape[0]
        first = gate * size + (0 if unit is None else unit)
        last = gate * size + size if unit is None else first + 1
        return params._replace(b=params.b.at[first:last].set(value))

    return change


def _wide_candidate(params: Any, key: Array) -> Any:
    """The recurrent matrix of an LSTM's candidate, twice an orthogonal one."""
    size = params.w_h.shape[0]
    columns = orthogonal(2.0)(key, (size, size))
    return params._replace(w_h=params.w_h.at[:, 2 * size : 3 * size].set(columns))


def _gated(network: str, bias: str) -> list[Start]:
    """The starts that LSTM and GRU have in common; ``bias`` is the option of the gate that keeps."""
    default = 1.0 if network == "lstm" else 0.0
    made = [
        Start(network, "bias", f"{bias.replace('_', ' ')} {value}", {bias: float(value)})
        for value in (-1, 0, 1, 2, 3, 5)
    ]
    made += [Start(network, "chrono", f"chrono {t}", {bias: chrono(t)}) for t in (30, 100, 400)]
    made += [
        Start(network, "orthogonal", f"orthogonal {g}", {bias: default, "w_h_init": orthogonal(g)})
        for g in (0.7, 1.0, 1.5)
    ]
    keeps = 1 if network in ("lstm", "gru") else 0  # i, f, g, o and r, u, n: the second gate keeps
    one = gate_bias(keeps, SHUT, unit=0)
    made.append(Start(network, "disagreeing", "one unit remembers", {bias: -1.0}, one))
    alone = {bias: 1.0, "w_h_init": zeros}
    made.append(Start(network, "disagreeing", "bias 1, no W_h", alone))
    return made


def _vanilla(network: str, gains: tuple[float, ...], scales: tuple[float, ...]) -> list[Start]:
    made = [Start(network, "dense", f"orthogonal {g}", {"w_h_init": orthogonal(g)}) for g in gains]
    # Le et al. 2015: with relu and the identity the inputs are small.
    small = {"w_x_init": uniform(0.05)} if network == "relu" else {}
    made += [
        Start(network, "identity", f"identity {s}", {"w_h_init": scaled_identity(s), **small})
        for s in scales
    ]
    made.append(Start(network, "disagreeing", "shift", {"w_h_init": shift}))
    return made


def all_starts() -> tuple[Start, ...]:
    """Every start, network by network."""
    one = {"w_h_init": keeping_one}
    return (
        *_gated("lstm", "forget_bias"),
        Start(
            "lstm", "orthogonal", "orthogonal 1.5, bias -1",
            {"forget_bias": -1.0, "w_h_init": orthogonal(1.5)},
        ),
        Start(
            "lstm", "disagreeing", "gate 1, no W_h",
            {"forget_bias": OPEN, "w_h_init": zeros},
        ),
        Start("lstm", "disagreeing", "shut input", {"forget_bias": 5.0}, gate_bias(0, -SHUT)),
        Start("lstm", "disagreeing", "wide candidate", {"forget_bias": 1.0}, _wide_candidate),
        *_gated("gru", "update_bias"),
        Start("gru", "disagreeing", "shut update", {"update_bias": 12.0}),
        Start("tanh", "dense", "uniform", {}),
        *_vanilla("tanh", (0.7, 0.85, 1.0, 1.15, 1.3, 1.5), (0.9, 1.0)),
        Start("tanh", "disagreeing", "one unit remembers", one),
        Start("relu", "dense", "uniform", {}),
        *_vanilla("relu", (0.7, 1.0, 1.5), (0.7, 1.0)),
        *_vanilla("identity", (0.7, 0.9, 1.0, 1.1), (0.9, 1.0)),
        Start("identity", "disagreeing", "one unit remembers", one),
    )  # fmt: skip


def starts_of(network: str) -> tuple[Start, ...]:
    """The starts of one network."""
    return tuple(start for start in all_starts() if start.network == network)
