"""The answers as text tables, made from what a run keeps."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.running import table

Row = dict[str, Any]


def tables(results: Row) -> str:
    """Every table of what is kept in ``results.json``."""
    return "\n\n".join(TABLES[name](rows) for name, rows in results["answers"].items())


def how_learned(row: Row) -> str:
    """How many seeds solved it, after how many updates: ``5/5  940 (860 … 1,210)``."""
    at = [n for n in row["solved"] if n is not None]
    text = f"{len(at)}/{row['seeds']}"
    if at:
        text += f"  {int(np.median(at)):,} ({min(at):,} … {max(at):,})"
    if any(row["diverged"]):
        text += f"  {sum(row['diverged'])} diverged"
    return text


def middle(values: Sequence[Any], form: str = "{:.1f}") -> str:
    """Median and extremes of the seeds: ``-3.1 (-4.0 … -2.2)``."""
    found = np.array([np.nan if value is None else float(value) for value in values])
    found = found[~np.isnan(found)]
    if not len(found):
        return "-"

    def show(value: float) -> str:
        return form.format(value + 0.0) if np.isfinite(value) else "nothing"

    with np.errstate(invalid="ignore"):
        ends = np.sort(found)
        # Not np.median: between −∞ and a number it has no value.
        centre = ends[(len(ends) - 1) // 2]
    return f"{show(centre)} ({show(ends[0])} … {show(ends[-1])})"


def _parts(rows: list[Row]) -> str:
    header = (
        "network", "recall: solved", "adding: solved",
        "decades before", "after", "far, before", "largest |h|",
    )  # fmt: skip
    lines = [
        [
            row["network"],
            how_learned(row["recall"]),
            how_learned(row["adding_uniform"]),
            middle(row["before"]),
            middle(row["after"]),
            middle(row["far_before"]),
            middle(row["largest_h"], "{:.3g}"),
        ]
        for row in rows
    ]
    return table("One part changed", header, lines)


def _weight_decay(rows: list[Row]) -> str:
    lines = [
        [
            row["network"],
            "none" if row["clip"] is None else f"{row['clip']:g}",
            f"{row['decay']:g}",
            how_learned(row["recall"]),
            middle(row["before"]),
            middle(row["after"]),
            middle(row["radius_after"], "{:.2f}"),
        ]
        for row in rows
    ]
    header = (
        "network",
        "clip",
        "decay",
        "recall: solved",
        "decades before",
        "after",
        "radius after",
    )
    return table("Weight decay against explosion", header, lines)


def _truncation(rows: list[Row]) -> str:
    lines = [
        [
            f"{row['task']}, {row['length']} steps",
            row["how"],
            str(row["window"]),
            how_learned(row[row["task"]]),
            middle(row[row["task"]]["last_score"], "{:.3g}"),
        ]
        for row in rows
    ]
    header = ("task", "gradient", "steps", "solved", "score at the end")
    return table("Truncated or shortened", header, lines)


def _saturation(rows: list[Row]) -> str:
    lines = [
        [
            row["task"],
            row["stage"],
            row["units"],
            middle(row["share"], "{:.0%}"),
            middle(row["along"]),
            middle(row["slope"], "{:.3f}"),
            middle(row["into_gate"]),
        ]
        for row in rows
    ]
    header = (
        "task",
        "network",
        "units",
        "share",
        "decades of prod f",
        "f(1-f)",
        "decades of |dL/db_f|",
    )
    return table("Gates that stand at 1", header, lines)


TABLES: dict[str, Callable[[list[Row]], str]] = {
    "parts": _parts,
    "weight_decay": _weight_decay,
    "truncation": _truncation,
    "saturation": _saturation,
}
