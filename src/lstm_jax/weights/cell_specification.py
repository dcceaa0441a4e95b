"""What the converters ask of cells and parameters: options that a framework has, and parameters that fit.

`lstm_jax.cells.specification` is what they read a cell's options from.
"""

import jax
import numpy as np

from lstm_jax.array_types import PyTree, shapes_of
from lstm_jax.cells.cell import Cell
from lstm_jax.cells.specification import Specification, specify
from lstm_jax.layers.stack import Backward, Bidirectional, Both, Layer, Stack
from lstm_jax.validation import (
    DtypeError,
    require_array,
    require_arrays,
    require_same_structure,
)

KINDS = {1: "rnn", 3: "gru", 4: "lstm"}
"""The kind of a cell, by its number of gates."""


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
