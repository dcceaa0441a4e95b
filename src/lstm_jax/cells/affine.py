"""The pre-activations of the vanilla cell and the LSTM, with their derivative for all t at once.

    z_t = x_t W_x + h_{t−1} W_h + b

Axes: xs[T, ..., D], h_prev[T, ..., H], z[T, ..., Z]; w_x[D, Z], w_h[H, Z], b[Z]. The sums over time and
batch stand outside every loop: each is one matrix product over T·B rows.
"""

from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, Float
from lstm_jax.jax_extensions.mesh_axes import vary_over, varying_axes

AffineParams = Any
"""Any named tuple with ``w_x``, ``w_h`` and ``b``: `LSTMParams`, `RNNParams`."""


def pre_activations(
    params: AffineParams, h: Float[Array, "*batch h"], x: Float[Array, "*batch d"]
) -> Float[Array, "*batch z"]:
    """z_t = x_t W_x + h_{t−1} W_h + b."""
    # The bias comes before h W_h: one GPU kernel then computes x W_x + b for several steps, and XLA adds
    # h W_h to it in place. In the other order XLA copies x W_x at every step.
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


def flat_rows(array: Array) -> Array:
    """Lay time and batch out as the rows of one matrix: [T, ..., n] -> [T·B, n]."""
    return array.reshape(-1, array.shape[-1])


def sum_of_outer(left: Array, right: Array) -> Array:
    """Σ_t leftᵀ_t right_t over time and batch, as one matrix product: [T, ..., n], [T, ..., m] -> [n, m]."""
    return flat_rows(left).T @ flat_rows(right)


def sum_of_products(left: Array, right: Array) -> Array:
    """Σ_t left_t ⊙ right_t over time and batch: [T, ..., n] twice -> [n].

    With a batch it is a loop over time. XLA on a CPU would sum the product column by column, several times
    as slowly.
    """
    if left.ndim < 3:
        return jnp.sum(left * right, axis=tuple(range(left.ndim - 1)))
    # Long sums need more digits than bfloat16 has.
    dtype = jnp.float32 if left.dtype.itemsize < 4 else left.dtype
    zero = vary_over(varying_axes(left, right), jnp.zeros(left.shape[1:], dtype))

    def add(total: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        return total + (pair[0] * pair[1]).astype(dtype), None

    total, _ = jax.lax.scan(add, zero, (left, right))
    return jnp.sum(total, axis=tuple(range(total.ndim - 1))).astype(left.dtype)
