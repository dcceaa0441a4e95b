"""The tables with every number that the page quotes, made from what ``results.json`` keeps.

Each number is the median of the seeds, with the lowest and the highest where there are several.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.running import table
from gradient_flow.measurements.step_gain import TERMS

NOTHING = -1e9
"""Stands for a gradient that is exactly 0, which JSON has no decades for."""

Seeds = Sequence[Mapping[str, Any]]


def kept_numbers(found: Mapping[str, np.ndarray], gain: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of one network of one seed: curves at three lags, and the numbers of its steps.

    Args:
        found: ``lags``, ``detours``, ``whole``, ``kept``, ``inputs`` in decades.
        gain: the numbers of `gradient_flow.step_gain`.
    """
    last = int(found["lags"][-1])
    at = [n for n, lag in enumerate(found["lags"]) if lag in (10, 100, last)]
    return {
        "lags": [int(found["lags"][n]) for n in at],
        "detours": [_short(found["detours"][n]) for n in at],
        "whole": _short(found["whole"][at]),
        "kept": [_short(curve[at]) for curve in found["kept"]],
        "inputs": spans(found["inputs"]),
        **gain,
    }


def spans(curve: np.ndarray) -> list[float]:
    """Medians of the last ten inputs, ten in the middle and the first ten."""
    half = len(curve) // 2
    return _short(
        [np.median(part) for part in (curve[-10:], curve[half - 5 : half + 5], curve[:10])]
    )


def _short(values: Any) -> list[float]:
    return [float(f"{value:.5g}") if np.isfinite(value) else NOTHING for value in values]


def report(numbers: Mapping[str, Seeds], beside: Mapping[str, Seeds]) -> str:
    """Detours and gates at some lags, the gain of a step, and the credit of inputs.

    Args:
        numbers: what `kept_numbers` keeps, of each network and seed.
        beside: `spans` of attention, of each stage and seed.
    """
    return "\n\n".join(
        (_detours(numbers), _gates(numbers), _gain(numbers), _credit(numbers, beside))
    )


def shown(values: Sequence[float], form: str = "{:.1f}") -> str:
    """Median and extremes: ``-5.4 (-7.1 … -3.9)``; a dash for nothing at all."""

    def one(value: float) -> str:
        return "-" if value <= NOTHING / 2 else form.format(value)

    middle = one(float(np.median(values)))
    return middle if len(values) == 1 else f"{middle} ({one(min(values))} … {one(max(values))})"


def _detours(numbers: Mapping[str, Seeds]) -> str:
    rows = []
    for name, seeds in numbers.items():
        for n, lag in enumerate(seeds[0]["lags"]):
            terms = zip(*(seed["detours"][n] for seed in seeds), strict=True)
            whole = shown([seed["whole"][n] for seed in seeds])
            rows.append((name, str(lag), *map(shown, terms), whole))
    count = len(rows[0]) - 3
    header = ("network", "lag", *(f"m={m}" for m in range(count - 1)), "more", "together")
    return table("Decades of ∂C_t/∂C_k by the number of detours", header, rows)


def _gates(numbers: Mapping[str, Seeds]) -> str:
    rows = [
        (
            name,
            str(lag),
            *(
                shown([seed["kept"][gate][n] for seed in seeds])
                for gate in range(len(seeds[0]["kept"]))
            ),
        )
        for name, seeds in numbers.items()
        for n, lag in enumerate(seeds[0]["lags"])
    ]
    header = ("network", "lag", "none", "i", "f", "g", "o", "all")
    return table("Decades of ∂C_t/∂C_k with the way through these gates alone", header, rows)


def _gain(numbers: Mapping[str, Seeds]) -> str:
    rows = [
        (
            name,
            shown([100 * seed["above_1"] for seed in seeds]),
            *(shown([100 * seed["pushes"][term] for seed in seeds]) for term in TERMS),
            shown([seed["largest_gain"] for seed in seeds], "{:.2f}"),
            shown([seed["largest_allowed"] for seed in seeds], "{:.2f}"),
        )
        for name, seeds in numbers.items()
    ]
    header = ("network", "above 1", *(t.replace("_", " ") for t in TERMS), "largest", "allowed")
    title = "Steps in % whose gain dC_t/dC_{t-1} is above 1, and which would not be without a term"
    return table(title, header, rows)


def _credit(numbers: Mapping[str, Seeds], beside: Mapping[str, Seeds]) -> str:
    curves = {name: [seed["inputs"] for seed in seeds] for name, seeds in numbers.items()}
    curves |= {f"attention, {name}": list(seeds) for name, seeds in beside.items()}
    rows = [
        (name, *(shown([seed[part] for seed in seeds]) for part in range(3)))
        for name, seeds in curves.items()
    ]
    header = ("network", "last ten steps", "ten in the middle", "first ten")
    return table("Decades of the gradient by an input, medians", header, rows)
