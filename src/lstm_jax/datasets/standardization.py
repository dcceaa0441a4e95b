r"""Mean and standard deviation of each column, in one pass, without missing values (NaN).

    x̂ = (x − mean) / std

Parts of n_a and n_b values are joined by their means and sums of squares M (Chan, Golub & LeVeque 1979):

    δ = m_b − m_a,   m = m_a + δ n_b / n,   M = M_a + M_b + δ² n_a n_b / n,   std = √(M / n)
"""

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.validation import as_array, in_one_line, show_shape

PART = 2**20
"""Numbers that are read at once."""


class ConstantColumnsWarning(UserWarning):
    """Columns of one value only, or of none: there is no deviation to divide by."""


class Standardization(NamedTuple):
    """Mean and standard deviation of each column, of the training set; plain arrays, stored with a model.

    Attributes:
        mean: [D].
        std: [D]; 1 where a column is constant.
    """

    mean: Any
    std: Any

    def apply(self, xs: Any) -> Any:
        """Standardised values [..., D], of NumPy or JAX; missing ones stay NaN."""
        return (xs - _like(self.mean, xs)) / _like(self.std, xs)

    def undo(self, xs: Any) -> Any:
        """The values [..., D] from which ``xs`` were standardised."""
        return xs * _like(self.std, xs) + _like(self.mean, xs)


def standardization_of(xs: Any) -> Standardization:
    """Measure the columns of a training set, reading it once; never copied whole.

    Args:
        xs: an array [N, D], or a sequence of arrays [T, D] of different lengths; memory-mapped too. NaN is
            a missing value.

    Returns:
        `Standardization` in the dtype of ``xs``, float32 for whole numbers.

    Warns:
        ConstantColumnsWarning: naming the columns; their deviation is set to 1, so that they become 0.

    Raises:
        ValueError: no values at all, an infinite one, or sequences of different columns.
        TypeError: no arrays.

    Example:
        >>> import numpy as np
        >>> from lstm_jax.datasets import standardization_of
        >>> scale = standardization_of([np.array([[1.0], [np.nan]]), np.array([[3.0]])])
        >>> scale.mean.tolist(), scale.std.tolist(), scale.apply(np.array([[5.0]])).tolist()
        ([2.0], [1.0], [[3.0]])
    """
    total, columns, dtype = None, None, None
    for part in _parts(xs):
        columns = part.shape[1:] if columns is None else columns
        dtype = part.dtype if dtype is None else dtype
        if part.shape[1:] != columns:
            raise ValueError(
                f"Shape mismatch: expected columns {show_shape(columns)} in each sequence, got "
                f"{show_shape(part.shape[1:])}."
            )
        if np.isinf(part).any():
            raise ValueError(
                "Value mismatch: expected finite or missing values, got an infinite one."
            )
        measured = _measured(part.astype(np.float64))
        total = measured if total is None else _joined(total, measured)
    if total is None or not total.number.any():
        raise ValueError("Data mismatch: expected values to standardise by, got none.")
    constant = ~(total.least < total.most)
    if constant.any():
        named = [
            f"column {', '.join(map(str, at))}" if at else "the values"
            for at in np.argwhere(constant).tolist()
        ]
        warnings.warn(
            f"Constant columns: expected values that differ, got one value, or none, in "
            f"{'; '.join(named[:5])}{' and others' if len(named) > 5 else ''}. They become 0.",
            ConstantColumnsWarning,
            stacklevel=2,
        )
    std = np.where(constant, 1.0, np.sqrt(total.squares / np.maximum(total.number, 1)))
    dtype = dtype if np.issubdtype(dtype, np.floating) else np.dtype(np.float32)
    return Standardization(total.mean.astype(dtype), std.astype(dtype))


class _Measured(NamedTuple):
    number: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    least: np.ndarray
    most: np.ndarray


def _measured(part: np.ndarray) -> _Measured:
    there = ~np.isnan(part)
    count = there.sum(0)
    some = np.maximum(count, 1)
    mean = np.where(there, part, 0).sum(0) / some
    squares = (np.where(there, part - mean, 0) ** 2).sum(0)
    least, most = np.where(there, part, np.inf).min(0), np.where(there, part, -np.inf).max(0)
    return _Measured(count, mean, squares, least, most)


def _joined(a: _Measured, b: _Measured) -> _Measured:
    count = a.number + b.number
    some = np.maximum(count, 1)
    between = b.mean - a.mean
    return _Measured(
        count,
        a.mean + between * b.number / some,
        a.squares + b.squares + between**2 * a.number * b.number / some,
        np.minimum(a.least, b.least),
        np.maximum(a.most, b.most),
    )


def _parts(xs: Any) -> Iterator[np.ndarray]:
    if not hasattr(xs, "shape") and (isinstance(xs, str) or not hasattr(xs, "__iter__")):
        raise TypeError(
            f"Type mismatch: expected xs as an array or a list of arrays, got {in_one_line(xs)}."
        )
    for whole in [xs] if hasattr(xs, "shape") else xs:
        array = as_array("xs", whole)
        if not array.ndim or np.iscomplexobj(array):
            raise ValueError(
                "Shape mismatch: expected xs as real numbers [N, D], got "
                f"{array.dtype.name}{show_shape(array.shape)}."
            )
        rows = max(1, PART // max(1, int(np.prod(array.shape[1:]))))
        for start in range(0, array.shape[0], rows):
            yield np.asarray(array[start : start + rows])


def _like(column: Any, xs: Any) -> Any:
    """With the rank of ``xs``, so that no rank has to be promoted."""
    shape = np.shape(column)
    if np.shape(xs)[len(np.shape(xs)) - len(shape) :] != shape:
        raise ValueError(
            f"Shape mismatch: expected the last axes of xs {show_shape(shape)}, got "
            f"{show_shape(np.shape(xs))}."
        )
    return column.reshape((1,) * (len(np.shape(xs)) - len(shape)) + shape)
