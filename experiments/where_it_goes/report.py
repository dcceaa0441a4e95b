"""The tables with every number that the page quotes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.running import table
from gradient_flow.measurements.step_gain import TERMS


def report(
    arrays: Mapping[str, Mapping[str, np.ndarray]],
    numbers: Mapping[str, Any],
    beside: Mapping[str, np.ndarray],
) -> str:
    """Detours and gates at some lags, the gain of a step, and the credit of inputs."""
    return "\n\n".join((_detours(arrays), _gates(arrays), _gain(numbers), _credit(arrays, beside)))


def _at(found: Mapping[str, np.ndarray]) -> list[int]:
    last = int(found["lags"][-1])
    return [n for n, lag in enumerate(found["lags"]) if lag in (10, 100, last)]


def _shown(value: float) -> str:
    return "-" if np.isneginf(value) else f"{value:.1f}"


def _detours(arrays: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    rows = []
    for name, found in arrays.items():
        for n in _at(found):
            terms = [_shown(value) for value in found["detours"][n]]
            rows.append((name, str(found["lags"][n]), *terms, _shown(found["whole"][n])))
    count = next(iter(arrays.values()))["detours"].shape[1]
    header = ("network", "lag", *(f"m={m}" for m in range(count - 1)), "more", "together")
    return table("Decades of ∂C_t/∂C_k by the number of detours", header, rows)


def _gates(arrays: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    rows = [
        (name, str(found["lags"][n]), *(_shown(curve[n]) for curve in found["kept"]))
        for name, found in arrays.items()
        for n in _at(found)
    ]
    header = ("network", "lag", "none", "i", "f", "g", "o", "all")
    return table("Decades of ∂C_t/∂C_k with the way through these gates alone", header, rows)


def _gain(numbers: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            f"{100 * own['above_1']:.1f} %",
            *(f"{100 * own['pushes'][term]:.1f} %" for term in TERMS),
            f"{own['largest_gain']:.3f}",
            f"{own['largest_allowed']:.2f}",
        )
        for name, own in numbers.items()
    ]
    header = ("network", "above 1", *(t.replace("_", " ") for t in TERMS), "largest", "allowed")
    title = "Steps whose gain dC_t/dC_{t-1} is above 1, and which would not be without a term"
    return table(title, header, rows)


def _credit(
    arrays: Mapping[str, Mapping[str, np.ndarray]], beside: Mapping[str, np.ndarray]
) -> str:
    curves = {name: found["inputs"] for name, found in arrays.items()}
    curves |= {f"attention, {name}": curve for name, curve in beside.items()}
    rows = []
    for name, curve in curves.items():
        length = len(curve)
        spans = (curve[-10:], curve[length // 2 - 5 : length // 2 + 5], curve[:10])
        rows.append((name, *(_shown(float(np.median(span))) for span in spans)))
    header = ("network", "last ten steps", "ten in the middle", "first ten")
    return table("Decades of the gradient by an input, medians", header, rows)
