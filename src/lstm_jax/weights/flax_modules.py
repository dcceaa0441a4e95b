"""What modules of Flax's nnx say that their arrays do not: activations, directions, residual cells.

A Flax cell fits if its equations are those of `lstm`, `gru` or `rnn`: LSTMCell, OptimizedLSTMCell, GRUCell
and SimpleCell (also residual, which is W_h + I) with their default activations, SimpleCell also with relu.
Flax is not imported: who has a module of nnx has imported it.
"""

import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.weights.flax_cell import FORMS

ACTIVATIONS = {
    jnp.tanh: "tanh",
    jax.nn.tanh: "tanh",
    jax.lax.tanh: "tanh",
    jax.nn.relu: "relu",
}
SIGMOIDS = (jax.nn.sigmoid, jax.lax.logistic)


class Told(NamedTuple):
    """What a module says of a cell in it: its activation, whether it is residual and runs backward."""

    activation: str = "tanh"
    residual: bool = False
    backward: bool = False
    refused: str | None = None


def activation_of(cell: Any, advice: str = "") -> str:
    """The activation of a Flax cell that `lstm_jax` can run.

    Raises:
        ValueError: a cell, or functions of a cell, without a counterpart in `lstm_jax`.
    """
    kind = type(cell).__name__
    if kind not in FORMS or not type(cell).__module__.startswith("flax."):
        raise ValueError(
            f"Cell mismatch: expected one of Flax's {', '.join(FORMS)}, got {kind}.{advice}"
        )
    activation = ACTIVATIONS.get(cell.activation_fn)
    gate = getattr(cell, "gate_fn", jax.nn.sigmoid)
    fits = activation == "tanh" or (kind == "SimpleCell" and activation == "relu")
    if not fits or gate not in SIGMOIDS:
        got = [getattr(f, "__name__", repr(f)) for f in (gate, cell.activation_fn)]
        raise ValueError(
            f"Activation mismatch: expected a {kind} of sigmoid gates and tanh (SimpleCell: tanh or relu), "
            f"got {got[0]} and {got[1]}.{advice}"
        )
    return str(activation)


def is_nnx_module(value: Any) -> bool:
    """Whether a value is a module of nnx."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(value, nnx.Module)


def opened(module: Any) -> tuple[dict[Any, Any], dict[tuple[Any, ...], Told]]:
    """The arrays of an nnx module as nested dicts, and by the path of each cell what its modules say."""
    nnx = sys.modules["flax.nnx"]
    tree = nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.RngState)))
    modules = dict(nnx.iter_modules(module))
    told = {}
    for path, cell in modules.items():
        if type(cell).__name__ not in FORMS or not type(cell).__module__.startswith("flax."):
            continue
        found = Told(residual=bool(getattr(cell, "residual", False)))
        try:
            found = found._replace(activation=activation_of(cell))
        except ValueError as error:
            found = found._replace(refused=str(error))
        layer = modules.get(path[:-1]) if path[-1:] == ("cell",) else None
        both = modules.get(path[:-2]) if layer is not None else None
        if both is not None and {"forward_rnn", "backward_rnn"} <= set(vars(both)):
            merge = getattr(getattr(both, "merge_fn", None), "__name__", "_concatenate")
            if merge != "_concatenate":
                words = f"expected merge_fn to put both directions side by side, got {merge}"
                found = found._replace(refused=f"Option mismatch: {words}.")
        elif getattr(layer, "reverse", False):
            found = found._replace(backward=True)
            if not getattr(layer, "keep_order", False):
                words = "expected keep_order=True beside reverse, the outputs in the inputs' order"
                found = found._replace(refused=f"Option mismatch: {words}, got keep_order=False.")
        told[path] = found
    return tree, told
