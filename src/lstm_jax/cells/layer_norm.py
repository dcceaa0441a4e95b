r"""Normalisation over the last axis, without gain and shift (Ba et al. 2016), and its derivative.

    ŷ = (y − mean y) / √(var y + ε)
    ∂ŷ/∂y v = (v − mean v − ŷ mean(ŷ ⊙ v)) / √(var y + ε)

The matrix ∂ŷ/∂y is symmetric, so that one function serves tangents and cotangents.

Axes: y[..., n].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, Float

EPSILON = 1e-5
"""ε, added to the variance; PyTorch's value."""


class Normalised(NamedTuple):
    """A normalised array ``hat[..., n]`` and ``scale[..., 1]``, 1 / √(var + ε)."""

    hat: Float[Array, "*batch n"]
    scale: Float[Array, "*batch 1"]


def normalised(y: Float[Array, "*batch n"]) -> Normalised:
    """ŷ = (y − mean y) / √(var y + ε)."""
    centred = y - jnp.mean(y, axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + EPSILON)
    return Normalised(centred * scale, scale)


def through_norm(at: Normalised, v: Array) -> Array:
    """The derivative of ŷ by y applied to v, a tangent or a cotangent: the matrix is symmetric.

    (v − mean v − ŷ mean(ŷ ⊙ v)) / √(var y + ε).
    """
    along = at.hat * jnp.mean(at.hat * v, axis=-1, keepdims=True)
    return at.scale * (v - jnp.mean(v, axis=-1, keepdims=True) - along)
