"""Weights to and from Haiku: ``hk.LSTM``, ``hk.GRU`` and ``hk.VanillaRNN``, as dicts of dicts.

    LSTM        {"lstm/linear": {w [D + H, 4H], b [4H]}}                         1 is added to f in the cell
    GRU         {"gru": {w_i [D, 3H], w_h [H, 3H], b [3H]}}                      resets before the product
    VanillaRNN  {"vanilla_rnn/linear": {w [D, H], b [H]}, "vanilla_rnn/linear_1": {w [H, H], b [H]}}
    relu

The GRU's first gate z takes the new state: z = 1 − u. So its weights and bias are negated, σ(−z) = 1 − σ(z).
A VanillaRNN has its second bias only with ``double_bias``, its default. Haiku is not imported.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lstm_jax.array_types import PyTree
from lstm_jax.cells import Cell, RNNParams, gru, rnn
from lstm_jax.cells.cell import require_cell
from lstm_jax.cells.gru_reset_before import GRUResetBeforeParams
from lstm_jax.validation import ShapeError, require_one_of, require_text, show_shape
from lstm_jax.weights.arrays import (
    require_names,
    require_one_dtype,
    require_shape,
    to_jax,
    to_numpy,
)
from lstm_jax.weights.cell_specification import checked_params, require_options
from lstm_jax.weights.gate_order import GRU, reorder
from lstm_jax.weights.tensorflow import merge_kernel, split_kernel

NAMES = {"lstm": "lstm", "gru": "gru", "rnn": "vanilla_rnn"}
"""Haiku's default name of a module."""


def from_haiku(params: Mapping[str, Mapping[str, Any]], name: str) -> tuple[Cell, PyTree]:
    """A recurrent Haiku module's weights as a cell with its parameters.

    Args:
        params: from ``init`` of the transformed function; it may have other modules.
        name: of the module, as ``"lstm"`` or ``"encoder/~/gru"``.

    Returns:
        The `Cell` and its params, of the dtype of the weights: for a GRU one with ``reset_after=False``,
        for a VanillaRNN one with relu.

    Raises:
        ValueError: a module that does not exist, or of another type.
        ShapeError: arrays that do not fit each other.
        DtypeError: arrays that are not of one floating dtype, or float64 without ``jax_enable_x64``.
        TypeError: anything but a dict of dicts of arrays, or a name that is no text.

    Example:
        >>> import numpy as np
        >>> from lstm_jax import weights
        >>> linear = {"w": np.ones((7, 16), "f"), "b": np.zeros(16, "f")}
        >>> weights.from_haiku({"lstm/linear": linear}, "lstm")[0]
        lstm(input_size=3, hidden_size=4)
    """
    require_text("name", name)
    require_names("params", params)
    for module, parts in params.items():
        require_names(module, parts)
    arrays = {
        f"{module}/{part}".removeprefix(f"{name}/"): to_numpy(f"{module}/{part}", value)
        for module, parts in params.items()
        if module == name or module.startswith(f"{name}/")
        for part, value in parts.items()
    }
    found = set(arrays)
    rows = {"linear/w", "linear/b", "linear_1/w"}
    if found == {"linear/w", "linear/b"}:
        kernel, bias = arrays["linear/w"], arrays["linear/b"]
        names = f"{name}/linear/w", f"{name}/linear/b"
        cell, lstm_params = merge_kernel(names[0], kernel, names[1], bias, "haiku", 1.0)
        return cell, to_jax(lstm_params)
    if found != {"w_i", "w_h", "b"} and found not in (rows, rows | {"linear_1/b"}):
        raise ValueError(
            f"Name mismatch: expected the weights of an hk.LSTM, hk.GRU or hk.VanillaRNN under {name!r}, got "
            f"{sorted(found) or 'none'}."
        )
    require_one_dtype({f"{name}/{part}": array for part, array in arrays.items()})
    gates = 3 if "w_i" in found else 1
    w_x, w_h, b = ("w_i", "w_h", "b") if gates == 3 else ("linear/w", "linear_1/w", "linear/b")
    for part in (w_x, w_h):
        if arrays[part].ndim != 2 or 0 in arrays[part].shape:
            raise ShapeError(
                f"Shape mismatch: expected {name}/{part} as a matrix, got {show_shape(arrays[part].shape)}."
            )
    input_size, hidden_size = arrays[w_x].shape[0], arrays[w_h].shape[0]
    shapes: dict[str, tuple[int, ...]] = {
        w_x: (input_size, gates * hidden_size),
        w_h: (hidden_size, gates * hidden_size),
    }
    for part, array in arrays.items():
        shape = shapes.get(part, (gates * hidden_size,))
        require_shape(f"{name}/{part}", array, shape, f"D={input_size}, H={hidden_size}")
    if gates == 1:
        bias = arrays[b] + arrays.get("linear_1/b", np.zeros_like(arrays[b]))
        of_rnn: Any = (arrays[w_x], arrays[w_h], bias)
        rnn_params = to_jax(RNNParams(*of_rnn))
        return rnn(input_size, hidden_size, activation="relu"), rnn_params
    order, our_order = GRU["haiku"], GRU["lstm_jax"]
    of_gru: Any = (reorder(_negated_u(arrays[part]), order, our_order) for part in (w_x, w_h, b))
    gru_params = to_jax(GRUResetBeforeParams(*of_gru))
    return gru(input_size, hidden_size, reset_after=False), gru_params


def to_haiku(
    cell: Cell, params: PyTree, name: str | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """A cell as the weights of the Haiku module that computes the same.

    Args:
        cell: from `lstm` without optional parts, from `gru` with ``reset_after=False``, or from `rnn` with
            relu.
        params: of the cell.
        name: of the module; if None, Haiku's default name.

    Returns:
        Module -> part -> NumPy array, of the parameters' dtype. The second bias of a ``VanillaRNN`` is
        zero; with ``double_bias=False`` Haiku does not read it.

    Raises:
        ValueError: a cell that Haiku does not have.
        ShapeError, DtypeError, TypeError: params that are not the cell's.
    """
    require_cell(cell)
    name = NAMES[cell.kind] if name is None else name
    require_text("name", name)
    if not name:
        raise ValueError("Name mismatch: expected the name of a module, got ''.")
    arrays = checked_params(cell, params)
    specification = require_options("Haiku", cell, ("reset_before", "identity"))
    if specification.kind == "lstm":
        w, b = split_kernel("Haiku", cell, params, "haiku", 1.0)
        return {f"{name}/linear": {"w": w, "b": b}}
    if specification.kind == "rnn":
        require_one_of("activation for Haiku", specification.activation, ("relu",))
        return {
            f"{name}/linear": {"w": arrays.w_x, "b": arrays.b},
            f"{name}/linear_1": {"w": arrays.w_h, "b": np.zeros_like(arrays.b)},
        }
    if specification.reset_after:
        raise ValueError(
            f"Option mismatch: expected a gru with reset_after=False for Haiku, got {cell}."
        )
    order, our_order = GRU["lstm_jax"], GRU["haiku"]
    turned = (_negated_u(reorder(array, order, our_order)) for array in arrays)
    return {name: dict(zip(("w_i", "w_h", "b"), turned, strict=True))}


def _negated_u(array: np.ndarray) -> np.ndarray:
    """Columns u, r, n with those of u negated: from u to z = 1 − u, and back."""
    u, r, n = np.split(array, 3, axis=-1)
    return np.concatenate([-u, r, n], axis=-1)
