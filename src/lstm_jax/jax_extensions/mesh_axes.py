"""The axes of a mesh: those in context, and those over which an array varies under `jax.shard_map`.

    data     samples are spread over it
    model    hidden units may be split over it (`lstm_jax.backends.unit_blocks`)

The compiler splits a program over the devices of a mesh, which `jax.set_mesh` tells it. Inside `shard_map`
the type of an array has the mesh axes over which its value differs between devices. The carry of a loop and
the result of a hand-written transpose must have the right ones. Outside of `shard_map` there are none, and
`vary_over` changes nothing.
"""

from typing import Any

import jax
from jax import lax
from jax.sharding import AxisType

from lstm_jax.array_types import PyTree

DATA, MODEL = "data", "model"


def devices_on(axis: str) -> int:
    """The devices on an axis of the mesh in context over which the compiler splits; 1 without it."""
    mesh = jax.sharding.get_abstract_mesh()
    if axis not in mesh.axis_names:
        return 1
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return int(mesh.shape[axis]) if kinds[axis] == AxisType.Auto else 1


def varying_axes(*trees: PyTree) -> frozenset[Any]:
    """The mesh axes over which any leaf varies."""
    return frozenset().union(*map(_axes, jax.tree.leaves(trees)))


def _axes(leaf: Any) -> frozenset[Any]:
    return jax.typeof(leaf).manual_axis_type.varying


def vary_over(axes: frozenset[Any], tree: PyTree) -> PyTree:
    """Type every leaf as varying over the given axes too; differentiated, this sums over them."""

    def vary(leaf: Any) -> Any:
        missing = tuple(sorted(axes - _axes(leaf)))
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(vary, tree) if axes else tree
