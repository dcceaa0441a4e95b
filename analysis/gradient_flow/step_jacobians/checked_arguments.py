"""Check the arguments of a measurement before any long work.

A cell, a stack or any ``step(params, state, x) -> (state, out)``; its parameters; a starting state of one
sample or of B; a sequence xs[T, D] or xs[T, B, D], for a step any pytree with time leading.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradient_flow.step_jacobians.state_layout import (
    JOINT,
    LSTM_PATHS,
    Layout,
    layout_of,
    moving_parts,
)
from gradient_flow.step_jacobians.trajectory import is_lstm, states_of_samples
from lstm_jax.array_types import PyTree
from lstm_jax.cells import Cell, Step
from lstm_jax.cells.cell import check_cell_arguments, require_stable_state
from lstm_jax.layers.stack import Stack, require_one_direction
from lstm_jax.layers.unroll_stack import check_stack_arguments
from lstm_jax.validation import (
    ShapeError,
    require_arrays,
    require_bool,
    require_finite,
    require_finite_arguments,
    require_names,
    require_parameters,
    require_same_structure,
    require_tree_of_arrays,
    show_shape,
)


class CheckedRun(NamedTuple):
    """The checked arguments of a run.

    Attributes:
        state0: the starting state, of one sample or of B.
        batched: whether xs has a batch axis after time and state0 one in front.
        length: T.
        layout: the parts of one sample's state.
    """

    state0: Any
    batched: bool
    length: int
    layout: Layout


def checked_run(
    cell: Cell | Stack | Step,
    params: PyTree,
    state0: PyTree | None,
    xs: PyTree,
    batched: bool | None,
) -> CheckedRun:
    """Refuse arguments that do not fit the cell, the step or each other, or that are not finite.

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit; a step that cannot be hashed, or that
            changes its state's shape.
        NonFiniteError: a NaN or an infinity in the arguments; of xs, with its step.
    """
    try:
        hash(cell)
    except TypeError:
        cure = "Wrap it in a function."
        if isinstance(cell, tuple) and callable(getattr(cell, "step", None)):
            cure = "Hand over its parts: cell.step, cell.params, cell.state0."
        raise TypeError(
            "Step mismatch: expected a step that can be hashed, so that it compiles once, got a "
            f"{type(cell).__name__}. {cure}"
        ) from None
    if batched is not None:
        require_bool("batched", batched)
    if isinstance(cell, Stack):
        require_one_direction(cell)
    if isinstance(cell, (Cell, Stack)):
        check: Any = check_cell_arguments if isinstance(cell, Cell) else check_stack_arguments
        state0 = check(cell, params, xs, state0)
        if batched is not None and batched != (jnp.ndim(xs) == 3):
            raise ShapeError(
                f"Shape mismatch: expected xs of rank {3 if batched else 2} with batched={batched}, "
                f"got rank {jnp.ndim(xs)}."
            )
        batched = jnp.ndim(xs) == 3
    else:
        batched = bool(batched)
        if state0 is None:
            raise TypeError("State mismatch: expected a starting state for a plain step, got None.")
        require_parameters("step", cell, "params, state, x")
        for name, value in (("params", params), ("state0", state0), ("xs", xs)):
            require_tree_of_arrays(name, value)
    axes = {jnp.shape(leaf)[: 1 + batched] for leaf in jax.tree.leaves(xs)}
    length = min((axis[0] for axis in axes if axis), default=0)
    if len(axes) != 1 or length == 0 or len(next(iter(axes))) != 1 + batched:
        wanted = "time axis of at least one step" + (" and then one batch axis" if batched else "")
        raise ShapeError(f"Shape mismatch: expected xs with one leading {wanted}, got {axes}.")
    batch_shape = next(iter(axes))[1:]
    for leaf in jax.tree.leaves(state0):
        if jnp.shape(leaf)[: len(batch_shape)] != batch_shape:
            raise ShapeError(
                f"Shape mismatch: expected state0 with one leading batch axis of {batch_shape[0]}, "
                f"got {show_shape(jnp.shape(leaf))}."
            )
    require_finite_arguments(params, state0, xs, batched=batched)
    first = jax.tree.map(lambda leaf: leaf[0], xs)
    sample, x = (
        jax.tree.map(lambda leaf: leaf[0], tree) if batched else tree for tree in (state0, first)
    )
    if not isinstance(cell, (Cell, Stack)):
        require_stable_state(cell, params, sample, x)
    return CheckedRun(state0, batched, length, layout_of(sample))


def checked_blocks(
    cell: Cell | Stack | Step, layout: Layout, blocks: Sequence[str] | None
) -> tuple[str, ...]:
    """The names of blocks and paths to measure; all but ``ss`` if None.

    Raises:
        TypeError, ValueError: not a list of names, or names that do not exist.
    """
    names = (*layout.places(), *(LSTM_PATHS if is_lstm(cell) else ()))
    return names if blocks is None else require_names("blocks", blocks, (*names, JOINT))


def require_cotangents(
    name: str, given: CheckedRun, cotangents: PyTree, length: int | None = None
) -> None:
    """Refuse cotangents of the state, or of ``length`` states, that have another shape or are not finite.

    Leaves that are not floating are not checked.

    Raises:
        ShapeError, DtypeError, TypeError: naming the part.
        NonFiniteError: a NaN or an infinity; of several states, with its step.
    """
    require_same_structure(name, cotangents, given.state0)
    names, time = given.layout.names, () if length is None else (length,)
    parts = dict(zip(names, moving_parts(given.layout, cotangents), strict=True))
    expected = {
        part: jax.ShapeDtypeStruct((*time, *jnp.shape(like)), given.layout.dtype)
        for part, like in zip(names, moving_parts(given.layout, given.state0), strict=True)
    }
    require_arrays(name, parts, expected, given.layout.dtype)
    require_finite(name, parts, time_axis=length is not None)


def require_finite_states(
    cell: Cell | Stack | Step, params: PyTree, given: CheckedRun, xs: PyTree
) -> None:
    """Run once, and refuse a NaN or an infinity in the states; under `jit` nothing is checked.

    Raises:
        NonFiniteError: naming the state's leaf and the step.
    """
    arguments = (params, given.state0, xs)
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments)):
        samples = with_samples(given.batched, given.state0, xs)
        states = states_of_samples(cell, params, *samples)
        # s_0 was checked with the arguments.
        later = jax.tree.map(lambda leaf: leaf[1:], states)
        require_finite("states", later, time_axis=True, batched=given.batched)


def whole_numbers(name: str, values: Sequence[int], lowest: int, highest: int) -> list[int]:
    """The values as a list, at least one, of whole numbers from ``lowest`` to ``highest``.

    Raises:
        TypeError: not a list.
        ValueError: an empty list, or a number that is not whole or out of range.
    """
    if isinstance(values, (jax.Array, np.ndarray)) and values.ndim == 1:
        values = values.tolist()
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"Type mismatch: expected {name} as a list of numbers, got {values!r}.")
    numbers = list(values)
    for value in numbers:
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not whole or not lowest <= value <= highest:
            raise ValueError(
                f"Range mismatch: expected {name} from {lowest} to {highest}, got {value!r}."
            )
    if not numbers:
        raise ValueError(f"Range mismatch: expected at least one of {name}, got none.")
    return [int(value) for value in numbers]


def with_samples(batched: bool, state0: PyTree, xs: PyTree) -> tuple[PyTree, PyTree]:
    """state0 [B, …] and xs [T, B, …]; without a batch, B = 1."""
    if batched:
        return jax.tree.map(jnp.asarray, (state0, xs))
    return (
        jax.tree.map(lambda a: jnp.asarray(a)[None], state0),
        jax.tree.map(lambda a: jnp.asarray(a)[:, None], xs),
    )


def without_samples(batched: bool, found: PyTree, axis: int = 0) -> PyTree:
    """Remove the samples axis that `with_samples` added; with a batch, ``found`` as it is."""
    if batched:
        return found
    return jax.tree.map(lambda a: jnp.squeeze(a, axis), found)
