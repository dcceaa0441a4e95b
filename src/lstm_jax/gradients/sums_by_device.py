"""Sums over the samples of each device by itself, and over the devices once, after the loop.

A loop that carries a sum over samples makes the compiler choose, in each iteration, between adding up the
devices' parts and gathering all samples on each device. It gathers: then each device computes the gradient of
the weights from the samples of all. So the loop carries a sum for each device,

    xs[T, B, D] -> [p, T, B/p, D]        sums [...] -> [p, ...], the first axis spread over the devices

Axes: p parts, one for each device of the axis ``"data"`` of the mesh in context.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from lstm_jax.array_types import Array, PyTree
from lstm_jax.jax_extensions.mesh_axes import DATA, devices_on


def parts_of(xs: Array) -> int:
    """The parts of a batch, xs[T, B, D], one for each device; 1 where the devices do not divide it."""
    count = devices_on(DATA)
    return count if xs.ndim == 3 and xs.shape[1] % count == 0 else 1


def in_parts(xs: Array, sums: PyTree) -> PyTree:
    """Zeros for the sums of each part of a batch."""
    parts = parts_of(xs)
    if parts == 1:
        return sums
    return jax.tree.map(lambda leaf: _spread(jnp.broadcast_to(leaf, (parts, *leaf.shape))), sums)


def _spread(leaf: Array) -> Array:
    free = [PartitionSpec.UNCONSTRAINED] * (leaf.ndim - 1)
    return jax.lax.with_sharding_constraint(leaf, PartitionSpec(DATA, *free))


def by_parts(
    gradient: Callable[..., tuple[PyTree, Array]], parts: int, weights: PyTree, *rows: Any
) -> tuple[PyTree, Array]:
    """``gradient(weights, *rows) -> (sums, d_xs)``, the sums of each part by itself; rows [T, B, ...]."""
    if parts == 1:
        return gradient(weights, *rows)

    def split(leaf: Array) -> Array:
        steps, samples, *rest = leaf.shape
        return jnp.moveaxis(leaf.reshape(steps, parts, samples // parts, *rest), 1, 0)

    axes = (None, *[0] * len(rows))
    sums, d_xs = jax.vmap(gradient, in_axes=axes)(weights, *jax.tree.map(split, rows))
    d_xs = jnp.moveaxis(d_xs, 0, 1)
    return jax.tree.map(_spread, sums), d_xs.reshape(d_xs.shape[0], -1, *d_xs.shape[3:])


def summed(sums: PyTree, params: PyTree, xs: Array) -> PyTree:
    """The sums over all parts of a batch, in the dtypes of the parameters."""
    if parts_of(xs) > 1:
        sums = jax.tree.map(lambda leaf: leaf.sum(0), sums)
    return jax.tree.map(lambda d, p: d.astype(p.dtype), sums, params)
