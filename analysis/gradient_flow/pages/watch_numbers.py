"""The numbers of a watched training run: each look's curves, horizons and gates, layer by layer."""

from typing import Any

import numpy as np

from gradient_flow.measurements.training_watch import WatchRecords
from gradient_flow.pages.screen_numbers import (
    LN10,
    Limits,
    listed_numbers,
    packed,
    quantile,
    significant,
    thinned,
)


def watch_figure(
    watch: WatchRecords, losses: np.ndarray, limits: Limits, problems: list[str]
) -> dict[str, Any]:
    """The figure over training.

    Args:
        watch: the records.
        losses: training steps and losses, [entries, 2].
        limits: how many numbers the figure holds.
        problems: takes a sentence for each array that does not fit.

    Returns:
        Its numbers: ``steps`` of the looks, ``lags``, and lists of ``curves`` and ``horizons`` by layer and
        block, of ``gates`` by layer and gate; norms as log10.
    """
    looks = thinned(len(watch.steps), limits.looks)
    arrays = {name: array[looks] for name, array in watch.arrays.items()}
    found: dict[str, Any] = {
        "steps": watch.steps[looks].tolist(),
        "of": len(watch.steps),
        "lags": [],
        "curves": [],
        "horizons": [],
        "gates": [],
        "losses": significant(losses[thinned(len(losses), limits.points)]),
    }
    lags = arrays.get("lags", np.zeros((0, 0)))
    every = thinned(lags.shape[1] if lags.ndim == 2 else 0, limits.points // 2)
    if not every.size or np.ptp(lags, axis=0).any():
        problems.append("lags: expected the same lags in each record, got others.")
        every = every[:0]
    else:
        found["lags"] = listed_numbers(lags[0][every])
    for name, array in arrays.items():
        layer, _, rest = name.partition(".")
        kind, _, what = rest.partition(".")
        if array.dtype.kind not in "fiu":
            problems.append(f"{name}: expected numbers, got {array.dtype.name}.")
        elif kind == "curve" and array.ndim in (2, 3) and array.shape[-1:] == lags.shape[-1:]:
            if every.size:
                logs = _median(array, 2)[:, every] / LN10
                found["curves"].append({"layer": layer, "block": what, "log10": packed(logs)})
        elif kind == "horizon" and array.ndim in (1, 2):
            horizons = significant(_median(array, 1), 4)
            found["horizons"].append({"layer": layer, "block": what, "steps": horizons})
        elif kind == "gate" and what.endswith(".quantiles") and array.ndim == 2:
            gate = what.removesuffix(".quantiles")
            found["gates"].append({"layer": layer, "gate": gate, "quantiles": packed(array)})
        elif kind == "curve":
            problems.append(f"{name}: expected […, {lags.shape[-1]}], got {list(array.shape[1:])}.")
    return found


def _median(array: np.ndarray, ndim: int) -> np.ndarray:
    """The median over the samples, if there are samples."""
    return array if array.ndim == ndim else quantile(np.moveaxis(array, 1, 0), 0.5)
