"""The mesh axes over which an array varies, under `jax.shard_map`.

Inside `shard_map` the type of an array has the mesh axes over which its value differs between devices. The
carry of a loop and the result of a hand-written transpose must have the right ones. Outside of `shard_map`
there are none, and these functions change nothing.
"""

from typing import Any

import jax
from jax import lax

from lstm_jax.array_types import PyTree


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
