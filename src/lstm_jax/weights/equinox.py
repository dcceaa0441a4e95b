r"""Weights to and from Equinox's recurrent cells, by their attributes.

    LSTMCell    weight_ih[4H, D], weight_hh[4H, H], bias[4H]               in i, f, g, o
    GRUCell     weight_ih[3H, D], weight_hh[3H, H], bias[3H], bias_n[H]    in r, z, n; bias_n is b_hn

Axes: theirs are [out, in], ours the transposes w_x[D, gates · H], w_h[H, gates · H]; b[gates · H].
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.array_types import PyTree
from lstm_jax.cells import Cell, GRUParams, LSTMParams, gru, lstm
from lstm_jax.cells.cell import require_cell
from lstm_jax.validation import ShapeError, leaf_name, require_array, show_shape
from lstm_jax.weights.arrays import to_jax
from lstm_jax.weights.cell_specification import require_params
from lstm_jax.weights.recurrent_layer import (
    Choices,
    RecurrentLayer,
    RecurrentLayers,
    require_no_choices,
)


def from_equinox(module: Any) -> tuple[Cell, PyTree]:
    """A cell and its parameters from an `equinox.nn.LSTMCell` or `equinox.nn.GRUCell`.

    Args:
        module: the Equinox cell. Without its bias (``use_bias=False``) ours is zero.

    Returns:
        A cell from `lstm` or `gru`, and its parameters.

    Raises:
        TypeError: another kind of module, or attributes that are no arrays.
        ShapeError, DtypeError: arrays that do not fit each other, or float64 without ``jax_enable_x64``.
    """
    kind = type(module).__name__
    where = type(module).__module__
    if kind not in ("LSTMCell", "GRUCell") or not where.startswith("equinox."):
        raise TypeError(
            f"Cell mismatch: expected Equinox's LSTMCell or GRUCell, got {where}.{kind}."
        )
    names = ["weight_ih", "weight_hh", *["bias"] * bool(module.use_bias)]
    names += ["bias_n"] * (kind == "GRUCell" and bool(module.use_bias))
    for name in names:
        require_array(name, getattr(module, name))
    problem = _stacked(module)
    if problem:
        raise ShapeError(f"Shape mismatch: expected one cell, got {problem}.")
    w_x, w_h = module.weight_ih.T, module.weight_hh.T
    sizes = (module.input_size, module.hidden_size)
    b = module.bias if module.use_bias else jnp.zeros(w_x.shape[-1:], w_x.dtype)
    cell: Cell = lstm(*sizes) if kind == "LSTMCell" else gru(*sizes)
    params: Any = LSTMParams(w_x, w_h, b)
    if kind == "GRUCell":
        b_hn = module.bias_n if module.use_bias else jnp.zeros(sizes[1], w_x.dtype)
        params = GRUParams(w_x, w_h, b, b_hn)
    params = to_jax(params)
    require_params(cell, params)
    return cell, params


def _stacked(module: Any) -> str | None:
    """What the arrays of several cells in one module are, in words; None for those of one."""
    shape = tuple(module.weight_hh.shape)
    if len(shape) < 3:
        return None
    return (
        f"the stacked arrays of an ensemble, weight_hh {show_shape(shape)}. Take one member, "
        "from_equinox(jax.tree.map(lambda a: a[0], module)), or jax.vmap a function of its arrays over all"
    )


def is_equinox_module(value: Any) -> bool:
    """Whether a value is a module of Equinox; who has one has imported it."""
    equinox = sys.modules.get("equinox")
    return equinox is not None and isinstance(value, equinox.Module)


def layers_of_equinox(module: Any) -> RecurrentLayers:
    """The LSTMCells and GRUCells in a module of Equinox, by the paths of their attributes."""
    equinox: Any = sys.modules["equinox"]
    cells = (equinox.nn.LSTMCell, equinox.nn.GRUCell)
    leaves, _ = jax.tree_util.tree_flatten_with_path(
        module, is_leaf=lambda node: isinstance(node, cells)
    )
    found = []
    for path, cell in leaves:
        if not isinstance(cell, cells):
            continue
        name = leaf_name(path)

        def read(choices: Choices, name: str = name, cell: Any = cell) -> tuple[Any, Any]:
            require_no_choices(name, choices, "whose module says it all")
            return from_equinox(cell)

        kind = "lstm" if isinstance(cell, cells[0]) else "gru"
        sizes = (cell.input_size, cell.hidden_size)
        has_arrays = hasattr(cell.weight_hh, "shape")
        refused = _stacked(cell) if has_arrays else "a cell without its arrays"
        found.append(RecurrentLayer(name, kind, *sizes, 1, 1, (), refused, read))
    return RecurrentLayers(found)


def to_equinox(cell: Cell, params: PyTree) -> dict[str, Any]:
    """The arrays of an Equinox cell that computes the same, by the names of its attributes.

    Args:
        cell: from `lstm` or `gru`, without options that Equinox's cells do not have.
        params: of the cell.

    Returns:
        ``{"weight_ih", "weight_hh", "bias"}``, for a GRU ``"bias_n"`` as well, for `equinox.tree_at`.

    Raises:
        ValueError: a cell that Equinox does not have.
        ShapeError, DtypeError, TypeError: params that are not the cell's.
    """
    require_cell(cell)
    require_params(cell, params)
    if not isinstance(params, (LSTMParams, GRUParams)):
        raise ValueError(
            f"Cell mismatch: expected a cell that Equinox has (lstm, gru), got {cell}."
        )
    arrays = {"weight_ih": params.w_x.T, "weight_hh": params.w_h.T, "bias": params.b}
    if isinstance(params, GRUParams):
        arrays["bias_n"] = params.b_hn
    return arrays
