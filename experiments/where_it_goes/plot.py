"""The figure: paths by detours, gates kept, the terms of a step's gain, and credit beside attention's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradient_flow.measurements.step_gain import TERMS

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")
FLOOR = -40.0
"""Decades below which nothing is drawn."""


def draw(
    out: Path,
    arrays: Mapping[str, Mapping[str, np.ndarray]],
    numbers: Mapping[str, Any],
    beside: Mapping[str, np.ndarray],
) -> None:
    """Write ``where_it_goes.png``."""
    figure = Figure(figsize=(12, 13), layout="constrained")
    axes = figure.subplots(4, 2)
    for row, name in enumerate(("forget bias 1, untrained", "chrono, trained on adding")):
        _detours(axes[row, 0], name, arrays[name])
        _gates(axes[row, 1], name, arrays[name])
    _pushes(axes[2, 0], numbers)
    _parts(axes[2, 1], numbers)
    _credit(axes[3, 0], arrays, {})
    _credit(axes[3, 1], {}, beside)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(out / "where_it_goes.png", dpi=90)


def _limit(ax: Axes, curves: list[np.ndarray]) -> None:
    finite = np.concatenate([c[np.isfinite(c)] for c in curves])
    ax.set_ylim(max(FLOOR, finite.min()) - 0.5, finite.max() + 0.5)


def _detours(ax: Axes, name: str, found: Mapping[str, np.ndarray]) -> None:
    terms = found["detours"]
    for m in range(terms.shape[1]):
        more = m == terms.shape[1] - 1
        label, colour = ("more", "0.6") if more else (f"{m} detours", COLOURS[m])
        ax.plot(found["lags"], terms[:, m], color=colour, lw=2.5 if more else 1.2, label=label)
    ax.plot(found["lags"], found["whole"], "k--", lw=1.6, label="all together")
    _limit(ax, [found["whole"], terms[-1]])
    ax.set(title=f"∂C_t/∂C_k by detours: {name}", xlabel="lag", ylabel="log₁₀ norm")


def _gates(ax: Axes, name: str, found: Mapping[str, np.ndarray]) -> None:
    labels = ("none (h-detach)", "i alone", "f alone", "g alone", "o alone", "all gates")
    for n, label in enumerate(labels):
        style = "--" if n in (0, 5) else "-"
        ax.plot(found["lags"], found["kept"][n], style, color=COLOURS[n], lw=1.4, label=label)
    _limit(ax, list(found["kept"]))
    ax.set(title=f"…with the way through some gates: {name}", xlabel="lag", ylabel="log₁₀ norm")


def _pushes(ax: Axes, numbers: Mapping[str, Any]) -> None:
    names = list(numbers)
    at = np.arange(len(names))
    ax.barh(at, [numbers[n]["above_1"] for n in names], color="0.85", label="gain above 1")
    for k, term in enumerate(TERMS):
        ax.barh(
            at + 0.2 * (k - 1.5),
            [numbers[n]["pushes"][term] for n in names],
            height=0.16,
            color=COLOURS[k],
            label=f"not without {term.replace('_', ' ')}",
        )
    ax.set_yticks(at, names, fontsize=8)
    ax.set(title="steps at which dC_t/dC_{t−1} is above 1", xlabel="share of the steps")


def _parts(ax: Axes, numbers: Mapping[str, Any]) -> None:
    names = list(numbers)
    at, left = np.arange(len(names)), np.zeros(len(names))
    for k, term in enumerate(TERMS):
        width = np.array([numbers[n]["parts"][term] for n in names])
        ax.barh(at, width, left=left, color=COLOURS[k], label=term.replace("_", " "))
        left = left + width
    ax.axvline(1, color="k", lw=0.8)
    ax.set_yticks(at, names, fontsize=8)
    ax.set(title="what the gain of a step is made of", xlabel="mean gain")


def _credit(
    ax: Axes, arrays: Mapping[str, Mapping[str, np.ndarray]], beside: Mapping[str, np.ndarray]
) -> None:
    curves = {name: found["inputs"] for name, found in arrays.items()}
    curves |= {f"attention, {name}": curve for name, curve in beside.items()}
    for k, (name, curve) in enumerate(curves.items()):
        lags = np.arange(len(curve) - 1, -1, -1)
        ax.plot(lags, curve, color=COLOURS[k], lw=1, label=name)
    _limit(ax, list(curves.values()))
    ax.set(
        title="what an input still gets: ∂ℓ_T/∂x_k",
        xlabel="steps before the end",
        ylabel="log₁₀ norm",
    )
