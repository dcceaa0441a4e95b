r"""What happens to a state between steps: sequences that end, begin anew, or let no gradient through; noise.

Around the step of a cell, with m_t (valid), r_t (reset) and a cut for each sample and step, and for each unit
a factor d_t (recurrent dropout) and k_t (zoneout):

    s'_{t−1} = 0 where r_t, else s_{t−1}                    a new sequence begins
    s̃_t      = step(d_t s'_{t−1}, x_t)                      d_t on h alone
    s̄_t      = k_t s'_{t−1} + (1 − k_t) s̃_t                  a unit keeps its state
    s_t      = s̄_t where m_t, else s'_{t−1}                 past its end a sequence holds its state
    out_t    = h_t where m_t, else 0

and on the way back

    δz_t, δ   = backward_step((1 − k_t) δs_t)
    δs'_{t−1} = d_t δ + k_t δs_t where m_t, else δs_t (and δz_t = 0)
    δs_{t−1}  = δs'_{t−1}, but 0 where r_t or cut_t         truncated back-propagation through time

Axes: marks [T, ..., 1] beside a sequence [T, ..., H], the last axis there to be broadcast; noise [T, ..., H].
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.array_types import Array, Bool, Int, PyTree
from lstm_jax.validation import ShapeError, require_positive_int, show_shape


class Marks(NamedTuple):
    """Arrays, time leading, or None for what does not occur.

    Attributes:
        valid: whether the step belongs to the sequence, boolean [T, ..., 1].
        reset: whether the state is zero before the step, likewise.
        cut: whether no gradient passes from the step to the state before it, likewise.
        held: zoneout: which units keep their state, booleans [T, ..., H] for each leaf of the state; or how
            much of it, a number from 0 to 1, broadcast.
        factor: recurrent dropout: what h_{t−1} is multiplied by, [T, ..., H].
    """

    valid: Any = None
    reset: Any = None
    cut: Any = None
    held: Any = None
    factor: Any = None


NONE = Marks()


def entered(marks: Marks, state: PyTree) -> PyTree:
    """The state that a step begins with: zeros after a reset, a constant after a cut."""
    state = _where(marks.reset, jnp.zeros_like, state)
    return _where(marks.cut, jax.lax.stop_gradient, state)


def entered_tangent(marks: Marks, state_dot: PyTree) -> PyTree:
    """The tangent of `entered`, which is its own transpose."""
    return _where(marks.cut, jnp.zeros_like, _where(marks.reset, jnp.zeros_like, state_dot))


def dimmed(marks: Marks, state: PyTree) -> PyTree:
    """The state as the step sees it, under recurrent dropout; linear, and its own transpose."""
    return state if marks.factor is None else state._replace(h=state.h * marks.factor)


def left(marks: Marks, after: PyTree, before: PyTree) -> PyTree:
    """The state after a step, linear in both states: what the step returns, and what it began with."""
    if marks.held is not None:
        after = jax.tree.map(_blended, marks.held, before, after)
    if marks.valid is None:
        return after
    return jax.tree.map(lambda a, b: jnp.where(marks.valid, a, b), after, before)


def _blended(mark: Array, a: Array, b: Array) -> Array:
    return jnp.where(mark, a, b) if mark.dtype == bool else mark * a + (1 - mark) * b


def returned(marks: Marks, d_state: PyTree) -> PyTree:
    """The part of δs_t that goes back through the step."""
    if marks.held is None:
        return d_state
    return jax.tree.map(lambda k, d: _blended(k, jnp.zeros_like(d), d), marks.held, d_state)


def left_transposed(marks: Marks, d_before: PyTree, d_state: PyTree) -> PyTree:
    """δs'_{t−1} from what has come back through the step and from δs_t, which `left` passed by it."""
    if marks.held is not None:
        passed = jax.tree.map(lambda k, d: _blended(k, d, jnp.zeros_like(d)), marks.held, d_state)
        d_before = jax.tree.map(jnp.add, d_before, passed)
    if marks.valid is None:
        return d_before
    return jax.tree.map(lambda a, b: jnp.where(marks.valid, a, b), d_before, d_state)


def shown(marks: Marks, values: PyTree) -> PyTree:
    """What counts of a step's values: zeros where it is not part of the sequence."""
    if marks.valid is None:
        return values
    return jax.tree.map(lambda a: jnp.where(marks.valid, a, jnp.zeros_like(a)), values)


def _where(mark: Array | None, function: Callable[[Array], Array], tree: PyTree) -> PyTree:
    if mark is None:
        return tree
    return jax.tree.map(lambda a: jnp.where(mark, function(a), a), tree)


def checked_lengths(lengths: Any, xs: Array) -> Int[Array, "*batch"]:
    """Lengths as an int32 array.

    Raises:
        ShapeError: a shape other than that of the batch.
        TypeError: lengths that are no whole numbers.
        ValueError: lengths that are not from 0 to T, where they are known.
    """
    batch = jnp.shape(xs)[1:-1]
    array = jnp.asarray(lengths)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"Type mismatch: expected lengths as whole numbers, got {array.dtype.name}."
        )
    if array.shape != batch:
        raise ShapeError(
            f"Shape mismatch: expected lengths {show_shape(batch)} beside xs "
            f"{show_shape(jnp.shape(xs))}, got {show_shape(array.shape)}."
        )
    if not isinstance(array, jax.core.Tracer) and array.size:
        # In NumPy, because JAX would trace it where the caller is being traced.
        known = np.asarray(array)
        lowest, highest = int(known.min()), int(known.max())
        if lowest < 0 or highest > len(xs):
            raise ValueError(
                f"Range mismatch: expected lengths from 0 to {len(xs)}, got {lowest} to {highest}."
            )
    # Lengths that are traced cannot be refused; beyond the sequence they mean its end.
    return jnp.clip(array.astype(jnp.int32), 0, len(xs))


def checked_resets(resets: Any, xs: Array) -> Bool[Array, "time *batch"]:
    """Resets as a boolean array.

    Raises:
        ShapeError: a shape other than that of time and batch.
        TypeError: resets that are not boolean.
    """
    shape = jnp.shape(xs)[:-1]
    array = jnp.asarray(resets)
    if array.dtype != bool:
        raise TypeError(f"Type mismatch: expected resets as booleans, got {array.dtype.name}.")
    if array.shape != shape:
        raise ShapeError(
            f"Shape mismatch: expected resets {show_shape(shape)} beside xs "
            f"{show_shape(jnp.shape(xs))}, got {show_shape(array.shape)}."
        )
    return array


def marks_of(
    xs: Array,
    lengths: Int[Array, "*batch"] | None,
    resets: Any,
    truncate: int | None,
    *,
    reverse: bool,
) -> Marks:
    """The marks of a loop over ``xs``; backwards with lengths, those of the loop over what `turned` returns.

    Raises:
        ShapeError, TypeError, ValueError: resets or truncate that do not fit.
    """
    time = len(xs)
    steps = jnp.arange(time, dtype=jnp.int32).reshape(time, *[1] * (xs.ndim - 1))
    valid = None if lengths is None else steps < lengths[None, ..., None]
    reset = cut = None
    if resets is not None:
        reset = checked_resets(resets, xs)[..., None]
        # What stands in the padding is no beginning.
        reset = reset if valid is None else reset & valid
        if reverse:  # before the last step of the sequence before
            reset = jnp.concatenate([reset[1:], jnp.zeros_like(reset[:1])])
        if reverse and lengths is not None:
            reset = turned(lengths, reset)
    if truncate is not None:
        require_positive_int("truncate", truncate)
        done = time - 1 - steps if reverse and lengths is None else steps
        cut = (done % truncate == 0) & (done > 0)
        cut = cut if valid is None else cut & valid
    return Marks(valid, reset, cut)


def turned(lengths: Int[Array, "*batch"], sequence: Array) -> Array:
    """Each sequence from its last valid step to its first, padding where it was; its own inverse."""
    time = sequence.shape[0]
    steps = jnp.arange(time, dtype=lengths.dtype).reshape(time, *[1] * lengths.ndim)
    steps = jnp.where(steps < lengths[None], lengths[None] - 1 - steps, steps)
    steps = steps.reshape(*steps.shape, *[1] * (sequence.ndim - steps.ndim))
    return jnp.take_along_axis(sequence, steps, axis=0)
