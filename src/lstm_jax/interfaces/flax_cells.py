"""What the drop-in layers for Flax's two interfaces share: which Flax cells can be run here, and how.

A Flax cell qualifies if its equations are those of `lstm`, `gru` or `rnn`: LSTMCell, OptimizedLSTMCell,
GRUCell and SimpleCell (residual too, which is W_h + I) with their default activations, SimpleCell also
with relu.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, PyTree
from lstm_jax.backends.loop import Loop
from lstm_jax.interfaces.flax_signature import FlaxOrder, flax_style
from lstm_jax.weights.flax import FORMS, from_flax

ACTIVATIONS = {jnp.tanh: "tanh", jax.nn.tanh: "tanh", jax.nn.relu: "relu"}


def activation_of(cell: Any) -> str:
    """The activation of a Flax cell that can be run here.

    Raises:
        ValueError: a cell, or a choice of functions in it, that has no counterpart here.
    """
    kind = type(cell).__name__
    if kind not in FORMS or not type(cell).__module__.startswith("flax."):
        raise ValueError(
            f"Cell mismatch: expected one of Flax's {', '.join(FORMS)}, got {kind}; Flax's own RNN runs any."
        )
    activation = ACTIVATIONS.get(cell.activation_fn)
    gate = getattr(cell, "gate_fn", jax.nn.sigmoid)
    fits = activation == "tanh" or (kind == "SimpleCell" and activation == "relu")
    if not fits or gate is not jax.nn.sigmoid:
        came = [getattr(f, "__name__", repr(f)) for f in (gate, cell.activation_fn)]
        raise ValueError(
            f"Activation mismatch: expected a {kind} of sigmoid gates and tanh (SimpleCell: tanh or relu), "
            f"got {came[0]} and {came[1]}; Flax's own RNN runs any."
        )
    return str(activation)


def run_flax_layer(
    layer: Any,
    params: Mapping[str, Any],
    inputs: Array,
    carry: PyTree,
    *,
    seq_lengths: Any,
    return_carry: bool | None,
    time_major: bool,
    reverse: bool | None,
    keep_order: bool | None,
) -> Any:
    """Run a layer's Flax cell over a sequence by `flax_style`; what is None is as the layer has it.

    Computed in the cell's ``dtype``, or in the one to which inputs and parameters promote, and returned in
    the carry's if that is wider, as Flax returns it.
    """
    cell = layer.cell
    ours, own = from_flax(params, activation=activation_of(cell))
    if getattr(cell, "residual", False):
        own = own._replace(w_h=own.w_h + jnp.eye(len(own.w_h), dtype=own.w_h.dtype))
    dtype = cell.dtype or jnp.promote_types(inputs.dtype, own.w_x.dtype)
    kept = jax.tree.map(jnp.result_type, carry)
    own, inputs, start = jax.tree.map(lambda a: jnp.asarray(a, dtype), (own, inputs, carry))
    after, outputs = flax_style(
        ours,
        own,
        inputs,
        initial_carry=start,
        seq_lengths=seq_lengths,
        order=FlaxOrder(
            time_major,
            layer.reverse if reverse is None else reverse,
            layer.keep_order if keep_order is None else keep_order,
        ),
        gradient=layer.gradient,
        backend=_backend_of(layer),
    )
    after = jax.tree.map(lambda a, like: a.astype(jnp.promote_types(dtype, like)), after, kept)
    wide = jnp.promote_types(dtype, jax.tree.leaves(kept)[-1])
    outputs = outputs.astype(wide)
    wanted = layer.return_carry if return_carry is None else return_carry
    return (after, outputs) if wanted else outputs


def _backend_of(layer: Any) -> str | Loop:
    """The layer's backend, with Flax's own option ``unroll`` where it is set."""
    # One step is what Flax's layer has unless told otherwise; here it is left to the platform.
    if layer.unroll == 1 or layer.backend == "cudnn":
        return layer.backend
    loop = layer.backend if isinstance(layer.backend, Loop) else Loop()
    return loop._replace(unroll=layer.unroll)
