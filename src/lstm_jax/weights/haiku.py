"""Weights to and from Haiku: ``hk.LSTM``, ``hk.GRU`` and ``hk.VanillaRNN``, as dicts of dicts.

    LSTM        {"lstm/linear": {w [D + H, 4H], b [4H]}}                         1 is added to f in the cell
    GRU         {"gru": {w_i [D, 3H], w_h [H, 3H], b [3H]}}                      resets before the product
    VanillaRNN  {"vanilla_rnn/linear": {w [D, H], b [H]}, "vanilla_rnn/linear_1": {w [H, H], b [H]}}
    relu

The GRU's first gate z lets the new one in: z = 1 − u, so that all that enters it is negated, σ(−z) = 1 −
σ(z). The second bias of a VanillaRNN is there with ``double_bias`` only. Haiku is not imported.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lstm_jax.array_types import PyTree
from lstm_jax.cells import Cell, RNNParams, gru, rnn
from lstm_jax.cells.gru_reset_before import GRUResetBeforeParams
from lstm_jax.validation import ShapeError, require_one_of, show_shape
from lstm_jax.weights.arrays import require_one_dtype, require_shape, to_jax, to_numpy
from lstm_jax.weights.cell_specification import checked_params, require_options
from lstm_jax.weights.gate_order import GRU, reorder
from lstm_jax.weights.tensorflow import merge_kernel, split_kernel

NAMES = {"lstm": "lstm", "gru": "gru", "rnn": "vanilla_rnn"}
"""What Haiku calls a module that was given no name."""


def from_haiku(params: Mapping[str, Mapping[str, Any]], name: str) -> tuple[Cell, PyTree]:
    """A recurrent Haiku module's weights as a cell with its parameters.

    Args:
        params: what ``init`` of the transformed function returned; other modules in it are left alone.
        name: of the module in it, as ``"lstm"`` or ``"encoder/~/gru"``.

    Returns:
        The `Cell` and its params, of the dtype of the weights: for a GRU one with ``reset_after=False``,
        for a VanillaRNN one with relu.

    Raises:
        ValueError: a module that is not there, or is none of the three.
        ShapeError: arrays that do not fit each other.
        DtypeError: arrays that are not of one floating dtype, or float64 without ``jax_enable_x64``.

    Example:
        >>> import numpy as np
        >>> from lstm_jax import weights
        >>> linear = {"w": np.ones((7, 16), "f"), "b": np.zeros(16, "f")}
        >>> weights.from_haiku({"lstm/linear": linear}, "lstm")[0]
        lstm(input_size=3, hidden_size=4)
    """
    arrays = {
        f"{module}/{part}".removeprefix(f"{name}/"): to_numpy(f"{module}/{part}", value)
        for module, parts in params.items()
        if module == name or module.startswith(f"{name}/")
        for part, value in parts.items()
    }
    came = set(arrays)
    rows = {"linear/w", "linear/b", "linear_1/w"}
    if came == {"linear/w", "linear/b"}:
        kernel, bias = arrays["linear/w"], arrays["linear/b"]
        cell, own = merge_kernel(f"{name}/linear/w", kernel, f"{name}/linear/b", bias, "haiku", 1.0)
        return cell, to_jax(own)
    if came != {"w_i", "w_h", "b"} and came not in (rows, rows | {"linear_1/b"}):
        raise ValueError(
            f"Name mismatch: expected the weights of an hk.LSTM, hk.GRU or hk.VanillaRNN under {name!r}, got "
            f"{sorted(came) or 'none'}."
        )
    require_one_dtype({f"{name}/{part}": array for part, array in arrays.items()})
    gates = 3 if "w_i" in came else 1
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
    order, own_order = GRU["haiku"], GRU["lstm_jax"]
    of_gru: Any = (reorder(_turned(arrays[part]), order, own_order) for part in (w_x, w_h, b))
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
        name: of the module; if None, the one that Haiku gives it.

    Returns:
        Module -> part -> NumPy array, of the parameters' dtype. A ``VanillaRNN`` is one with
        ``double_bias=False``.

    Raises:
        ValueError: a cell that Haiku does not have.
        ShapeError, DtypeError, TypeError: params that are not the cell's.
    """
    own = checked_params(cell, params)
    specification = require_options("Haiku", cell, ("reset_before", "identity"))
    name = NAMES[specification.kind] if name is None else name
    if specification.kind == "lstm":
        w, b = split_kernel("Haiku", cell, params, "haiku", 1.0)
        return {f"{name}/linear": {"w": w, "b": b}}
    if specification.kind == "rnn":
        require_one_of("activation for Haiku", specification.activation, ("relu",))
        return {f"{name}/linear": {"w": own.w_x, "b": own.b}, f"{name}/linear_1": {"w": own.w_h}}
    if specification.reset_after:
        raise ValueError(
            f"Option mismatch: expected a gru with reset_after=False, which is what Haiku has, got {cell}."
        )
    order, own_order = GRU["lstm_jax"], GRU["haiku"]
    turned = (_turned(reorder(array, order, own_order)) for array in own)
    return {name: dict(zip(("w_i", "w_h", "b"), turned, strict=True))}


def _turned(array: np.ndarray) -> np.ndarray:
    """Columns u, r, n with those of u negated: z for u, and u for z."""
    u, r, n = np.split(array, 3, axis=-1)
    return np.concatenate([-u, r, n], axis=-1)
