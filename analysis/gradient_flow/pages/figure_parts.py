"""The parts of a figure that one network at one stage has, out of its arrays: a builder for each figure.

Natural logs become log10, and as many numbers as a screen shows. See `figure_numbers` for what a part is.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from gradient_flow.pages.screen_numbers import (
    LN10,
    Limits,
    listed_numbers,
    packed,
    quantiles,
    significant,
    thinned,
)

Parts = list[dict[str, Any]]

BLOCKS = ("hh", "hc", "ch", "cc", "total_c", "chain_c", "carousel")
"""In the order in which their switches stand; others follow."""

MEMORY_GATES = ("f", "u")


class Misfit(ValueError):
    """An array of another shape than its name says."""


class Source(NamedTuple):
    """The arrays of one network at one stage, and what is known of all.

    Attributes:
        arrays: by what they are, ``curve.hh``.
        lags: of the curves; empty if unknown.
        limits: of the page.
        note: takes a sentence about what was left out.
    """

    arrays: Mapping[str, np.ndarray]
    lags: np.ndarray
    limits: Limits
    note: Callable[[str], None]

    def get(self, name: str, *shape: int | None) -> np.ndarray:
        """An array of a given shape, None standing for any size.

        Raises:
            Misfit: one that is missing, or of another shape.
        """
        if name not in self.arrays:
            raise Misfit(f"expected {name} beside it, got none")
        array = self.arrays[name]
        fits = array.ndim == len(shape) and array.size > 0
        if not fits or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
            wanted = ", ".join("…" if n is None else str(n) for n in shape)
            raise Misfit(f"expected {name} [{wanted}], got {list(array.shape)}")
        return array.astype(np.float64)

    def named(self, prefix: str) -> list[str]:
        """What follows the prefix in the names that begin with it."""
        return [name[len(prefix) :] for name in self.arrays if name.startswith(prefix)]


def _curves(source: Source) -> Parts:
    names = source.named("curve.")
    names.sort(key=lambda block: BLOCKS.index(block) if block in BLOCKS else len(BLOCKS))
    parts = []
    for block in names:
        curve, lags = median_band(source, block)
        at = thinned(len(lags), source.limits.points)
        if len(at) < len(lags):
            source.note(f"{len(at)} of {len(lags)} lags are drawn.")
        low, middle, high = (listed_numbers(one[at]) for one in curve)
        part = {"block": block, "lags": lags[at].tolist(), "middle": middle}
        if low != high:
            part |= {"low": low, "high": high}
        parts.append(part)
    return parts


def median_band(
    source: Source, block: str
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """The quantiles in log10 and the lags of a curve; of a comparison, from its longest time."""
    name = f"curve.{block}"
    if not source.lags.size:
        raise Misfit(f"expected the lags of {name} in results.json, got none")
    whole = source.arrays[name].ndim == 3
    curve = source.get(name, *(None, None, len(source.lags))[0 if whole else 1 :])
    return quantiles((curve[:, -1] if whole else curve) / LN10), source.lags


def _autodiff(source: Source) -> Parts:
    if "autodiff" not in source.arrays:
        return []
    norms = source.get("autodiff", None, None)
    # Half of the samples at 0 count as 0.
    middle = quantiles(norms)[1]
    zero = np.flatnonzero((norms == 0).mean(axis=0) >= 0.5)
    middle[zero] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log10(middle)
    at = thinned(len(logs), source.limits.points)
    if len(at) < len(logs):
        source.note(f"{len(at)} of {len(logs)} lags are drawn.")
    first = int(zero[0]) if len(zero) else None
    return [{"lags": at.tolist(), "log10": listed_numbers(logs[at]), "zero_from": first}]


def _maps(source: Source) -> Parts:
    parts = []
    for block in source.named("map."):
        if block in ("times", "starts"):
            continue
        times, starts = source.get("map.times", None), source.get("map.starts", None)
        logs = source.get(f"map.{block}", len(times), len(starts)) / LN10
        rows, columns = (thinned(len(one), source.limits.side) for one in (times, starts))
        if len(rows) < len(times) or len(columns) < len(starts):
            source.note(f"{len(rows)} × {len(columns)} of {len(times)} × {len(starts)} pairs.")
        parts.append(
            {
                "block": block,
                "times": listed_numbers(times[rows]),
                "starts": listed_numbers(starts[columns]),
                "log10": packed(logs[np.ix_(rows, columns)]),
            }
        )
    return parts


def _detours(source: Source) -> Parts:
    parts = []
    for block in source.named("detours."):
        if block == "lags":
            continue
        lags = source.get("detours.lags", None)
        logs = source.get(f"detours.{block}", None, len(lags)) / LN10
        at = thinned(len(lags), source.limits.points)
        parts.append(
            {
                "block": block,
                "lags": listed_numbers(lags[at]),
                "terms": listed_numbers(logs[:, at]),
                "whole": _first_sample(source, block),
            }
        )
    return parts


def _first_sample(source: Source, block: str) -> dict[str, Any] | None:
    """The curve of all paths together of the sample whose paths are sorted; None where there is none."""
    if f"curve.{block}" not in source.arrays or not source.lags.size:
        return None
    if source.arrays[f"curve.{block}"].ndim != 2:
        return None
    curve = source.get(f"curve.{block}", None, len(source.lags))[0] / LN10
    at = thinned(len(curve), source.limits.points)
    return {"lags": source.lags[at].tolist(), "log10": listed_numbers(curve[at])}


def _gate_paths(source: Source) -> Parts:
    kept = [name for name in source.named("gate_paths.") if name != "lags"]
    if not kept:
        return []
    lags = source.get("gate_paths.lags", None)
    at = thinned(len(lags), source.limits.points)
    curves = {
        name: listed_numbers(source.get(f"gate_paths.{name}", len(lags))[at] / LN10)
        for name in kept
    }
    return [{"lags": listed_numbers(lags[at]), "curves": curves}]


def _gates(source: Source) -> Parts:
    names = [name for name in source.named("gate.")]
    if not names:
        return []
    first = source.get(f"gate.{names[0]}", None, None)
    steps, units = first.shape
    memory = next((gate for gate in MEMORY_GATES if gate in names), None)
    if "time_constant" in source.arrays:
        constants, how = source.get("time_constant", units), "over the whole run"
    elif memory is not None:
        with np.errstate(divide="ignore"):
            constants = 1 / (1 - source.get(f"gate.{memory}", steps, units).mean(axis=0))
        how = f"from the mean of gate {memory} over the steps shown"
    else:
        constants, how = np.full(units, np.nan), ""
    order = np.argsort(-np.nan_to_num(constants, nan=-np.inf, posinf=np.inf), kind="stable")
    order = order[thinned(units, source.limits.units)]
    shown = min(steps, source.limits.steps)
    if len(order) < units:
        source.note(f"{len(order)} of {units} units are shown.")
    if shown < steps:
        source.note(f"The first {shown} of {steps} steps are shown.")
    gates = {
        name: packed(source.get(f"gate.{name}", steps, units)[:shown][:, order].T) for name in names
    }
    return [
        {
            "units": order.tolist(),
            "constants": significant(constants[order], 4),
            "how": how,
            "gates": gates,
        }
    ]


def _spectra(source: Source) -> Parts:
    if "spectrum" not in source.arrays:
        return []
    lags = source.get("spectrum.lags", None)
    logs = source.get("spectrum", len(lags), None) / LN10
    rows, values = (
        thinned(len(lags), source.limits.spectra),
        thinned(logs.shape[1], source.limits.units),
    )
    if len(values) < logs.shape[1]:
        source.note(f"{len(values)} of {logs.shape[1]} singular values are drawn.")
    return [
        {
            "lags": listed_numbers(lags[rows]),
            "numbers": (values + 1).tolist(),
            "log10": packed(logs[np.ix_(rows, values)]),
            "survivors": (logs[rows] >= -3).sum(axis=1).tolist(),
            "count": logs.shape[1],
        }
    ]


def _credit(source: Source) -> Parts:
    if "credit" not in source.arrays:
        return []
    logs = source.get("credit", None) / LN10
    first = max(0, len(logs) - source.limits.credit_steps)
    if first:
        source.note(f"The last {len(logs) - first} of {len(logs)} steps are shown.")
    return [{"first": first + 1, "log10": listed_numbers(logs[first:], 2)}]


CELL = (
    *(f"{kind}{gate}" for kind in ("", "z_") for gate in "ifgo"),
    *("c", "c_before", "h", "tanh_c", "d_h", "d_c"),
    *(f"d_z_{gate}" for gate in "ifgo"),
)
"""What the picture of one step needs of an LSTM."""


def _cells(source: Source) -> Parts:
    if not source.named("cell."):
        return []
    steps, units = source.get("cell.steps", None), source.get("cell.units", None)
    values = {name: source.get(f"cell.{name}", len(steps), len(units)) for name in CELL}
    # What comes from later steps is a difference, which rounding leaves where there are none.
    with np.errstate(invalid="ignore"):
        from_h = values["d_h"] * values["o"] * (1 - values["tanh_c"] ** 2)
        later = values["d_c"] - from_h
    values["d_c_later"] = np.where(np.abs(later) < 1e-6 * np.abs(from_h), 0.0, later)
    rows = slice(max(0, len(steps) - source.limits.steps), None)
    columns = slice(0, source.limits.cell_units)
    if len(steps) > source.limits.steps:
        source.note(f"The last {source.limits.steps} of {len(steps)} steps are shown.")
    if len(units) > source.limits.cell_units:
        source.note(f"{source.limits.cell_units} of {len(units)} units are shown.")
    return [
        {
            "steps": listed_numbers(steps[rows], 0),
            "units": listed_numbers(units[columns], 0),
            "values": {name: significant(one[rows, columns], 4) for name, one in values.items()},
        }
    ]


BUILDERS: dict[str, Callable[[Source], Parts]] = {
    "curves": _curves,
    "autodiff": _autodiff,
    "maps": _maps,
    "detours": _detours,
    "gate_paths": _gate_paths,
    "gates": _gates,
    "spectra": _spectra,
    "credit": _credit,
    "cells": _cells,
}
