"""Draw the figures of a comparison from its recorded numbers; only quantiles are computed here.

Colours are those of Okabe & Ito (2008), which colour-blind readers can distinguish; the lines differ in their
dashes too.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradient_flow.pictures.saved_figures import LN10, save_all
from gradient_flow.results_folder import OutputError
from lstm_jax.validation import AnyPath

matplotlib.use("Agg")
FLOAT32_END = float(np.log10(np.finfo(np.float32).tiny))

STYLES: dict[str, tuple[str, Any]] = {
    "rnn": ("#D55E00", "-"),
    "rnn_orthogonal": ("#E69F00", (0, (6, 2))),
    "lstm_0": ("#56B4E9", (0, (4, 1.5, 1, 1.5))),
    "lstm_1": ("#0072B2", "-"),
    "lstm_chrono": ("#009E73", (0, (8, 2))),
    "gru": ("#CC79A7", (0, (3, 1.2))),
}
# Each line is thinner than the one before, so that curves that coincide stay visible.
INSIDE: dict[str, tuple[str, Any, str]] = {
    "carousel": ("#009E73", "-", "carousel: product of forget gates"),
    "cc": ("#56B4E9", "-", r"cc: $\partial C_T/\partial C_k$, $h_k$ held"),
    "chain_c": (
        "#D55E00",
        (0, (4, 2)),
        r"chain_c: product of one-step $\partial C_{j+1}/\partial C_j$",
    ),
    "total_c": ("#000000", (0, (1, 2)), r"total_c: $dC_T/dC_k$, $h_k$ follows $C_k$"),
    "hh": ("#CC79A7", "-", r"hh: $\partial h_T/\partial h_k$"),
}
PICTURES = ("norm_against_lag", "pair_maps", "inside_lstm", "gates")
"""The names of the figures, in the order in which they are drawn."""
KINDS_OF_RESULTS = {"config": dict, "stages": list, "networks": dict, "inside": str, "lags": list}
"""What the figures need of ``results.json``."""
STAGES = {"untrained": "before training", "trained": "after training"}


def draw_all(
    folder: AnyPath, results: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> list[Path]:
    """Draw every figure of a comparison as PNG and SVG.

    Args:
        folder: for the figures.
        results: the content of ``results.json``.
        arrays: the content of ``arrays.npz``.

    Returns:
        The paths of the PNG files.
    """
    draws = (norm_against_lag, pair_maps, inside_lstm, gates)
    return save_all(
        folder,
        {name: partial(draw, results, arrays) for name, draw in zip(PICTURES, draws, strict=True)},
    )


def require_comparison(
    folder: Path, results: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Refuse numbers from which the figures cannot be drawn.

    Args:
        folder: of the run.
        results: the content of ``results.json``.
        arrays: the content of ``arrays.npz``.

    Raises:
        OutputError: the first name or array that is missing or of another kind or shape.
    """

    def need(fine: bool, expected: str, got: Any) -> None:
        if not fine:
            raise OutputError(f"Unreadable run: expected {expected} in {folder}, got {got}.")

    for name, kind in KINDS_OF_RESULTS.items():
        value = results.get(name)
        got = f"no {name}" if name not in results else f"a {type(value).__name__}"
        need(isinstance(value, kind) and bool(value), f"{name} of a comparison", got)
    lags, lengths = results["lags"], results["config"].get("lengths")
    for name, value in (("lags", lags), ("config.lengths", lengths)):
        whole = isinstance(value, list) and all(type(number) is int for number in value)
        need(whole and bool(value), f"{name} as whole numbers", repr(value)[:60])
    stages, names, inside = results["stages"], results["networks"], results["inside"]
    need(set(map(str, stages)) <= set(STAGES), f"stages among {', '.join(STAGES)}", stages)
    need(set(names) <= set(STYLES), f"networks among {', '.join(STYLES)}", ", ".join(names))
    need(inside in names, "the inside of one of its networks", repr(inside))
    curve = (None, len(set(lengths)), len(lags))
    wanted: dict[str, tuple[int | None, ...]] = {}
    for stage in stages:
        for name in names:
            wanted[f"{stage}/{name}/curve.hh"] = curve
            wanted[f"{stage}/{name}/autodiff"] = (None, max(lengths) + 1)
        wanted |= {f"{stage}/{inside}/curve.{block}": curve for block in INSIDE}
    last = stages[-1]
    wanted |= {f"{last}/{inside}/gate.{gate}": (None, None) for gate in "ifgo"}
    maps = [name for name in names if f"{last}/{name}/map.hh" in arrays]
    need(bool(maps), f"an array {last}/…/map.hh", "none")
    for name in maps:
        sizes: list[int] = []
        for axis in ("times", "starts"):
            wanted[f"{last}/{name}/map.{axis}"] = (None,)
            sizes.append(np.size(arrays.get(f"{last}/{name}/map.{axis}", ())))
        wanted[f"{last}/{name}/map.hh"] = tuple(sizes)
    for name, shape in wanted.items():
        need(name in arrays, f"an array {name}", "none")
        array = arrays[name]
        shown = f"[{', '.join('…' if size is None else str(size) for size in shape)}]"
        fine = array.ndim == len(shape) and array.dtype.kind in "fiu" and array.size > 0
        fine = fine and all(size in (None, n) for size, n in zip(shape, array.shape, strict=True))
        need(fine, f"numbers {shown} in {name}", f"{array.dtype.name}{list(array.shape)}")


def norm_against_lag(results: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Figure:
    """log10 ‖∂h_T/∂h_k‖ against the lag for every network, with plain autodiff beside it."""
    lags = np.asarray(results["lags"])
    length = max(results["config"]["lengths"])
    figure, ((*axes,),) = _stage_panels(results, height=5.4)
    for ax, stage in zip(axes, results["stages"], strict=True):
        for name, label in results["networks"].items():
            colour, dash = STYLES[name]
            _draw_band(ax, lags, arrays[f"{stage}/{name}/curve.hh"], colour, dash, label)
            _mark_end_of_autodiff(ax, arrays[f"{stage}/{name}/autodiff"], colour)
        ax.axhline(FLOAT32_END, color="0.45", linewidth=0.8)
        ax.set_xlim(0, length)
    axes[0].annotate(
        "smallest normal float32",
        (1, FLOAT32_END),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        color="0.35",
        fontsize=8,
    )
    axes[0].set_ylabel(
        r"$\log_{10}\,\Vert\partial h_T/\partial h_k\Vert$  (median, 10–90 % of samples)"
    )
    axes[0].set_ylim(bottom=_floor(arrays, results), top=5)
    handles, labels = axes[0].get_legend_handles_labels()
    handles.append(
        plt.Line2D([], [], color="0.2", linestyle=":", marker="X", markersize=7, linewidth=1.4)
    )
    labels.append("plain float32 autodiff,\n× where it becomes 0")
    # Beside the lines, in the order of their last points.
    ends = [arrays[f"{results['stages'][-1]}/{name}/curve.hh"] for name in results["networks"]]
    order = np.argsort([-np.median(curve[:, -1, -1]) for curve in ends]).tolist()
    order = [*order, len(handles) - 1]
    _legend_beside(figure, [handles[n] for n in order], [labels[n] for n in order])
    figure.suptitle(f"How far back a gradient reaches, T = {length}")
    return figure


def _mark_end_of_autodiff(ax: Axes, norms: np.ndarray, colour: str) -> None:
    with np.errstate(divide="ignore"):
        logs = np.median(np.log10(norms), axis=0)  # −inf where half of the samples are 0
    nonzero = np.flatnonzero(np.isfinite(logs))
    ax.plot(nonzero, logs[nonzero], color="0.15", linestyle=":", linewidth=1.3)
    if len(nonzero) < len(logs):
        ax.plot(
            nonzero[-1],
            logs[nonzero[-1]],
            marker="X",
            markersize=8,
            color=colour,
            markeredgecolor="0.15",
            zorder=5,
            clip_on=False,
        )


def _floor(arrays: Mapping[str, np.ndarray], results: Mapping[str, Any]) -> float:
    """The lower limit of the axis: the lowest median, but not so low that the other curves are illegible."""
    finals = [
        np.median(arrays[f"{stage}/{name}/curve.hh"][:, -1, -1]) / LN10
        for stage in results["stages"]
        for name in results["networks"]
    ]
    return float(max(min([*finals, FLOAT32_END - 10]) * 1.05, -160.0))


def pair_maps(results: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Figure:
    """‖∂h_t/∂h_k‖ over all pairs (t, k), RNN and LSTM side by side."""
    stage = results["stages"][-1]
    names = [name for name in results["networks"] if f"{stage}/{name}/map.hh" in arrays]
    figure, axes = plt.subplots(
        1, len(names), figsize=(11, 5.0), sharey=True, layout="constrained", squeeze=False
    )
    image: Any = None
    for ax, name in zip(axes[0], names, strict=True):
        logs = arrays[f"{stage}/{name}/map.hh"] / LN10
        times = arrays[f"{stage}/{name}/map.times"]
        starts = arrays[f"{stage}/{name}/map.starts"]
        every = int(times[1] - times[0]) if len(times) > 1 else 1
        image = ax.pcolormesh(
            _edges(starts, every),
            _edges(times, every),
            logs,
            cmap="viridis",
            vmin=-40,
            vmax=0,
            rasterized=True,
        )
        ax.set_title(results["networks"][name])
        ax.set_xlabel("k, the earlier step")
        ax.set_aspect("equal")
    axes[0][0].set_ylabel("t, the later step")
    figure.colorbar(
        image,
        ax=axes[0].tolist(),
        label=r"$\log_{10}\,\Vert\partial h_t/\partial h_k\Vert$",
        extend="both",
        shrink=0.85,
    )
    figure.suptitle(f"Jacobian norms over all pairs of steps, {STAGES[stage]}")
    return figure


def _edges(centres: np.ndarray, every: int) -> np.ndarray:
    return np.append(centres - every / 2, centres[-1] + every / 2)


def inside_lstm(results: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Figure:
    """The paths inside one LSTM against the lag, and their differences.

    Above, hh, cc, total_c, chain_c and carousel; below, all but the carousel as differences from cc, because
    some of them coincide above.
    """
    name, lags = results["inside"], np.asarray(results["lags"])
    figure, axes = _stage_panels(results, height=7.4, rows=2)
    for column, stage in enumerate(results["stages"]):
        above, below = axes[0][column], axes[1][column]
        reference = arrays[f"{stage}/{name}/curve.cc"]
        for n, (block, (colour, dash, label)) in enumerate(INSIDE.items()):
            curves = arrays[f"{stage}/{name}/curve.{block}"]
            _draw_band(above, lags, curves, colour, dash, label, width=7.0 - 1.3 * n)
            if block not in ("carousel", "cc"):
                _draw_band(
                    below, lags, curves - reference, colour, dash, label, width=4.5 - 0.8 * n
                )
        below.axhline(0, color=INSIDE["cc"][0], linewidth=1.8)
        below.set_title(coinciding_paths(results, arrays, stage), fontsize=9, loc="left")
        for ax in (above, below):
            ax.set_xlim(0, lags[-1])
    axes[0][0].set_ylabel(r"$\log_{10}$ norm  (median, 10–90 % of samples)")
    axes[1][0].set_ylabel("decades above cc")
    _legend_beside(figure, *axes[0][0].get_legend_handles_labels())
    figure.suptitle(f"Which path carries the gradient: {results['networks'][name]}")
    return figure


def coinciding_paths(
    results: Mapping[str, Any], arrays: Mapping[str, np.ndarray], stage: str
) -> str:
    """A sentence: which paths are within half a decade of each other over the whole length."""
    name = results["inside"]
    medians = {
        block: np.median(arrays[f"{stage}/{name}/curve.{block}"][:, -1], axis=0) / LN10
        for block in INSIDE
    }
    groups: list[list[str]] = []
    for block, curve in medians.items():
        for group in groups:
            if np.nanmax(np.abs(curve - medians[group[0]])) < NEAR:
                group.append(block)
                break
        else:
            groups.append([block])
    alike = [", ".join(group) for group in groups if len(group) > 1]
    if not alike:
        return f"No two paths stay within {NEAR:g} decades of each other."
    return f"Within {NEAR:g} decades of each other: {'; and '.join(alike)}."


NEAR = 0.5
"""Decades within which two curves cannot be told apart in the upper panels."""


def _legend_beside(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)


def _stage_panels(results: Mapping[str, Any], height: float, rows: int = 1) -> tuple[Figure, Any]:
    """One column of panels for each stage, on a common scale: axes[row][column]."""
    stages = results["stages"]
    figure, axes = plt.subplots(
        rows,
        len(stages),
        figsize=(3.6 + 4.2 * len(stages), height),
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for column, stage in enumerate(stages):
        axes[0][column].set_title(STAGES[stage].capitalize())
        axes[-1][column].set_xlabel(r"lag $T-k$ (steps)")
    return figure, axes


def _draw_band(
    ax: Axes,
    lags: np.ndarray,
    curves: np.ndarray,
    colour: str,
    dash: Any,
    label: str,
    width: float = 1.8,
) -> None:
    """Median and 10–90 % band of the curves back from the longest time, [samples, times, lags]."""
    logs = curves[:, -1] / LN10
    low, middle, high = np.quantile(logs, [0.1, 0.5, 0.9], axis=0)
    ax.fill_between(lags, low, high, color=colour, alpha=0.15, linewidth=0)
    ax.plot(lags, middle, color=colour, linestyle=dash, linewidth=width, label=label)


def gates(results: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Figure:
    """The activation of every unit's gates over the first steps of one sequence."""
    stage, name = results["stages"][-1], results["inside"]
    words = {"i": "input gate i", "f": "forget gate f", "g": "candidate g", "o": "output gate o"}
    order = np.argsort(-arrays[f"{stage}/{name}/gate.f"].mean(axis=0))
    figure, axes = plt.subplots(4, 1, figsize=(11, 8.4), sharex=True, layout="constrained")
    for ax, (gate, label) in zip(axes, words.items(), strict=True):
        values = arrays[f"{stage}/{name}/gate.{gate}"][:, order].T
        signed = gate == "g"
        image = ax.imshow(
            values,
            aspect="auto",
            interpolation="nearest",
            origin="upper",
            cmap="PuOr" if signed else "cividis",
            vmin=-1 if signed else 0,
            vmax=1,
            extent=(0.5, values.shape[1] + 0.5, values.shape[0] + 0.5, 0.5),
        )
        ax.set_ylabel("unit")
        ax.set_title(label, loc="left", fontsize=10)
        figure.colorbar(image, ax=ax, pad=0.01, ticks=[-1, 0, 1] if signed else [0, 0.5, 1])
    text = results.get("gate_text")
    steps = arrays[f"{stage}/{name}/gate.f"].shape[0]
    if text:
        shown = [{"\n": "↵", "\t": "→", " ": "␣"}.get(character, character) for character in text]
        axes[-1].set_xticks(range(1, steps + 1), shown[:steps], fontsize=8, family="monospace")
        axes[-1].tick_params(length=0)
        axes[-1].set_xlabel("character read")
    else:
        axes[-1].set_xlabel("step")
    figure.suptitle(
        f"Which units remember: {results['networks'][name]}, {STAGES[stage]}, "
        "units in order of their mean forget gate"
    )
    return figure
