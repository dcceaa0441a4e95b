r"""Slopes of σ and tanh that stay accurate where the function saturates.

    σ'(z) = σ(z) σ(−z)        tanh'(z) = 4 σ(2z) σ(−2z)

Written in terms of the function's value, σ(1−σ) and 1 − tanh² cost less but are exactly 0 from z ≈ 17 and
|z| ≈ 9 on in float32, where the slope is 10⁻⁸. Back-propagation, which adds such slopes to larger ones, does
not need them; the logarithm of a product of Jacobians does.
"""

import jax

from lstm_jax.array_types import Array


def sigmoid_slope(z: Array) -> Array:
    """σ'(z), accurate in relative terms until it underflows (|z| ≈ 87 in float32, 708 in float64)."""
    return jax.nn.sigmoid(z) * jax.nn.sigmoid(-z)


def tanh_slope(z: Array) -> Array:
    """tanh'(z), likewise (|z| ≈ 44 in float32, 354 in float64)."""
    return 4 * sigmoid_slope(2 * z)
