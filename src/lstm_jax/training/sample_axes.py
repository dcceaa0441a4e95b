"""The samples of a batch and of a carry: their axes, their parts, and their place on a mesh.

Axes: as ``in_axes`` of `jax.vmap`, a prefix of the tree; None for a leaf that is the same for all samples.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lstm_jax.array_types import Array, PyTree
from lstm_jax.jax_extensions.mesh_axes import DATA


class SamplesError(ValueError):
    """Samples that do not divide into parts or over devices."""


def by_axis(function: Callable[..., Any], axes: Any, tree: PyTree) -> PyTree:
    """``function(axis, leaf)`` on every leaf, the axes a prefix of the tree as ``in_axes`` of `jax.vmap`."""
    return jax.tree.map(
        lambda axis, part: jax.tree.map(lambda leaf: function(axis, leaf), part),
        axes,
        tree,
        is_leaf=lambda node: node is None,
    )


def separated(axes: Any, tree: PyTree) -> tuple[PyTree, PyTree]:
    """Leaves with samples and leaves without, each with None in place of the others."""
    with_samples = by_axis(lambda axis, leaf: None if axis is None else leaf, axes, tree)
    return with_samples, by_axis(lambda axis, leaf: leaf if axis is None else None, axes, tree)


def merged(with_samples: PyTree, without: PyTree) -> PyTree:
    """The inverse of `separated`."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, with_samples, without, is_leaf=lambda n: n is None
    )


def parted(tree: PyTree, axes: Any, parts: int, name: str) -> PyTree:
    """A tree whose samples are split into parts, along a new first axis of every leaf.

    Raises:
        SamplesError: samples that do not divide.
    """

    # A part has every parts-th sample, so that the samples of one device stay on it.
    def split(axis: int | None, leaf: Array) -> Array:
        if axis is None:
            return jnp.broadcast_to(leaf, (parts, *jnp.shape(leaf)))
        samples = leaf.shape[axis]
        if samples % parts:
            raise SamplesError(
                f"Size mismatch: expected a {name} whose samples divide into accumulate={parts} parts, "
                f"got {samples}."
            )
        shape = (*leaf.shape[:axis], samples // parts, parts, *leaf.shape[axis + 1 :])
        return jnp.moveaxis(leaf.reshape(shape), axis + 1, 0)

    return by_axis(split, axes, tree)


def joined(tree: PyTree, axes: Any) -> PyTree:
    """The inverse of `parted`, for leaves that have samples."""

    def join(axis: int | None, leaf: Array) -> Array:
        if axis is None:
            return leaf
        leaf = jnp.moveaxis(leaf, 0, axis + 1)
        return leaf.reshape(*leaf.shape[:axis], -1, *leaf.shape[axis + 2 :])

    return by_axis(join, axes, tree)


def constrained(tree: PyTree, axes: Any, mesh: Mesh | None) -> PyTree:
    """The samples of every leaf spread over the mesh, in a traced function."""
    if mesh is None:
        return tree
    return by_axis(
        lambda axis, leaf: jax.lax.with_sharding_constraint(leaf, spread(mesh, axis, leaf)),
        axes,
        tree,
    )


def spread(mesh: Mesh, axis: int | None, leaf: Any = None) -> NamedSharding:
    """The sharding of an array whose samples lie along ``axis``; replicated if None.

    Raises:
        SamplesError: the data axis of the mesh does not divide the number of samples of ``leaf``.
    """
    parts = mesh.shape[DATA]
    if axis is not None and leaf is not None and leaf.shape[axis] % parts:
        raise SamplesError(
            f"Size mismatch: expected samples that {parts} devices divide, got {leaf.shape[axis]}."
        )
    spec = PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, DATA)
    return NamedSharding(mesh, spec)
