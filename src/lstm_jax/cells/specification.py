"""The specification of a cell: its kind, its sizes, and the options that change its function.

A converter checks it before it writes, and a file stores it. It is read from the shapes of the cell's
parameters. Initialisers are not part of it: a trained cell does not need them.
"""

from typing import Any, NamedTuple

import jax

from lstm_jax.array_types import shapes_of
from lstm_jax.cells.cell import Cell
from lstm_jax.cells.gru import gru
from lstm_jax.cells.lstm import lstm
from lstm_jax.cells.rnn import rnn


class Specification(NamedTuple):
    """The kind, sizes and options of a cell.

    Attributes:
        kind: ``"lstm"``, ``"gru"`` or ``"rnn"``.
        input_size: D.
        hidden_size: H.
        activation: of a vanilla network; else ``"tanh"``.
        reset_after: for a GRU, whether the reset gate acts after the product with W_hn.
        peepholes: for an LSTM, whether the gates see the memory.
        coupled_gates: for an LSTM, whether i = 1 − f.
        layer_norm: for an LSTM, whether it normalises.
        projection_size: for an LSTM, the size of its projected output; None without one.
    """

    kind: str
    input_size: int
    hidden_size: int
    activation: str = "tanh"
    reset_after: bool = True
    peepholes: bool = False
    coupled_gates: bool = False
    layer_norm: bool = False
    projection_size: int | None = None

    @property
    def gates(self) -> str:
        """The gates in the order of `lstm_jax`, one letter each."""
        if self.kind == "lstm":
            return "fgo" if self.coupled_gates else "ifgo"
        return "run" if self.kind == "gru" else "h"

    @property
    def options(self) -> dict[str, Any]:
        """The options of the cell's function (`lstm`, `gru`, `rnn`) that are not the defaults."""
        return {
            name: value
            for name, value in self._asdict().items()
            if name in self._field_defaults and value != self._field_defaults[name]
        }


def specify(cell: Cell) -> Specification:
    """Read a cell's specification from its kind and the shapes of its parameters.

    Example:
        >>> import lstm_jax
        >>> from lstm_jax.cells.specification import specify
        >>> specify(lstm_jax.rnn(3, 4, activation="relu")).options
        {'activation': 'relu'}
    """
    params = shapes_of(cell.init, jax.random.key(0))
    sizes = (cell.input_size, cell.hidden_size)
    if cell.kind == "rnn":
        return Specification("rnn", *sizes, activation=cell.activation)
    if cell.kind == "gru":
        return Specification("gru", *sizes, reset_after=hasattr(params, "b_hn"))
    w_r = getattr(params, "w_r", None)
    return Specification(
        "lstm",
        *sizes,
        peepholes=getattr(params, "p", None) is not None,
        coupled_gates=params.w_x.shape[1] == 3 * cell.hidden_size,
        layer_norm=getattr(params, "norm_x", None) is not None,
        projection_size=None if w_r is None else w_r.shape[1],
    )


def make_cell(specification: Specification) -> Cell:
    """The cell of a specification, with its default initialisers."""
    make: Any = {"lstm": lstm, "gru": gru, "rnn": rnn}[specification.kind]
    sizes = (specification.input_size, specification.hidden_size)
    return make(*sizes, **specification.options)
