"""Sequences of different lengths side by side, padded with zeros; what is missing becomes zero and is masked.

Axes: T steps, B sequences, time first.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.datasets.standardization import Standardization
from lstm_jax.validation import (
    ShapeError,
    as_array,
    in_one_line,
    require_array,
    require_bool,
    require_positive_int,
    require_type,
    show_shape,
)


class SequenceBatch(NamedTuple):
    """Sequences of a batch, and what of them is there.

    A mean over what counts is ``Mean(jnp.where(batch.counted, error, 0).sum(), batch.counted.sum())``.

    Attributes:
        xs: inputs [T, B, ...], zeros past a sequence's length and where a value is missing.
        lengths: steps of each sequence, [B].
        observed: whether a value of ``xs`` is there, bool [T, B, ...].
        targets: one for each sequence, [B, ...], or for each step, [T, B, ...]; zeros where one is missing.
            None without targets.
        counted: whether a number of ``targets`` is there, bool of the same shape.
    """

    xs: Any
    lengths: Any
    observed: Any
    targets: Any = None
    counted: Any = None


def padded(
    xs: Sequence[Any],
    targets: Sequence[Any] | np.ndarray | None = None,
    *,
    per_step: bool = False,
    length: int | None = None,
    standardization: Standardization | None = None,
) -> SequenceBatch:
    """Put sequences side by side.

    Args:
        xs: B arrays [T_b, ...]; NaN is a missing value.
        targets: one for each sequence, [B, ...], or B arrays [T_b, ...] with one for each step.
        per_step: whether the targets are for each step.
        length: to which they are padded; the longest of them if None.
        standardization: applied to the inputs.

    Returns:
        `SequenceBatch` of NumPy arrays.

    Raises:
        ShapeError: sequences of different columns, longer than ``length``, or not as long as their targets.
        TypeError: no arrays.

    Example:
        >>> import numpy as np
        >>> from lstm_jax.datasets import padded
        >>> batch = padded([np.array([1.0, np.nan]), np.array([2.0])], targets=[0, 1])
        >>> batch.xs.T.tolist(), batch.observed.T.tolist(), batch.lengths.tolist()
        ([[1.0, 0.0], [2.0, 0.0]], [[True, False], [True, False]], [2, 1])
    """
    if standardization is not None:
        require_type("standardization", standardization, Standardization)
    require_list("xs", "sequences", xs)
    require_bool("per_step", per_step)
    if length is not None:
        require_positive_int("length", length)
    arrays = [as_sequence(x) for x in xs]
    lengths = np.array([len(x) for x in arrays], np.int32)
    steps = int(lengths.max(initial=0)) if length is None else length
    if lengths.max(initial=0) > steps:
        raise ShapeError(
            f"Length mismatch: expected sequences of at most {steps} steps, got {lengths.max()}."
        )
    if standardization is not None:
        # It may come out of a run, as arrays of JAX.
        scale = Standardization(*map(np.asarray, standardization))
        arrays = [scale.apply(x) for x in arrays]
    inputs, observed = _side_by_side("xs", arrays, steps)
    if targets is None:
        return SequenceBatch(inputs, lengths, observed)
    require_list("targets", "numbers or arrays", targets)
    if len(targets) != len(arrays):
        raise ShapeError(
            f"Size mismatch: expected targets for {len(arrays)} sequences, got {len(targets)}."
        )
    if per_step:
        each = [as_sequence(target) for target in targets]
        for n, (x, target) in enumerate(zip(arrays, each, strict=True)):
            if len(x) != len(target):
                raise ShapeError(
                    f"Length mismatch: expected {len(x)} targets for the steps of sequence {n}, got "
                    f"{len(target)}."
                )
        found, counted = _side_by_side("targets", each, steps)
    else:
        found = np.asarray(as_array("targets", list(targets)))
        found, counted = _filled(found)
    return SequenceBatch(inputs, lengths, observed, found, counted)


def as_sequence(x: Any) -> np.ndarray:
    """A sequence as an array of at least one axis, of NumPy; what lies in a file stays there."""
    array = x if isinstance(x, np.ndarray) else np.asarray(as_array("a sequence", x))
    require_array("a sequence", array)
    if not array.ndim:
        raise ShapeError("Shape mismatch: expected a sequence [T, ...], got [].")
    return array


def require_list(name: str, what: str, values: Any) -> None:
    """Refuse anything but a list, an array or the like of at least one element.

    Raises:
        TypeError, ValueError: with what came.
    """
    listed = hasattr(values, "__len__") and hasattr(values, "__getitem__")
    if (
        not listed
        or isinstance(values, (str, bytes, Mapping))
        or (hasattr(values, "ndim") and not values.ndim)
    ):
        raise TypeError(
            f"Type mismatch: expected {name} as a list of {what}, got {in_one_line(values)}."
        )
    if not len(values):
        raise ValueError(f"Size mismatch: expected at least one of {name}, got none.")


def _side_by_side(name: str, arrays: list[Any], steps: int) -> tuple[np.ndarray, np.ndarray]:
    columns, dtype = arrays[0].shape[1:], arrays[0].dtype
    whole = np.zeros((steps, len(arrays), *columns), dtype)
    there = np.zeros(whole.shape, bool)
    for b, array in enumerate(arrays):
        if array.shape[1:] != columns or array.dtype != dtype:
            raise ShapeError(
                f"Shape mismatch: expected {name} as {dtype.name}{show_shape(('T', *columns))} in each "
                f"sequence, got {array.dtype.name}{show_shape(array.shape)}."
            )
        whole[: len(array), b], there[: len(array), b] = _filled(array)
    return whole, there


def _filled(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Zeros in place of NaN, and where there was none."""
    if not np.issubdtype(array.dtype, np.inexact):
        return array, np.ones(array.shape, bool)
    there = ~np.isnan(array)
    return np.where(there, array, np.zeros((), array.dtype)), there
