r"""Horizon and decay rate of a curve of norms, and the lags at which curves are measured.

A curve is natural-log norms against the lag, log ‖P_{t,t−lag}‖, as `jacobian_norms` returns it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradient_flow.step_jacobians.checked_arguments import whole_numbers
from lstm_jax.array_types import Array, Float, Int
from lstm_jax.validation import (
    DtypeError,
    ShapeError,
    as_array,
    show_shape,
)


def decades_per_100(
    lags: Int[np.ndarray, "lags"],
    log_norms: Float[Array, "*axes lags"] | Float[np.ndarray, "*axes lags"],
) -> Float[np.ndarray, "*axes"]:
    """Decades lost per 100 steps: −100 times the least-squares slope of log10 ‖P‖ over the lags.

    Args:
        lags: in steps, at least two different ones.
        log_norms: natural logs; NaN and −∞ are ignored.

    Returns:
        One number for each curve; positive where the norm falls, 0 where it is constant, NaN with fewer than
        two finite points.

    Example:
        >>> import numpy as np
        >>> from gradient_flow import decades_per_100
        >>> lags = np.arange(50)
        >>> print(round(float(decades_per_100(lags, lags * np.log(0.9))), 4))
        4.5757
    """
    log_norms = _curves(lags, log_norms)
    finite = np.isfinite(log_norms)
    weights = finite.astype(np.float64)
    count = weights.sum(-1)
    x = np.broadcast_to(np.asarray(lags, np.float64), log_norms.shape)
    # From the first finite point on, so that a constant curve is exactly 0.
    first = np.take_along_axis(log_norms, finite.argmax(-1)[..., None], -1) if x.size else 0.0
    y = (np.where(finite, log_norms, 0.0) - np.where(finite, first, 0.0)) / np.log(10)
    with np.errstate(invalid="ignore", divide="ignore"):
        x = x - ((x * weights).sum(-1) / count)[..., None]
        slope = (weights * x * y).sum(-1) / (weights * x**2).sum(-1)
    # 0 − 0 is 0, where −0 would make the half-life of a constant curve −∞.
    return np.where(count >= 2, 0.0 - 100 * slope, np.nan)


def half_life(
    lags: Int[np.ndarray, "lags"],
    log_norms: Float[Array, "*axes lags"] | Float[np.ndarray, "*axes lags"],
) -> Float[np.ndarray, "*axes"]:
    """Steps in which a norm halves: log10 2 over the decades that it loses per step.

    From the slope of the whole curve, as in `decades_per_100`; ``horizon(..., factor=0.5)`` is the first
    halving alone.

    Args:
        lags: in steps, at least two different ones.
        log_norms: natural logs; NaN and −∞ are ignored.

    Returns:
        One number for each curve; ∞ where it is constant; negative where the norm grows: minus the steps in
        which it doubles.

    Example:
        >>> import numpy as np
        >>> from gradient_flow import half_life
        >>> lags = np.arange(50)
        >>> print(round(float(half_life(lags, lags * np.log(0.9))), 4))
        6.5788
    """
    with np.errstate(divide="ignore"):
        return np.asarray(100 * np.log10(2) / decades_per_100(lags, log_norms))


def horizon(
    lags: Int[np.ndarray, "lags"],
    log_norms: Float[Array, "*axes lags"] | Float[np.ndarray, "*axes lags"],
    factor: float = 1e-3,
) -> Float[np.ndarray, "*axes"]:
    """The lag at which a norm has fallen to ``factor`` of its size at lag 0, which is 1.

    Args:
        lags: in steps, rising.
        log_norms: natural logs.
        factor: between 0 and 1.

    Returns:
        One lag for each curve, interpolated between the given lags; ∞ where the curve never falls so far.

    Raises:
        ValueError: a factor that is not between 0 and 1.
        ShapeError: curves of another length than the lags.

    Example:
        >>> import numpy as np
        >>> from gradient_flow import horizon
        >>> lags = np.arange(200)
        >>> print(round(float(horizon(lags, lags * np.log(0.9))), 2))
        65.56
    """
    number = isinstance(factor, (int, float, np.number)) and not isinstance(factor, bool)
    if not number or not 0 < factor < 1:
        raise ValueError(f"Range mismatch: expected a factor between 0 and 1, got {factor!r}.")
    target = np.log(factor)
    curves = _curves(lags, log_norms)
    lags = np.asarray(lags, np.float64)
    flat = curves.reshape(-1, curves.shape[-1])
    found = np.full(len(flat), np.inf)
    for n, curve in enumerate(flat):
        below = np.flatnonzero(curve <= target)
        if not len(below):
            continue
        last = below[0]
        found[n] = lags[last]
        if last and np.isfinite(curve[last - 1 : last + 1]).all():
            share = (target - curve[last - 1]) / (curve[last] - curve[last - 1])
            found[n] = lags[last - 1] + share * (lags[last] - lags[last - 1])
    return found.reshape(curves.shape[:-1])


def lag_grid(lengths: tuple[int, ...]) -> list[int]:
    """The lags at which norms are taken: each up to 10, then some 25 a decade, and every length."""
    top = max(lengths)
    spaced = np.unique(np.round(np.geomspace(1, top, 1 + int(25 * max(np.log10(top), 1)))))
    chosen = {0, *range(1, min(top, 10) + 1), *spaced.astype(int).tolist(), *lengths}
    return sorted(int(lag) for lag in chosen)


def chosen_lags(lags: Sequence[int] | None, longest: int) -> list[int]:
    """The given lags, each from 0 to the longest; the lags of `lag_grid` if None.

    Raises:
        TypeError: not a list.
        ValueError: an empty list, or a lag that is not whole or out of range.
    """
    return lag_grid((longest,)) if lags is None else whole_numbers("lags", lags, 0, longest)


def _numbers(name: str, values: Any) -> np.ndarray:
    array = np.asarray(as_array(name, values))
    if array.dtype.kind == "c":
        raise DtypeError(f"Dtype mismatch: expected {name} as real numbers, got {array.dtype}.")
    return array.astype(np.float64)


def _curves(lags: np.ndarray, log_norms: Any) -> np.ndarray:
    lags, curves = _numbers("lags", lags), _numbers("log_norms", log_norms)
    if curves.shape[-1:] != np.shape(lags):
        raise ShapeError(
            f"Shape mismatch: expected curves of {np.size(lags)} lags, got "
            f"{show_shape(curves.shape)}."
        )
    return curves
