"""The figure of the walk-through: one small panel for each quantity, the two cells side by side.

It reads the arrays of a run and computes nothing. ``python -m experiments.gate_walkthrough.plot FOLDER``
draws a kept run again.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tyro
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from experiments.running import exit_code
from gradient_flow.results_folder import ARRAYS, OutputError, read_arrays

# Okabe & Ito's palette: distinct under the common colour-vision deficiencies.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
PANELS = (
    ("g", "candidate $g$", SKY),
    ("i", "input gate $i$", GREEN),
    ("f", "forget gate $f$", ORANGE),
    ("o", "output gate $o$", PURPLE),
    ("c", "memory $C_t$", BLUE),
    ("h", "output $h_t$", VERMILLION),
)
COLUMNS = (
    ("hard", "classroom: gates 0 or 1, no squashing", "{:g}"),
    ("soft", "lstm_jax.lstm: sigmoid gates, tanh twice", "{:.2f}"),
)
# x_1 and x_3 wear the colours of what they drive, the candidate and the output gate.
INPUT_STYLES = (("$x_1$", SKY, -0.26), ("$x_2$", BLACK, 0.0), ("$x_3$", PURPLE, 0.26))


def labelled_bars(
    ax: Axes, where: np.ndarray, values: np.ndarray, width: float, color: str, form: str
) -> None:
    """Bars with their values written at their ends; room for the numbers is left by the caller."""
    bars = ax.bar(where, values, width, color=color)
    ax.bar_label(bars, [form.format(v + 0.0) for v in values], fontsize=8, padding=1.5)


def draw(arrays: Mapping[str, np.ndarray], out: Path) -> list[Path]:
    """Draw the gates over the nine steps as `gates.png` and `gates.svg`.

    Args:
        arrays: ``inputs[9, 4]`` and ``hard_*``, ``soft_*`` of shape [9], as the run keeps them.
        out: the folder to write to.

    Returns:
        The two files.
    """
    steps = np.arange(1, len(arrays["inputs"]) + 1)
    figure = Figure(figsize=(11.5, 11.5))
    axes = figure.subplots(
        1 + len(PANELS), 2, sharex=True, gridspec_kw={"height_ratios": [1.6] + [1] * len(PANELS)}
    )
    # Margins by hand: a solved layout differs in the last bit from one drawing to the next.
    figure.subplots_adjust(left=0.12, right=0.99, bottom=0.05, top=0.965, wspace=0.09, hspace=0.16)
    for column, (kind, title, form) in enumerate(COLUMNS):
        top = axes[0, column]
        for n, (_, color, shift) in enumerate(INPUT_STYLES):
            labelled_bars(top, steps + shift, arrays["inputs"][:, n], 0.24, color, "{:g}")
        top.set_title(title, fontsize=12, pad=8)
        top.set_ylim(-2.6, 7.6)
        top.legend(
            handles=[Patch(color=color, label=label) for label, color, _ in INPUT_STYLES],
            loc="upper left",
            ncols=3,
            frameon=False,
            fontsize=9,
            borderaxespad=0.1,
        )
        for row, (name, label, color) in enumerate(PANELS, start=1):
            ax = axes[row, column]
            values = arrays[f"{kind}_{name}"]
            labelled_bars(ax, steps, values, 0.62, color, form)
            low, high = min(0.0, float(values.min())), max(1.0, float(values.max()))
            ax.set_ylim(low * 1.3, high * 1.38)
            if column == 0:
                ax.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10)
        axes[-1, column].set_xlabel("step $t$", fontsize=10)
    axes[0, 0].set_ylabel("input $x_t$", rotation=0, ha="right", va="center", fontsize=10)
    for ax in axes.flat:
        ax.axhline(0, color=BLACK, linewidth=0.8)
        ax.set_xticks(steps)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
        ax.locator_params(axis="y", nbins=3)
        ax.yaxis.set_label_coords(-0.08, 0.5)
    paths = [out / f"gates.{kind}" for kind in ("png", "svg")]
    # A fixed salt and no date: the same arrays give the same file.
    with rc_context({"svg.hashsalt": "gate_walkthrough"}):
        figure.savefig(paths[0], dpi=120)
        figure.savefig(paths[1], metadata={"Date": None})
    return paths


def draw_carried(arrays: Mapping[str, np.ndarray], out: Path) -> Path:
    """Draw how much each output changes with the signal of each step, as `carried.png`.

    Args:
        arrays: ``hard_outputs_by_signal[7, 7]`` and the soft one, over (t, k).
        out: the folder to write to.

    Returns:
        The file.
    """
    figure = Figure(figsize=(8, 3.7), layout="constrained")
    for ax, (kind, title, _) in zip(figure.subplots(1, 2, sharey=True), COLUMNS, strict=True):
        # Zero has no logarithm; what soft gates let through is above this.
        shown = np.log10(np.maximum(np.abs(arrays[f"{kind}_outputs_by_signal"]), 1e-10))
        steps = len(shown)
        image = ax.imshow(
            shown, origin="lower", extent=(0.5, steps + 0.5, 0.5, steps + 0.5), vmin=-10, vmax=0
        )
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("signal of step $k$")
        ax.set_xticks(range(1, steps + 1))
    figure.axes[0].set_ylabel("output of step $t$")
    figure.colorbar(image, ax=figure.axes, label=r"$\log_{10}|\partial h_t / \partial x_{1,k}|$")
    path = out / "carried.png"
    figure.savefig(path, dpi=100)
    return path


def redraw(folder: Path, /) -> None:
    """Draw a kept run again.

    Args:
        folder: where the run's `arrays.npz` lies.
    """
    arrays = read_arrays(folder / ARRAYS)
    try:
        draw(arrays, folder)
        draw_carried(arrays, folder)
    except (KeyError, IndexError, ValueError) as error:
        raise OutputError(
            f"Unreadable run: expected the arrays of this experiment in {folder}, got others ({error})."
        ) from None


if __name__ == "__main__":
    sys.exit(exit_code(lambda: tyro.cli(redraw)))
