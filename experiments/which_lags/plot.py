"""The figures, from the stored groups and the film's arrays alone."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from experiments.lag_tasks import TASKS
from experiments.which_lags.evidence import auc_interval
from experiments.which_lags.rows import PREDICTORS, Rows
from experiments.which_lags.starts import NETWORKS
from lstm_jax.atomic_write import write_file

LN10 = np.log(10)
COLOURS = dict(zip(NETWORKS, ("#0072B2", "#CC79A7", "#D55E00", "#000000", "#009E73"), strict=True))
STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
NEVER = 1.25
FARTHEST_NORM = 20.0


def save(out: Path, name: str, figure: Figure) -> Path:
    """Write a figure beside the results."""
    path = out / f"{name}.png"
    write_file(path, lambda to: figure.savefig(to, dpi=90))
    plt.close(figure)
    return path


def predictors(rows: Rows, draws: int) -> Figure:
    """Left, the AUC of every predictor on every task; right, the norm at the lag and what was learned."""
    tasks = [name for name in TASKS if name in rows.task]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(tasks), 2, figsize=(11, 3.4 * len(tasks)), layout="constrained", squeeze=False,
            width_ratios=(1, 1.2),
        )  # fmt: skip
        for (left, right), task in zip(axes, tasks, strict=True):
            own = rows.where(rows.task == task)
            _intervals(left, own, draws)
            _norms(right, own)
            left.set_title(f"{task}: {int(own.learned.sum())} of {len(own)} learned")
        axes[-1, 0].set_xlabel("AUC before training")
        axes[-1, 1].set_xlabel(r"$\log_{10}$ of the norm at the lag before training")
        axes[0, 1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _intervals(ax: Any, rows: Rows, draws: int) -> None:
    ax.axvline(0.5, color="0.8", lw=0.8)
    for place, name in enumerate(reversed(PREDICTORS)):
        found = auc_interval(rows, rows.scores[0][name], draws)
        plain = name in ("lag", "is_chrono", "time_constant", "radius")
        colour = "0.5" if plain else "#0072B2"
        ax.plot([found.low, found.high], [place, place], color=colour, lw=1.5)
        ax.plot(found.value, place, "o", color=colour, ms=4)
    ax.set_yticks(range(len(PREDICTORS)), list(reversed(PREDICTORS)), fontsize=8)
    ax.set_xlim(0, 1.02)


def _norms(ax: Any, rows: Rows) -> None:
    rng = np.random.default_rng(0)
    most = np.nanmax(np.append(rows.updates, 100.0))
    for network in NETWORKS:
        own = rows.network == network
        if own.any():
            x = np.clip(rows.norm[own] / LN10, -FARTHEST_NORM, FARTHEST_NORM)
            y = np.where(rows.learned[own], rows.updates[own], NEVER * most)
            y = y * np.exp(rng.normal(0, 0.03, len(y)))
            ax.scatter(
                x, y, s=8, alpha=0.5, color=COLOURS[network], linewidths=0, label=network
            )  # fmt: skip
    for place in (-3, 3):
        ax.axvline(place, color="0.8", lw=0.8)
    ax.axhline(NEVER * most * 0.9, color="0.6", lw=0.8, ls=":")
    ax.annotate("never", (1, NEVER * most), xycoords=("axes fraction", "data"), fontsize=8)
    ax.set(yscale="log", ylabel="updates until it was solved")


def film(arrays: dict[str, np.ndarray]) -> Figure:
    """The map over all pairs of steps, at some updates."""
    updates, maps = arrays["updates"], arrays["maps"] / LN10
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(updates), figsize=(2.6 * len(updates), 3.2), layout="constrained", squeeze=False
        )
        for ax, update, one in zip(axes[0], updates, maps, strict=True):
            drawn = ax.imshow(
                np.maximum(one, -6), origin="lower", vmin=-6, vmax=1, cmap="viridis",
                extent=(0, one.shape[1] - 1, 1, one.shape[0]), aspect="auto",
            )  # fmt: skip
            ax.set(title=f"update {update}", xlabel="k")
        axes[0, 0].set_ylabel("t")
        label = r"$\log_{10}\|\partial h_t / \partial h_k\|$"
        figure.colorbar(drawn, ax=axes[0], label=label, extend="min")
    return figure
