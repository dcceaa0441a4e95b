"""The figures, drawn from the folders of the trials alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from experiments.long_lag.networks import NAMES
from gradient_flow.measurements.training_watch import read_watch
from lstm_jax.atomic_write import write_file
from lstm_jax.training import read_log

LN10 = np.log(10)
COLOURS = dict(
    zip(
        NAMES,
        ("#D55E00", "#E69F00", "#000000", "#56B4E9", "#0072B2", "#009E73", "#CC79A7"),
        strict=True,
    )
)
MARKERS = dict(zip(NAMES, "osPvD*X", strict=True))
STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}


def draw(out: Path, found: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Draw every picture for which there are trials; their paths."""
    paths = []
    with plt.rc_context(STYLE):
        figures = {"learning": learning(out, found), "horizon": horizon(found)}
        for name, figure in figures.items():
            if figure is None:
                continue
            path = out / f"{name}.png"
            write_file(path, lambda to, figure=figure: figure.savefig(to, dpi=90))  # type: ignore[misc]
            plt.close(figure)
            paths.append(path)
    return paths


def learning(out: Path, found: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Each study's learning curves, and beside them the norm against the lag at three moments."""
    chosen = [t for t in found if t["study"] != "lags"]
    keys = sorted({(t["trial"]["task"], t["trial"]["length"]) for t in chosen})
    if not keys:
        return None
    figure, axes = plt.subplots(
        len(keys), 2, figsize=(12, 3.1 * len(keys)), layout="constrained", squeeze=False
    )
    for (left, right), (task, length) in zip(axes, keys, strict=True):
        same = [t for t in chosen if (t["trial"]["task"], t["trial"]["length"]) == (task, length)]
        for t in same:
            folder = _folder(out, t)
            log = [entry for entry in read_log(folder) if "loss" in entry]
            name = t["trial"]["network"]
            sequences = np.array([e["step"] for e in log]) * t["trial"]["batch_size"]
            first = t["seed"] == min(s["seed"] for s in same)
            label = t["label"] if first else None
            left.plot(sequences, [e["loss"] for e in log], color=COLOURS[name], lw=1, label=label)
            if first:
                _curves(right, read_watch(folder / "flow"), log, t)
        if same[0]["floor"]:
            left.axhline(same[0]["floor"], color="0.5", lw=0.8, ls=":", label="without a memory")
        left.set(
            yscale="log", xlabel="sequences", ylabel="training loss", title=f"{task}, T = {length}"
        )
        left.legend(frameon=False, fontsize=8)
        right.set(
            xlabel="lag", ylabel=r"$\log_{10}$ norm", title="first seed: norm against the lag"
        )
        right.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
        left.ticklabel_format(axis="x", style="sci", scilimits=(0, 4))
    return figure


def _curves(
    ax: Any, looks: Any, log: Sequence[Mapping[str, Any]], trial: Mapping[str, Any]
) -> None:
    """The first look, the one nearest to where the loss fell to half its plateau, and the last one."""
    steps, colour = looks.steps, COLOURS[trial["trial"]["network"]]
    plateau = log[min(1, len(log) - 1)]["loss"]
    fallen = [entry["step"] for entry in log if entry["loss"] < plateau / 2]
    moments = [(0, ":", "start")]
    nearest = int(np.abs(steps - fallen[0]).argmin()) if fallen else 0
    if nearest:
        moments.append((nearest, "--", "as it breaks through"))
    moments.append((-1, "-", "end"))
    block = "0.curve.cc" if "0.curve.cc" in looks.arrays else "0.curve.hh"
    for at, dash, moment in moments:
        curve = looks.arrays[block][at]
        curve = curve.reshape(-1, curve.shape[-1]).mean(0) / LN10
        label = f"{trial['label']}, {moment} (step {steps[at]:,})"
        ax.plot(looks.arrays["lags"][0], curve, dash, color=colour, lw=1.2, label=label)


def _folder(out: Path, trial: Mapping[str, Any]) -> Path:
    name = "{task}-{length}-{network}".format(**trial["trial"])
    return out / trial["study"] / f"{name}-{trial['seed']}"


def horizon(found: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Horizon over lag before training, against the sequences that it took to learn."""
    chosen = [t for t in found if t["study"] == "lags"]
    if not chosen:
        return None
    figure, ax = plt.subplots(figsize=(9.5, 4.8), layout="constrained")
    most = 60_000
    rng = np.random.default_rng(0)
    for name in NAMES:
        own = [t for t in chosen if t["trial"]["network"] == name]
        if not own:
            continue
        lengths = np.array([t["trial"]["length"] for t in own], float)
        # A horizon beyond the sequence is drawn at twice its length.
        reach = np.minimum([t["reach_first"] for t in own], 2 * lengths) / lengths
        took = np.array([t["sequences"] or most * 1.15 for t in own], float)
        took = took * np.exp(rng.normal(0, 0.015, len(took)))
        ax.scatter(
            reach, took, s=18 + lengths / 4, color=COLOURS[name], marker=MARKERS[name],
            alpha=0.8, label=own[0]["label"], linewidths=0,
        )  # fmt: skip
    ax.axhline(most, color="0.5", lw=0.8, ls=":")
    ax.annotate("never within 60,000", (1, most), xycoords=("axes fraction", "data"), xytext=(-2, 3),
                textcoords="offset points", ha="right", fontsize=8, color="0.35")  # fmt: skip
    ax.axvline(1, color="0.8", lw=0.8)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="gradient's horizon before training / T  (2: beyond the sequence)",
        ylabel="sequences to the criterion of 1997",
        title="Does the horizon tell which network learns which lag? (larger marks: longer T)",
    )
    ax.set_ylim(top=most * 1.35)
    ax.yaxis.set_minor_formatter("")
    ax.set_yticks(
        [15_000, 20_000, 30_000, 40_000, 60_000], ["15,000", "20,000", "30,000", "40,000", "60,000"]
    )
    ax.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
