r"""The Jacobian of one step, J_t = ∂s_t/∂s_{t−1}, as blocks between the leaves of the state.

A state is any pytree of arrays. Its floating leaves, each flattened to a vector, are the parts of
s = (part_0, part_1, …); other leaves (counters, keys) are carried along and held. The blocks are

    J[row][column] = ∂ part_row(t) / ∂ part_column(t−1)        [out, in], or a vector where it is diagonal

Built-in cells bring them in closed form; for any other step `jax.jacfwd` supplies them.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradient_flow.stack_jacobian import stack_blocks
from lstm_jax.array_types import Array, PyTree
from lstm_jax.cells import Cell, Step
from lstm_jax.stack import Stack
from lstm_jax.validation import (
    DtypeError,
    ShapeError,
    leaf_name,
    require_same_structure,
    show_shape,
)

Blocks = tuple[tuple[Array, ...], ...]
"""``blocks[row][column]``: a matrix [n_row, n_column], or a vector [n] for a diagonal one."""


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
    """Read off the parts of a state.

    Raises:
        DtypeError: no floating leaf, complex leaves, floating leaves of more than one dtype, or of
            one in which no norm can be computed (half precision).
        TypeError: two leaves whose paths read the same.
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
        came = ", ".join(found) if found else "none"
        raise DtypeError(
            "Dtype mismatch: expected a state whose floating leaves are all float32 or all float64, "
            f"got {came}."
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


def require_stable_state(step: Step, params: PyTree, state: PyTree, x: PyTree) -> None:
    """Refuse a step that returns a state of another structure, shape or dtype than it was given.

    Raises:
        ShapeError: naming the first leaf that changed.
        TypeError: a step that does not return a pair, or changes the state's structure.
    """
    result = jax.eval_shape(step, params, state, x)
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"Step mismatch: expected step to return (state, out), got {result}.")
    before, after = jax.eval_shape(lambda s: s, state), result[0]
    require_same_structure("the state after a step", after, before)
    for (path, old), new in zip(
        jax.tree_util.tree_flatten_with_path(before)[0], jax.tree.leaves(after), strict=True
    ):
        if old.shape != new.shape or old.dtype != new.dtype:
            label = f"state.{leaf_name(path)}" if path else "the state"
            raise ShapeError(
                f"Shape mismatch: expected the step to keep {label} as {old.dtype.name}"
                f"{show_shape(old.shape)}, got {new.dtype.name}{show_shape(new.shape)}."
            )


def block_jacobian(
    cell: Cell | Stack | Step, layout: Layout
) -> Callable[[PyTree, PyTree, PyTree], Blocks]:
    """Make the function ``(params, state, x) -> blocks`` for one sample of a cell or a step."""
    if isinstance(cell, Stack):
        return lambda params, states, x: stack_blocks(cell, layout.sizes, params, states, x)
    if isinstance(cell, Cell):
        return lambda params, state, x: tuple(map(tuple, cell.step_jacobian(params, state, x)))
    return lambda params, state, x: _blocks_by_autodiff(cell, layout, params, state, x)


def _blocks_by_autodiff(
    step: Step, layout: Layout, params: PyTree, state: PyTree, x: PyTree
) -> Blocks:
    def move(parts: tuple[Array, ...]) -> tuple[Array, ...]:
        after, _ = step(params, with_parts(layout, state, parts), x)
        return moving_parts(layout, after)

    jacobian = jax.jacfwd(move)(moving_parts(layout, state))
    return tuple(
        tuple(
            block.reshape(rows, columns) for block, columns in zip(line, layout.sizes, strict=True)
        )
        for line, rows in zip(jacobian, layout.sizes, strict=True)
    )


def moving_parts(layout: Layout, state: PyTree) -> tuple[Any, ...]:
    """The parts of a state, in the shapes of its leaves."""
    leaves = jax.tree.leaves(state)
    return tuple(leaf for leaf, moves in zip(leaves, layout.moving, strict=True) if moves)


def with_parts(layout: Layout, state: PyTree, parts: Sequence[Array]) -> PyTree:
    """A state with other parts; the leaves that are none stay."""
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


def plus(a: Array, b: Array) -> Array:
    """The sum of two blocks, a vector standing for a diagonal matrix."""
    if a.ndim != b.ndim:
        a, b = (jnp.diag(block) if block.ndim == 1 else block for block in (a, b))
    return a + b


def part_slices(layout: Layout) -> tuple[slice, ...]:
    """Where each part lies in the vector of length n."""
    ends = [sum(layout.sizes[: n + 1]) for n in range(len(layout.sizes))]
    return tuple(slice(end - size, end) for end, size in zip(ends, layout.sizes, strict=True))
