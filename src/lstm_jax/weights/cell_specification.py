"""The specification of a cell: its kind, its sizes, and the options that change its function.

A converter checks it before it writes, and a file stores it. It is read from the shapes of the cell's
parameters. Initialisers are not part of it: a trained cell does not need them.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from lstm_jax.array_types import PyTree, shapes_of
from lstm_jax.cells import Cell, gru, lstm, rnn
from lstm_jax.layers.stack import Backward, Bidirectional, Both, Layer, Stack
from lstm_jax.validation import (
    DtypeError,
    require_array,
    require_arrays,
    require_same_structure,
)

KINDS = {1: "rnn", 3: "gru", 4: "lstm"}
"""The kind of a cell, by its number of gates."""


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
        >>> from lstm_jax.weights.cell_specification import specify
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


REFUSED = {
    "reset_before": "the reset gate before the product (reset_after=False)",
    "peepholes": "peepholes",
    "coupled_gates": "coupled gates",
    "layer_norm": "layer normalisation",
    "projection": "a projection of h (projection_size)",
    "identity": "the activation identity",
}


def require_options(framework: str, cell: Cell, known: tuple[str, ...] = ()) -> Specification:
    """Refuse, by name, an option of a cell that a framework does not have.

    Args:
        framework: its name in the message.
        cell: any.
        known: which of the names in `REFUSED` the framework has.

    Returns:
        The cell's specification.

    Raises:
        ValueError: naming the first option that the framework does not have.
    """
    specification = specify(cell)
    has = {
        "reset_before": not specification.reset_after,
        "peepholes": specification.peepholes,
        "coupled_gates": specification.coupled_gates,
        "layer_norm": specification.layer_norm,
        "projection": specification.projection_size is not None,
        "identity": specification.activation == "identity",
    }
    for option, words in REFUSED.items():
        if has[option] and option not in known:
            raise ValueError(
                f"Option mismatch: expected a cell that {framework} has, got {cell} with {words}."
            )
    return specification


def require_params(net: Layer | Stack, params: PyTree) -> None:
    """Refuse parameters that are not those of the cell, layer or stack.

    Raises:
        TypeError: parameters of another structure.
        ShapeError: a wrong shape.
        DtypeError: parameters that are not all of one floating dtype.
    """
    if not isinstance(net, (Cell, Bidirectional, Backward, Stack)):
        raise TypeError(
            f"Cell mismatch: expected a cell, a layer or a stack, got {type(net).__name__}."
        )
    expected = shapes_of(net.init, jax.random.key(0))
    require_same_structure("params", params, expected)
    require_array("params", jax.tree.leaves(params)[0])
    dtype = jax.tree.leaves(params)[0].dtype
    if not jax.numpy.issubdtype(dtype, np.floating):
        raise DtypeError(f"Dtype mismatch: expected floating params, got {dtype}.")
    require_arrays("params", params, expected, dtype)


def checked_params(net: Layer | Stack, params: PyTree) -> PyTree:
    """The parameters as NumPy arrays, after `require_params`."""
    require_params(net, params)
    return jax.tree.map(np.asarray, params)


def directions(layer: Layer, params: PyTree) -> list[tuple[Cell, PyTree]]:
    """A layer's cells with their parameters: one, or the forward one and then the backward one."""
    if isinstance(layer, Cell):
        return [(layer, params)]
    if isinstance(layer, Backward):
        return [(layer.cell, params)]
    return list(zip(layer, params, strict=True))


def joined(pairs: list[tuple[Cell, PyTree]]) -> tuple[Cell | Bidirectional, PyTree]:
    """The inverse of `directions`, for a layer that does not run backward alone."""
    if len(pairs) == 1:
        return pairs[0]
    (forward, forward_params), (backward, backward_params) = pairs
    return Bidirectional(forward, backward), Both(forward_params, backward_params)
