"""How results show themselves in a notebook: a small table, and a figure when one is asked for.

A result's ``_repr_html_`` is a table from here. Its ``plot`` is a figure of `gradient_flow.pictures`, which
is found by its name when it is drawn: measuring needs no matplotlib.
"""

import html
import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

SHOWN_LAGS = (1, 10, 100, 1000)
MOST_ROWS = 24


def draw_result(figure: str, result: Any, ax: Any, **options: Any) -> Any:
    """Draw a figure of `gradient_flow.pictures.result_figures`; the matplotlib axis."""
    figures = importlib.import_module("gradient_flow.pictures.result_figures")
    return getattr(figures, figure)(result, ax, **options)


def html_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of texts, each escaped.

    Example:
        >>> html_table("<b>", ["n"], [[1]])[:54]
        '<table><caption style="text-align: left">&lt;b&gt;</ca'
    """
    rows = list(rows)
    shown = [[*row] for row in rows[:MOST_ROWS]]
    if len(rows) > MOST_ROWS:
        shown.append([f"and {len(rows) - MOST_ROWS} more", *[""] * (len(heads) - 1)])

    def line(cells: Sequence[Any], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells)

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in shown)
    caption = f'<caption style="text-align: left">{html.escape(title)}</caption>'
    return (
        f"<table>{caption}<thead><tr>{line(heads, 'th')}</tr></thead><tbody>{body}</tbody></table>"
    )


def curves_table(title: str, lags: np.ndarray, curves: Mapping[str, Any]) -> str:
    """Norms at a few lags, a row for each curve: medians over all axes before the lags.

    Args:
        title: of the table.
        lags: in steps.
        curves: natural logs, [..., lags], by name.
    """
    wanted = [lag for lag in SHOWN_LAGS if lag in lags] + ([int(lags[-1])] if len(lags) else [])
    at = {lag: int(np.flatnonzero(lags == lag)[0]) for lag in dict.fromkeys(wanted)}
    rows = []
    for name, curve in curves.items():
        logs = np.asarray(curve)
        rows.append([name, *(_power(logs[..., n]) for n in at.values())])
    return html_table(title, ["", *(f"lag {lag}" for lag in at)], rows)


def values_table(title: str, values: Mapping[str, Any], logs: Iterable[str] = ()) -> str:
    """The size and the range of arrays, a row for each.

    Args:
        title: of the table.
        values: arrays by name; None is left out.
        logs: the names of those that are natural logs of norms, which are shown as powers of ten.
    """
    logs, rows = set(logs), []
    for name, value in values.items():
        if value is None:
            continue
        array = np.asarray(value, np.float64)
        known = array[~np.isnan(array)]
        show = _power if name in logs else _short
        ends = (known.min(), np.median(known), known.max()) if known.size else (np.nan,) * 3
        size = " × ".join(map(str, array.shape)) or "1"
        rows.append([name, size, *(show(end) for end in ends)])
    return html_table(title, ["", "size", "smallest", "median", "largest"], rows)


def _power(logs: Any) -> str:
    """The median of natural logs as a power of ten."""
    known = np.asarray(logs, np.float64).ravel()
    known = known[~np.isnan(known)]
    if not known.size:
        return "–"
    middle = float(np.quantile(known, 0.5, method="lower" if np.isinf(known).any() else "linear"))
    if np.isinf(middle):
        return "exactly 0" if middle < 0 else "∞"
    return f"10^{middle / np.log(10):.1f}"


def _short(value: Any) -> str:
    return "–" if np.isnan(value) else f"{float(value):.3g}"
