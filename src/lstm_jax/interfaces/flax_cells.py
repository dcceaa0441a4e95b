"""Run the cells of Flax by `flax_style`: the common part of `lstm_jax.nnx` and `lstm_jax.linen`.

A Flax cell fits if its equations are those of `lstm`, `gru` or `rnn`: LSTMCell, OptimizedLSTMCell, GRUCell
and SimpleCell (also residual, which is W_h + I) with their default activations, SimpleCell also with relu.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, PyTree
from lstm_jax.backends.loop import Loop
from lstm_jax.interfaces.flax_signature import FlaxOrder, flax_style
from lstm_jax.weights.flax_cell import cell_from_flax
from lstm_jax.weights.flax_modules import activation_of

ADVICE = " Use Flax's RNN."


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
    """Run a layer's Flax cell over a sequence by `flax_style`; for None the layer's option counts.

    It computes in the cell's ``dtype``, or else in the promoted dtype of inputs and parameters. As in Flax,
    it returns the carry's dtype if that is wider.
    """
    cell = layer.cell
    our_cell, our_params = cell_from_flax(params, activation_of(cell, ADVICE))
    if getattr(cell, "residual", False):
        w_h = our_params.w_h
        our_params = our_params._replace(w_h=w_h + jnp.eye(len(w_h), dtype=w_h.dtype))
    dtype = cell.dtype or jnp.promote_types(inputs.dtype, our_params.w_x.dtype)
    carry_dtypes = jax.tree.map(jnp.result_type, carry)
    our_params, inputs, start = jax.tree.map(
        lambda a: jnp.asarray(a, dtype), (our_params, inputs, carry)
    )
    after, outputs = flax_style(
        our_cell,
        our_params,
        inputs,
        initial_carry=start,
        seq_lengths=seq_lengths,
        order=FlaxOrder(
            time_major,
            layer.reverse if reverse is None else reverse,
            layer.keep_order if keep_order is None else keep_order,
            layer.outside,
        ),
        gradient=layer.gradient,
        backend=_backend_of(layer),
    )
    after = jax.tree.map(
        lambda a, like: a.astype(jnp.promote_types(dtype, like)), after, carry_dtypes
    )
    wide = jnp.promote_types(dtype, jax.tree.leaves(carry_dtypes)[-1])
    outputs = outputs.astype(wide)
    wanted = layer.return_carry if return_carry is None else return_carry
    return (after, outputs) if wanted else outputs


def _backend_of(layer: Any) -> str | Loop:
    """The layer's backend, with Flax's option ``unroll`` if it is set."""
    # Flax's default is one step; then the platform's number of steps is used.
    if layer.unroll == 1 or layer.backend == "cudnn":
        return layer.backend
    loop = layer.backend if isinstance(layer.backend, Loop) else Loop()
    return loop._replace(unroll=layer.unroll)
