"""Write figures as PNG and SVG, each file completely or not at all."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from lstm_jax.atomic_write import write_file
from lstm_jax.validation import AnyPath

LN10 = float(np.log(10))


def save_all(folder: AnyPath, figures: Mapping[str, Callable[[], Figure]]) -> list[Path]:
    """Draw figures in one style, and write each as PNG and SVG.

    Args:
        folder: for the files.
        figures: functions that draw them, by the name of the files.

    Returns:
        The paths of the PNG files.
    """
    folder, paths = Path(folder), []
    style: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context({**style, "svg.hashsalt": "gradient-flow", "svg.fonttype": "none"}):
        for name, draw in figures.items():
            figure = draw()
            for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):

                def save(path: Path, figure: Figure = figure, metadata: Any = metadata) -> None:
                    figure.savefig(path, dpi=130, metadata=metadata)

                write_file(folder / f"{name}.{ending}", save)
            plt.close(figure)
            paths.append(folder / f"{name}.png")
    return paths
