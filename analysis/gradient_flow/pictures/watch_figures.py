"""Draw the figures of a training run from the records of `gradient_flow.flow_watch`.

Colours are those of Okabe & Ito (2008), and cividis for the training step: colour-blind readers can
distinguish both. Lines that share a panel differ in their dashes and markers too.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from gradient_flow.measurements.training_watch import (
    CLOSED,
    OPEN,
    QUANTILES,
    WatchRecords,
    read_watch,
)
from gradient_flow.pictures.comparison_figures import plt
from gradient_flow.pictures.loss_figures import losses_of
from gradient_flow.pictures.saved_figures import LN10, save_all
from gradient_flow.results_folder import OutputError
from lstm_jax.validation import AnyPath

MOST_CURVES = 40
LEAST_LOG10 = -160.0
BLUE, ORANGE, GREEN, VERMILLION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
LAYERS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE)
DASHES: tuple[tuple[Any, str], ...] = (("-", "o"), ((0, (5, 2)), "s"), ((0, (1, 1.5)), "D"))
BLOCKS = {
    "hh": r"\partial h_T/\partial h_k",
    "hc": r"\partial h_T/\partial C_k",
    "ch": r"\partial C_T/\partial h_k",
    "cc": r"\partial C_T/\partial C_k",
}
GATES = {
    "i": "input gate i",
    "f": "forget gate f",
    "g": "candidate g",
    "o": "output gate o",
    "r": "reset gate r",
    "u": "update gate u",
    "n": "candidate n",
    "slope": "slope φ′",
}


def draw_watch(
    folder: AnyPath, log: Sequence[Mapping[str, Any]] | None = None, out: AnyPath | None = None
) -> list[Path]:
    """Draw the records of a watch: curves by training step, the horizon above the loss, the gates.

    Args:
        folder: of the records, ``run/flow``.
        log: of the run, from `lstm_jax.training.read_log`; without it no loss is drawn.
        out: for the figures; ``folder`` if None.

    Returns:
        The paths of the PNG files; each has an SVG beside it.

    Raises:
        OutputError: records that cannot be read or are not of a `flow_watch`, or a folder that cannot be
            written.
    """
    records, folder = read_watch(folder), Path(folder)
    curves = _names_of(records, "curve")
    if not curves or "lags" not in records.arrays or np.ptp(records.arrays["lags"], axis=0).any():
        raise OutputError(
            f"Unknown records: expected those of a flow_watch with the same lags throughout in {folder}, "
            f"got {', '.join(sorted(records.arrays)[:4]) if not curves else 'other lags'}."
        )
    _require_whole(folder, records)
    figures = {
        "norms_over_training": partial(norms_over_training, records),
        "horizon_over_training": partial(horizon_over_training, records, log),
        "gates_over_training": partial(gates_over_training, records),
    }
    out = folder if out is None else Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        return save_all(out, figures)
    except OSError as error:
        raise OutputError(
            f"Unwritable folder: expected to write into {out}, got: {error.strerror}."
        ) from None


def _require_whole(folder: Path, records: WatchRecords) -> None:
    """Refuse records from which the figures cannot be drawn.

    Raises:
        OutputError: the first array that is missing or of another kind or shape.
    """
    arrays, looks, lags = records.arrays, len(records.steps), records.arrays["lags"]
    wanted: dict[str, tuple[int, ...]] = {}
    if lags.ndim != 2 or not lags.size:
        wanted["lags"] = (looks, 1)
    for layer, block in _names_of(records, "curve"):
        curve = arrays[f"{layer}.curve.{block}"]
        samples = curve.shape[1:2] if curve.ndim > 2 else ()
        wanted[f"{layer}.curve.{block}"] = (looks, *samples, *lags.shape[1:])
        wanted[f"{layer}.horizon.{block}"] = (looks, *samples)
    gates = [
        f"{layer}.gate.{name.removesuffix('.mean')}"
        for layer, name in _names_of(records, "gate")
        if name.endswith(".mean")
    ]
    for gate in gates or ["0.gate.f"]:
        ends = ("saturated",) if f"{gate}.saturated" in arrays else ("open", "closed")
        wanted |= {f"{gate}.{name}": (looks,) for name in ("mean", *ends)}
        wanted[f"{gate}.quantiles"] = (looks, len(QUANTILES))
    for name, found in arrays.items():
        if name.endswith(".time_constants"):
            wanted[name] = (looks, len(QUANTILES))
        if found.dtype.kind not in "fiu":
            raise OutputError(
                f"Unknown records: expected numbers in {name} in {folder}, got {found.dtype.name}."
            )
    for name, shape in wanted.items():
        got = f"numbers {list(arrays[name].shape[1:])}" if name in arrays else "none"
        if name not in arrays or arrays[name].shape != shape:
            raise OutputError(
                f"Unknown records: expected numbers {list(shape[1:])} in {name} in {folder}, got {got}."
            )


def norms_over_training(records: WatchRecords) -> Figure:
    """log10 of the norms against the lag, a curve for each look: a panel for each layer and block."""
    steps, lags = records.steps, records.arrays["lags"][0]
    names = _names_of(records, "curve")
    layers, blocks = _unique(names, 0), _unique(names, 1)
    figure, axes = plt.subplots(
        len(layers),
        len(blocks),
        figsize=(2.2 + 4.4 * len(blocks), 0.9 + 3.5 * len(layers)),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    shown = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), MOST_CURVES)).round()).astype(
        int
    )
    lines: Any = None
    for row, layer in zip(axes, layers, strict=True):
        for ax, block in zip(row, blocks, strict=True):
            if (layer, block) not in names:
                ax.set_visible(False)
                continue
            logs = _median_sample(records.arrays[f"{layer}.curve.{block}"], 2)[shown] / LN10
            logs = np.where(np.isfinite(logs), logs, np.nan)
            lines = LineCollection(
                [np.stack([lags, curve], -1) for curve in logs],
                array=steps[shown],
                cmap="cividis",
                linewidth=1.3,
            )
            lines.set_clim(steps[0], max(steps[-1], steps[0] + 1))
            ax.add_collection(lines)
            # The first and the last look stand out.
            for at, dash, label in ((0, (0, (4, 2)), "first look"), (-1, "-", "last look")):
                ax.plot(lags, logs[at], color="0.1", linestyle=dash, linewidth=1.7, label=label)
            ax.axhline(-3, color="0.5", linewidth=0.8, zorder=0, label="$10^{-3}$: the horizon")
            ax.set_xlim(0, max(lags[-1], 1))
            low = np.nanmin(logs) if np.isfinite(logs).any() else -1.0
            high = np.nanmax(logs) if np.isfinite(logs).any() else 1.0
            room = 0.05 * max(high - low, 1)
            ax.set_ylim(max(low - room, LEAST_LOG10), high + room)
            ax.set_title(_panel_title(layers, layer, block), fontsize=10)
            ax.set_ylabel(r"$\log_{10}\,\Vert " + _symbol(block) + r"\Vert$")
            if layer == layers[-1]:
                ax.set_xlabel(r"lag $T-k$ (steps)")
    first = next(ax for ax in axes.flat if ax.get_visible())
    figure.legend(
        *first.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    figure.colorbar(lines, ax=axes.ravel().tolist(), label="training step", pad=0.02)
    samples = _sample_count(records)
    figure.suptitle(
        "Jacobian norms against the lag, during training"
        + (f"\nmedians of {samples} samples" if samples > 1 else "")
        + (f", {len(shown)} of {len(steps)} looks" if len(shown) < len(steps) else ""),
        fontsize=11,
    )
    return figure


def horizon_over_training(records: WatchRecords, log: Sequence[Mapping[str, Any]] | None) -> Figure:
    """The horizon of every layer and block against the training step, above the loss."""
    names = _names_of(records, "horizon")
    layers, blocks = _unique(names, 0), _unique(names, 1)
    losses = losses_of(log)
    panels = 2 if len(losses) else 1
    figure, axes = plt.subplots(
        panels,
        1,
        figsize=(8.4, 4.4 if panels == 1 else 6.4),
        height_ratios=[3, 2][:panels],
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    ax = axes[0][0]
    longest = float(records.arrays["lags"][0][-1])
    values = {name: records.arrays[f"{name[0]}.horizon.{name[1]}"] for name in names}
    finite = np.concatenate([v[np.isfinite(v)].ravel() for v in values.values()])
    beyond = any(np.isposinf(v).any() for v in values.values())
    lowest = max(finite.min(), 1.0) if len(finite) else 1.0
    highest = longest if beyond or not len(finite) else finite.max()
    logarithmic = bool(highest > 10 * lowest)
    # Horizons beyond the lags are drawn in a strip above, each series at a height of its own.
    lanes = iter(_lanes(longest, values, logarithmic))
    for (layer, block), found in values.items():
        colour = LAYERS[layers.index(layer) % len(LAYERS)]
        dash, marker = DASHES[blocks.index(block) % len(DASHES)]
        lane = next(lanes) if np.isposinf(found).any() else np.nan
        label = _label(layers, layer, block)
        _draw_horizon(ax, records.steps, found, lane, colour, dash, marker, label)
    room = _lanes(longest, values, logarithmic, more=1)[-1] if beyond else highest * 1.08
    if logarithmic:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(ScalarFormatter())
        ax.set_ylim(lowest / 1.3, room)
    else:
        ax.set_ylim(0, room)
    if beyond:
        ax.axhspan(longest, room, color="0.93", linewidth=0, zorder=0)
        ax.annotate(
            f"> {longest:g}",
            (1, (longest * room) ** 0.5 if logarithmic else (longest + room) / 2),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            annotation_clip=False,
        )
    ax.set_ylabel("horizon (steps)")
    samples = _sample_count(records)
    ax.set_title(
        "Lag at which the norm has fallen to $10^{-3}$"
        + (f"; median and 10–90 % of {samples} samples" if samples > 1 else ""),
        fontsize=11,
    )
    figure.legend(
        *ax.get_legend_handles_labels(),
        loc="outside right upper",
        frameon=False,
        fontsize=9,
        handlelength=3.2,
    )
    if panels == 2:
        below = axes[1][0]
        below.plot(losses[:, 0], losses[:, 1:], color="0.25", linewidth=1.5)
        below.set_ylabel("training loss")
    axes[-1][0].set_xlabel("training step")
    _step_axis(axes[-1][0], records.steps)
    return figure


def _lanes(
    longest: float, values: Mapping[Any, np.ndarray], logarithmic: bool, more: int = 0
) -> list[float]:
    """Heights above the longest lag, one for each series that goes there."""
    count = sum(bool(np.isposinf(found).any()) for found in values.values()) + more
    levels = [n + 0.8 for n in range(count)]
    return [longest * (1.13**n if logarithmic else 1 + 0.05 * n) for n in levels]


def _draw_horizon(
    ax: Axes,
    steps: np.ndarray,
    horizons: np.ndarray,
    lane: float,
    colour: str,
    dash: Any,
    marker: str,
    label: str,
) -> None:
    """Median and band; horizons beyond the lags as arrows in the lane."""
    middle = _median_sample(horizons, 1)
    shown = np.where(np.isposinf(middle), lane, middle)
    if horizons.ndim > 1 and horizons.shape[1] > 1:
        low = np.quantile(horizons, 0.1, axis=1, method="lower")
        high = np.quantile(horizons, 0.9, axis=1, method="higher")
        ax.fill_between(
            steps,
            np.where(np.isposinf(low), lane, low),
            np.where(np.isposinf(high), lane, high),
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
    out = np.isposinf(middle)
    ax.plot(
        steps,
        shown,
        color=colour,
        linestyle=dash,
        linewidth=1.6,
        marker=marker,
        markersize=4 if len(steps) <= 60 else 0,
        markevery=np.flatnonzero(~out).tolist(),
        label=label,
    )
    # An empty line without clipping would take space in the figure's layout.
    if out.any():
        ax.plot(
            steps[out],
            shown[out],
            color=colour,
            linestyle="none",
            marker="^",
            markersize=7,
            zorder=4,
            clip_on=False,
        )


def gates_over_training(records: WatchRecords) -> Figure:
    """Each gate's mean and quantiles against the training step, and the forget gate's time constants."""
    names = [
        (layer, what.removesuffix(".mean"))
        for layer, what in _names_of(records, "gate")
        if what.endswith(".mean")
    ]
    order = list(GATES)
    names.sort(key=lambda name: order.index(name[1]) if name[1] in order else len(order))
    layers = sorted(_unique(names, 0), key=int)
    rows = {layer: [gate for n, gate in names if n == layer] for layer in layers}
    constants = any(f"{layer}.time_constants" in records.arrays for layer in layers)
    width = max(len(gates) for gates in rows.values())
    figure, axes = plt.subplots(
        len(layers),
        width + constants,
        figsize=(1.2 + 2.7 * (width + constants), 1.4 + 2.6 * len(layers)),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for row, (layer, gates) in zip(axes, rows.items(), strict=True):
        for ax in row[len(gates) :]:
            ax.set_visible(False)
        where = "" if len(layers) == 1 else f"layer {layer}: "
        row[0].set_ylabel("activation; share")
        for ax, gate in zip(row, gates, strict=False):
            _draw_gate(ax, records, f"{layer}.gate.{gate}")
            ax.set_title(where + GATES.get(gate, f"gate {gate}"), fontsize=10)
        if f"{layer}.time_constants" in records.arrays:
            ax = row[-1]
            ax.set_visible(True)
            _draw_quantiles(ax, records.steps, records.arrays[f"{layer}.time_constants"])
            ax.set_yscale("log")
            ax.set_title(where + r"units' $1/(1-\bar f)$", fontsize=10)
            ax.set_ylabel("time constant (steps)")
        bottom = [ax for ax in row if ax.get_visible()] if layer == layers[-1] else []
        for ax in bottom:
            ax.set_xlabel("training step")
    _step_axis(axes[0][0], records.steps, ticks=3)
    handles: dict[str, Any] = dict.fromkeys(("mean", "median", "25–75 %", "5–95 %"))
    for ax in axes.flat:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles[label] = handles.get(label) or handle
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=9,
    )
    figure.suptitle("The gates during training: over time, samples and units", fontsize=11)
    return figure


def _draw_gate(ax: Axes, records: WatchRecords, name: str) -> None:
    arrays, steps = records.arrays, records.steps
    _draw_quantiles(ax, steps, arrays[f"{name}.quantiles"])
    ax.plot(steps, arrays[f"{name}.mean"], color=BLUE, linewidth=2, label="mean")
    signed = f"{name}.saturated" in arrays
    ends = (
        [("saturated", VERMILLION, f"share beyond ±{OPEN:g}")]
        if signed
        else [
            ("open", VERMILLION, f"share above {OPEN:g}"),
            ("closed", "0.1", f"share below {CLOSED:g}"),
        ]
    )
    for (end, colour, label), dash in zip(ends, ((0, (5, 2)), (0, (1, 1.5))), strict=False):
        ax.plot(
            steps,
            arrays[f"{name}.{end}"],
            color=colour,
            linestyle=dash if not signed else (0, (3, 1, 1, 1)),
            linewidth=1.5,
            label=label,
        )
    ax.set_ylim(-1.05 if signed else -0.025, 1.05 if signed else 1.025)


def _draw_quantiles(ax: Axes, steps: np.ndarray, quantiles: np.ndarray) -> None:
    """Medians in bands of 25–75 % and 5–95 %, from [looks, 5]."""
    lowest, low, middle, high, highest = quantiles.T
    ax.fill_between(steps, lowest, highest, color=BLUE, alpha=0.15, linewidth=0, label="5–95 %")
    ax.fill_between(steps, low, high, color=BLUE, alpha=0.3, linewidth=0, label="25–75 %")
    ax.plot(steps, middle, color=BLUE, linewidth=1.2, linestyle=(0, (3, 2)), label="median")


def _step_axis(ax: Axes, steps: np.ndarray, ticks: int = 6) -> None:
    ax.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
    ax.xaxis.set_major_locator(MaxNLocator(ticks, integer=True))


def _names_of(records: WatchRecords, kind: str) -> list[tuple[str, str]]:
    """(layer, rest) of the names ``layer.kind.rest``, in order of the layers."""
    parts = [name.split(".", 2) for name in records.arrays]
    found = [(p[0], p[2]) for p in parts if len(p) == 3 and p[1] == kind and p[0].isdecimal()]
    return sorted(found, key=lambda name: int(name[0]))


def _unique(names: Sequence[tuple[str, str]], part: int) -> list[str]:
    return list(dict.fromkeys(name[part] for name in names))


def _median_sample(values: np.ndarray, rank: int) -> np.ndarray:
    """The middle sample (the lower of two) of [looks, samples?, ...]."""
    return values if values.ndim == rank else np.quantile(values, 0.5, axis=1, method="lower")


def _sample_count(records: WatchRecords) -> int:
    (layer, block), *_ = _names_of(records, "horizon")
    return int(np.prod(records.arrays[f"{layer}.horizon.{block}"].shape[1:]))


def _symbol(block: str) -> str:
    return BLOCKS.get(block, r"\mathrm{" + block.replace("_", r"\_") + "}")


def _label(layers: Sequence[str], layer: str, block: str) -> str:
    where = "" if len(layers) == 1 else f"layer {layer}: "
    return where + r"$\Vert " + _symbol(block) + r"\Vert$"


def _panel_title(layers: Sequence[str], layer: str, block: str) -> str:
    return block if len(layers) == 1 else f"layer {layer}, {block}"
