"""A claim, and the line of a table that it comes to."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.evidence.stored import read_run

EXACT = "exact"
HEADER = ("claim", "number", "seeds", "interval", "command", "core minutes", "anchor")


class Claim(NamedTuple):
    """Something that an experiment's page says.

    Attributes:
        experiment: name of its folder.
        run: of the stored run that it is computed from.
        says: the claim, without its number.
        numbers: ``numbers(results)``: the number of each seed, or whether it holds for each; a text is
            shown as it is.
        form: of a number.
        seeds: in words, where they are not the numbers: `EXACT` for what no seed moves.
        anchor: the published number and its source, or a dash.
    """

    experiment: str
    run: str
    says: str
    numbers: Callable[[Any], Sequence[Any] | str]
    form: str = "{:.3g}"
    anchor: str = "-"
    seeds: str | None = None


def line_of(claim: Claim) -> tuple[str, ...]:
    """The claim's line: says, number, seeds, interval, command, minutes, anchor."""
    run = read_run(claim.experiment, claim.run)
    found = claim.numbers(run["results"])
    number, seeds, interval = evaluated(found, claim.form)
    seeds = claim.seeds or seeds
    minutes = "-" if run["minutes"] is None else f"{run['minutes']:.3g}"
    command = f"`{run['command']}`"
    if run["transcribed"]:
        of = run["transcribed"]
        command += f", {of} in an earlier run" if isinstance(of, str) else ", an earlier run"
    return (claim.says, number, seeds, interval, command, minutes, claim.anchor)


def evaluated(found: Sequence[Any] | str, form: str) -> tuple[str, str, str]:
    """Number, seeds and interval in words: the median and the extremes, or how many hold."""
    if isinstance(found, str):
        return found, EXACT, "-"
    values = list(found)
    seeds = "one look" if len(values) == 1 else str(len(values))
    if all(isinstance(value, bool | np.bool_) for value in values):
        return f"{sum(map(bool, values))} of {len(values)}", seeds, "-"
    low, middle, high = (form.format(f(values)) for f in (np.min, np.median, np.max))
    return middle, seeds, "-" if len(values) == 1 else f"{low} … {high}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines
    )
