"""Draw the loss of a training run from its log, and what was evaluated on the way.

Colours are those of Okabe & Ito (2008); lines that share a panel differ in their dashes too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gradient_flow.pictures.comparison_figures import plt
from gradient_flow.pictures.saved_figures import save_all
from gradient_flow.results_folder import OutputError
from lstm_jax.validation import AnyPath, require_path

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)))
OWN = ("step", "seconds", "loss", "gradient_norm", "learning_rate", "skipped", "diverged", "error")
"""Names in a log that are not what was evaluated."""


def draw_losses(log: Sequence[Mapping[str, Any]], out: AnyPath) -> list[Path]:
    """Draw the loss of a training run by step, a line for each run of a sweep.

    What was evaluated before the first step has panels below it, a name each.

    Args:
        log: of the run, `lstm_jax.training.Fitted.log` or from `lstm_jax.training.read_log`.
        out: the folder for ``loss.png`` and ``loss.svg``, which is made.

    Returns:
        The path of the PNG file.

    Raises:
        OutputError: a log without losses or of other kinds of entries, or a folder that cannot be written.
    """
    losses = losses_of(log)
    if not len(losses):
        raise OutputError("Empty log: expected at least one entry with a loss, got none.")
    folder = require_path("out", out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return save_all(folder, {"loss": lambda: _figure(losses, log)})
    except OSError as error:
        raise OutputError(
            f"Unwritable folder: expected to write into {folder}, got: {error.strerror}."
        ) from None


def losses_of(log: Sequence[Mapping[str, Any]] | None, name: str = "loss") -> np.ndarray:
    """[entries, 1 + runs]: steps and numbers of a log; one that was not finite leaves a gap.

    Raises:
        OutputError: entries with another number of runs.
    """
    try:
        rows = [
            [entry["step"], *np.atleast_1d(np.asarray(entry[name], np.float64))]
            for entry in log or ()
            if name in entry
        ]
        found = np.asarray(rows, np.float64).reshape(len(rows), -1 if rows else 2)
    except (TypeError, ValueError) as error:
        raise OutputError(
            f"Unknown log: expected the same number of losses in each entry, got others ({error})."
        ) from None
    return np.where(np.isfinite(found), found, np.nan)


def _figure(losses: np.ndarray, log: Sequence[Mapping[str, Any]]) -> Figure:
    first = next(iter(log))
    # Only what was evaluated is there before the first step.
    names = [name for name in first if name not in OWN] if not first["step"] else []
    figure, axes = plt.subplots(
        1 + len(names),
        1,
        figsize=(8.4, 3.4 + 2.2 * len(names)),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    panels = {"training loss": losses, **{name: losses_of(log, name) for name in names}}
    for ax, (label, found) in zip(axes[:, 0], panels.items(), strict=True):
        for n, values in enumerate(found[:, 1:].T):
            dashes = DASHES[n // len(COLOURS) % len(DASHES)]
            colour = COLOURS[n % len(COLOURS)]
            one = f"run {n}" if found.shape[1] > 2 else None
            marker = "o" if len(values) < 2 else None
            ax.plot(found[:, 0], values, color=colour, ls=dashes, lw=1.5, label=one, marker=marker)
        positive = found[:, 1:][np.isfinite(found[:, 1:])]
        if len(positive) and positive.min() > 0 and positive.max() > 10 * positive.min():
            ax.set_yscale("log")
        ax.set_ylabel(label)
    axes[-1, 0].set_xlabel("training step")
    if losses.shape[1] > 2:
        figure.legend(
            *axes[0, 0].get_legend_handles_labels(), loc="outside right upper", frameon=False
        )
    return figure
