"""The figure: λ_1 and time constants of every cell, and the curves trained and at initialisation."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from experiments.in_the_wild.measure import GRID, LN10
from experiments.in_the_wild.packages import NETWORKS
from experiments.in_the_wild.report import Found, at_start, label
from lstm_jax.atomic_write import write_file

COLOURS = tuple(
    f"#{code}"
    for code in "0072B2 D55E00 009E73 E69F00 CC79A7 56B4E9 7F3C8D A0522D 666666 00C5B0 000000".split()
)
FLOOR = -40.0
"""Decades below which nothing is drawn."""
PACKAGE_OF = {one.name: one.package for one in NETWORKS}


def draw(out: Path, found: Found) -> None:
    """Write ``in_the_wild.png``."""
    rows = [
        (name, label(name, cell, looked["trained"]), number)
        for name, looked in found.items()
        for number, cell in enumerate(looked["trained"])
    ]
    packages = dict.fromkeys(PACKAGE_OF[name] for name in found)
    colour = dict(zip(packages, COLOURS, strict=False))
    figure = Figure(figsize=(14, 2 + max(0.19 * len(rows), 5)), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=(1, 1, 1.25))
    exponents = figure.add_subplot(grid[:, 0])
    constants = figure.add_subplot(grid[:, 1], sharey=exponents)
    _exponents(exponents, rows, found, colour)
    _constants(constants, rows, found, colour)
    trained = figure.add_subplot(grid[0, 2])
    begun = figure.add_subplot(grid[1, 2], sharey=trained, sharex=trained)
    _curves(trained, rows, found, colour, trained=True)
    _curves(begun, rows, found, colour, trained=False)
    for ax in (exponents, constants, trained, begun):
        ax.spines[["top", "right"]].set_visible(False)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=75)
    # A palette is a third of the bytes; the median cut would merge the colours of thin lines.
    few = Image.open(drawn).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)
    write_file(out / "in_the_wild.png", lambda path: few.save(path, format="png", optimize=True))


def _exponents(ax: Axes, rows: list[Any], found: Found, colour: Mapping[str, str]) -> None:
    for at, (name, _, number) in enumerate(rows):
        cell, own = found[name]["trained"][number], colour[PACKAGE_OF[name]]
        error = 2 * cell["lambda_1_error"]
        ax.errorbar(cell["lambda_1"], at, xerr=error, fmt="o", ms=4, color=own, lw=1.2)
        start = at_start(found[name], number, lambda one: one["lambda_1"])
        ax.plot(start, at, "|", ms=8, color="0.55")
        ax.plot(found[name]["blind"][number]["lambda_1"], at, "x", ms=4, color="0.35", mew=0.8)
    ax.axvline(0, color="k", lw=0.8)
    ax.set_yticks(range(len(rows)), [text for _, text, _ in rows], fontsize=7)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xscale("symlog", linthresh=0.05)
    ax.set_xticks([-1, -0.1, 0, 0.1], ["−1", "−0.1", "0", "0.1"])
    ax.set(title="λ₁ (bar: initially, ×: without data)", xlabel="nats a step")


def _constants(ax: Axes, rows: list[Any], found: Found, colour: Mapping[str, str]) -> None:
    for at, (name, _, number) in enumerate(rows):
        cell, own = found[name]["trained"][number], colour[PACKAGE_OF[name]]
        ends = [max(cell[key], 0.05) for key in ("tau_median", "tau_best")]
        ax.plot(ends, [at, at], color=own, lw=1)
        ax.plot(ends[0], at, "o", ms=4, color=own)
        ax.plot(ends[1], at, ">", ms=4, color=own)
        start = at_start(found[name], number, lambda one: one["tau_median"])
        ax.plot(start, at, "|", ms=8, color="0.55")
    ax.tick_params(labelleft=False)
    ax.set_xscale("log")
    ax.set(title="gate memory: median unit to best", xlabel="time constant, steps")


def _curves(
    ax: Axes, rows: list[Any], found: Found, colour: Mapping[str, str], *, trained: bool
) -> None:
    named: set[str] = set()
    for name, _, number in rows:
        package = PACKAGE_OF[name]
        looked = found[name]
        cells = [looked["trained"]] if trained else looked["initial"]
        curves = [np.median(np.asarray(one[number]["hh"]), axis=0) / LN10 for one in cells]
        shown = np.maximum(np.median(curves, axis=0), FLOOR)
        text = None if package in named else package
        named.add(package)
        ax.plot(GRID, shown, color=colour[package], lw=1, alpha=0.8, label=text)
    ax.axhline(0, color="k", lw=0.6)
    ax.set_ylim(FLOOR, None)
    what = "trained" if trained else "at the framework's initialisation"
    ax.set(title=f"‖∂h_T/∂h_k‖, {what}", xlabel="lag T − k", ylabel="log₁₀ norm")
    if trained:
        ax.legend(frameon=False, fontsize=7, ncols=2, loc="lower left")
