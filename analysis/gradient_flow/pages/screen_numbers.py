"""Arrays as a screen shows them: few enough numbers, with few enough digits, as JSON can hold them.

A number that is not finite becomes a text, ``"-inf"``, ``"inf"`` or ``"nan"``, as in the files of a run.
"""

from typing import Any, NamedTuple

import numpy as np

LN10 = float(np.log(10))


class Limits(NamedTuple):
    """How many numbers a figure holds at most.

    Attributes:
        points: of a curve.
        side: of a map.
        steps: over time, of gates and of the cell.
        units: whose gates are shown.
        cell_units: whose cell is drawn.
        spectra: lags at which singular values are shown.
        credit_steps: steps of the credit over the input.
        looks: curves over training.
        networks: networks and layers.
    """

    points: int = 400
    side: int = 150
    steps: int = 240
    units: int = 128
    cell_units: int = 8
    spectra: int = 60
    credit_steps: int = 2000
    looks: int = 120
    networks: int = 32

    def fewer(self) -> "Limits":
        """Three quarters of each, for a run with more numbers than a page can hold."""
        return Limits(*(max(4, limit * 3 // 4) for limit in self))


def thinned(count: int, most: int) -> np.ndarray:
    """Evenly spaced indices, first and last among them: all of ``count``, or ``most``.

    Example:
        >>> thinned(5, 9).tolist(), thinned(9, 3).tolist()
        ([0, 1, 2, 3, 4], [0, 4, 8])
    """
    if count <= most:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, most).round().astype(int))


def listed_numbers(values: Any, digits: int = 3) -> Any:
    """Nested lists of rounded numbers.

    Example:
        >>> listed_numbers(np.array([0.12345, -np.inf]))
        [0.123, '-inf']
    """
    array = np.asarray(values, np.float64)
    with np.errstate(invalid="ignore"):
        rounded = np.round(array, digits) + 0.0  # No −0.
    if np.isfinite(rounded).all():
        return rounded.tolist()
    return _named(rounded.tolist())


def _named(values: Any) -> Any:
    if isinstance(values, list):
        return [_named(value) for value in values]
    return values if np.isfinite(values) else str(values)


def packed(values: Any, per: int = 100) -> dict[str, Any]:
    """Whole numbers of hundredths (or of 1/``per``), a third shorter than decimals.

    Example:
        >>> packed(np.array([[0.5, -0.124]]))
        {'per': 100, 'values': [[50, -12]]}
    """
    array = np.asarray(values, np.float64) * per
    if np.isfinite(array).all():
        return {"per": per, "values": array.round().astype(np.int64).tolist()}
    return {"per": per, "values": _whole(array.round().tolist())}


def _whole(values: Any) -> Any:
    if isinstance(values, list):
        return [_whole(value) for value in values]
    return int(values) if np.isfinite(values) else str(values)


def significant(values: Any, digits: int = 5) -> Any:
    """Nested lists of numbers with so many significant digits, whatever their power of ten.

    Example:
        >>> significant(np.array([1.23456789e-30, 0.0]))
        [1.2346e-30, 0.0]
    """
    array = np.asarray(values, np.float64)
    if array.ndim:
        return [significant(row, digits) for row in array]
    return float(f"{array:.{digits - 1}e}") if np.isfinite(array) else str(float(array))


def quantiles(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The 10, 50 and 90 % quantiles over the first axis; −∞ between samples stays −∞."""
    low, middle, high = (quantile(curves, share) for share in (0.1, 0.5, 0.9))
    return low, middle, high


def quantile(curves: np.ndarray, share: float) -> np.ndarray:
    """One quantile over the first axis."""
    with np.errstate(invalid="ignore"):
        found = np.quantile(curves, share, axis=0)
    between = np.isnan(found) & ~np.isnan(curves).any(axis=0)
    if between.any():
        found = np.where(between, np.quantile(curves, share, axis=0, method="lower"), found)
    return found
