"""``gradient-flow report``: a run as one HTML page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from gradient_flow.pages.run_page import PAGE, MissingPlotlyError, report


@dataclass(frozen=True)
class Report:
    """Write one HTML page of a run: an inspection, a comparison or a watched training run."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The folder of the run."""
    out: Path | None = None
    """The page; report.html in the folder if left out."""


def run_report(config: Report) -> int:
    """Write the page of a run, and say where it is."""
    page = report(config.folder, config.folder / PAGE if config.out is None else config.out)
    print(f"page:     {page}")
    return 0


def page_of_run(folder: Path, place: Path) -> str:
    """Write the page of a run into a place on its way into the folder; the line that tells where."""
    try:
        report(folder, place / PAGE)
    except MissingPlotlyError:
        return "page:     none without plotly: pip install 'lstm-jax[report]'"
    return f"page:     {folder / PAGE}"
