r"""How the leaves of a state become the parts of one vector.

A state is any pytree of arrays. Its floating leaves, each flattened, are the parts of s = (part_0, part_1,
…); other leaves (counters, keys) are carried along unchanged.

    J[row][column] = ∂ part_row(t) / ∂ part_column(t−1)        [out, in], or a vector where it is diagonal
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, PyTree
from lstm_jax.validation import DtypeError, leaf_name

Blocks = tuple[tuple[Any, ...], ...]
"""``blocks[row][column]``: a matrix [n_row, n_column], or a vector [n] for a diagonal one; arrays or
`ScaledEntries`."""

JOINT = "ss"
"""The name of the whole transition, all parts of the state together."""

LSTM_PATHS = ("total_c", "carousel", "chain_c")


class Layout(NamedTuple):
    """Which leaves of a state are its parts, what they are called, and how long each is.

    Attributes:
        treedef: the state's structure.
        moving: for each leaf, whether it is a part.
        names: of the parts: ``h``, ``c``; ``s`` where the state is one bare array.
        sizes: of the parts, flattened.
        dtype: common to all parts.
    """

    treedef: Any
    moving: tuple[bool, ...]
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    dtype: Any

    def places(self) -> dict[str, tuple[int, int]]:
        """Row and column of each block by its name: ``hc``, or ``out,in`` for longer names of parts.

        A part ``s`` among others is written ``s,s`` too: ``ss`` is the name of the whole transition.
        """
        short = all(len(name) == 1 for name in self.names) and self.names.count("s") in (
            0,
            len(self.names),
        )
        between = "" if short else ","
        return {
            between.join((out, into)): (row, column)
            for row, out in enumerate(self.names)
            for column, into in enumerate(self.names)
        }


def layout_of(state: PyTree) -> Layout:
    """The layout of a state.

    Raises:
        DtypeError: no floating leaf, complex leaves, floating leaves of more than one dtype, or of half
            precision, in which norms cannot be computed.
        TypeError: two leaves with the same name.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(state)
    dtypes = [jnp.result_type(leaf) for _, leaf in leaves]
    moving = tuple(
        bool(jnp.issubdtype(dtype, jnp.inexact)) and jnp.size(leaf) > 0
        for (_, leaf), dtype in zip(leaves, dtypes, strict=True)
    )
    parts = [
        (path, leaf, dtype)
        for (path, leaf), dtype, moves in zip(leaves, dtypes, moving, strict=True)
        if moves
    ]
    found = sorted({dtype.name for _, _, dtype in parts})
    if found not in (["float32"], ["float64"]):
        got = ", ".join(found) if found else "none"
        raise DtypeError(
            "Dtype mismatch: expected a state whose floating leaves are all float32 or all float64, "
            f"got {got}."
        )
    names = tuple(leaf_name(path) or "s" for path, _, _ in parts)
    if len(set(names)) != len(names):
        raise TypeError(
            f"Name mismatch: expected leaves of the state with different names, got {list(names)}."
        )
    return Layout(
        treedef=treedef,
        moving=moving,
        names=names,
        sizes=tuple(int(jnp.size(leaf)) for _, leaf, _ in parts),
        dtype=parts[0][2],
    )


def moving_parts(layout: Layout, state: PyTree) -> tuple[Any, ...]:
    """The parts of a state, in the shapes of its leaves."""
    leaves = jax.tree.leaves(state)
    return tuple(leaf for leaf, moves in zip(leaves, layout.moving, strict=True) if moves)


def with_parts(layout: Layout, state: PyTree, parts: Sequence[Array]) -> PyTree:
    """A state with other parts; the other leaves stay."""
    moved = iter(parts)
    leaves = jax.tree.leaves(state)
    full = [
        next(moved) if moves else leaf for leaf, moves in zip(leaves, layout.moving, strict=True)
    ]
    return jax.tree.unflatten(layout.treedef, full)


def flat_parts(layout: Layout, state: PyTree) -> Array:
    """The parts as one vector of length n, for one sample."""
    return jnp.concatenate([jnp.ravel(part) for part in moving_parts(layout, state)])


def from_flat(layout: Layout, state: PyTree, flat: Array) -> PyTree:
    """A state whose parts are read from one vector of length n; the other leaves are those of ``state``."""
    parts = [
        flat[place].reshape(jnp.shape(part))
        for place, part in zip(part_slices(layout), moving_parts(layout, state), strict=True)
    ]
    return with_parts(layout, state, parts)


def part_slices(layout: Layout) -> tuple[slice, ...]:
    """Where each part lies in the vector of length n."""
    return slices_of(layout.sizes)


def slices_of(sizes: Sequence[int]) -> tuple[slice, ...]:
    """Where vectors of these sizes lie, one after the other."""
    ends = list(accumulate(sizes))
    return tuple(slice(end - size, end) for end, size in zip(ends, sizes, strict=True))
