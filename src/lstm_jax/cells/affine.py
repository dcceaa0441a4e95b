"""The pre-activations that the vanilla cell and the LSTM share, with their derivative for all t at once.

    z_t = x_t W_x + h_{t−1} W_h + b

Axes: xs[T, ..., D], h_prev[T, ..., H], z[T, ..., Z]; w_x[D, Z], w_h[H, Z], b[Z]. The sums over time and
batch stand outside every loop: each is one matrix product over T·B rows.
"""

from typing import Any

import jax.numpy as jnp

from lstm_jax.array_types import Array, Float
from lstm_jax.cells.cell import sum_of_outer

AffineParams = Any
"""Any named tuple with ``w_x``, ``w_h`` and ``b``: `LSTMParams`, `RNNParams`."""


def pre_activations(
    params: AffineParams, h: Float[Array, "*batch h"], x: Float[Array, "*batch d"]
) -> Float[Array, "*batch z"]:
    """z_t = x_t W_x + h_{t−1} W_h + b."""
    # The bias before h W_h, which XLA for a GPU adds in place to the rest. With the bias in it, the rest of
    # several steps is made by one kernel; without, it is copied at every step.
    z = x @ params.w_x
    return z + jnp.broadcast_to(params.b, z.shape) + h @ params.w_h


def tangent_inputs(
    params: AffineParams, params_dot: AffineParams, xs: Array, xs_dot: Array, residuals: Any
) -> Array:
    """ż_t without its part through h_{t−1}: x Ẇ_x + h_{t−1} Ẇ_h + ḃ + ẋ W_x."""
    z_dot = xs @ params_dot.w_x + residuals.h_prev @ params_dot.w_h + xs_dot @ params.w_x
    return z_dot + jnp.broadcast_to(params_dot.b, z_dot.shape)


def parameter_gradient(
    params: AffineParams, xs: Array, residuals: Any, d_z: Array
) -> tuple[Any, Array]:
    """∂L/∂W_x = Σ xᵀδz, ∂L/∂W_h = Σ h_{t−1}ᵀδz, ∂L/∂b = Σ δz, and ∂L/∂x = δz W_xᵀ."""
    d_params = params._replace(
        w_x=sum_of_outer(xs, d_z),
        w_h=sum_of_outer(residuals.h_prev, d_z),
        b=jnp.sum(d_z, axis=tuple(range(d_z.ndim - 1))),
    )
    return d_params, d_z @ params.w_x.T
